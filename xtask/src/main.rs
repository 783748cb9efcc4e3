//! Everything the project does to itself: `cargo xtask tidy|samples|sim|bench`.

mod bench;
mod root;
mod samples;
mod sim;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the walls between crates and the house rules.
    Tidy,
    /// Build the samples from source into target/samples.
    Samples {
        /// Also replace the prebuilt components in the tree.
        #[arg(long)]
        update: bool,
        /// Only say whether the prebuilt components belong to the sources.
        #[arg(long)]
        check: bool,
    },
    /// Run the simulator.
    Sim(sim::Args),
    /// Measure side by side with peers.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        what: bench::Bench,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Tidy => tidy::run(),
        Command::Samples { update, check } => samples::run(update, check),
        Command::Sim(args) => sim::run(&args),
        Command::Bench { what } => bench::run(what),
    }
}
