//! Errors with a stable code, a sentence and the fix, because each of them ends in a condition or an Event a user reads.

use std::borrow::Cow;
use std::fmt;

/// What went wrong, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable code such as `E_NOT_WASM`; never reused for another meaning.
    pub code: &'static str,
    /// One sentence saying what is wrong, naming the offending item.
    pub message: String,
    /// One sentence saying what to do about it.
    pub fix: Cow<'static, str>,
}

impl Problem {
    /// Puts a problem together.
    pub fn new(
        code: &'static str,
        message: impl Into<String>,
        fix: impl Into<Cow<'static, str>>,
    ) -> Self {
        Problem {
            code,
            message: message.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}. {}.",
            self.code,
            self.message.trim_end_matches('.'),
            self.fix.trim_end_matches('.')
        )
    }
}

impl std::error::Error for Problem {}

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub Problem);

        impl $name {
            pub(crate) fn new(
                code: &'static str,
                message: impl Into<String>,
                fix: impl Into<Cow<'static, str>>,
            ) -> Self {
                $name(Problem::new(code, message, fix))
            }

            /// The stable code.
            pub fn code(&self) -> &'static str {
                self.0.code
            }

            /// What is wrong.
            pub fn message(&self) -> &str {
                &self.0.message
            }

            /// What to do about it.
            pub fn fix(&self) -> &str {
                &self.0.fix
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::error::Error for $name {}

        impl From<Problem> for $name {
            fn from(problem: Problem) -> Self {
                $name(problem)
            }
        }
    };
}

coded!(
    /// The bytes cannot run here; they will not run on any other try either.
    BadWasm
);
coded!(
    /// The engine could not start.
    EngineError
);
coded!(
    /// A compiled component could not be joined to what it is granted.
    LinkError
);

/// Why no compiled artifact could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareError {
    /// What went wrong.
    pub problem: Problem,
    /// Whether trying the same bytes again is pointless (bad bytes) or may help (a full disk, a busy node).
    pub permanent: bool,
}

impl PrepareError {
    pub(crate) fn permanent(problem: Problem) -> Self {
        PrepareError {
            problem,
            permanent: true,
        }
    }

    pub(crate) fn transient(problem: Problem) -> Self {
        PrepareError {
            problem,
            permanent: false,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.problem.code
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for PrepareError {}

impl From<BadWasm> for PrepareError {
    fn from(bad: BadWasm) -> Self {
        PrepareError::permanent(bad.0)
    }
}
