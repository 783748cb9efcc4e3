//! `sim --seed N --seeds K --steps M`: runs seeds; prints what they had in them, or one command that replays a failure.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_tests::{Failure, Options, Report, run};

struct Args {
    seed: u64,
    seeds: u64,
    steps: u64,
    verbose: bool,
}

fn args() -> Result<Args, String> {
    let mut args = Args {
        seed: 1,
        seeds: 1,
        steps: 2_000,
        verbose: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--verbose" {
            args.verbose = true;
            continue;
        }
        let value = words
            .next()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| format!("{word} needs a number"))?;
        match word.as_str() {
            "--seed" => args.seed = value,
            "--seeds" => args.seeds = value,
            "--steps" => args.steps = value,
            _ => {
                return Err(format!(
                    "{word} is not a flag; there are --seed N --seeds K --steps M --verbose"
                ));
            }
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let (next, total, failures) = (
        AtomicU64::new(0),
        Mutex::new(Report::default()),
        Mutex::new(Vec::<Box<Failure>>::new()),
    );
    // Seeds share nothing, so that they may run side by side; one that fails ends the run.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= args.seeds || failures.lock().is_ok_and(|f| !f.is_empty()) {
                        return;
                    }
                    match run(
                        args.seed + n,
                        args.steps,
                        &Options {
                            verbose: args.verbose,
                        },
                    ) {
                        Ok(report) => {
                            if let Ok(mut total) = total.lock() {
                                total.add(&report);
                            }
                        }
                        Err(failure) => {
                            if let Ok(mut failures) = failures.lock() {
                                failures.push(failure);
                            }
                        }
                    }
                }
            });
        }
    });
    let (total, failures) = (
        total.into_inner().unwrap_or_default(),
        failures.into_inner().unwrap_or_default(),
    );
    if let Some(failure) = failures.iter().min_by_key(|f| f.seed) {
        println!("{failure}");
        return ExitCode::FAILURE;
    }
    println!("{} seeds: {total}", args.seeds);
    let missing = total.missing();
    if !missing.is_empty() && args.seeds > 1 {
        println!(
            "these seeds had no {}: they prove too little",
            missing.join(", no ")
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
