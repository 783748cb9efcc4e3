//! A judgement on an object beyond its form: whoever wires the server may say no to what is about to be stored.
//!
//! It is asked after defaults and validation, for creates and for changes of the object itself, in dry runs too, and
//! before the proposal. Controllers write through the log and are not asked: what must hold for a pod is enforced again
//! where the pod runs.

use coracle_api::{ApiError, Kind};
use coracle_state::{BoxFuture, View};
use serde_json::Value;

use crate::call::Call;
use crate::context::Context;

/// Who judges.
pub trait Admission: Send + Sync + 'static {
    /// Whether objects of this kind are judged at all.
    fn concerns(&self, kind: &Kind) -> bool;

    /// Judges the form that is about to be stored; `live` is the one it replaces. Answers warnings for the client, or the
    /// refusal.
    fn admit<'a>(
        &'a self,
        kind: &'static Kind,
        object: &'a Value,
        live: Option<&'a Value>,
        view: &'a View,
    ) -> BoxFuture<'a, Result<Vec<String>, ApiError>>;
}

/// Asks, if there is somebody to ask.
pub(super) async fn admit(
    ctx: &Context,
    call: &Call,
    object: &Value,
    live: Option<&Value>,
    view: &View,
) -> Result<Vec<String>, ApiError> {
    let judge = match &ctx.config.admission {
        Some(judge) if call.subresource.is_empty() && judge.concerns(call.kind) => judge,
        _ => return Ok(Vec::new()),
    };
    match judge.admit(call.kind, object, live, view).await {
        Ok(warnings) => Ok(warnings),
        Err(refusal) => {
            // As every refusal, it is answered only from a view that lacks nothing which was acknowledged.
            let newer = ctx.fresh().await?;
            match newer.revision == view.revision {
                true => Err(refusal),
                false => judge.admit(call.kind, object, live, &newer).await,
            }
        }
    }
}
