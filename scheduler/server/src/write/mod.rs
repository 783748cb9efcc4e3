//! Writes: read the object from the view, make the wanted form, propose it under the revision it was made from, and
//! start again if somebody was faster. Nothing is decided here that a controller could decide.

pub mod admission;
pub mod create;
pub mod delete;
pub mod patch;
pub mod prepare;
pub mod renewal;
pub mod update;

use axum::response::Response;
use bytes::Bytes;
use coracle_api::{ApiError, Key, Kind, canonical, claims, meta};
use coracle_state::{Applied, Command, Expect, Refused};
use serde_json::{Value, json};

use crate::call::Call;
use crate::context::Context;
use crate::negotiate::{self, Shape};
use crate::reply::{self, unproposed};

/// How often a lost race is started again. Each loss means that somebody else's write went through; with 32 writers on
/// one object the last one still gets in.
pub const ATTEMPTS_MAX: usize = 32;

/// A write that was accepted.
#[derive(Clone, Debug)]
pub struct Written {
    /// 200 or 201.
    pub code: u16,
    /// The object as stored, with its resourceVersion.
    pub object: Value,
    /// The bytes stored for it, if this request stored them: the answer is made of them.
    pub stored: Option<(Bytes, u64)>,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

impl Written {
    /// The response in the shape the client accepts.
    pub fn reply(self, ctx: &Context, call: &Call) -> Result<Response, ApiError> {
        let mut response = match (call.shape()?, &self.stored) {
            (Shape::Object, Some((bytes, revision))) => {
                let wire = canonical::with_revision(bytes, *revision);
                reply::bytes(self.code, reply::JSON, wire)
            }
            (shape, _) => {
                let now = ctx.now();
                let body = negotiate::object(call.kind, self.object, shape, call.include()?, now);
                reply::value(self.code, &body)
            }
        };
        reply::warn(&mut response, &self.warnings);
        Ok(response)
    }
}

/// What became of one proposed command.
pub enum Outcome {
    /// It holds from this revision on.
    Done(Applied),
    /// It was refused and changed nothing.
    Refused(Refused),
}

/// Proposes one command.
pub async fn commit(ctx: &Context, command: Command) -> Result<Outcome, ApiError> {
    let mut results = ctx
        .config
        .propose
        .propose(vec![command])
        .await
        .map_err(unproposed)?;
    match results.pop() {
        Some(Ok(applied)) => Ok(Outcome::Done(applied)),
        Some(Err(refused)) => Ok(Outcome::Refused(refused)),
        None => Err(ApiError::new(
            500,
            "InternalError",
            "the log answered a proposal without a result",
        )),
    }
}

/// The command that stores an object with everything it claims.
pub fn put(kind: &Kind, key: Key, expect: Expect, object: &Value) -> Command {
    put_bytes(kind, key, expect, object, canonical::encode(object))
}

/// As [`put`], with the object's canonical bytes.
pub fn put_bytes(kind: &Kind, key: Key, expect: Expect, object: &Value, bytes: Bytes) -> Command {
    Command::put(kind.table, key, expect, bytes, claims::of(kind, object))
}

/// Sets the resourceVersion that an object got.
pub fn stamp(object: &mut Value, revision: u64) {
    meta::metadata(object).insert("resourceVersion".into(), json!(revision.to_string()));
}

/// A refusal that no retry mends, in the words of the API.
pub fn refused(call: &Call, name: &str, refused: Refused) -> ApiError {
    match refused {
        Refused::Precondition { .. } | Refused::Group => call.conflict(name, "the object has been modified; please apply your changes to the latest version and try again"),
        Refused::Taken { space, value, holder } => {
            let field = match space.as_str() {
                "nodePort" => "spec.ports[].nodePort",
                "podIP" => "status.podIP",
                _ => "spec.clusterIPs",
            };
            let message = format!("Invalid value: {value:?}: provided {space} is already allocated to {holder}; leave the field out to get a free one");
            let cause = coracle_api::error::Cause { field: field.into(), reason: "FieldValueInvalid".into(), message };
            ApiError::invalid(call.kind.kind, call.kind.group, name, vec![cause])
        }
        Refused::NodeFull { node, what } if what == "node" => call.conflict(name, &format!("there is no node {node:?}")),
        Refused::NodeFull { node, what } => call.conflict(name, &format!("node {node:?} has not enough {what} left")),
    }
}
