//! `POST /coracle/v1/holders/DIGEST` of the API listener, for runners only: who gives a blob to whom. Any member takes the
//! question and hands it to the leader, whose memory has the answer ([`coracle_plan::holders`]).
//!
//! ```text
//! {"state": "fetch", "trouble": {"node": N, "what": "gone|failed|busy"}?, "avoid": [N, ..]?}
//!     -> {"node": N, "address": HOST:PORT, "depth": D}, or {} for the members
//! {"state": "have"} and {"state": "gone"}  -> {}
//! ```
//!
//! Who asks is what its certificate says, and addresses are those of the Node objects: nobody can name a place that is
//! not a node's. Without an answer a runner asks the members for the blob, so that nothing here has to be reliable.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use coracle_api::Key;
use coracle_plan::holders::{Holders, Parent, Trouble};
use coracle_raft::Replica;
use coracle_registry::digest::Digest;
use coracle_registry::error::{Code, Error};
use coracle_server::Identity;
use coracle_state::{View, Views};
use http::{Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::desk::Topics;

/// Where runners ask: `PATH/DIGEST`.
const PATH: &str = "/coracle/v1/holders";
/// The desk's topic.
const TOPIC: &str = "holders";
/// Largest question: 64 names to avoid.
const QUESTION_BYTES_MAX: usize = 32 << 10;
/// Names to avoid that are taken.
const AVOID_MAX: usize = 64;
/// Patience with the leader: a runner that hears nothing asks the members for the blob.
const LEADER: Duration = Duration::from_secs(2);
/// Runners without an address (nodes that were removed) that are passed over for one question.
const TRIES: usize = 4;

/// What a runner says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Said {
    state: Doing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Told>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    avoid: Vec<String>,
}

/// What it does with the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Doing {
    Fetch,
    Have,
    Gone,
}

/// Why it wants another parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    node: String,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Gone,
    Failed,
    Busy,
}

/// As it travels to the leader.
#[derive(Debug, Serialize, Deserialize)]
struct Travelling {
    node: String,
    blob: String,
    said: Said,
}

/// The leader's answer.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Named {
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    depth: u32,
}

/// The trees of the leader.
struct Desk {
    holders: Holders,
    /// The term they were gathered in: in another one they are old.
    term: u64,
    since: Instant,
}

impl Desk {
    fn answer(&mut self, term: u64, asked: &Travelling) -> Named {
        if self.term != term {
            self.holders = Holders::default();
            self.term = term;
        }
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Travelling { node, blob, said } = asked;
        match said.state {
            Doing::Have => self.holders.have(now_ms, node, blob),
            Doing::Gone => self.holders.leave(node, blob),
            Doing::Fetch => {
                let trouble = said.trouble.as_ref().map(|told| {
                    let what = match told.what {
                        What::Gone => Trouble::Gone,
                        What::Failed => Trouble::Failed,
                        What::Busy => Trouble::Busy,
                    };
                    (told.node.as_str(), what)
                });
                let parent = self.holders.ask(now_ms, node, blob, trouble, &said.avoid);
                if let Parent::Runner { name, depth } = parent {
                    return Named {
                        node: Some(name),
                        depth,
                    };
                }
            }
        }
        Named::default()
    }
}

/// Answers members' questions while this one leads.
pub(crate) fn open(topics: &Topics, replica: Arc<Replica>) {
    let desk = Mutex::new(Desk {
        holders: Holders::default(),
        term: 0,
        since: Instant::now(),
    });
    topics.open_now(TOPIC, move |body| {
        let asked: Travelling =
            serde_json::from_slice(body).map_err(|e| format!("no question about a blob: {e}"))?;
        let term = replica.leader_changes().borrow().term;
        let named = (desk.lock().unwrap_or_else(PoisonError::into_inner)).answer(term, &asked);
        let bytes = serde_json::to_vec(&named).map_err(|e| e.to_string())?;
        Ok(Bytes::from(bytes))
    });
}

/// To be merged beside the API's router: a path named here goes before its fallback.
pub(crate) fn router(replica: Arc<Replica>) -> Router {
    Router::new()
        .route(&format!("{PATH}/{{digest}}"), any(serve))
        .with_state(replica)
}

async fn serve(
    State(replica): State<Arc<Replica>>,
    Path(digest): Path<String>,
    request: Request,
) -> Response {
    match answer(&replica, &digest, request).await {
        Ok(value) => (
            [(header::CONTENT_TYPE, "application/json")],
            value.to_string(),
        )
            .into_response(),
        Err(error) => error.into_response(),
    }
}

async fn answer(replica: &Replica, digest: &str, request: Request) -> Result<Value, Error> {
    let node = request.extensions().get::<Identity>();
    let node = node.and_then(|who| Some(who.node()?.to_string()));
    let Some(node) = node else {
        let message = "E_HOLDERS: only runners of the cluster may ask this; use /v2";
        return Err(Error::new(Code::Denied, message));
    };
    if request.method() != Method::POST {
        return Err(Error::new(Code::Unsupported, "use POST"));
    }
    let blob = digest.parse::<Digest>()?.to_string();
    let bad = |why: String| Error::new(Code::Unsupported, why).status(StatusCode::BAD_REQUEST);
    let body = to_bytes(request.into_body(), QUESTION_BYTES_MAX).await;
    let body = body.map_err(|e| bad(format!("E_HOLDERS: the body does not read: {e}")))?;
    let mut said: Said = serde_json::from_slice(&body)
        .map_err(|e| bad(format!("E_HOLDERS: the body is not {{\"state\": ..}}: {e}")))?;
    said.avoid.truncate(AVOID_MAX);
    for _ in 0..TRIES {
        let asked = Travelling {
            node: node.clone(),
            blob: blob.clone(),
            said: said.clone(),
        };
        let named = ask(replica, &asked).await?;
        let Some(name) = named.node else {
            break;
        };
        if let Some(address) = address(&replica.view(), &name) {
            return Ok(json!({"node": name, "address": address, "depth": named.depth}));
        }
        // It is no node any more.
        said.trouble = Some(Told {
            node: name,
            what: What::Gone,
        });
    }
    Ok(json!({}))
}

async fn ask(replica: &Replica, asked: &Travelling) -> Result<Named, Error> {
    let body = serde_json::to_vec(asked).map_err(|e| Error::internal(e.to_string()))?;
    let answered = timeout(LEADER, replica.ask_leader(TOPIC, body.into())).await;
    let answered = match answered {
        Ok(answered) => answered.map_err(|e| Error::busy(e.to_string()))?,
        Err(_) => return Err(Error::busy("the leader did not answer within 2 s")),
    };
    serde_json::from_slice(&answered).map_err(|e| Error::internal(e.to_string()))
}

/// `HOST:PORT` of a node's runner, from what it registered.
fn address(view: &View, node: &str) -> Option<String> {
    let status = view.get("nodes", &Key::new("", node))?.value()["status"].take();
    let mut addresses = status["addresses"].as_array()?.iter();
    let host = addresses.find(|a| a["type"] == "InternalIP")?["address"].as_str()?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    Some(match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    })
}
