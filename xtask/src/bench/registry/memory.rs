//! How much the resident memory of a registry rises while many large uploads run at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::content::Contents;
use super::load::{self, Operation};
use super::servers::Registry;

/// Uploads at once.
pub const UPLOADS: usize = 64;
/// Bytes of each.
pub const SIZE: usize = 64 << 20;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What was seen.
pub struct Rise {
    /// Resident bytes before.
    pub before: u64,
    /// Highest resident bytes seen while the uploads ran.
    pub peak: u64,
    /// Bytes per second taken in.
    pub bytes_per_second: f64,
}

impl Rise {
    /// By how much it rose, bytes.
    pub fn bytes(&self) -> u64 {
        self.peak.saturating_sub(self.before)
    }
}

/// Runs the uploads; a first, small push has let the server make what it keeps.
pub async fn run(registry: &Registry, contents: &Contents, series: u64) -> Result<Rise> {
    let warm = vec![Operation::Push(contents.blob(SIZE, series, u64::MAX))];
    load::run(registry, 1, warm).await?;
    let pid = registry.pid();
    let before = resident(pid)?;
    let stop = Arc::new(AtomicBool::new(false));
    let looker = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut peak = before;
            while !stop.load(Ordering::Relaxed) {
                peak = peak.max(resident(pid)?);
                std::thread::sleep(LOOK);
            }
            anyhow::Ok(peak)
        }
    });
    let pushes = (0..UPLOADS as u64)
        .map(|n| Operation::Push(contents.blob(SIZE, series, n)))
        .collect();
    let outcome = load::run(registry, UPLOADS, pushes).await;
    stop.store(true, Ordering::Relaxed);
    let peak = looker
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that looks at the memory panicked"))??;
    Ok(Rise {
        before,
        peak,
        bytes_per_second: outcome?.per_second * SIZE as f64,
    })
}

/// Resident bytes of a process: VmRSS, anonymous and mapped.
fn resident(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let kib: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next())
        .context("an odd /proc/PID/status")?
        .parse()?;
    Ok(kib * 1024)
}
