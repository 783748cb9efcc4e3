//! openraft's own contract suite on our stores.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::journal::store::LogStore;
use crate::journal::wal::WalJournal;
use crate::machine::Machine;
use crate::publish::Published;
use crate::snapshot::Snapshots;
use crate::types::TypeConfig;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let journal: Arc<dyn Journal> = Arc::new(WalJournal::open(dir.path()).unwrap());
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
    Suite::test_all(Builder).await.unwrap();
}
