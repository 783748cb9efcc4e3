//! Reading a log back: tail, since, previous, follow.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{Key, Timestamp};
use tokio::sync::mpsc;

use super::line;
use super::sink::Logs;
use super::store::{self, RunLog};

/// Chunks between the reader and the connection; the reader waits when it is full.
const CHUNKS: usize = 4;
/// Bytes of a file read at once while following.
const CHUNK_BYTES: u64 = 256 << 10;

/// What is asked for, in the words of the API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
}

/// Opens a log. `None`: there is no such log here. The receiver ends where the log ends, or with the container if
/// followed.
pub(crate) async fn stream(
    logs: &Logs,
    pod: Key,
    container: String,
    query: Query,
) -> io::Result<Option<mpsc::Receiver<Bytes>>> {
    let live = logs.live(&pod, &container);
    let store = logs.store().clone();
    let live_dir = live.as_ref().map(|l| (l.dir.clone(), l.run));
    let found = tokio::task::spawn_blocking(move || {
        find(&store, &pod, &container, live_dir, &query).map(|f| (f, query))
    });
    let (found, query) = found.await.map_err(io::Error::other)??;
    let Some((dir, run)) = found else {
        return Ok(None);
    };
    let live = live.filter(|l| l.dir == dir && l.run == run);
    let (tx, rx) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        if let Err(error) = send(dir, run, live, query, &tx).await {
            tracing::warn!(%error, "a log could not be read");
        }
    });
    Ok(Some(rx))
}

/// Which directory and run. A live run that has printed nothing has no file and is still a log.
fn find(
    store: &store::LogStore,
    pod: &Key,
    container: &str,
    live: Option<(PathBuf, u32)>,
    query: &Query,
) -> io::Result<Option<(PathBuf, u32)>> {
    let dir = match &live {
        Some((dir, _)) => Some(dir.clone()),
        None => store.find(pod, container)?,
    };
    let Some(dir) = dir else { return Ok(None) };
    let runs = if dir.is_dir() {
        store::runs(&dir)?
    } else {
        Vec::new()
    };
    let newest = live.map(|(_, run)| run).or_else(|| runs.last().copied());
    let run = match newest {
        Some(newest) if query.previous => runs.into_iter().rev().find(|r| *r < newest),
        newest => newest,
    };
    Ok(run.map(|run| (dir, run)))
}

async fn send(
    dir: PathBuf,
    run: u32,
    live: Option<Arc<RunLog>>,
    query: Query,
    to: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut progress = live.as_ref().map(|l| l.progress.subscribe());
    // Taken before the files are read: what comes meanwhile is told again by the position.
    let seen = progress.as_mut().map(|p| *p.borrow_and_update());
    let mut shape = Shape {
        timestamps: query.timestamps,
        left: query.limit_bytes,
    };
    let first = {
        let (dir, query, live) = (dir.clone(), query.clone(), live.clone());
        tokio::task::spawn_blocking(move || {
            let (raw, end) = match &live {
                Some(live) => read_live(live)?,
                None => (read_files(&dir, run)?, 0),
            };
            Ok::<_, io::Error>((select(&raw, &query), end))
        })
        .await
        .map_err(io::Error::other)??
    };
    let (lines, mut at) = first;
    let text = shape.form(&lines);
    if (!text.is_empty() && to.send(text.into()).await.is_err()) || shape.done() {
        return Ok(());
    }
    let (Some(live), Some(mut progress), true) = (live, progress, query.follow) else {
        return Ok(());
    };
    let mut open = seen.is_none_or(|(_, open)| open);
    loop {
        let chunk = {
            let live = live.clone();
            tokio::task::spawn_blocking(move || read_from(&live, at))
                .await
                .map_err(io::Error::other)??
        };
        if let Some((raw, end)) = chunk {
            at = end;
            let text = shape.form(&raw);
            if (!text.is_empty() && to.send(text.into()).await.is_err()) || shape.done() {
                return Ok(());
            }
            continue;
        }
        if !open {
            return Ok(());
        }
        tokio::select! {
            changed = progress.changed() => match changed {
                Ok(()) => open = progress.borrow_and_update().1,
                Err(_) => return Ok(()),
            },
            () = to.closed() => return Ok(()),
        }
    }
}

/// Everything there is of a run, both files.
fn read_files(dir: &std::path::Path, run: u32) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    for path in [store::rotated(dir, run), store::current(dir, run)] {
        match fs::read(path) {
            Ok(bytes) => raw.extend(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(raw)
}

/// As [`read_files`], and the position where it ends. At most two files of bounded size.
fn read_live(live: &RunLog) -> io::Result<(Vec<u8>, u64)> {
    let (mut raw, mut at) = (Vec::new(), 0);
    while let Some((mut file, from, end)) = live.open_at(at)? {
        // What was before the oldest file is gone.
        let start = at.max(from);
        file.seek(SeekFrom::Start(start - from))?;
        file.take(end - start).read_to_end(&mut raw)?;
        at = end;
    }
    Ok((raw, at))
}

/// The next lines at a position; `None` if there are none yet.
fn read_from(live: &RunLog, at: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let Some((mut file, from, end)): Option<(File, u64, u64)> = live.open_at(at)? else {
        return Ok(None);
    };
    let start = at.max(from);
    file.seek(SeekFrom::Start(start - from))?;
    let mut raw = Vec::new();
    file.take((end - start).min(CHUNK_BYTES))
        .read_to_end(&mut raw)?;
    // A chunk ends with a whole line; a line is far shorter than a chunk.
    if let Some(last) = raw.iter().rposition(|b| *b == b'\n') {
        raw.truncate(last + 1);
    }
    if raw.is_empty() {
        return Ok(None);
    }
    let end = start + raw.len() as u64;
    Ok(Some((raw, end)))
}

/// The lines that `since` and `tail` leave, still in the form of the file.
fn select(raw: &[u8], query: &Query) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = raw
        .split_inclusive(|b| *b == b'\n')
        .filter(|l| l.ends_with(b"\n"))
        .collect();
    if let Some(since) = query.since {
        let young = |l: &&[u8]| {
            let time =
                line::parse(l.trim_ascii_end()).and_then(|l| l.time.parse::<Timestamp>().ok());
            time.is_some_and(|t| t >= since)
        };
        let first = lines.iter().position(young).unwrap_or(lines.len());
        lines.drain(..first);
    }
    if let Some(tail) = query.tail_lines {
        // Pieces belong to the line that they are part of.
        let full =
            |l: &[u8]| line::parse(l.strip_suffix(b"\n").unwrap_or(l)).is_none_or(|l| l.full);
        let mut first = lines.len();
        let mut found = 0;
        while first > 0 && (found < tail || !full(lines[first - 1])) {
            first -= 1;
            // The last line counts even if its end is still to come.
            found += u64::from(full(lines[first]) || first + 1 == lines.len());
            if found >= tail && (first == 0 || full(lines[first - 1])) {
                break;
            }
        }
        if tail == 0 {
            first = lines.len();
        }
        lines.drain(..first);
    }
    lines.concat()
}

/// From the form of the file to what the client sees.
struct Shape {
    timestamps: bool,
    left: Option<u64>,
}

impl Shape {
    fn form(&mut self, raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(raw.len());
        for l in raw.split_inclusive(|b| *b == b'\n') {
            let Some(l) = line::parse(l.strip_suffix(b"\n").unwrap_or(l)) else {
                continue;
            };
            if self.timestamps {
                out.extend_from_slice(l.time.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(l.text);
            if l.full || self.timestamps {
                out.push(b'\n');
            }
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }

    fn done(&self) -> bool {
        self.left == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_agent::At;
    use coracle_engine::{LogSink, Stream};

    fn logs(dir: &tempfile::TempDir, file_bytes: u64) -> Logs {
        Logs::start(store::LogStore::new(dir.path().into()), file_bytes).unwrap()
    }

    fn at(run: u32) -> (Key, At) {
        (
            Key::new("ns", "web"),
            At {
                uid: "u1".into(),
                container: "c".into(),
                run,
            },
        )
    }

    async fn all(logs: &Logs, query: Query) -> Option<String> {
        let mut rx = stream(logs, Key::new("ns", "web"), "c".into(), query)
            .await
            .unwrap()?;
        let mut out = Vec::new();
        while let Some(chunk) = rx.recv().await {
            out.extend_from_slice(&chunk);
        }
        Some(String::from_utf8(out).unwrap())
    }

    /// A log that is closed: everything has been written when a follower sees its end.
    async fn written(logs: &Logs, run: u32, prints: &[&str]) {
        let (pod, at) = at(run);
        let log = logs.open(&pod, &at);
        prints
            .iter()
            .for_each(|p| log.write(Stream::Stdout, p.as_bytes()));
        log.close();
        all(
            logs,
            Query {
                follow: true,
                ..Query::default()
            },
        )
        .await;
    }

    #[tokio::test]
    async fn what_is_printed_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(&dir, 1 << 20);
        written(&logs, 0, &["one\ntw", "o\n", "three\n", "rest"]).await;
        assert_eq!(
            all(&logs, Query::default()).await.as_deref(),
            Some("one\ntwo\nthree\nrest")
        );
        let tail = Query {
            tail_lines: Some(2),
            ..Query::default()
        };
        assert_eq!(all(&logs, tail).await.as_deref(), Some("three\nrest"));
        let none = Query {
            tail_lines: Some(0),
            ..Query::default()
        };
        assert_eq!(all(&logs, none).await.as_deref(), Some(""));
        let cut = Query {
            limit_bytes: Some(5),
            ..Query::default()
        };
        assert_eq!(all(&logs, cut).await.as_deref(), Some("one\nt"));
        let later = Query {
            since: Some(Timestamp::MAX),
            ..Query::default()
        };
        assert_eq!(all(&logs, later).await.as_deref(), Some(""));
        let stamped = all(
            &logs,
            Query {
                timestamps: true,
                ..Query::default()
            },
        )
        .await
        .unwrap();
        assert!(
            stamped
                .lines()
                .all(|l| l.split_once(' ').unwrap().0.parse::<Timestamp>().is_ok()),
            "{stamped}"
        );
        assert_eq!(
            stream(&logs, Key::new("ns", "other"), "c".into(), Query::default())
                .await
                .unwrap()
                .map(drop),
            None
        );
    }

    #[tokio::test]
    async fn a_follower_sees_lines_as_they_come_and_ends_with_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(&dir, 1 << 20);
        let (pod, at) = at(0);
        let log = logs.open(&pod, &at);
        let mut rx = stream(
            &logs,
            pod,
            "c".into(),
            Query {
                follow: true,
                ..Query::default()
            },
        )
        .await
        .unwrap()
        .unwrap();
        log.write(Stream::Stderr, b"first\n");
        assert_eq!(rx.recv().await.unwrap(), "first\n");
        log.write(Stream::Stdout, b"prompt> ");
        assert_eq!(rx.recv().await.unwrap(), "prompt> ");
        log.close();
        assert_eq!(rx.recv().await, None);
    }

    #[tokio::test]
    async fn the_run_before_is_kept_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(&dir, 1 << 20);
        for (run, text) in [(0, "zero\n"), (1, "one\n"), (2, "two\n")] {
            written(&logs, run, &[text]).await;
        }
        assert_eq!(all(&logs, Query::default()).await.as_deref(), Some("two\n"));
        let previous = || Query {
            previous: true,
            ..Query::default()
        };
        assert_eq!(all(&logs, previous()).await.as_deref(), Some("one\n"));
        let (pod, at) = at(0);
        assert_eq!(
            store::runs(&logs.store().container(&pod, &at.uid, "c")).unwrap(),
            [1, 2]
        );
        // After a restart of the process the files are all that is known.
        let again =
            super::super::Logs::start(store::LogStore::new(dir.path().into()), 1 << 20).unwrap();
        assert_eq!(
            all(&again, Query::default()).await.as_deref(),
            Some("two\n")
        );
        assert_eq!(all(&again, previous()).await.as_deref(), Some("one\n"));
        logs.forget(&pod, &at.uid).unwrap();
        assert_eq!(all(&logs, Query::default()).await, None);
    }

    #[tokio::test]
    async fn a_full_file_is_rotated_and_the_oldest_lines_go() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(&dir, 4_096);
        let (pod, at) = at(0);
        let log = logs.open(&pod, &at);
        let mut rx = stream(
            &logs,
            pod.clone(),
            "c".into(),
            Query {
                follow: true,
                ..Query::default()
            },
        )
        .await
        .unwrap()
        .unwrap();
        let mut followed = String::new();
        for i in 0..300 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes());
            while !followed.ends_with(&format!("line {i}\n")) {
                followed.push_str(std::str::from_utf8(&rx.recv().await.unwrap()).unwrap());
            }
        }
        log.close();
        assert_eq!(
            followed.lines().count(),
            300,
            "a follower that keeps up loses nothing"
        );
        let kept = all(&logs, Query::default()).await.unwrap();
        assert!(
            kept.ends_with("line 299\n") && !kept.contains("line 0\n"),
            "{kept}"
        );
        let bytes: u64 = fs::read_dir(logs.store().container(&pod, &at.uid, "c"))
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 8_192, "{bytes}");
    }

    #[tokio::test]
    async fn a_flood_is_cut_and_the_log_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(&dir, 64 << 20);
        let (pod, at) = at(0);
        let log = logs.open(&pod, &at);
        let flood = vec![b'x'; 512 << 10];
        for _ in 0..200 {
            log.write(Stream::Stdout, &flood);
        }
        log.close();
        let kept = all(
            &logs,
            Query {
                follow: true,
                ..Query::default()
            },
        )
        .await
        .unwrap();
        assert!(kept.len() < 20 << 20, "{}", kept.len());
        assert!(kept.contains("bytes of output were dropped here"));
    }
}
