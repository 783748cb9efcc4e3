//! `coracle scheduler --reset-to-single`: says what is given up, asks, does it.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use coracle_scheduler::backup::Reset;

use super::blocking;
use crate::error::{CliError, Result};
use crate::print;

/// Makes the member in `data_dir` the only one of its cluster. Needs `yes`, or the member's name typed on a terminal.
pub async fn reset(data_dir: &Path, yes: bool) -> Result<()> {
    let dir = data_dir.to_path_buf();
    let reset = blocking(move || Reset::look(&dir)).await?;
    let lost = reset.lost().clone();
    print::out(&format!("{}\n", lost.lines().join("\n")));
    if !yes && !confirmed(&lost.name)? {
        return Err(CliError::new(
            "E_RESET_CONFIRM",
            "nothing was changed: the reset was not confirmed",
        )
        .fix("run it again with --yes, or type the member's name when asked"));
    }
    let done = blocking(move || reset.run()).await?;
    print::out(&format!(
        "member {} is now the only one\n  \
         cluster   {} (was {})\n  \
         revision  {}: every watch of before lists again\n  \
         old log   {}\n\
         start it with `coracle scheduler --data-dir {}`; runners and kubeconfigs go on working\n\
         other members: delete their data directories and join anew with `coracle scheduler --join`\n",
        lost.name,
        done.cluster,
        lost.cluster,
        done.revision,
        done.archive.display(),
        data_dir.display(),
    ));
    Ok(())
}

fn confirmed(name: &str) -> Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Ok(false);
    }
    print::out(&format!("type the name of this member ({name}) to go on: "));
    let mut line = String::new();
    input
        .lock()
        .read_line(&mut line)
        .map_err(|e| CliError::new("E_RESET_CONFIRM", format!("cannot read the answer: {e}")))?;
    Ok(line.trim() == name)
}
