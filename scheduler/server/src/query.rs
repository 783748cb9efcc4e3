//! Query parameters. Unknown ones are ignored, as Kubernetes does; malformed known ones are a 400 with their name.

use axum::extract::Query as AxumQuery;
use coracle_api::ApiError;
use http::Uri;

/// The parameters of a request, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// What to do with unknown and duplicate fields of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them without a word.
    Ignore,
    /// Drop them and say so in `Warning` headers.
    Warn,
    /// Refuse with 400, naming all of them.
    Strict,
}

impl Query {
    /// Parses the query of a URI.
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        let AxumQuery(pairs) = AxumQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(format!("malformed query: {e}")))?;
        Ok(Self(pairs))
    }

    /// A parameter that is present and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, v)| n == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    /// A boolean, false if absent. `watch`, `watch=1`, `watch=true` are true.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self
            .0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
        {
            None | Some("false" | "0" | "False") => Ok(false),
            Some("" | "true" | "1" | "True") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "query parameter {name}: {other:?} is neither true nor false"
            ))),
        }
    }

    /// A non-negative number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.get(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "query parameter {name}: {v:?} is not a non-negative whole number"
                    ))
                })
            })
            .transpose()
    }

    /// `resourceVersion`; `None` if unset.
    pub fn resource_version(&self) -> Result<Option<u64>, ApiError> {
        self.get("resourceVersion")
            .map(|v| v.parse().map_err(|_| ApiError::bad_request(format!("Invalid value for resourceVersion: {v:?} is not a resource version of this server"))))
            .transpose()
    }

    /// `dryRun=All`.
    pub fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun: {other:?} is not supported, the only value is \"All\""
            ))),
        }
    }

    /// `fieldValidation`, `Warn` if unset.
    pub fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: {other:?} is not supported, use Strict, Warn or Ignore"
            ))),
        }
    }
}
