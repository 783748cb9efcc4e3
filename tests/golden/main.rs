//! Golden scripts: each `*.txt` beside this file is played in the simulator's world and has to say what it says.
//! `UPDATE_GOLDEN=1 cargo test -p coracle-tests` writes them anew; commit only differences you can explain.
//!
//! And a few seeds of the simulator itself, so that `cargo test` knows it still runs; `cargo xtask sim` runs many.

use std::path::Path;

use coracle_tests::{Options, Report, run, script};

/// Seeds run by `cargo test`: enough that every kind of trouble comes up.
const SEEDS: u64 = 12;

#[test]
fn scripts_say_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# "),
            "{} does not say what it proves",
            path.display()
        );
        let now = script::play(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if update {
            std::fs::write(&path, now).unwrap();
        } else {
            assert_eq!(
                now,
                text,
                "{} says something else now (UPDATE_GOLDEN=1 rewrites it)",
                path.display()
            );
        }
    }
}

#[test]
fn a_few_seeds_have_every_kind_of_trouble_and_converge() {
    let mut total = Report::default();
    for seed in 1..=SEEDS {
        let report =
            run(seed, 2_000, &Options::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
        total.add(&report);
    }
    assert_eq!(total.missing(), Vec::<&str>::new(), "{total}");
}

#[test]
fn a_seed_replays_exactly() {
    let once = run(7, 1_500, &Options::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
    let again = run(7, 1_500, &Options::default()).unwrap_or_else(|failure| panic!("\n{failure}"));
    assert_eq!(once, again);
}
