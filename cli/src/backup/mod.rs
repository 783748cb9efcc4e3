//! `coracle backup`: save, look at, check and restore; and the reset of a member that lost its quorum.

pub mod args;
mod reset;
mod save;
mod show;

use std::path::Path;

use coracle_scheduler::backup::{self, BackupError, FOLDER, Summary};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::print;
use args::{BackupCommand, FileArgs, LsArgs, RestoreArgs};
pub use reset::reset;
pub use show::size;

/// Where the API lists a member's backups.
const LIST: &str = "/coracle/v1/backups";

/// `coracle backup`.
pub async fn backup(command: BackupCommand) -> Result<()> {
    match command {
        BackupCommand::Save(args) => save::save(args).await,
        BackupCommand::Ls(args) => ls(args).await,
        BackupCommand::Inspect(args) => inspect(args).await,
        BackupCommand::Verify(args) => verify(args).await,
        BackupCommand::Restore(args) => restore(args).await,
    }
}

/// `CODE: sentence; fix` as an error.
pub(super) fn coded(text: &str) -> CliError {
    let (code, rest) = match text.split_once(": ") {
        Some((code, rest)) if code.starts_with("E_") && !code.contains(' ') => (code, rest),
        _ => ("E_BACKUP", text),
    };
    match rest.rsplit_once("; ") {
        Some((what, fix)) => CliError::new(code, what).fix(fix),
        None => CliError::new(code, rest),
    }
}

/// Runs what reads or writes gigabytes where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, BackupError> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| coded(&e.to_string())),
        Err(e) => Err(CliError::new("E_BACKUP", e.to_string())),
    }
}

async fn ls(args: LsArgs) -> Result<()> {
    let list = match args.data_dir {
        Some(dir) => blocking(move || folder(&dir)).await?,
        None => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            client.get(LIST).await?
        }
    };
    match args.output {
        Some(form) => print::object(&list, form),
        None => show::list(&list),
    }
    Ok(())
}

/// The same as the API answers, from a member's data directory.
fn folder(data_dir: &Path) -> std::result::Result<Value, BackupError> {
    let folder = data_dir.join(FOLDER);
    let rows = backup::list(&folder)?.into_iter().map(|(name, read)| match read {
        Ok(s) => json!({"name": name, "at": s.at, "revision": s.revision, "bytes": s.bytes, "objects": s.objects, "cluster": s.cluster, "error": null}),
        Err(e) => json!({"name": name, "error": e.to_string()}),
    });
    let rows: Vec<Value> = rows.collect();
    Ok(json!({"folder": folder, "backups": rows}))
}

async fn inspect(args: FileArgs) -> Result<()> {
    let file = args.file.clone();
    let summary = blocking(move || backup::inspect(&file)).await?;
    match args.output {
        Some(form) => print::object(&value(&args.file, &summary), form),
        None => print::out(&show::summary(&args.file, &summary, None)),
    }
    Ok(())
}

async fn verify(args: FileArgs) -> Result<()> {
    let file = args.file.clone();
    let (summary, sha256) = blocking(move || checked(&file)).await?;
    match args.output {
        Some(form) => {
            let mut all = value(&args.file, &summary);
            all["sha256"] = json!(sha256);
            print::object(&all, form);
        }
        None => {
            print::out(&show::summary(&args.file, &summary, Some(&sha256)));
            print::out("every byte was read: checksums, objects and state hash are right\n");
        }
    }
    Ok(())
}

/// Checks a whole file. Answers what it says and its SHA-256.
pub(super) fn checked(path: &Path) -> std::result::Result<(Summary, String), BackupError> {
    use sha2::{Digest, Sha256};
    let summary = backup::verify(path)?;
    let mut hash = Sha256::new();
    let read = std::fs::File::open(path).and_then(|mut f| std::io::copy(&mut f, &mut hash));
    // It was readable a moment ago.
    let changed = |why: String| BackupError::Corrupt {
        path: path.into(),
        why,
    };
    let bytes = read.map_err(|e| changed(e.to_string()))?;
    if bytes != summary.bytes {
        return Err(changed("it changed while it was read".into()));
    }
    Ok((summary, hex::encode(hash.finalize())))
}

/// A summary with the file it is of.
pub(super) fn value(file: &Path, summary: &Summary) -> Value {
    let mut all = json!(summary);
    all["file"] = json!(file);
    all
}

async fn restore(args: RestoreArgs) -> Result<()> {
    let (file, dir, name) = (args.file.clone(), args.data_dir.clone(), args.name.clone());
    let done = blocking(move || backup::restore(&file, &dir, name.as_deref())).await?;
    match args.output {
        Some(form) => print::object(
            &json!({
                "dataDir": done.data_dir, "name": done.name, "id": done.id, "revision": done.revision,
                "objects": done.objects, "from": value(&args.file, &done.from),
            }),
            form,
        ),
        None => print::out(&show::restored(&args.file, &done)),
    }
    Ok(())
}
