//! The distribution specification as a matrix: tables of requests and the answers they must get.
//!
//! `tables/*.txt` hold one subject each, in the format of [`parse`]. Every case runs with both digest algorithms over
//! both blob stores, each time against a registry of its own ([`run`]); [`sound`] holds of every answer. That the
//! matrix can fail is shown by [`mangle`]: each planted fault must be caught by a row.

mod content;
mod mangle;
mod parse;
mod parse_tests;
mod run;
mod sound;

use std::collections::BTreeSet;

use mangle::FAULTS;
use parse::{REFERENCES, Step, Table};
use run::{Failure, Kind, Setting, run};

use crate::digest::Algorithm;

/// The matrix is no smaller than this; a table that is lost would otherwise look like success.
const ROWS_MIN: usize = 650;

/// One test per table.
macro_rules! subjects {
    ($($name:ident),+ $(,)?) => {
        const TABLES: &[(&str, &str)] = &[$((
            stringify!($name),
            include_str!(concat!("tables/", stringify!($name), ".txt")),
        )),+];

        $(#[tokio::test]
        async fn $name() {
            settle(stringify!($name)).await;
        })+
    };
}

subjects!(
    blobs,
    chunks,
    conditional,
    deletes,
    errors,
    lists,
    manifests,
    mounts,
    names,
    packages,
    ranges,
    referrers,
    tags,
    uploads,
);

fn table(subject: &str) -> Table {
    let (_, text) = TABLES.iter().find(|(name, _)| *name == subject).unwrap();
    match Table::parse(text) {
        Ok(table) => table,
        Err(what) => panic!("{subject}: {what}"),
    }
}

/// Runs a table in every setting and says everything that is wrong at once.
async fn settle(subject: &str) {
    let table = table(subject);
    let mut wrong = Vec::new();
    for case in &table.cases {
        for setting in Setting::every() {
            if let Err(Failure { line, what, .. }) = run(case, setting, None).await {
                wrong.push(format!(
                    "{subject}.txt:{line} ({}, {setting:?}): {what}",
                    case.title
                ));
                // The other settings mostly say the same.
                break;
            }
        }
    }
    println!(
        "matrix {subject}: {} cases, {} rows, each in {} settings",
        table.cases.len(),
        table.rows(),
        Setting::every().len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_matrix_is_whole() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/matrix/tables");
    let files = std::fs::read_dir(dir).unwrap().map(|file| {
        let path = file.unwrap().path();
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    });
    let files: BTreeSet<String> = files.collect();
    let named: BTreeSet<String> = TABLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, named, "every table must be among the subjects");

    let mut rows = 0;
    let mut used = BTreeSet::new();
    for (subject, _) in TABLES {
        let table = table(subject);
        println!("{subject}: {} rows", table.rows());
        rows += table.rows();
        for (_, step) in table.cases.into_iter().flat_map(|case| case.steps) {
            if let Step::Row(row) = step {
                used.insert(row.reference);
            }
        }
    }
    println!("the matrix: {rows} rows in {} tables", TABLES.len());
    assert!(rows >= ROWS_MIN, "only {rows} rows");
    for reference in REFERENCES {
        assert!(used.contains(reference), "no row checks {reference}");
    }
}

#[tokio::test]
async fn every_planted_fault_is_caught() {
    // The algorithm that other registries get wrong; the faults have nothing to do with where bytes are kept.
    let setting = Setting {
        kind: Kind::Memory,
        algorithm: Algorithm::Sha512,
    };
    let tables: Vec<(&str, Table)> = TABLES
        .iter()
        .map(|(name, _)| (*name, table(name)))
        .collect();
    let mut missed = Vec::new();
    'faults: for (fault, mangle) in FAULTS {
        for (subject, table) in &tables {
            for case in &table.cases {
                if let Err(failure) = run(case, setting, Some(mangle)).await {
                    assert!(
                        failure.row,
                        "{fault}: {subject}.txt:{}: {}",
                        failure.line, failure.what
                    );
                    println!("{fault}: caught by {subject}.txt:{}", failure.line);
                    continue 'faults;
                }
            }
        }
        missed.push(fault);
    }
    assert!(missed.is_empty(), "nobody noticed: {missed:?}");
    println!("{} planted faults, each caught by a row", FAULTS.len());
}
