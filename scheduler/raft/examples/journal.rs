//! Measures the log alone: closed-loop writers whose entries are appended together while the last sync runs, as raft
//! does it. `cargo run --release -p coracle-raft --example journal [DIR] [SECONDS]` prints one line per case.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_raft::journal::raftlog::RaftLogJournal;
use coracle_raft::journal::wal::WalJournal;
use coracle_raft::journal::{Done, Journal};
use coracle_raft::types::{Data, Entry, LogId};
use openraft::EntryPayload;

const ENTRY_BYTES: usize = 1200;

fn entry(index: u64) -> Entry {
    Entry {
        log_id: LogId {
            leader_id: openraft::impls::leader_id_adv::LeaderId {
                term: 1,
                node_id: 1,
            },
            index,
        },
        payload: EntryPayload::Normal(Data(Bytes::from(vec![index as u8; ENTRY_BYTES]))),
    }
}

fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    // A tick is 10 ms on Linux.
    Duration::from_millis(ticks * 10)
}

fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("write_bytes: "))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn run(name: &str, journal: &dyn Journal, writers: u64, time: Duration) -> io::Result<()> {
    let (tx, rx) = mpsc::channel::<(u64, io::Result<()>)>();
    let mut next = journal.last().map_or(0, |id| id.index + 1);
    let (mut entries, mut appends, mut purged) = (0u64, 0u64, next);
    let (cpu_before, written_before, begun) = (cpu(), written(), Instant::now());
    let mut ready = writers;
    let mut flying = 0;
    while begun.elapsed() < time || flying > 0 {
        if ready > 0 && begun.elapsed() < time {
            let batch: Vec<Entry> = (next..next + ready).map(entry).collect();
            next += ready;
            let (tx, n) = (tx.clone(), ready);
            journal.append(
                batch,
                Done::new(move |result| {
                    // The receiver lives as long as anything is under way.
                    let _ = tx.send((n, result));
                }),
            )?;
            appends += 1;
            flying += 1;
            ready = 0;
        }
        let Ok((n, result)) = rx.recv() else { break };
        result?;
        flying -= 1;
        entries += n;
        ready += n;
        while let Ok((n, result)) = rx.try_recv() {
            result?;
            flying -= 1;
            entries += n;
            ready += n;
        }
        // As after snapshots: the disk stays bounded and files come back.
        if next - purged > 400_000 {
            purged = next - 200_000;
            let id = entry(purged).log_id;
            journal.purge(&id, Done::new(drop))?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{name:10} {writers:4} writers: {:8.0} entries/s {:7.0} appends/s {:6.2} us cpu/entry {:6.2} bytes written/byte",
        entries as f64 / seconds,
        appends as f64 / seconds,
        (cpu() - cpu_before).as_secs_f64() * 1e6 / entries as f64,
        (written() - written_before) as f64 / (entries as f64 * ENTRY_BYTES as f64),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let base: PathBuf = args
        .next()
        .unwrap_or_else(|| "target/bench-journal".into())
        .into();
    let seconds = args.next().and_then(|s| s.parse().ok()).unwrap_or(5);
    let time = Duration::from_secs(seconds);
    let fresh = |name: &str| -> io::Result<PathBuf> {
        let dir = base.join(name);
        if Path::new(&dir).exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    };
    for _ in 0..2 {
        for writers in [1, 64, 256] {
            let journal = RaftLogJournal::open(&fresh("raft-log")?)?;
            run("raft-log", &journal, writers, time)?;
            drop(journal);
            let journal = WalJournal::open(&fresh("wal")?)?;
            run("wal", &journal, writers, time)?;
        }
    }
    Ok(std::fs::remove_dir_all(&base)?)
}
