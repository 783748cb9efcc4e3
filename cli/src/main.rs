//! `coracle`: every role and every client command; the only binary users meet.

mod app;
mod args;
mod backup;
mod ca;
mod client;
mod config;
mod deploy;
mod describe;
mod error;
mod get;
mod image;
mod logs;
mod members;
mod misc;
mod objects;
mod print;
mod progress;
mod registry;
mod role;
mod run;
mod runjson;
mod token;
mod trust;
mod up;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use error::{CliError, Result};

// Small short-lived allocations per request: measurably faster than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::CompileChild { args } = cli.command {
        let code = coracle_engine::compile_child_main(args.into_iter().map(Into::into));
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    // The only provider in the binary; a second install can only mean that somebody else installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match start(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            let exit = e.exit;
            show(e);
            ExitCode::from(exit)
        }
    }
}

fn start(command: Command) -> Result<u8> {
    // Clients need one thread; roles bring runtimes of their own for what must not wait.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| CliError::new("E_RUNTIME", format!("cannot start threads: {e}")))?;
    let done = runtime.block_on(dispatch(command));
    // A blocked read of standard input must not keep a finished command alive.
    runtime.shutdown_background();
    done
}

async fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Up(args) => up::up(args).await?,
        Command::Scheduler(args) => role::scheduler(args).await?,
        Command::Runner(args) => role::runner(args).await?,
        Command::Deploy(args) => deploy::deploy(args).await?,
        Command::Run(args) => return run::run(args).await,
        Command::Push(args) => image::push(args).await?,
        Command::Pull(args) => image::pull(args).await?,
        Command::Sign(args) => trust::sign(args).await?,
        Command::Verify(args) => trust::verify(args).await?,
        Command::Attach(args) => trust::attach(args).await?,
        Command::Inspect(args) => trust::inspect(args).await?,
        Command::Diff(args) => return trust::diff(args).await,
        Command::Key(command) => trust::key(command)?,
        Command::Apply(args) => get::apply(args).await?,
        Command::Get(args) => get::get(args).await?,
        Command::Describe(args) => describe::describe(args).await?,
        Command::Logs(args) => logs::logs(args).await?,
        Command::Delete(args) => get::delete(args).await?,
        Command::Scale(args) => get::scale(args).await?,
        Command::Token(command) => token::token(command).await?,
        Command::Members(args) => members::members(args).await?,
        Command::Ca(command) => ca::ca(command).await?,
        Command::Backup(command) => backup::backup(command).await?,
        Command::Registry(command) => registry::registry(command).await?,
        Command::Version(args) => misc::version(args).await?,
        Command::CompileChild { .. } => {}
    }
    Ok(0)
}

/// Prints a failure: code, sentence, fix.
fn show(e: CliError) {
    use std::fmt::Write;
    let handler = miette::GraphicalReportHandler::new();
    let mut text = String::new();
    let fits = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if !fits || handler.render_report(&mut text, &e).is_err() {
        text.clear();
        let _ = writeln!(text, "error[{}]: {}", e.code, e.message);
        if let Some(fix) = &e.fix {
            let _ = writeln!(text, "  fix: {fix}");
        }
    }
    anstream::eprint!("{text}");
}
