//! Header rules as data: what never crosses a hop, what only our own parts may say, what collides through underscores.

/// Headers that describe one connection and are removed at each hop (RFC 9110, section 7.6.1), besides those that
/// `Connection` names. Sorted, lower case.
pub const HOP_BY_HOP: &[&str] = &[
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Prefix of the headers that only node-to-node traffic may carry; removed from every other request and response.
pub const INTERNAL_PREFIX: &str = "coracle-";
/// Uid of the pod a peer is asked to call.
pub const POD_UID: &str = "coracle-pod-uid";
/// Port of the pod a peer is asked to call.
pub const PORT: &str = "coracle-port";
/// How many hops from service to service the request has made.
pub const DEPTH: &str = "coracle-depth";
/// Milliseconds left until the request is worth nothing.
pub const DEADLINE_MS: &str = "coracle-deadline-ms";
/// The authority the client asked for.
pub const AUTHORITY: &str = "coracle-authority";
/// On a peer's answer: the request was refused before anything was read, and why; it may be tried elsewhere.
pub const REFUSED: &str = "coracle-refused";

/// Headers whose underscore spelling some backends read as the real one.
const COLLIDING: &[&str] = &[
    "content_length",
    "content_type",
    "transfer_encoding",
    "x_forwarded_for",
    "x_forwarded_host",
    "x_forwarded_proto",
    "x_real_ip",
    "x_request_id",
];

/// What to do with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Leave it.
    Keep,
    /// Take it out.
    Remove,
    /// Refuse the request: it imitates another header.
    Refuse,
}

/// The rule for a header name (lower case) at a hop.
pub fn rule(name: &str) -> Rule {
    // The first letter decides for nearly every header that occurs.
    match name.as_bytes().first() {
        Some(b'c' | b'h' | b'k' | b'p' | b't' | b'u' | b'x') => {}
        _ => return Rule::Keep,
    }
    if HOP_BY_HOP.binary_search(&name).is_ok() || name.starts_with(INTERNAL_PREFIX) {
        Rule::Remove
    } else if COLLIDING.binary_search(&name).is_ok() || name.starts_with("coracle_") {
        Rule::Refuse
    } else {
        Rule::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_start_with_letters_the_short_cut_knows() {
        assert!(HOP_BY_HOP.is_sorted() && COLLIDING.is_sorted());
        for name in HOP_BY_HOP
            .iter()
            .chain([POD_UID, PORT, DEPTH, DEADLINE_MS, AUTHORITY, REFUSED].iter())
        {
            assert_eq!(rule(name), Rule::Remove, "{name}");
        }
        for name in COLLIDING {
            assert_eq!(rule(name), Rule::Refuse, "{name}");
        }
        for name in [
            "accept",
            "content-type",
            "host",
            "x-custom",
            "cookie",
            "traceparent",
        ] {
            assert_eq!(rule(name), Rule::Keep, "{name}");
        }
    }
}
