//! Subresources that are not simply a part of the object: scale, binding, eviction, log.

pub mod binding;
pub mod log;
pub mod scale;

use coracle_api::ApiError;
use serde_json::json;

use crate::body::Decoded;
use crate::call::Call;
use crate::context::Context;
use crate::reply::{self, Answer};
use crate::write::delete::{self, Options};

/// `POST /pods/X/eviction`: a deletion that may be refused. There are no disruption budgets in this version.
pub async fn evict(ctx: &Context, call: &Call, decoded: &Decoded) -> Answer {
    let eviction = &decoded.value;
    if !eviction["kind"].is_null() && eviction["kind"] != "Eviction" {
        return Err(ApiError::bad_request(format!(
            "the request body must be an Eviction of policy/v1, it is {}",
            eviction["kind"]
        )));
    }
    let given = coracle_api::meta::name(eviction);
    if !given.is_empty() && given != call.name {
        return Err(ApiError::bad_request(format!(
            "name in URL ({}) does not match name in Eviction object ({given})",
            call.name
        )));
    }
    let options = Options::read(
        call,
        &Decoded {
            value: eviction["deleteOptions"].clone(),
            duplicates: Vec::new(),
        },
    )?;
    delete::delete(ctx, call.kind, &call.key(), &options).await?;
    Ok(reply::success(201, json!(null)))
}
