//! openraft's own contract suite on our stores.

use std::path::Path;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::journal::raftlog::RaftLogJournal;
use crate::journal::store::LogStore;
use crate::journal::wal::{Options, WalJournal};
use crate::machine::Machine;
use crate::publish::Published;
use crate::snapshot::Snapshots;
use crate::types::TypeConfig;

/// Opens a log in a directory.
struct Builder(fn(&Path) -> Arc<dyn Journal>);

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let journal = (self.0)(dir.path());
        let (snapshots, loaded) = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let gate = Arc::new(Gate::new(dir.path(), None));
        let fatal = Fatal::new(|line| panic!("{line}"));
        let machine = Machine::new(
            loaded,
            Arc::new(snapshots),
            Arc::new(Published::default()),
            journal.clone(),
            gate,
            fatal,
        );
        Ok((dir, LogStore::new(journal), machine))
    }
}

#[tokio::test]
async fn openraft_suite() {
    Suite::test_all(Builder(|dir| Arc::new(WalJournal::open(dir).unwrap())))
        .await
        .unwrap();
}

/// Everything from the disk, through the page cache.
#[tokio::test]
async fn openraft_suite_without_memory() {
    let open = |dir: &Path| -> Arc<dyn Journal> {
        let options = Options {
            cache_bytes: 0,
            direct: false,
            ..Options::default()
        };
        Arc::new(WalJournal::open_options(dir, options).unwrap())
    };
    Suite::test_all(Builder(open)).await.unwrap();
}

#[tokio::test]
async fn openraft_suite_of_raft_log() {
    Suite::test_all(Builder(|dir| Arc::new(RaftLogJournal::open(dir).unwrap())))
        .await
        .unwrap();
}
