//! Waits until a disk has come to rest, so that a run does not pay for what the one before it removed: on a filesystem
//! mounted with `discard`, freed blocks are handed back to the device for a while after the removal, and syncs wait
//! behind that. (Measured: 32 clients put 3,600 manifests/s before such a removal and 670 right after it.)

use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A device that discarded nothing for this long is at rest.
const QUIET: Duration = Duration::from_millis(500);
/// Longest wait; a device that is busy for longer is somebody else's.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Writes out what is dirty, then waits for the discards of the device `dir` is on. A filesystem without a device of its
/// own (an overlay, a network) is not waited for.
pub fn wait(dir: &Path) -> Result<()> {
    let file = std::fs::File::open(dir)?;
    rustix::fs::syncfs(&file).with_context(|| format!("syncing {}", dir.display()))?;
    let device = file.metadata()?.st_dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = format!("/sys/dev/block/{major}:{minor}/stat");
    let begun = Instant::now();
    let mut before = discards(&stat);
    while before.is_some() && begun.elapsed() < WAIT_MAX {
        std::thread::sleep(QUIET);
        let now = discards(&stat);
        if now == before {
            return Ok(());
        }
        before = now;
    }
    if before.is_some() {
        eprintln!(
            "bench: the disk still discards after {} s; figures that sync suffer",
            WAIT_MAX.as_secs()
        );
    }
    Ok(())
}

/// Discards done so far: field 12 of the kernel's `Documentation/block/stat.rst`.
fn discards(stat: &str) -> Option<u64> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.split_whitespace().nth(11)?.parse().ok()
}
