//! `coracle diff`: what a new version of an image can do that the old one could not.

use std::collections::BTreeSet;
use std::path::Path;

use coracle_trust::capability::Capability;
use coracle_trust::diff::{Diff, diff as compare};
use coracle_trust::{Imports, read_imports};
use serde_json::json;

use super::args::DiffArgs;
use super::inspect::file;
use super::remote::Remote;
use crate::args::{Output, Target};
use crate::error::{self, CliError, EXIT_FAILED, Result};
use crate::print;

/// Compares; the exit code.
pub async fn diff(args: DiffArgs) -> Result<u8> {
    let old = surface(&args.old, &args.target).await?;
    let new = surface(&args.new, &args.target).await?;
    let found = compare(&old, &new);
    match args.output {
        Some(form @ (Output::Json | Output::Yaml)) => {
            let words = |all: &BTreeSet<Capability>| {
                all.iter().map(|c| c.word().to_string()).collect::<Vec<_>>()
            };
            let report = json!({
                "old": args.old,
                "new": args.new,
                "gained": words(&found.gained),
                "lost": words(&found.lost),
                "importsAdded": found.imports_added,
                "importsRemoved": found.imports_removed,
                "exportsAdded": found.exports_added,
                "exportsRemoved": found.exports_removed,
            });
            print::object(&report, form);
        }
        _ => print::out(&text(&found)),
    }
    Ok(match args.fail_on_gain && !found.gained.is_empty() {
        true => EXIT_FAILED,
        false => 0,
    })
}

/// The surface of an image, or of a file here.
async fn surface(what: &str, target: &Target) -> Result<Imports> {
    let bad = |why: String| {
        CliError::new("E_IMAGE_UNSUPPORTED", format!("{what} {why}"))
            .fix("name an image that `coracle push` made, or a .wasm file")
    };
    let path = Path::new(what);
    if path.extension().is_some_and(|e| e == "wasm") && path.is_file() {
        let bytes = std::fs::read(path).map_err(|e| error::file(path, &e))?;
        return read_imports(&bytes).map_err(bad);
    }
    let remote = Remote::find(what, target).await?;
    let image = remote.manifest().await?;
    match file(&remote, &image).await? {
        Ok(file) => Ok(file.surface),
        Err(why) => Err(bad(why)),
    }
}

fn text(found: &Diff) -> String {
    if found.is_empty() {
        return "no difference in imports and exports\n".into();
    }
    let mut text = String::new();
    let mut lines = |words: &str, all: &mut dyn Iterator<Item = String>| {
        for one in all {
            text.push_str(&format!("{words} {one}\n"));
        }
    };
    lines("gains", &mut found.gained.iter().map(ToString::to_string));
    lines("loses", &mut found.lost.iter().map(ToString::to_string));
    lines("+ import", &mut found.imports_added.iter().cloned());
    lines("- import", &mut found.imports_removed.iter().cloned());
    lines("+ export", &mut found.exports_added.iter().cloned());
    lines("- export", &mut found.exports_removed.iter().cloned());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_come_first() {
        let surface = |imports: &[&str]| Imports {
            imports: imports.iter().map(ToString::to_string).collect(),
            ..Imports::default()
        };
        let old = surface(&["wasi:clocks/wall-clock@0.2.0"]);
        let new = surface(&["wasi:sockets/tcp@0.2.0"]);
        assert_eq!(
            text(&compare(&old, &new)),
            "gains network (opens TCP and UDP sockets)\n\
             loses clocks\n\
             + import wasi:sockets/tcp@0.2.0\n\
             - import wasi:clocks/wall-clock@0.2.0\n"
        );
        assert_eq!(
            text(&compare(&old, &old)),
            "no difference in imports and exports\n"
        );
    }
}
