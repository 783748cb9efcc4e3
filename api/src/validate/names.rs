//! The rules for names, labels and keys, with the sentence Kubernetes says when they are broken.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = r"a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// Longest DNS label, label value and name part of a qualified name.
const LABEL_LENGTH: usize = 63;
/// Longest DNS name.
const SUBDOMAIN_LENGTH: usize = 253;
/// Longest port name (RFC 6335).
const PORT_NAME_LENGTH: usize = 15;

fn length(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let b = text.as_bytes();
    b.first().copied().is_some_and(lower)
        && b.last().copied().is_some_and(lower)
        && b.iter().all(|c| lower(*c) || *c == b'-')
}

fn complaints(too_long: Option<String>, fine: bool, sentence: &str) -> Vec<String> {
    too_long
        .into_iter()
        .chain((!fine).then(|| sentence.to_string()))
        .collect()
}

/// RFC 1123 label: names of namespaces, containers, volumes.
pub fn dns_label(text: &str) -> Vec<String> {
    complaints(length(text, LABEL_LENGTH), is_label(text), LABEL)
}

/// RFC 1123 subdomain: names of most objects.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    complaints(
        length(text, SUBDOMAIN_LENGTH),
        text.split('.').all(is_label),
        SUBDOMAIN,
    )
}

/// `*.` and a subdomain: hosts of an Ingress.
pub(super) fn wildcard_subdomain(text: &str) -> Vec<String> {
    let fine = text
        .strip_prefix("*.")
        .is_some_and(|rest| rest.split('.').all(is_label));
    complaints(length(text, SUBDOMAIN_LENGTH), fine, WILDCARD)
}

/// RFC 1035 label: names of Services.
pub fn service_name(text: &str) -> Vec<String> {
    let fine = is_label(text) && text.as_bytes()[0].is_ascii_lowercase();
    complaints(length(text, LABEL_LENGTH), fine, DNS_1035)
}

fn is_qualified_part(text: &str) -> bool {
    let b = text.as_bytes();
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    edge(b.first())
        && edge(b.last())
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

/// Keys of labels, annotations and finalizers: an optional DNS prefix, `/`, a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                found.push("prefix part must be non-empty".into());
            } else {
                found.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|why| format!("prefix part {why}")),
                );
            }
            name
        }
    };
    if name.is_empty() {
        found.push("name part must be non-empty".into());
    } else {
        found.extend(length(name, LABEL_LENGTH).map(|why| format!("name part {why}")));
    }
    if !is_qualified_part(name) {
        found.push(format!("name part {QUALIFIED}"));
    }
    found
}

/// Values of labels.
pub fn label_value(text: &str) -> Vec<String> {
    complaints(
        length(text, LABEL_LENGTH),
        text.is_empty() || is_qualified_part(text),
        LABEL_VALUE,
    )
}

/// Keys of ConfigMaps and Secrets: they become file names, so `.` and `..` are out.
pub fn config_key(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("must not be '{text}'")];
    }
    if text.starts_with("..") {
        return vec!["must not start with '..'".into()];
    }
    let fine = !text.is_empty()
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    complaints(length(text, SUBDOMAIN_LENGTH), fine, CONFIG_KEY)
}

/// Names of environment variables.
pub(super) fn env_name(text: &str) -> Vec<String> {
    let fine = text
        .bytes()
        .all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    complaints(
        None,
        fine,
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// Names of ports (IANA service names).
pub(super) fn port_name(text: &str) -> Vec<String> {
    let mut found: Vec<String> = length(text, PORT_NAME_LENGTH)
        .map(|_| format!("must be no more than {PORT_NAME_LENGTH} characters"))
        .into_iter()
        .collect();
    if !text.bytes().all(|c| lower(c) || c == b'-') {
        found.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        found.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        found.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        found.push("must not begin or end with a hyphen".into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        let long = "a".repeat(64);
        for (check, good, bad) in [
            (
                dns_label as fn(&str) -> Vec<String>,
                vec!["a", "a-1", "1a"],
                vec!["", "A", "-a", "a-", "a.b", "a_b", &long],
            ),
            (
                dns_subdomain,
                vec!["a", "a.b-c.d", "1"],
                vec!["", "..", "a..b", ".a", "A", "a/b", "../x"],
            ),
            (
                wildcard_subdomain,
                vec!["*.a.b"],
                vec!["*", "*.", "a.*", "*.*.a"],
            ),
            (service_name, vec!["a", "a-1"], vec!["", "1a", "a.b", "-a"]),
            (
                qualified_name,
                vec!["a", "A_b.c", "example.com/a", "kubernetes.io/x-1"],
                vec!["", "/a", "a/", "a/b/c", "A/b", "a b", "-a"],
            ),
            (
                label_value,
                vec!["", "a", "A.b_c-1"],
                vec!["a b", "-a", "a-", "a/b", &long],
            ),
            (
                config_key,
                vec!["a", "A_b.c-d", ".hidden"],
                vec!["", ".", "..", "..a", "a/b", "a b"],
            ),
            (env_name, vec!["A", "a.b-c", "A B"], vec!["a=b", "ä"]),
            (
                port_name,
                vec!["http", "a-1"],
                vec!["", "-a", "a--b", "123", "a_b", "abcdefghijklmnop"],
            ),
        ] {
            for text in good {
                assert_eq!(check(text), Vec::<String>::new(), "{text}");
            }
            for text in bad {
                assert!(!check(text).is_empty(), "{text}");
            }
        }
    }
}
