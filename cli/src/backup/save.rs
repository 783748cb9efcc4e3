//! `coracle backup save`: from any member into a file that is there completely or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coracle_scheduler::backup::Summary;
use http::header::CONTENT_DISPOSITION;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::json;

use super::args::SaveArgs;
use super::{blocking, checked, show, value};
use crate::client::Client;
use crate::error::{self, CliError, Result};
use crate::print;

/// Where the API makes one.
const PATH: &str = "/coracle/v1/backup";

/// Saves, checks what arrived, and only then gives the file its name.
pub async fn save(args: SaveArgs) -> Result<()> {
    let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
    let response = client.stream(PATH, "application/octet-stream").await?;
    let name = response
        .headers()
        .get(CONTENT_DISPOSITION)
        .and_then(|v| v.to_str().ok()?.split('"').nth(1))
        // A server's word must not choose a folder.
        .filter(|n| !n.is_empty() && !n.starts_with('.') && !n.contains('/'))
        .unwrap_or("coracle.backup");
    let path = match &args.file {
        None => PathBuf::from(name),
        Some(folder) if folder.is_dir() => folder.join(name),
        Some(file) => file.clone(),
    };
    let partial = beside(&path)?;
    let saved = receive(response.into_body(), &partial).await;
    let done = match saved {
        Ok(()) => finish(&partial, &path).await,
        Err(e) => Err(e),
    };
    let (summary, sha256) = match done {
        Ok(done) => done,
        Err(e) => {
            // What did not arrive whole is no backup.
            let _ = fs::remove_file(&partial);
            return Err(e);
        }
    };
    match args.output {
        Some(form) => {
            let mut all = value(&path, &summary);
            all["sha256"] = json!(sha256);
            print::object(&all, form);
        }
        None => print::out(&format!(
            "saved {}",
            show::summary(&path, &summary, Some(&sha256))
        )),
    }
    Ok(())
}

/// A name beside the file, on the same file system.
fn beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        CliError::new("E_FILE", format!("{} is no file name", path.display()))
            .fix("name a file or a folder that is there")
    })?;
    Ok(path.with_file_name(format!(".{}.partial", name.to_string_lossy())))
}

async fn receive(mut body: Body, partial: &Path) -> Result<()> {
    let io = |e: std::io::Error| error::file(partial, &e);
    match fs::remove_file(partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    // There are Secrets in it.
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
        .map_err(io)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            CliError::new(
                "E_BACKUP_CUT",
                format!("the connection broke before the end: {e}"),
            )
            .fix("try again, with another member's kubeconfig if this one is stopping")
        })?;
        if let Ok(bytes) = frame.into_data() {
            file.write_all(&bytes).map_err(io)?;
        }
    }
    file.sync_all().map_err(io)
}

async fn finish(partial: &Path, path: &Path) -> Result<(Summary, String)> {
    let file = partial.to_path_buf();
    let (summary, sha256) = blocking(move || checked(&file)).await?;
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    fs::rename(partial, path)
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|e| error::file(path, &e))?;
    Ok((summary, sha256))
}
