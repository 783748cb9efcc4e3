//! Scopes: what a client asks a bearer token for, and what is written into one.
//!
//! `repository:NAME:pull,push` and `registry:catalog:*`, as Docker's token specification has them. `*` is every action.
//! What is of another type, or names no repository, is granted to nobody and so left out.

use std::fmt;

use coracle_registry::name::Name;
use serde::{Deserialize, Serialize};

/// Scopes that one request may ask for; clients ask for up to three.
pub(crate) const SCOPES_MAX: usize = 32;

/// One thing that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Right {
    /// Read a repository.
    Pull,
    /// Write to a repository.
    Push,
    /// Remove from a repository.
    Delete,
    /// List the repositories.
    List,
}

impl Right {
    /// As an action of a scope.
    fn action(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::List => "*",
        }
    }
}

/// Where something is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    /// In a repository.
    Repository(Name),
    /// In the list of all repositories.
    Catalog,
}

/// Rights at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    pub at: Place,
    pub rights: Vec<Right>,
}

impl Scope {
    /// Parses one scope; `None`: nobody has it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let mut actions = actions.split(',').map(str::trim);
        // A class, as in `repository(plugin)`, changes nothing here.
        let kind = kind.split('(').next().unwrap_or(kind);
        match (kind, name) {
            ("registry", "catalog") => actions.any(|a| a == "*").then(|| Self {
                at: Place::Catalog,
                rights: vec![Right::List],
            }),
            ("repository", name) => {
                let mut rights: Vec<Right> = actions
                    .flat_map(|action| match action {
                        "pull" => vec![Right::Pull],
                        "push" => vec![Right::Push],
                        "delete" => vec![Right::Delete],
                        "*" => vec![Right::Pull, Right::Push, Right::Delete],
                        _ => Vec::new(),
                    })
                    .collect();
                rights.sort();
                rights.dedup();
                Some(Self {
                    at: Place::Repository(name.parse().ok()?),
                    rights,
                })
            }
            _ => None,
        }
    }

    /// All scopes of a request: each parameter may hold several, separated by spaces.
    ///
    /// # Errors
    /// More than [`SCOPES_MAX`].
    pub fn parse_all<'a>(params: impl Iterator<Item = &'a str>) -> Result<Vec<Self>, TooMany> {
        let texts: Vec<&str> = params.flat_map(str::split_whitespace).collect();
        if texts.len() > SCOPES_MAX {
            return Err(TooMany);
        }
        Ok(texts.into_iter().filter_map(Self::parse).collect())
    }

    /// Whether this includes a right at a place.
    pub fn includes(&self, right: Right, at: &Place) -> bool {
        self.at == *at && self.rights.contains(&right)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Place::Repository(name) => write!(f, "repository:{name}:")?,
            Place::Catalog => f.write_str("registry:catalog:")?,
        }
        let actions: Vec<&str> = self.rights.iter().map(|r| r.action()).collect();
        f.write_str(&actions.join(","))
    }
}

/// More scopes than one request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("E_REGISTRY_SCOPES: more than {SCOPES_MAX} scopes; ask for fewer at once")]
pub(crate) struct TooMany;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        for (text, read) in [
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:a:push,pull", "repository:a:pull,push"),
            ("repository:a:pull,pull", "repository:a:pull"),
            ("repository:a:*", "repository:a:pull,push,delete"),
            ("repository(plugin):a:pull", "repository:a:pull"),
            ("repository:a:fly", "repository:a:"),
            ("registry:catalog:*", "registry:catalog:*"),
            ("registry:catalog:pull", ""),
            ("repository:A:pull", ""),
            ("repository:host:5000/a:pull", ""),
            ("repository:a", ""),
            ("repository::pull", ""),
            ("cluster:a:pull", ""),
            ("", ""),
        ] {
            let found = Scope::parse(text).map_or_else(String::new, |s| s.to_string());
            assert_eq!(found, read, "{text}");
        }
    }

    #[test]
    fn several_come_in_one_parameter_or_in_many() {
        let both = ["repository:a:pull repository:b:push", "nonsense"];
        let all = Scope::parse_all(both.into_iter()).unwrap();
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["repository:a:pull", "repository:b:push"]);
        let many = vec!["repository:a:pull"; SCOPES_MAX + 1];
        assert_eq!(Scope::parse_all(many.into_iter()), Err(TooMany));
    }
}
