//! Whether this member's bucket is the one the others use.
//!
//! The first member that needs the bucket puts an empty object `PREFIX/marks/<number>` there, and a row of [`BUCKET`]
//! with that number. Everybody else looks for the object the row names: without it this is another bucket (or another
//! prefix), and nothing may be stored, read or removed here, because the rows speak of the other one. Clusters that share
//! a bucket have each a mark of its own.

use coracle_registry::blobs::BlobError;
use coracle_registry::meta::MetaError;
use coracle_registry::rows::{self, BUCKET};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::{Objects, found, rows_failed, unavailable};

/// The only key of the table.
const KEY: &str = "mark";

/// The row.
#[derive(Serialize, Deserialize)]
struct Mark {
    number: String,
}

impl Objects {
    /// Asked before everything else; free once it was answered well.
    pub(crate) async fn ours(&self) -> Result<(), BlobError> {
        self.compared
            .get_or_try_init(|| self.compare())
            .await
            .copied()
    }

    async fn compare(&self) -> Result<(), BlobError> {
        loop {
            self.meta.fresh().await.map_err(rows_failed)?;
            let row = self.meta.get(BUCKET, KEY).await.map_err(rows_failed)?;
            if let Some(row) = row {
                let mark: Mark = rows::decode(&row).map_err(|e| rows_failed(e.message))?;
                return match found(self.store.head(&self.mark(&mark.number)).await)? {
                    Some(_) => Ok(()),
                    None => Err(another(&mark.number)),
                };
            }
            let number = format!("{:016x}", rand::random::<u64>());
            let key = self.mark(&number);
            let put = self.store.put(&key, PutPayload::new()).await;
            put.map_err(unavailable)?;
            let mut row = rows::put(BUCKET, KEY.to_owned(), &Mark { number })
                .map_err(|e| rows_failed(e.message))?;
            row.precondition = rows::as_read(None);
            match self.meta.batch(vec![row]).await {
                Ok(()) => return Ok(()),
                Err(MetaError::Conflict { .. }) => {
                    found(self.store.delete(&key).await)?;
                }
                // Whether the row is written is not known: the mark stays, and if it is not it is an empty object too many.
                Err(error) => return Err(rows_failed(error)),
            }
        }
    }

    fn mark(&self, number: &str) -> Path {
        self.prefix.clone().join("marks").join(number)
    }
}

fn another(number: &str) -> BlobError {
    let text = format!(
        "E_REGISTRY_STORAGE_OTHER: this member's --registry-storage is not the bucket and prefix where the cluster's blobs are (it has no marks/{number}): give every member the same, or copy that object too if they were moved"
    );
    tracing::error!("{text}");
    BlobError::Unavailable(text)
}
