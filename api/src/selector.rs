//! Label and field selectors: parsing and matching.

use std::collections::BTreeMap;

use serde_json::Value;

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values (`=`, `==`, `in`).
    In(String, Vec<String>),
    /// The label is absent or has none of these values (`!=`, `notin`).
    NotIn(String, Vec<String>),
    /// The label is present.
    Exists(String),
    /// The label is absent.
    Absent(String),
}

/// A conjunction of label requirements; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(pub Vec<Requirement>);

impl LabelSelector {
    /// Whether these labels satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|r| match r {
            Requirement::In(k, values) => labels.get(k).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(k, values) => labels.get(k).is_none_or(|v| !values.contains(v)),
            Requirement::Exists(k) => labels.contains_key(k),
            Requirement::Absent(k) => !labels.contains_key(k),
        })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From a plain map, as in `Service.spec.selector` and `ReplicationController.spec.selector`.
    pub fn from_map(map: &BTreeMap<String, String>) -> Self {
        Self(
            map.iter()
                .map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()]))
                .collect(),
        )
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`). Unknown operators are an error.
    pub fn from_object(object: &Value) -> Result<Self, String> {
        let mut all = Self::from_map(&crate::meta::string_map(&object["matchLabels"])).0;
        for e in object["matchExpressions"].as_array().into_iter().flatten() {
            let key = e["key"].as_str().unwrap_or_default().to_string();
            let values: Vec<String> = e["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| Some(v.as_str()?.to_string()))
                .collect();
            all.push(match e["operator"].as_str().unwrap_or_default() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                other => return Err(format!("{other:?} is not a valid label selector operator; use In, NotIn, Exists or DoesNotExist")),
            });
        }
        Ok(Self(all))
    }

    /// Parses the query form: `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let set = |op: &str| -> Option<(String, Vec<String>)> {
                let (key, rest) = part.split_once(op)?;
                let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
                Some((
                    key.trim().to_string(),
                    inner.split(',').map(|v| v.trim().to_string()).collect(),
                ))
            };
            let requirement = if let Some((k, v)) = set(" notin ").or_else(|| set(" notin")) {
                Requirement::NotIn(k, v)
            } else if let Some((k, v)) = set(" in ").or_else(|| set(" in")) {
                Requirement::In(k, v)
            } else if let Some((k, v)) = part.split_once("!=") {
                Requirement::NotIn(k.trim().into(), vec![v.trim().into()])
            } else if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                Requirement::In(k.trim().into(), vec![v.trim().into()])
            } else if let Some(k) = part.strip_prefix('!') {
                Requirement::Absent(k.trim().into())
            } else {
                Requirement::Exists(part.into())
            };
            let (Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::Absent(key)) = &requirement;
            if key.is_empty()
                || key.contains(|c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c)))
            {
                return Err(format!(
                    "unable to parse requirement: invalid label key {key:?}"
                ));
            }
            all.push(requirement);
        }
        Ok(Self(all))
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                write!(f, ",")?;
            }
            match r {
                Requirement::In(k, v) if v.len() == 1 => write!(f, "{k}={}", v[0])?,
                Requirement::In(k, v) => write!(f, "{k} in ({})", v.join(","))?,
                Requirement::NotIn(k, v) if v.len() == 1 => write!(f, "{k}!={}", v[0])?,
                Requirement::NotIn(k, v) => write!(f, "{k} notin ({})", v.join(","))?,
                Requirement::Exists(k) => write!(f, "{k}")?,
                Requirement::Absent(k) => write!(f, "!{k}")?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0usize, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses `a=b,c!=d`; whether a kind supports the field is checked by [`crate::attrs::field_supported`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (field, equal, value) = if let Some((f, v)) = part.split_once("!=") {
                (f, false, v)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, true, v)
            } else {
                return Err(format!(
                    "invalid field selector {part:?}: write FIELD=VALUE or FIELD!=VALUE"
                ));
            };
            all.push((field.trim().to_string(), equal, value.trim().to_string()));
        }
        Ok(Self(all))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object's fields (see [`crate::Attrs::field`]) satisfy every term; an absent field equals "".
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.0
            .iter()
            .all(|(name, equal, value)| (field(name).unwrap_or_default() == *value) == *equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_the_text_says() {
        let labels: BTreeMap<String, String> = [("app", "web"), ("tier", "front")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, api),tier", true),
            ("app notin (web)", false),
            ("!app", false),
            ("!x", true),
            ("x", false),
            ("x!=1", true),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap().matches(&labels),
                want,
                "{text}"
            );
        }
        assert!(LabelSelector::parse("a b=c").is_err());
    }
}
