//! What processes have used, from /proc: on shared cores CPU seconds and bytes per operation are steadier figures than
//! operations per second.
//!
//! Bytes come from two places, because neither is right alone: /proc/PID/io counts the memory that a process made dirty,
//! in whole folios (up to 2 MiB for a write of 4 KiB into a file written in large pieces before); /proc/diskstats counts
//! what the disk was given, by every process of the machine.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

/// Unit of CPU time in /proc: the kernel's USER_HZ, 100 on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and bytes handed to the disk.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Bytes of page cache that the processes made dirty, counted in whole folios.
    pub dirtied: u64,
    /// Bytes given to the disk of the target folder, by the whole machine.
    pub disk: u64,
    /// Peak resident memory, bytes, summed.
    pub resident: u64,
}

impl Usage {
    /// Of these processes together.
    pub fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let one = Self::read(&pid.to_string())?;
            sum.cpu_seconds += one.cpu_seconds;
            sum.dirtied += one.dirtied;
            sum.resident += one.resident;
        }
        sum.disk = disk_written()?;
        Ok(sum)
    }

    /// Of this process.
    pub fn own() -> Result<Self> {
        Self::read("self")
    }

    /// What was used since `before`; memory stays the peak.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            dirtied: self.dirtied.saturating_sub(before.dirtied),
            disk: self.disk.saturating_sub(before.disk),
            resident: self.resident,
        }
    }

    fn read(pid: &str) -> Result<Self> {
        let file = |f: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{f}"))
                .with_context(|| format!("process {pid} is gone"))
        };
        let stat = file("stat")?;
        // The name in brackets may hold spaces; the fields after it are fixed: utime is the 12th, stime the 13th.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("an odd /proc/PID/stat")?;
        let number = |text: &str, key: &str| {
            text.lines().find_map(|l| {
                l.strip_prefix(key)?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
        };
        Ok(Self {
            cpu_seconds: (user + system) as f64 / TICKS_PER_SECOND,
            disk: 0,
            dirtied: number(&file("io")?, "write_bytes:").context("an odd /proc/PID/io")?,
            resident: number(&file("status")?, "VmHWM:").unwrap_or(0) * 1024,
        })
    }
}

/// Bytes written so far to the device that holds the target folder.
fn disk_written() -> Result<u64> {
    /// Unit of /proc/diskstats, whatever the disk's own is.
    const SECTOR: u64 = 512;
    let device = std::fs::metadata(crate::root::target())?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stats = std::fs::read_to_string("/proc/diskstats")?;
    let sectors = stats.lines().find_map(|l| {
        let f: Vec<&str> = l.split_whitespace().collect();
        let is_it = f.first()?.parse() == Ok(major) && f.get(1)?.parse() == Ok(minor);
        is_it.then(|| f.get(9)?.parse::<u64>().ok())?
    });
    // A file system without a block device of its own (overlay, btrfs) has no line: no figure then, rather than a wrong one.
    Ok(sectors.unwrap_or(0) * SECTOR)
}

/// Load average of the last minute.
pub fn load_average() -> f64 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|t| t.split(' ').next()?.parse().ok())
        .unwrap_or(f64::NAN)
}

/// Whether every thread of a process is stopped.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|t| {
        std::fs::read_to_string(t.path().join("stat")).is_ok_and(|s| {
            s.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    })
}
