//! One request on a resource, after its head was understood and before its body is read.

use coracle_api::{ApiError, Key, Kind};
use coracle_state::View;
use tokio_util::sync::CancellationToken;

use crate::authorise::{Attributes, Decision, authorise};
use crate::identity::{Identity, unauthorized};
use crate::negotiate::{self, Include, Media, Shape};
use crate::query::Query;

/// Longest `fieldManager`, as Kubernetes has it.
const MANAGER_CHARS_MAX: usize = 128;

/// The head of a request on a resource.
#[derive(Clone, Debug)]
pub struct Call {
    /// The kind.
    pub kind: &'static Kind,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// Namespace, empty for none or all.
    pub namespace: String,
    /// Object name, empty for the collection.
    pub name: String,
    /// Subresource, empty for none.
    pub subresource: String,
    /// Query parameters.
    pub query: Query,
    /// Accept.
    pub accepted: Vec<Media>,
    /// Content type of the body.
    pub content_type: String,
    /// Who asks.
    pub identity: Identity,
    /// `User-Agent`, "" if absent.
    pub agent: String,
    /// Fires when the listener shuts down; streams end then.
    pub closing: CancellationToken,
}

impl Call {
    /// The key of the named object.
    pub fn key(&self) -> Key {
        Key::new(self.namespace.clone(), self.name.clone())
    }

    /// The key of another name in the same place.
    pub fn key_of(&self, name: &str) -> Key {
        Key::new(self.namespace.clone(), name)
    }

    /// The wanted shape of the answer.
    pub fn shape(&self) -> Result<Shape, ApiError> {
        negotiate::shape(&self.accepted)
    }

    /// What Table rows carry.
    pub fn include(&self) -> Result<Include, ApiError> {
        negotiate::include(self.query.get("includeObject"))
    }

    /// Who writes, for managedFields: the parameter, else the product part of the User-Agent.
    pub fn manager(&self) -> Result<String, ApiError> {
        match self.query.get("fieldManager") {
            Some(m) if m.chars().count() > MANAGER_CHARS_MAX || m.chars().any(char::is_control) => {
                Err(ApiError::bad_request(format!(
                    "fieldManager: must be at most {MANAGER_CHARS_MAX} printable characters"
                )))
            }
            Some(m) => Ok(m.to_string()),
            None => {
                let product = self.agent.split('/').next().unwrap_or_default();
                let product: String = product
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(MANAGER_CHARS_MAX)
                    .collect();
                Ok(if product.is_empty() {
                    "unknown".into()
                } else {
                    product
                })
            }
        }
    }

    /// 404 about the named object.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind.group, self.kind.plural, &self.name)
    }

    /// 409 about an object.
    pub fn conflict(&self, name: &str, why: &str) -> ApiError {
        ApiError::conflict(self.kind.group, self.kind.plural, name, why)
    }

    /// Asks the rules, with the object's name as far as it is known.
    pub fn authorise(&self, view: &View, name: &str) -> Result<(), ApiError> {
        let on_node = match self.kind.table {
            "pods" if !name.is_empty() => view
                .get("pods", &self.key_of(name))
                .map(|o| o.attrs.node_name.clone())
                .unwrap_or_default(),
            _ => String::new(),
        };
        let attributes = Attributes {
            verb: self.verb,
            group: self.kind.group,
            resource: self.kind.plural,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name,
            on_node: &on_node,
            path: "",
        };
        permit(&self.identity, &attributes)
    }
}

/// 401 for the anonymous user, 403 for others, when the rules say no.
pub fn permit(identity: &Identity, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    match authorise(identity, attributes) {
        Decision::Allow => Ok(()),
        Decision::Deny(_) if identity.is_anonymous() => Err(unauthorized()),
        Decision::Deny(why) => Err(ApiError::new(403, "Forbidden", why).about(
            attributes.group,
            attributes.resource,
            attributes.name,
        )),
    }
}
