//! Rotation of the CA: a new root is spread, then issues, then is alone.
//!
//! Every member follows the CA record. Holders of certificates (members and runners) report which roots they trust and
//! which root their certificate is under; the leader moves the rotation on when the last of them has done what the
//! phase asks for. What is decided is a pure function of record and reports (`step`), so a new leader goes on where
//! the old one was. Reports are rows of an internal table: without a rotation each is written once per certificate.

mod step;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_api::{ApiError, Timestamp};
use coracle_raft::Replica;
use coracle_server::{Certificates, Identity};
use coracle_state::{BoxFuture, Command, Expect, Propose, Views};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::pki::{Ca, CaRecord, PKI, Phase, after, ends, hash_of, record_key};
use crate::token_rows::unavailable;
pub(crate) use step::{Holder, REPORTS, Report, registries};
use step::{Step, named, reports, required, step};

/// How often a member looks whether the record is another one, and the leader whether a phase is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A rotation begins by itself when so much of the root's life is left: nobody else may remember in ten years.
const LEFT_OF_ROOT: u32 = 5;

fn conflict(message: String) -> ApiError {
    ApiError::new(409, "Conflict", message)
}

/// Certificates of the whole cluster, as one member sees and moves them.
pub(crate) struct Certifier {
    pub ca: Arc<Ca>,
    pub replica: Arc<Replica>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Something was reported or changed: look now.
    pub wake: Notify,
}

impl Certifier {
    /// For this member.
    pub fn new(
        ca: Arc<Ca>,
        replica: Arc<Replica>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ca,
            replica,
            clock,
            wake: Notify::new(),
        })
    }

    /// Follows the record on every member, and moves a rotation on while this member leads; until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut told = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.ca.refresh(&self.replica.view()) {
                Ok(true) => tracing::info!("the CA's roots have changed"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the CA record cannot be used; the one before stays in force")
                }
            }
            if !self.replica.is_leader() {
                continue;
            }
            let (step, _) = self.step();
            match step {
                Step::Idle => self.begin_if_due().await,
                Step::Wait(missing) if missing != told => {
                    tracing::info!(waiting_for = named(&missing), "the CA rotation waits");
                    told = missing;
                }
                Step::Wait(_) => {}
                Step::Advance => match self.advance().await {
                    Ok(()) => told.clear(),
                    Err(error) => {
                        tracing::debug!(%error, "the CA rotation did not move; again soon")
                    }
                },
            }
        }
    }

    /// What to do now by the record and the reports, and the phase of the rotation (`None`: none is under way).
    fn step(&self) -> (Step, Option<Phase>) {
        let view = self.replica.view();
        let (_, record) = self.ca.record();
        let phase = record.rotation.map(|r| r.phase);
        if phase.is_none() {
            return (Step::Idle, None);
        }
        let members = self.replica.status().members;
        let required = required(members.into_iter().map(|(id, _)| id), &view);
        (
            step(phase, &self.ca.hashes(), &required, &reports(&view)),
            phase,
        )
    }

    /// A root near its end is replaced without being asked.
    async fn begin_if_due(&self) {
        let (_, record) = self.ca.record();
        let now = (self.clock)();
        let due = record
            .roots
            .first()
            .and_then(|r| ends(r))
            .is_some_and(|end| end <= after(now, self.ca.lives().root / LEFT_OF_ROOT));
        if !due {
            return;
        }
        match self.begin().await {
            Ok(()) => tracing::warn!("the CA's root is near its end: a rotation has begun"),
            Err(error) => {
                tracing::debug!(%error, "the rotation of an ending root did not begin; again soon")
            }
        }
    }

    async fn begin(&self) -> Result<(), ApiError> {
        let now = (self.clock)();
        let (revision, record) = self.ca.record();
        let new = self.ca.new_root(now).map_err(internal)?;
        let next = record
            .begin(new, now)
            .ok_or_else(|| conflict("E_CA_ROTATING: a rotation is under way".into()))?;
        self.put(revision, &next).await
    }

    async fn advance(&self) -> Result<(), ApiError> {
        let (revision, record) = self.ca.record();
        let next = record
            .advance((self.clock)())
            .ok_or_else(|| conflict("E_CA_IDLE: no rotation is under way".into()))?;
        self.put(revision, &next).await?;
        match next.rotation {
            Some(_) => tracing::info!("the CA issues from its new root"),
            None => tracing::info!("the CA's old root is dropped: the rotation is complete"),
        }
        Ok(())
    }

    async fn put(&self, revision: u64, record: &CaRecord) -> Result<(), ApiError> {
        let bytes =
            serde_json::to_vec(record).map_err(|e| internal(StartError::Pki(e.to_string())))?;
        let command = Command::put(
            PKI,
            record_key(),
            Expect::Revision(revision),
            Bytes::from(bytes),
            Vec::new(),
        );
        self.proposed(command).await?;
        self.ca.refresh(&self.replica.view()).map_err(internal)?;
        self.wake.notify_one();
        Ok(())
    }

    async fn proposed(&self, command: Command) -> Result<(), ApiError> {
        let results = self
            .replica
            .propose(vec![command])
            .await
            .map_err(|e| unavailable(&e))?;
        match results.first() {
            Some(Ok(_)) => Ok(()),
            Some(Err(why)) => Err(conflict(format!(
                "E_CA_RACE: somebody else was faster ({why}); look at `coracle ca show` and try again"
            ))),
            None => Err(internal(StartError::Pki("no result came back".into()))),
        }
    }

    /// Notes what a holder says about itself.
    pub async fn report(&self, holder: &Holder, report: &Report) -> Result<(), ApiError> {
        let known = self.replica.view().get(REPORTS, &holder.key()).cloned();
        let bytes =
            serde_json::to_vec(report).map_err(|e| internal(StartError::Pki(e.to_string())))?;
        if known.is_some_and(|row| row.bytes == bytes) {
            return Ok(());
        }
        self.proposed(Command::put(
            REPORTS,
            holder.key(),
            Expect::Any,
            Bytes::from(bytes),
            Vec::new(),
        ))
        .await?;
        self.wake.notify_one();
        Ok(())
    }

    fn status(&self) -> Value {
        let view = self.replica.view();
        let (_, record) = self.ca.record();
        let roots: Vec<Value> = record
            .roots
            .iter()
            .zip(self.ca.hashes())
            .enumerate()
            .map(|(i, (pem, hash))| {
                json!({"sha256": hash, "issuing": i == 0, "expires": ends(pem).map(|t| t.to_string())})
            })
            .collect();
        let waiting = match self.step().0 {
            Step::Wait(missing) => missing,
            Step::Idle | Step::Advance => Vec::new(),
        };
        let waiting: Vec<Value> = waiting
            .iter()
            .map(|h| {
                let (kind, name) = h.parts();
                json!({"kind": kind, "name": name})
            })
            .collect();
        let rotation = record.rotation.map(|r| {
            json!({"phase": r.phase, "started": r.started.to_string(), "since": r.since.to_string(), "waitingFor": waiting})
        });
        let certificates: Vec<Value> = reports(&view)
            .into_iter()
            .map(|(holder, r)| {
                let (kind, name) = holder.parts();
                json!({"kind": kind, "name": name, "id": r.id, "issuer": r.issuer, "trusts": r.trusts, "expires": r.expires})
            })
            .collect();
        json!({"cluster": self.ca.cluster(), "roots": roots, "rotation": rotation, "certificates": certificates})
    }

    async fn order(&self, body: Value) -> Result<Value, ApiError> {
        let finish = match &body["finish"] {
            Value::Null => false,
            Value::Bool(finish) => *finish,
            _ => return Err(ApiError::bad_request("finish: must be true or false")),
        };
        // What another member has just written counts.
        let view = self.replica.view();
        self.ca.refresh(&view).map_err(internal)?;
        match (self.step(), finish) {
            ((_, None), false) => {
                self.prune().await?;
                self.begin().await?;
            }
            ((_, None), true) => {
                return Err(conflict(
                    "E_CA_IDLE: no rotation is under way; `coracle ca rotate` begins one".into(),
                ));
            }
            ((Step::Wait(missing), Some(_)), false) => {
                return Err(conflict(format!(
                    "E_CA_ROTATING: a rotation is under way and waits for {}; start them, remove them from the cluster, or go on without them with `coracle ca rotate --finish`",
                    named(&missing)
                )));
            }
            ((Step::Wait(missing), Some(_)), true) => {
                // Without the new root a member could never follow the log again.
                let members: Vec<Holder> = missing
                    .into_iter()
                    .filter(|h| matches!(h, Holder::Member(_)))
                    .collect();
                if !members.is_empty() {
                    return Err(conflict(format!(
                        "E_CA_MEMBERS: {} would be locked out; start it, or remove it with `coracle members remove`",
                        named(&members)
                    )));
                }
                self.advance().await?;
            }
            // On its way by itself.
            ((Step::Advance | Step::Idle, Some(_)), _) => {}
        }
        Ok(self.status())
    }

    /// Removes reports of those that are gone.
    async fn prune(&self) -> Result<(), ApiError> {
        let view = self.replica.view();
        let members = self.replica.status().members;
        let required = required(members.into_iter().map(|(id, _)| id), &view);
        let commands: Vec<Command> = view
            .list(REPORTS, None)
            .filter(|row| Holder::of(&row.key).is_none_or(|h| !required.contains(&h)))
            .map(|row| Command::delete(REPORTS, row.key.clone(), Expect::Revision(row.revision)))
            .collect();
        if commands.is_empty() {
            return Ok(());
        }
        // A refusal means that it has just reported again.
        self.replica
            .propose(commands)
            .await
            .map(drop)
            .map_err(|e| unavailable(&e))
    }
}

pub(crate) fn internal(e: StartError) -> ApiError {
    ApiError::new(500, "InternalError", e.to_string())
}

impl Certificates for Certifier {
    fn renew<'a>(
        &'a self,
        who: &'a Identity,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(crate::renew::node(self, who, body))
    }

    fn status(&self) -> Value {
        Certifier::status(self)
    }

    fn rotate(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(self.order(body))
    }
}

/// SHA-256 of each root of a bundle.
pub(crate) fn hashes(bundle: &str) -> Vec<String> {
    CertificateDer::pem_slice_iter(bundle.as_bytes())
        .flatten()
        .map(|der| hash_of(&der))
        .collect()
}
