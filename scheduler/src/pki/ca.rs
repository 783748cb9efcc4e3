//! The cluster's certificate authority as a member uses it: loaded from the replicated record, followed as it rotates.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use coracle_api::{Key, Timestamp};
use coracle_raft::node_id_text;
use coracle_state::{Command, Expect, Propose, View, Views};
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::identity::NodeIdentity;
use super::issue::{self, Profile, new_key, pki};
use super::lives::Lives;
use super::record::{CaRecord, NewRoot};
use super::seal::Seal;
use crate::error::StartError;

/// Table of the CA record.
pub(crate) const PKI: &str = "coracle.pki";
/// Table of the cluster record.
pub(crate) const CLUSTER: &str = "coracle.cluster";

/// Key of the CA record.
pub(crate) fn record_key() -> Key {
    Key::new("", "ca")
}

/// The cluster record.
#[derive(Serialize, Deserialize)]
pub(super) struct ClusterRecord {
    /// 16 hex digits.
    pub(super) id: String,
}

/// The cluster's CA, able to issue.
pub(crate) struct Ca {
    cluster: String,
    seal: Seal,
    lives: Lives,
    now: ArcSwap<Authority>,
    /// Revision of the record in force.
    changed: watch::Sender<u64>,
}

/// The CA of one moment.
struct Authority {
    revision: u64,
    record: CaRecord,
    roots: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn read(view: &View, cluster: &str, seal: &Seal) -> Result<Self, StartError> {
        let row = view
            .get(PKI, &record_key())
            .ok_or_else(|| pki(format!("the record {PKI} is missing")))?;
        let record: CaRecord = serde_json::from_slice(&row.bytes).map_err(pki)?;
        let key = unsealed(seal, &record.key, cluster)?;
        let first = record
            .roots
            .first()
            .ok_or_else(|| pki("the CA record has no root"))?;
        let issuer = Issuer::from_ca_cert_pem(first, key).map_err(pki)?;
        let roots = record
            .roots
            .iter()
            .map(|r| CertificateDer::from_pem_slice(r.as_bytes()).map_err(pki))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            revision: row.revision,
            record,
            roots,
            issuer,
        })
    }
}

fn unsealed(seal: &Seal, sealed: &str, cluster: &str) -> Result<KeyPair, StartError> {
    let key = seal.unseal(sealed, &about(cluster))?;
    KeyPair::from_pem(&String::from_utf8(key).map_err(pki)?).map_err(pki)
}

/// SHA-256 of a certificate in hex: how roots are named everywhere.
pub(crate) fn hash_of(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

impl Ca {
    /// Loads the CA from the replicated state; at the very first start makes it, with the cluster's id.
    pub async fn load_or_create(
        propose: &dyn Propose,
        views: &dyn Views,
        dir: &Path,
        lives: Lives,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        if views.view().get(PKI, &record_key()).is_none() {
            create(propose, dir, lives, now).await?;
        }
        Self::load(&views.view(), dir, lives)
    }

    /// Loads the CA from the replicated state. The sealing key must be in `dir`.
    pub fn load(view: &View, dir: &Path, lives: Lives) -> Result<Self, StartError> {
        let row = view
            .get(CLUSTER, &Key::new("", "cluster"))
            .ok_or_else(|| pki(format!("the record {CLUSTER} is missing")))?;
        let cluster: ClusterRecord = serde_json::from_slice(&row.bytes).map_err(pki)?;
        let seal = Seal::open(dir, false)?;
        let authority = Authority::read(view, &cluster.id, &seal)?;
        let (changed, _) = watch::channel(authority.revision);
        Ok(Self {
            cluster: cluster.id,
            seal,
            lives,
            now: ArcSwap::from_pointee(authority),
            changed,
        })
    }

    /// Seals a small secret of the cluster for the replicated state; what it is `about` is said again to open it.
    pub fn seal(&self, secret: &[u8], about: &str) -> Result<String, StartError> {
        self.seal.seal(secret, &format!("{} {about}", self.cluster))
    }

    /// Opens what [`Self::seal`] made, on this member or another.
    pub fn unseal(&self, sealed: &str, about: &str) -> Result<Vec<u8>, StartError> {
        self.seal
            .unseal(sealed, &format!("{} {about}", self.cluster))
    }

    /// Takes the record of a newer view in; answers whether it is another one. Those who wait for
    /// [`Self::changes`] are told.
    pub fn refresh(&self, view: &View) -> Result<bool, StartError> {
        let found = view.get(PKI, &record_key()).map(|row| row.revision);
        if found.is_none_or(|r| r == self.now.load().revision) {
            return Ok(false);
        }
        let authority = Authority::read(view, &self.cluster, &self.seal)?;
        let revision = authority.revision;
        self.now.store(Arc::new(authority));
        self.changed.send_replace(revision);
        Ok(true)
    }

    /// Tells when another record is in force.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The record in force and its revision.
    pub fn record(&self) -> (u64, CaRecord) {
        let now = self.now.load();
        (now.revision, now.record.clone())
    }

    /// How long its certificates live.
    pub fn lives(&self) -> Lives {
        self.lives
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The roots as one PEM bundle, the issuing one first.
    pub fn bundle(&self) -> String {
        self.now.load().record.roots.concat()
    }

    /// SHA-256 of the issuing root, in hex: what a join token pins.
    pub fn hash(&self) -> String {
        self.now
            .load()
            .roots
            .first()
            .map_or_else(String::new, |r| hash_of(r))
    }

    /// SHA-256 of every trusted root in hex, the issuing one first. A token that pins any of them is this cluster's.
    pub fn hashes(&self) -> Vec<String> {
        self.now.load().roots.iter().map(|r| hash_of(r)).collect()
    }

    /// Issues a certificate for a public key: a PEM chain.
    pub fn issue(
        &self,
        profile: &Profile,
        key: &impl PublicKeyData,
        now: Timestamp,
    ) -> Result<String, StartError> {
        self.chain(&self.now.load(), profile, key, now)
    }

    fn chain(
        &self,
        authority: &Authority,
        profile: &Profile,
        key: &impl PublicKeyData,
        now: Timestamp,
    ) -> Result<String, StartError> {
        let mut pem = issue::leaf(
            &self.cluster,
            profile,
            key,
            &authority.issuer,
            now,
            self.lives.leaf,
        )?;
        if let Some(rotation) = &authority.record.rotation
            && rotation.phase == super::record::Phase::Renewing
        {
            pem.push_str(&rotation.cross);
        }
        Ok(pem)
    }

    /// Makes a key and issues its certificate.
    pub fn identity(&self, profile: &Profile, now: Timestamp) -> Result<NodeIdentity, StartError> {
        let key = new_key()?;
        // One moment of the CA for all of it.
        let authority = self.now.load_full();
        Ok(NodeIdentity {
            certificate: self.chain(&authority, profile, &key, now)?,
            key: key.serialize_pem(),
            ca: authority.record.roots.concat(),
        })
    }

    /// Makes the root of a rotation, signed by itself and by the issuing one, and seals its key.
    pub fn new_root(&self, now: Timestamp) -> Result<NewRoot, StartError> {
        let key = new_key()?;
        let params = issue::root_params(&self.cluster, now, self.lives.root);
        Ok(NewRoot {
            root: params.self_signed(&key).map_err(pki)?.pem(),
            cross: issue::cross(&params, &key, &self.now.load().issuer)?,
            key: self
                .seal
                .seal(key.serialize_pem().as_bytes(), &about(&self.cluster))?,
        })
    }
}

/// Makes the cluster's id and its first root, and proposes both.
async fn create(
    propose: &dyn Propose,
    dir: &Path,
    lives: Lives,
    now: Timestamp,
) -> Result<(), StartError> {
    let seal = Seal::open(dir, true)?;
    let cluster = node_id_text(rand::random::<u64>().max(1));
    let key = new_key()?;
    let root = issue::root_params(&cluster, now, lives.root)
        .self_signed(&key)
        .map_err(pki)?;
    let record = CaRecord {
        roots: vec![root.pem()],
        key: seal.seal(key.serialize_pem().as_bytes(), &about(&cluster))?,
        rotation: None,
    };
    let put = |table: &str, key: Key, bytes: Vec<u8>| {
        let mut command = Command::put(table, key, Expect::Absent, Bytes::from(bytes), Vec::new());
        command.group = 1;
        command
    };
    let commands = vec![
        put(
            CLUSTER,
            Key::new("", "cluster"),
            serde_json::to_vec(&ClusterRecord { id: cluster }).map_err(pki)?,
        ),
        put(PKI, record_key(), serde_json::to_vec(&record).map_err(pki)?),
    ];
    for result in propose.propose(commands).await? {
        // A refusal means that another member was faster: its record is used.
        if let Err(why) = result {
            tracing::debug!(%why, "the CA record is there already");
        }
    }
    Ok(())
}

/// What the seal of a CA key is bound to.
pub(super) fn about(cluster: &str) -> String {
    format!("coracle ca {cluster}")
}
