//! Query strings: percent-encoding both ways, repeated keys, the page size.

use super::{Target, grammar, texts};
use crate::serve::path::{self, Query};

pub(super) const TARGET: Target = Target {
    name: "queries",
    seeds,
    words: &[
        "&",
        "=",
        "n=",
        "last=",
        "digest=",
        "tag=",
        "artifactType=",
        "mount=",
        "from=",
        "%26",
        "%3D",
        "%",
        "%25",
        "+",
        "%2B",
        " ",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "%c3%a9",
        "%ff",
    ],
    check,
};

fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        "",
        "digest=sha256%3Aab&tag=a&tag=b&artifactType=x/y+json&e",
        "n=10&last=v1",
        "n=",
        "n=0",
        "n=-1",
        "n=+1",
        "n=18446744073709551615",
        "n=18446744073709551616",
        "mount=sha256:ab&from=demo%2Fa",
        "a=%f",
        "a=%ff",
        "=&=&&a==b",
        "%6e=5&n=6",
    ])
}

fn check(input: &[u8]) -> bool {
    let Ok(raw) = std::str::from_utf8(input) else {
        return false;
    };
    assert_eq!(path::decode(raw), grammar::percent_decode(raw), "{raw:?}");
    encoding(raw);
    let parts = raw.split('&').filter(|part| !part.is_empty());
    let model: Option<Vec<(String, String)>> = parts
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            grammar::percent_decode(key).zip(grammar::percent_decode(value))
        })
        .collect();
    let (model, query) = match (model, Query::parse(Some(raw))) {
        (None, Err(error)) => {
            assert_eq!(error.status.as_u16(), 400);
            return false;
        }
        (Some(model), Ok(query)) => (model, query),
        (model, answer) => panic!("{raw:?}: {answer:?} instead of {model:?}"),
    };
    same(&query, &model);
    let printed: Vec<String> = model
        .iter()
        .map(|(key, value)| format!("{}={}", path::encode(key), path::encode(value)))
        .collect();
    let again = Query::parse(Some(&printed.join("&"))).expect("what we write we can read");
    same(&again, &model);
    page_size(&query);
    true
}

/// Every key has the values it was given, in order.
fn same(query: &Query, model: &[(String, String)]) {
    for (key, _) in model {
        let want: Vec<&str> = model
            .iter()
            .filter(|(other, _)| other == key)
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(query.all(key).collect::<Vec<_>>(), want, "{key:?}");
        assert_eq!(query.get(key), want.first().copied(), "{key:?}");
    }
    let absent = "a key that is not there";
    if model.iter().all(|(key, _)| key != absent) {
        assert_eq!((query.get(absent), query.all(absent).count()), (None, 0));
    }
}

/// Digits that fit are a page size, and nothing is ever another number than it says.
fn page_size(query: &Query) {
    let text = query.get("n").unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match query.count() {
        Ok(None) => assert!(text.is_empty(), "{text:?}"),
        Ok(Some(n)) => {
            let bare = text.trim_start_matches('+').trim_start_matches('0');
            let want = if n == 0 { String::new() } else { n.to_string() };
            assert_eq!(bare, want, "{text:?}");
        }
        Err(error) => {
            assert_eq!(error.status.as_u16(), 400);
            let fits = digits && text.parse::<u64>().is_ok();
            assert!(!text.is_empty() && !fits, "{text:?}");
        }
    }
}

/// Any text survives being put into a query, and cannot end the value it stands in.
fn encoding(text: &str) {
    let encoded = path::encode(text);
    assert!(grammar::is_plain(&encoded), "{encoded:?}");
    assert_eq!(path::decode(&encoded).as_deref(), Some(text));
    assert_eq!(grammar::percent_decode(&encoded).as_deref(), Some(text));
    let raw = format!("before=1&key={encoded}&after=2");
    let query = Query::parse(Some(&raw)).expect("an encoded value is valid");
    let values = ["before", "key", "after"].map(|key| query.get(key));
    assert_eq!(values, [Some("1"), Some(text), Some("2")]);
}
