//! Lists: snapshot semantics, pages, and bodies that are streamed from the view instead of built in memory.

use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::{ApiError, Key};
use coracle_state::{Obj, View};
use futures_util::stream;
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::context::Context;
use crate::negotiate::{self, Shape};
use crate::pages::Continue;
use crate::read::{self, Selection};
use crate::reply::{self, Answer};

/// Size at which a piece of a streamed list is handed to the connection.
const PIECE_BYTES: usize = 64 << 10;

/// One page.
struct Page {
    revision: u64,
    objects: Vec<Arc<Obj>>,
    token: Option<String>,
    remaining: Option<u64>,
}

/// `GET` of a collection.
pub async fn list(ctx: &Context, call: &Call) -> Answer {
    let shape = call.shape()?;
    let include = call.include()?;
    let selection = Selection::of(call)?;
    let limit = call
        .query
        .number("limit")?
        .filter(|l| *l > 0)
        .map(|l| usize::try_from(l).unwrap_or(usize::MAX));
    let page = match call.query.get("continue") {
        Some(token) => {
            if call.query.resource_version()?.is_some_and(|r| r > 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Continue::decode(token)?;
            match continued(ctx, call.kind.table, token.revision).await? {
                Some(view) => page(ctx, call, &selection, &view, limit, Some(&token.after)),
                None => {
                    return Ok(reply::expired_continue(
                        &Continue {
                            revision: 0,
                            after: token.after,
                        }
                        .encode(),
                    ));
                }
            }
        }
        None => page(
            ctx,
            call,
            &selection,
            &snapshot(ctx, call).await?,
            limit,
            None,
        ),
    };
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), json!(page.revision.to_string()));
    if let Some(token) = &page.token {
        metadata.insert("continue".into(), json!(token));
    }
    if let Some(n) = page.remaining {
        metadata.insert("remainingItemCount".into(), json!(n));
    }
    let now = ctx.now();
    Ok(match shape {
        Shape::Object => reply::bytes(200, reply::JSON, streamed(call, metadata, page.objects)),
        Shape::Metadata(version) => {
            let items: Vec<Value> = page
                .objects
                .iter()
                .map(|o| negotiate::metadata_only(&o.value(), version))
                .collect();
            reply::value(
                200,
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata, "items": items}),
            )
        }
        Shape::Table(version) => {
            let rows = page
                .objects
                .iter()
                .map(|o| negotiate::row(call.kind, &o.value(), version, include, now))
                .collect();
            reply::value(
                200,
                &negotiate::table_of(call.kind, version, Value::Object(metadata), rows, true),
            )
        }
    })
}

/// The view a new list is made from, by `resourceVersion` and `resourceVersionMatch`.
async fn snapshot(ctx: &Context, call: &Call) -> Result<Arc<View>, ApiError> {
    let revision = call.query.resource_version()?;
    match (call.query.get("resourceVersionMatch"), revision) {
        (None, revision) => read::snapshot(ctx, revision).await,
        (Some(_), None) => Err(ApiError::bad_request(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some("NotOlderThan"), revision) => read::snapshot(ctx, revision).await,
        (Some("Exact"), Some(0)) => Err(ApiError::bad_request(
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some("Exact"), Some(r)) => {
            let newest = read::at_least(ctx, r).await?;
            exact(ctx, newest, call.kind.table, r).ok_or_else(|| ApiError::expired(format!("The provided resource version is not available: {r}; list again without resourceVersionMatch=Exact")))
        }
        (Some(other), _) => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: {other:?} is not supported, use Exact or NotOlderThan"
        ))),
    }
}

/// The view of exactly this revision: kept by the page before, or made again from the changes since. Every member has
/// the same revisions, so a page asked for here may follow one that another member gave.
fn exact(
    ctx: &Context,
    newest: Arc<View>,
    table: &'static str,
    revision: u64,
) -> Option<Arc<View>> {
    if newest.revision == revision {
        return Some(newest);
    }
    if let Some(kept) = ctx.pages.at(table, revision) {
        return Some(kept);
    }
    let then = Arc::new(newest.rewound(table, revision)?);
    ctx.pages.keep(table, &then, ctx.now());
    Some(then)
}

async fn continued(
    ctx: &Context,
    table: &'static str,
    revision: u64,
) -> Result<Option<Arc<View>>, ApiError> {
    if revision == 0 {
        return ctx.fresh().await.map(Some);
    }
    let newest = read::at_least(ctx, revision).await?;
    Ok(exact(ctx, newest, table, revision))
}

/// Takes one page. The rest is only walked to count it, and only for the first page: a long list that is paged through
/// must not cost its square.
fn page(
    ctx: &Context,
    call: &Call,
    selection: &Selection,
    view: &Arc<View>,
    limit: Option<usize>,
    after: Option<&Key>,
) -> Page {
    let revision = view.revision;
    let mut all = match after {
        None => selection.objects(view, call.kind.table),
        Some(key) => selection.objects_after(view, call.kind.table, key),
    };
    let objects: Vec<Arc<Obj>> = all
        .by_ref()
        .take(limit.unwrap_or(usize::MAX))
        .cloned()
        .collect();
    if limit.is_none() || all.next().is_none() {
        return Page {
            revision,
            objects,
            token: None,
            remaining: None,
        };
    }
    let countable = after.is_none() && !selection.selective();
    let remaining = countable.then(|| all.count() as u64 + 1);
    ctx.pages.keep(call.kind.table, view, ctx.now());
    let token = objects.last().map(|o| {
        Continue {
            revision,
            after: o.key.clone(),
        }
        .encode()
    });
    Page {
        revision,
        objects,
        token,
        remaining,
    }
}

/// `{"kind":"PodList",...,"items":[...]}` in pieces; only references to the objects are held.
fn streamed(call: &Call, metadata: Map<String, Value>, objects: Vec<Arc<Obj>>) -> Body {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[",
        json!(format!("{}List", call.kind.kind)),
        json!(call.kind.api_version()),
        Value::Object(metadata)
    );
    let mut objects = objects.into_iter().peekable();
    let mut head = Some(head);
    let mut next = move || -> Option<Bytes> {
        let first = head.is_some();
        if !first && objects.peek().is_none() {
            return None;
        }
        let mut piece = BytesMut::from(head.take().unwrap_or_default().as_bytes());
        while piece.len() < PIECE_BYTES {
            let Some(obj) = objects.next() else { break };
            piece.put_slice(&obj.wire());
            if objects.peek().is_some() {
                piece.put_u8(b',');
            }
        }
        if objects.peek().is_none() {
            piece.put_slice(b"]}");
        }
        Some(piece.freeze())
    };
    // A short list is one piece with a Content-Length; only what is larger is worth chunks.
    let Some(first) = next() else {
        return Body::empty();
    };
    let Some(second) = next() else {
        return Body::from(first);
    };
    let rest = std::iter::from_fn(next);
    Body::from_stream(stream::iter(
        [first, second]
            .into_iter()
            .chain(rest)
            .map(Ok::<_, std::convert::Infallible>),
    ))
}

/// A list of these objects as plain JSON, for the answer of a collection's deletion.
pub fn of(call: &Call, revision: u64, objects: Vec<Arc<Obj>>) -> axum::response::Response {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), json!(revision.to_string()));
    reply::bytes(200, reply::JSON, streamed(call, metadata, objects))
}
