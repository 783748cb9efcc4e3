//! The compile child of these tests is this very binary: the engine is told to start a shell that turns the hash
//! argument into a variable and runs the ignored test below with the real stdout moved to descriptor 3, out of the
//! test harness's way.

use std::ffi::OsString;

use coracle_engine::{CompilerCommand, compile_child_main};

const EXPECTED: &str = "CORACLE_TEST_COMPILE_HASH";

#[test]
#[ignore = "the compile child; started by the engine"]
fn child() {
    let Some(hash) = std::env::var_os(EXPECTED) else {
        return;
    };
    // SAFETY: descriptor 3 was opened by the shell of `command` for this purpose.
    assert!(unsafe { libc::dup2(3, 1) } == 1);
    std::process::exit(compile_child_main([hash]));
}

/// A compiler command that runs [`child`].
pub fn command() -> CompilerCommand {
    let this = std::env::current_exe().expect("a test knows its own path");
    let script = format!(
        "exec 3>&1 >/dev/null; {EXPECTED}=$1; export {EXPECTED}; \
         exec \"$0\" --exact compile_child::child --ignored --nocapture -q"
    );
    CompilerCommand {
        program: "/bin/sh".into(),
        args: vec![OsString::from("-c"), script.into(), this.into_os_string()],
    }
}
