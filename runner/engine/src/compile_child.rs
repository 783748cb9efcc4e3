//! The compile child: Wasm on stdin, native code on stdout, one JSON line on stderr if it fails.
//!
//! It runs as a process of its own because compiling hostile input can take any amount of time and memory; the parent
//! sets the limits before exec. It opens no file, starts no runtime and maps no code.

use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use crate::componentize::componentize;
use crate::config::compiling_config;
use crate::inspect::MAX_WASM_BYTES;
use crate::problem::Problem;

/// Exit code when the input cannot be compiled (stderr says why).
const EXIT_BAD_INPUT: i32 = 1;
/// Exit code when the child was started wrongly.
const EXIT_USAGE: i32 = 2;

/// Runs the child and returns its exit code. `args` are what follows the words that selected this mode: the
/// compatibility hash the parent expects.
pub fn compile_child_main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let expected = match args.into_iter().next().map(OsString::into_string) {
        Some(Ok(hash)) => hash,
        _ => {
            complain(&Problem::new(
                "E_COMPILER_USAGE",
                "the compile child got no hash",
                "It is started by a node only",
            ));
            return EXIT_USAGE;
        }
    };
    match compile(&expected) {
        Ok(()) => 0,
        Err(problem) => {
            complain(&problem);
            EXIT_BAD_INPUT
        }
    }
}

fn compile(expected: &str) -> Result<(), Problem> {
    let mut wasm = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_WASM_BYTES as u64 + 1)
        .read_to_end(&mut wasm)
        .map_err(|e| io_problem("read the input", &e))?;
    let engine = wasmtime::Engine::new(&compiling_config()).map_err(|e| {
        Problem::new(
            "E_COMPILER_START",
            format!("the compiler did not start: {e:#}"),
            "Report this",
        )
    })?;
    let found = compatibility(&engine);
    if found != expected {
        return Err(Problem::new(
            "E_COMPILER_MISMATCH",
            "the compiler program is of another version than the node",
            "Restart the node after an update of the binary",
        ));
    }
    let component = componentize(&wasm).map_err(|bad| bad.0)?;
    let native = engine.precompile_component(&component).map_err(|error| {
        Problem::new(
            "E_COMPILE",
            format!("the component could not be compiled: {error:#}"),
            "Build it again with a current toolchain; if it persists, report it with the file",
        )
    })?;
    let mut out = std::io::stdout().lock();
    out.write_all(&native)
        .and_then(|()| out.flush())
        .map_err(|e| io_problem("write the output", &e))
}

fn io_problem(what: &str, error: &std::io::Error) -> Problem {
    Problem::new(
        "E_COMPILER_IO",
        format!("the compiler could not {what}: {error}"),
        "Check the space left in the data directory",
    )
}

fn complain(problem: &Problem) {
    let line =
        serde_json::json!({ "code": problem.code, "message": problem.message, "fix": problem.fix });
    // Nobody is left to tell if stderr is gone.
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// Hex digest of everything compiled code depends on: wasmtime's version, tunables, features and CPU flags.
pub(crate) fn compatibility(engine: &wasmtime::Engine) -> String {
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut feed = Feed(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut feed);
    crate::componentize::ADAPTER_VERSION.hash(&mut feed);
    hex::encode(&feed.0.finalize()[..16])
}
