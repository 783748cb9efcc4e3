//! A bar for each layer, on a terminal; nothing elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_registry::client::watch::{Step, Watch};
use coracle_registry::digest::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars of one command.
pub struct Bars {
    all: Option<MultiProgress>,
    by_digest: Mutex<BTreeMap<String, ProgressBar>>,
}

/// Hex digits of a digest that are shown.
const SHORT: usize = 12;

impl Bars {
    /// Bars on standard error, if it is a terminal and the user wants to see them.
    pub fn new(quiet: bool) -> Arc<Self> {
        let shown = !quiet && std::io::stderr().is_terminal();
        Arc::new(Bars {
            all: shown.then(MultiProgress::new),
            by_digest: Mutex::default(),
        })
    }

    /// What tells them.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let bars = self.clone();
        Arc::new(move |digest: &Digest, step: Step<'_>| bars.step(digest, step))
    }

    fn step(&self, digest: &Digest, step: Step<'_>) {
        let Some(all) = &self.all else {
            return;
        };
        let mut bars = self
            .by_digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(digest.to_string()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix} [{bar:24}] {bytes:>10} of {total_bytes:>10}  {msg}",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(digest.hex().chars().take(SHORT).collect::<String>());
            bar
        });
        match step {
            Step::Begin(bytes) => bar.set_length(bytes),
            Step::At(bytes) => {
                bar.set_position(bytes);
                bar.set_message("");
            }
            Step::Again { why, pause } => {
                bar.set_message(format!("again in {:.1} s: {why}", pause.as_secs_f32()));
            }
            Step::Exists => bar.finish_with_message("is there already"),
            Step::Done => bar.finish_with_message("done"),
        }
    }

    /// Leaves them as they are.
    pub fn finish(&self) {
        let bars = self
            .by_digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for bar in bars.values().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}
