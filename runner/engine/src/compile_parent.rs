//! Starts the compile child under limits and reads its verdict.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::config::EngineConfig;
use crate::problem::{PrepareError, Problem};

/// Code of an input that took the compiler down; remembered for a while.
pub(crate) const BOMB: &str = "E_COMPILE_LIMIT";
/// Bytes of the child's stderr that are read.
const STDERR_BYTES: u64 = 64 << 10;
/// Native code is a few times the size of the Wasm.
const OUTPUT_BYTES: u64 = 1 << 30;
const NICE: i32 = 19;

/// What the child may use; set before exec, so no code of the child runs without them.
#[derive(Clone, Copy)]
struct Bounds {
    memory_bytes: u64,
    cpu_s: u64,
}

/// Compiles `wasm` into `out`.
pub(crate) async fn compile(
    config: &EngineConfig,
    compatibility: &str,
    wasm: File,
    out: File,
) -> Result<(), PrepareError> {
    let bounds = Bounds {
        memory_bytes: config.compile_memory_bytes,
        cpu_s: config.compile_timeout_ms.div_ceil(1_000).max(1),
    };
    let mut command = Command::new(&config.compiler.program);
    command
        .args(&config.compiler.args)
        .arg(compatibility)
        .env_clear()
        .env(
            "RAYON_NUM_THREADS",
            config.compile_threads.max(1).to_string(),
        )
        .stdin(Stdio::from(wasm))
        .stdout(Stdio::from(out))
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    // SAFETY: `limit` makes system calls only and allocates nothing, which is what may be done between fork and exec.
    unsafe { command.pre_exec(move || limit(bounds)) };
    let mut child = command.spawn().map_err(|error| {
        PrepareError::transient(Problem::new(
            "E_COMPILER_START",
            format!(
                "the compiler {} could not be started: {error}",
                config.compiler.program.display()
            ),
            "Check that the node's binary is still there and may be executed",
        ))
    })?;
    let stderr = child.stderr.take();
    let finished = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(STDERR_BYTES).read_to_end(&mut said).await?;
        }
        Ok::<_, io::Error>((child.wait().await?, said))
    };
    match tokio::time::timeout(Duration::from_millis(config.compile_timeout_ms), finished).await {
        Ok(Ok((status, said))) => verdict(status, &said),
        Ok(Err(error)) => Err(PrepareError::transient(Problem::new(
            "E_COMPILER_IO",
            format!("the compiler could not be waited for: {error}"),
            "Retry; if it persists, look at the node's log",
        ))),
        // Dropping the child kills it.
        Err(_) => Err(bomb(&format!(
            "took longer than {} ms",
            config.compile_timeout_ms
        ))),
    }
}

fn verdict(status: ExitStatus, said: &[u8]) -> Result<(), PrepareError> {
    if status.success() {
        return Ok(());
    }
    if let Some(signal) = status.signal() {
        return Err(bomb(&match signal {
            libc::SIGXCPU | libc::SIGKILL => "used up its CPU time".to_string(),
            libc::SIGABRT | libc::SIGSEGV => "used up its memory".to_string(),
            other => format!("was ended by signal {other}"),
        }));
    }
    let line = String::from_utf8_lossy(said);
    let line = line
        .lines()
        .rev()
        .find(|l| l.starts_with('{'))
        .unwrap_or("{}");
    let said: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let text = |key: &str| said[key].as_str().unwrap_or_default().to_string();
    let code = match said["code"].as_str() {
        Some("E_COMPONENTIZE") => "E_COMPONENTIZE",
        Some("E_COMPILER_MISMATCH") => "E_COMPILER_MISMATCH",
        Some("E_COMPILER_IO") => "E_COMPILER_IO",
        Some("E_COMPILER_START") => "E_COMPILER_START",
        Some("E_COMPILE") => "E_COMPILE",
        _ => {
            return Err(PrepareError::transient(Problem::new(
                "E_COMPILER_START",
                format!("the compiler ended with {status} and said nothing"),
                "Check that the configured compiler command is the node's own binary",
            )));
        }
    };
    let problem = Problem::new(code, text("message"), text("fix"));
    match code {
        "E_COMPILE" | "E_COMPONENTIZE" => Err(PrepareError::permanent(problem)),
        _ => Err(PrepareError::transient(problem)),
    }
}

fn bomb(how: &str) -> PrepareError {
    PrepareError::permanent(Problem::new(
        BOMB,
        format!("compiling the component {how}"),
        "Make the component smaller (strip it, optimise for size) or raise the compile limits of the node",
    ))
}

fn limit(bounds: Bounds) -> io::Result<()> {
    let set = |resource, value: u64| {
        let limit = libc::rlimit {
            rlim_cur: value as libc::rlim_t,
            rlim_max: value as libc::rlim_t,
        };
        // SAFETY: the pointer is to a live local of the right type.
        if unsafe { libc::setrlimit(resource, &limit) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    set(libc::RLIMIT_AS, bounds.memory_bytes)?;
    set(libc::RLIMIT_CPU, bounds.cpu_s)?;
    set(libc::RLIMIT_FSIZE, OUTPUT_BYTES)?;
    set(libc::RLIMIT_CORE, 0)?;
    // SAFETY: takes no pointers. Being less nice than asked is no reason not to compile.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    Ok(())
}
