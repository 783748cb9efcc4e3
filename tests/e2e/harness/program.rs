//! Running programs and reading what they say.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub const CORACLE: &str = env!("CARGO_BIN_EXE_coracle");

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "exit {}\nstdout: {}\nstderr: {}",
            self.code, self.out, self.err
        );
        self.out
    }

    /// A program that must have failed, saying all of these words.
    #[track_caller]
    pub fn fails_with(self, words: &[&str]) -> String {
        assert_ne!(
            self.code, 0,
            "it succeeded\nstdout: {}\nstderr: {}",
            self.out, self.err
        );
        let text = format!("{}{}", self.out, self.err);
        for w in words {
            assert!(text.contains(w), "{w:?} is not in:\n{text}");
        }
        text
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let out = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Output {
        code: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Runs `coracle` in a folder.
#[track_caller]
pub fn coracle(dir: &Path, args: &[&str]) -> Output {
    run(Command::new(CORACLE)
        .args(args)
        .current_dir(dir)
        .env_remove("KUBECONFIG")
        .env("HOME", dir))
}

/// A real client by name, or `None` after saying that the test is skipped. `CORACLE_REQUIRE` turns a skip into a failure.
pub fn client(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH").and_then(|p| {
        std::env::split_paths(&p)
            .map(|d| d.join(name))
            .find(|f| f.is_file())
    });
    if found.is_none() {
        let required = std::env::var("CORACLE_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|r| r == name),
            "{name} is required and not installed"
        );
        println!("SKIPPED: {name} is not installed");
    }
    found
}

/// Waits for a condition; the panic says what was waited for and what was seen last.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + limit;
    loop {
        match look() {
            Ok(t) => return t,
            Err(seen) if Instant::now() > until => {
                panic!("waited {} s for {what}; last seen: {seen}", limit.as_secs())
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(25)),
        }
    }
}

/// The workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}
