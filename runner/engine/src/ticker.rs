//! The clock of every guest: one OS thread that advances the epoch each millisecond.
//!
//! It is a plain thread, not a task, because it has to run while every runtime thread is inside a guest. It ends when
//! the last handle of the engine is gone.

use std::sync::Weak;
use std::time::Duration;

use crate::engine::EngineInner;

/// Time slice of a guest; also the grain of deadlines, CPU limits and kills.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Ticks between two sweeps over idle instances kept for reuse.
const SWEEP_TICKS: u64 = 1_000;

/// Starts the thread.
pub(crate) fn start(engine: Weak<EngineInner>, epoch: wasmtime::EngineWeak) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("coracle-epoch".into())
        .spawn(move || tick(&engine, &epoch))
        .map(drop)
}

fn tick(engine: &Weak<EngineInner>, epoch: &wasmtime::EngineWeak) {
    let mut ticks: u64 = 0;
    loop {
        std::thread::sleep(TICK);
        if engine.strong_count() == 0 {
            return;
        }
        let Some(handle) = epoch.upgrade() else {
            return;
        };
        handle.increment_epoch();
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(SWEEP_TICKS) {
            let Some(engine) = engine.upgrade() else {
                return;
            };
            engine.sweep();
        }
    }
}
