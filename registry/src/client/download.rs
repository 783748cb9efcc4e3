//! Blobs from a registry into a file: the rest of what is there already, and nothing that is not what its digest says.

use std::fs::{OpenOptions, TryLockError};
use std::io::{self, SeekFrom};
use std::path::Path;

use http::{Method, StatusCode, header};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::answer::header_text;
use super::retry::Attempts;
use super::watch::Step;
use super::{Client, Error, Failure, Payload, Transport, request};
use crate::digest::{Digest, Hash};
use crate::wasm::Target;

/// A blob on its way into a file.
struct Download<'a, T> {
    client: &'a Client<T>,
    uri: String,
    target: &'a Target,
    path: &'a Path,
    file: File,
    /// Of the bytes that are in the file.
    hash: Hash,
    have: u64,
    /// Some of them were there before, or came from several answers: if the whole is wrong, another try from nothing may
    /// be right.
    mended: bool,
}

impl<T: Transport> Client<T> {
    /// Brings a blob into the file at `path`, which may hold its beginning. Its length is exactly `target.size`.
    ///
    /// # Errors
    /// [`Error`]. What came stays in the file for the next call, except if it was wrong.
    pub async fn download(
        &self,
        repository: &str,
        target: &Target,
        path: &Path,
    ) -> Result<(), Error> {
        self.tell(&target.digest, Step::Begin(target.size));
        let mut download = Download::open(self, repository, target, path).await?;
        self.tell(&target.digest, Step::At(download.have));
        let mut attempts = Attempts::default();
        loop {
            let before = download.have;
            match download.attempt().await {
                Ok(()) => break,
                Err(failure) => {
                    let progress = download.have > before;
                    download.mended |= download.have > 0;
                    // The next call may come right after this one.
                    let flushed = download.file.flush().await;
                    flushed.map_err(|e| download.failed(e))?;
                    self.pause(&mut attempts, Some(&target.digest), failure, progress)
                        .await?;
                }
            }
        }
        let synced = download.file.sync_all().await;
        synced.map_err(|e| download.failed(e))?;
        self.tell(&target.digest, Step::Done);
        Ok(())
    }
}

impl<'a, T: Transport> Download<'a, T> {
    async fn open(
        client: &'a Client<T>,
        repository: &str,
        target: &'a Target,
        path: &'a Path,
    ) -> Result<Self, Error> {
        let failed = |source| file_error(path, source);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        // Two that write one file would each check what the other changes.
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => failed(io::Error::other("another process writes it")),
            TryLockError::Error(e) => failed(e),
        })?;
        let mut file = File::from_std(file);
        let (hash, have) = hashed(&mut file, &target.digest).await.map_err(failed)?;
        Ok(Download {
            client,
            uri: client.path(repository, "blobs", &target.digest.to_string()),
            target,
            path,
            file,
            hash,
            have,
            mended: have > 0,
        })
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        if self.have > self.target.size {
            self.restart().await?;
        }
        if self.have < self.target.size || self.target.size == 0 {
            self.fetch().await?;
        }
        let found = self.hash.digest();
        if self.have == self.target.size && found == self.target.digest {
            return Ok(());
        }
        let found = format!("{} bytes with digest {found}", self.have);
        let mended = self.mended;
        self.restart().await?;
        self.corrupt(found, mended)
    }

    /// The rest of the blob into the file.
    async fn fetch(&mut self) -> Result<(), Failure> {
        let client = self.client;
        let range = format!("bytes={}-", self.have);
        let headers = [(header::RANGE, range.as_str())];
        let headers: &[_] = if self.have > 0 { &headers } else { &[] };
        let get = request(Method::GET, &self.uri, headers, Payload::default())?;
        let response = client.send(get).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.have > 0 => {
                let sent = header_text(response.headers(), header::CONTENT_RANGE);
                if sent.and_then(first_byte) != Some(self.have) {
                    let said = sent.unwrap_or("no range").to_owned();
                    self.restart().await?;
                    let what = format!("{range} was answered with {said}");
                    return Err(Failure::once_more(Error::Protocol(what)));
                }
            }
            // It does not do parts.
            StatusCode::OK => {
                if self.have > 0 {
                    self.restart().await?;
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.have > 0 => {
                self.restart().await?;
                return Err(Failure::once_more(client.refused(response).await));
            }
            _ => return Err(client.refused(response).await.into()),
        }
        let mut body = response.into_body();
        while let Some(data) = client.next(&mut body).await? {
            if self.have + data.len() as u64 > self.target.size {
                let found = format!("more than {} bytes", self.target.size);
                let mended = self.mended;
                self.restart().await?;
                return self.corrupt(found, mended);
            }
            self.file
                .write_all(&data)
                .await
                .map_err(|e| self.failed(e))?;
            self.hash.update(&data);
            self.have += data.len() as u64;
            client.tell(&self.target.digest, Step::At(self.have));
        }
        self.file.flush().await.map_err(|e| self.failed(e))?;
        if self.have < self.target.size {
            return Err(Failure::broken(format!(
                "the answer ended after {} of {} bytes",
                self.have, self.target.size
            )));
        }
        Ok(())
    }

    /// Forgets what is there.
    async fn restart(&mut self) -> Result<(), Error> {
        // What is still on its way into the file would come after its end.
        let emptied = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        emptied.await.map_err(|e| self.failed(e))?;
        self.hash = Hash::new(self.target.digest.algorithm());
        self.have = 0;
        self.mended = false;
        Ok(())
    }

    fn corrupt(&self, found: String, again: bool) -> Result<(), Failure> {
        let error = Error::Corrupt {
            wanted: self.target.digest.clone(),
            found,
        };
        Err(match again {
            true => Failure::once_more(error),
            false => error.into(),
        })
    }

    fn failed(&self, source: io::Error) -> Error {
        file_error(self.path, source)
    }
}

fn file_error(path: &Path, source: io::Error) -> Error {
    Error::File {
        path: path.into(),
        source,
    }
}

/// The hash of what a file holds, and how much that is. The file is at its end then.
async fn hashed(file: &mut File, digest: &Digest) -> io::Result<(Hash, u64)> {
    let mut hash = Hash::new(digest.algorithm());
    let mut have = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok((hash, have)),
            n => {
                hash.update(&buffer[..n]);
                have += n as u64;
            }
        }
    }
}

/// The first byte of `bytes A-B/SIZE`.
fn first_byte(content_range: &str) -> Option<u64> {
    let (first, _) = content_range
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?;
    first.trim().parse().ok()
}
