//! Reading one object, freshness of reads, and selectors.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::attrs::field_supported;
use coracle_api::error::Cause;
use coracle_api::selector::{FieldSelector, LabelSelector};
use coracle_api::{ApiError, Key, kinds};
use coracle_state::{Obj, View};

use crate::call::Call;
use crate::context::Context;
use crate::hub::Interest;
use crate::negotiate::{self, Shape};
use crate::reply::{self, Answer};

/// How long a read waits for a revision this member has not applied yet, as kube-apiserver's watch cache.
pub const FRESH_WAIT: Duration = Duration::from_secs(3);

/// The view a read is answered from, by its `resourceVersion`: unset means one that holds every write any member has
/// acknowledged before, 0 means whatever this member has, anything else at least that revision.
pub async fn snapshot(ctx: &Context, revision: Option<u64>) -> Result<Arc<View>, ApiError> {
    match revision {
        None => ctx.fresh().await,
        Some(0) => Ok(ctx.view()),
        Some(wanted) => at_least(ctx, wanted).await,
    }
}

/// A view that has at least the asked revision. A member that has not applied it yet waits for it a little; a client
/// that is told 504 comes back, here or elsewhere.
pub async fn at_least(ctx: &Context, wanted: u64) -> Result<Arc<View>, ApiError> {
    let view = ctx.view();
    if view.revision >= wanted {
        return Ok(view);
    }
    match tokio::time::timeout(FRESH_WAIT, ctx.config.views.newer_than(wanted - 1)).await {
        Ok(view) => Ok(view),
        Err(_) => Err(too_large(wanted, ctx.view().revision)),
    }
}

fn too_large(wanted: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let mut e = reply::later(504, "Timeout", message.clone());
    e.causes.push(Cause {
        field: String::new(),
        reason: "ResourceVersionTooLarge".into(),
        message,
    });
    e
}

/// `GET` of one object.
pub async fn get(ctx: &Context, call: &Call) -> Answer {
    let shape = call.shape()?;
    let view = snapshot(ctx, call.query.resource_version()?).await?;
    let obj = view
        .get(call.kind.table, &call.key())
        .ok_or_else(|| call.not_found())?;
    Ok(match shape {
        Shape::Object => reply::bytes(200, reply::JSON, obj.wire()),
        shape => reply::value(
            200,
            &negotiate::object(call.kind, obj.value(), shape, call.include()?, ctx.now()),
        ),
    })
}

/// What a list or watch is restricted to.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Namespace, empty for all.
    pub namespace: String,
    /// Name, empty for all.
    pub name: String,
    /// Labels.
    pub labels: LabelSelector,
    /// Fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of a request; unsupported fields are a 400.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        if let Some((field, _, _)) = fields
            .0
            .iter()
            .find(|(f, _, _)| !field_supported(call.kind, f))
        {
            return Err(ApiError::bad_request(format!(
                "field label not supported: {field:?} cannot be selected on {}",
                call.kind.plural
            )));
        }
        Ok(Self {
            namespace: call.namespace.clone(),
            name: call.name.clone(),
            labels,
            fields,
        })
    }

    /// Whether an object belongs to it.
    pub fn matches(&self, obj: &Obj) -> bool {
        (self.namespace.is_empty() || obj.key.namespace == self.namespace)
            && (self.name.is_empty() || obj.key.name == self.name)
            && self.labels.matches(&obj.attrs.labels)
            && self.fields.matches(|f| obj.attrs.field(f))
    }

    /// The fewest changes that a watch of this selection has to look at.
    pub fn interest(&self, table: &str) -> Interest {
        let name = match self.name.as_str() {
            "" => self.pinned("metadata.name").unwrap_or_default(),
            name => name,
        };
        if !name.is_empty()
            && let Some(namespace) = self.namespace_for_get(table)
        {
            return Interest::Object(Key::new(namespace, name));
        }
        match self.pinned("spec.nodeName") {
            Some(node) if table == "pods" => return Interest::Node(node.to_string()),
            _ => {}
        }
        match self.namespace.as_str() {
            "" => Interest::Table,
            namespace => Interest::Namespace(namespace.to_string()),
        }
    }

    /// Whether selectors restrict it (a namespace does not count).
    pub fn selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty() || !self.name.is_empty()
    }

    /// The value a field must have, if the selector says so.
    fn pinned(&self, field: &str) -> Option<&str> {
        self.fields
            .0
            .iter()
            .find(|(f, equal, v)| f == field && *equal && !v.is_empty())
            .map(|(_, _, v)| v.as_str())
    }

    /// The selected objects of a table in key order, by the cheapest index there is.
    pub fn objects<'a>(
        &'a self,
        view: &'a View,
        table: &str,
    ) -> Box<dyn Iterator<Item = &'a Arc<Obj>> + 'a> {
        let name = self
            .pinned("metadata.name")
            .or((!self.name.is_empty()).then_some(self.name.as_str()));
        if let (Some(name), Some(namespace)) = (name, self.namespace_for_get(table)) {
            return Box::new(
                view.get(table, &Key::new(namespace, name))
                    .into_iter()
                    .filter(|o| self.matches(o)),
            );
        }
        let all = match self.pinned("spec.nodeName") {
            Some(node) if table == "pods" => view.on_node(node),
            _ => view.list(
                table,
                (!self.namespace.is_empty()).then_some(self.namespace.as_str()),
            ),
        };
        Box::new(all.filter(|o| self.matches(o)))
    }

    /// The selected objects behind a key, in key order.
    pub fn objects_after<'a>(
        &'a self,
        view: &'a View,
        table: &str,
        after: &'a Key,
    ) -> Box<dyn Iterator<Item = &'a Arc<Obj>> + 'a> {
        let Some(table) = view.tables.get(table) else {
            return Box::new(std::iter::empty());
        };
        let range: (Bound<&Key>, Bound<&Key>) = (Bound::Excluded(after), Bound::Unbounded);
        let inside =
            |o: &&'a Arc<Obj>| self.namespace.is_empty() || o.key.namespace == self.namespace;
        Box::new(
            table
                .objects
                .range(range)
                .map(|(_, o)| o)
                .take_while(inside)
                .filter(|o| self.matches(o)),
        )
    }

    /// The namespace under which one name means one object; `None` if it may be in any.
    fn namespace_for_get(&self, table: &str) -> Option<String> {
        let namespaced = kinds::by_table(table).is_none_or(|k| k.namespaced());
        (!namespaced || !self.namespace.is_empty()).then(|| self.namespace.clone())
    }
}
