//! What a user sees when a command fails: a stable code, what happened, the fix; and the exit code.

use std::fmt;

/// Exit code of a failed command unless it says otherwise.
pub const EXIT_FAILED: u8 = 1;
/// A pod could not be placed.
pub const EXIT_PLACEMENT: u8 = 2;
/// A container failed.
pub const EXIT_CRASH: u8 = 3;
/// The wait ran out.
pub const EXIT_TIMEOUT: u8 = 4;

/// A failure with its code and fix.
#[derive(Debug)]
pub struct CliError {
    /// Stable code, e.g. `E_NOT_WASM` or the Status reason of the API.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do, if there is something to say.
    pub fix: Option<String>,
    /// Exit code.
    pub exit: u8,
}

impl CliError {
    /// An error without a fix.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            fix: None,
            exit: EXIT_FAILED,
        }
    }

    /// Adds the fix.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Code, sentence and fix as they are printed.
    pub fn line(&self) -> String {
        let mut text = format!("error[{}]: {}", self.code, self.message);
        if let Some(fix) = &self.fix {
            text.push_str(&format!("\n  fix: {fix}"));
        }
        text
    }

    /// Sets the exit code.
    pub fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl miette::Diagnostic for CliError {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.fix
            .as_ref()
            .map(|f| Box::new(f) as Box<dyn fmt::Display>)
    }
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, CliError>;

/// Turns an I/O error on a file into a coded one that names the file.
pub fn file(path: &std::path::Path, e: &std::io::Error) -> CliError {
    let what = match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_string(),
        _ => e.to_string(),
    };
    CliError::new("E_FILE", format!("{}: {what}", path.display()))
        .fix("check the path and its permissions")
}
