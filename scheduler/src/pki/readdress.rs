//! The same CA for a cluster that gets another id: its keys are sealed for one cluster id, so they are sealed anew.

use std::path::Path;

use bytes::Bytes;
use coracle_api::Key;
use coracle_state::{Command, Expect, View};

use super::ca::{CLUSTER, ClusterRecord, PKI, about, record_key};
use super::issue::pki;
use super::record::CaRecord;
use super::seal::Seal;
use crate::error::StartError;

/// The cluster id in a state.
pub(crate) fn cluster_of(view: &View) -> Result<String, StartError> {
    let row = view
        .get(CLUSTER, &Key::new("", "cluster"))
        .ok_or_else(|| pki(format!("the record {CLUSTER} is missing")))?;
    let record: ClusterRecord = serde_json::from_slice(&row.bytes).map_err(pki)?;
    Ok(record.id)
}

/// Commands that give the cluster of `view` the id `cluster` and keep its roots. The sealing key must be in `dir`.
pub(crate) fn readdress(
    view: &View,
    dir: &Path,
    cluster: &str,
) -> Result<Vec<Command>, StartError> {
    let old = cluster_of(view)?;
    let row = view
        .get(PKI, &record_key())
        .ok_or_else(|| pki(format!("the record {PKI} is missing")))?;
    let mut record: CaRecord = serde_json::from_slice(&row.bytes).map_err(pki)?;
    let seal = Seal::open(dir, false)?;
    let again = |sealed: &str| seal.seal(&seal.unseal(sealed, &about(&old))?, &about(cluster));
    record.key = again(&record.key)?;
    if let Some(rotation) = &mut record.rotation
        && !rotation.next_key.is_empty()
    {
        rotation.next_key = again(&rotation.next_key)?;
    }
    let put = |table: &str, key: Key, bytes: Vec<u8>| {
        let mut command = Command::put(table, key, Expect::Present, Bytes::from(bytes), Vec::new());
        command.group = 1;
        command
    };
    let id = ClusterRecord { id: cluster.into() };
    Ok(vec![
        put(
            CLUSTER,
            Key::new("", "cluster"),
            serde_json::to_vec(&id).map_err(pki)?,
        ),
        put(PKI, record_key(), serde_json::to_vec(&record).map_err(pki)?),
    ])
}
