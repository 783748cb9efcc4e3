//! `Warning` headers: what a client should tell its user about a request that succeeded.

/// Most bytes of warnings in one answer, from the specification.
pub const WARNING_BYTES_MAX: usize = 4_096;

/// A sentence as it stands in the header. The code is always 299, the agent always `-`, and there is no date.
fn header(sentence: &str) -> String {
    let mut quoted = String::with_capacity(sentence.len());
    for c in sentence.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            // A header holds neither line ends nor other controls, and not every client reads more than ASCII.
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    format!("299 - \"{quoted}\"")
}

/// The headers of these sentences; those that would lead beyond [`WARNING_BYTES_MAX`] are left out.
pub(crate) fn headers(sentences: &[String]) -> Vec<String> {
    let mut left = WARNING_BYTES_MAX;
    let mut headers = Vec::new();
    for sentence in sentences {
        let header = header(sentence);
        if let Some(rest) = left.checked_sub(header.len()) {
            left = rest;
            headers.push(header);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_bounded() {
        let made = headers(&["say \"x\\y\"\n\u{e4}".to_owned()]);
        assert_eq!(made, ["299 - \"say \\\"x\\\\y\\\"??\""]);
        let long = "a".repeat(2_500);
        let made = headers(&[long.clone(), long, "short".to_owned()]);
        assert_eq!(made.len(), 2);
        assert!(made.iter().map(String::len).sum::<usize>() <= WARNING_BYTES_MAX);
    }
}
