//! Retention: which tags and manifests of a repository nobody wants to keep, by tag and age.
//!
//! [`retain`] decides over the rows of one repository; the collector removes what it names before it looks for links and
//! blobs that nothing needs any more. Every doubt is decided for keeping: a tag goes only if a policy condemns it and none
//! protects it, a manifest only if it is old, has no tag left, and nothing that stays leads to it.

mod apply;
mod decide;
mod pattern;

use serde::{Deserialize, Serialize};

use crate::name::Name;

pub use decide::{Contents, Deletions, retain};
pub use pattern::{Pattern, PatternError};

/// Most policies.
pub const POLICIES_MAX: usize = 1_000;

/// Most patterns in one list of a policy.
pub const PATTERNS_MAX: usize = 64;

/// What to keep in some repositories. Tags are those of clients; the tags `sha256-<hex>` and `sha256-<hex>.sig` (or any
/// other ending), by which tools find what is said about a manifest, go by that manifest alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Repositories it is about, by their whole name.
    pub repositories: Vec<Pattern>,
    /// Tags it may remove; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Pattern>,
    /// Tags that are never removed, whatever any policy says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Pattern>,
    /// So many of the tags in `tags`, by the time they were last set, are never removed either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
    /// Age in seconds, from when it was last set, below which this policy removes no tag. Without it, `newest` alone
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_seconds: Option<u64>,
    /// Age in seconds, from when it was last pushed, at which a manifest without a tag is removed. Without it none is,
    /// and what tags leave behind stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untagged_older_than_seconds: Option<u64>,
}

/// Why a policy is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is about nothing.
    #[error("repositories: name at least one pattern, such as demo/**")]
    NoRepositories,
    /// It removes nothing.
    #[error("set at least one of newest, olderThanSeconds and untaggedOlderThanSeconds")]
    NoRule,
    /// It would remove every tag, the newest too.
    #[error("newest: must be at least 1")]
    NewestZero,
    /// A list is too long.
    #[error("{0}: at most {PATTERNS_MAX} patterns")]
    TooMany(&'static str),
}

impl Policy {
    /// Whether it says something, within its bounds.
    ///
    /// # Errors
    /// What is wrong, with the field.
    pub fn check(&self) -> Result<(), PolicyError> {
        for (field, list) in [
            ("repositories", &self.repositories),
            ("tags", &self.tags),
            ("keep", &self.keep),
        ] {
            if list.len() > PATTERNS_MAX {
                return Err(PolicyError::TooMany(field));
            }
        }
        if self.repositories.is_empty() {
            return Err(PolicyError::NoRepositories);
        }
        let ages = [self.older_than_seconds, self.untagged_older_than_seconds];
        if self.newest.is_none() && ages.iter().all(Option::is_none) {
            return Err(PolicyError::NoRule);
        }
        match self.newest {
            Some(0) => Err(PolicyError::NewestZero),
            _ => Ok(()),
        }
    }

    /// Whether it is about a repository.
    pub fn covers(&self, name: &Name) -> bool {
        self.repositories.iter().any(|p| p.matches(name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_something() {
        let policy = |json: &str| serde_json::from_str::<Policy>(json).map_err(|e| e.to_string());
        for (json, want) in [
            (r#"{"repositories":["a"],"newest":3}"#, Ok(())),
            (r#"{"repositories":["a"],"olderThanSeconds":0}"#, Ok(())),
            (
                r#"{"repositories":["**"],"untaggedOlderThanSeconds":1}"#,
                Ok(()),
            ),
            (
                r#"{"repositories":[],"newest":3}"#,
                Err(PolicyError::NoRepositories),
            ),
            (
                r#"{"repositories":["a"],"keep":["b"]}"#,
                Err(PolicyError::NoRule),
            ),
            (
                r#"{"repositories":["a"],"newest":0}"#,
                Err(PolicyError::NewestZero),
            ),
        ] {
            assert_eq!(policy(json).unwrap().check(), want, "{json}");
        }
        let many = vec!["a".parse().unwrap(); PATTERNS_MAX + 1];
        let long = Policy {
            repositories: many,
            newest: Some(1),
            ..Policy::default()
        };
        assert_eq!(long.check(), Err(PolicyError::TooMany("repositories")));
        for (json, part) in [
            (r#"{"repositories":["a"],"newst":3}"#, "newst"),
            (r#"{"repositories":["a b"],"newest":3}"#, "a b"),
            (r#"{"newest":3}"#, "repositories"),
        ] {
            let error = policy(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
