//! What passes the guard and what does not.

use proptest::prelude::*;

use super::*;

fn scan(bytes: &[u8]) -> Result<Place, Violation> {
    let mut guard = Guard::new();
    guard.scan(bytes).map_err(|stop| stop.violation)?;
    Ok(guard.place())
}

#[test]
fn well_formed_requests_pass() {
    for (text, place) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Place::Between),
        ("\r\nGET / HTTP/1.0\r\n\r\n", Place::Between),
        ("GET / HTTP/1.1\r\nhost: a\r\n", Place::Head),
        ("GE", Place::Head),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
            Place::Between,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab",
            Place::Body,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nt: v\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            Place::Between,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            Place::Body,
        ),
    ] {
        assert_eq!(scan(text.as_bytes()), Ok(place), "{text:?}");
    }
}

#[test]
fn ambiguous_requests_stop_the_connection() {
    use Violation::*;
    for (text, violation) in [
        ("GET / HTTP/1.1\nhost: a\r\n\r\n", BareLineFeed),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", BareLineFeed),
        ("GET / HTTP/1.1\r\nx: a\rb\r\n\r\n", BareCarriageReturn),
        ("GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", Nul),
        ("GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", ObsoleteFolding),
        (
            "GET / HTTP/1.1\r\nContent-Length : 3\r\n\r\n",
            SpaceBeforeColon,
        ),
        ("GET / HTTP/1.1\r\n: 3\r\n\r\n", BadHeaderLine),
        ("GET / HTTP/1.1\r\nnonsense\r\n\r\n", BadHeaderLine),
        ("GET /\r\n\r\n", BadRequestLine),
        ("GET / HTTP/2.0\r\n\r\n", BadRequestLine),
        ("PRI * HTTP/2.0\r\n\r\n", BadRequestLine),
        ("GET / x HTTP/1.1\r\n\r\n", BadRequestLine),
        (" GET / HTTP/1.1\r\n\r\n", BadRequestLine),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            BothFramings,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            BothFramings,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            RepeatedContentLength,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
            RepeatedContentLength,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3, 3\r\n\r\n",
            BadContentLength,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: +3\r\n\r\n",
            BadContentLength,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: \r\n\r\n",
            BadContentLength,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
            BadContentLength,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            RepeatedTransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n",
            BadTransferEncoding,
        ),
        (
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            TransferEncodingOn10,
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", RepeatedHost),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\nhello",
            BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a\nhello",
            BareLineFeed,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n 5\r\nhello",
            BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello",
            BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello",
            BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
            BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1111111111111111\r\n",
            BadChunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\n\r\n",
            BareLineFeed,
        ),
    ] {
        assert_eq!(scan(text.as_bytes()), Err(violation), "{text:?}");
    }
}

#[test]
fn a_good_request_before_a_bad_one_is_let_through() {
    let good = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut both = good.to_vec();
    both.extend_from_slice(b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n");
    let stop = Guard::new().scan(&both).unwrap_err();
    assert_eq!(
        stop,
        Stop {
            violation: Violation::BareLineFeed,
            good: good.len()
        }
    );
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        pieces in prop::collection::vec("(GET / HTTP/1.1\r\n|host: a\r\n|content-length: 3\r\n|transfer-encoding: chunked\r\n|\r\n|abc|3\r\nabc\r\n0\r\n\r\n|x: y\n|[ -~\r\n]{0,6})", 0..10),
        cuts in prop::collection::vec(1usize..20, 0..20),
    ) {
        let bytes = pieces.concat().into_bytes();
        let whole = scan(&bytes);
        let mut guard = Guard::new();
        let mut rest = bytes.as_slice();
        let mut result = Ok(());
        let mut cuts = cuts.into_iter();
        while !rest.is_empty() && result.is_ok() {
            let (head, tail) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
            result = guard.scan(head);
            rest = tail;
        }
        prop_assert_eq!(result.map(|()| guard.place()).map_err(|stop| stop.violation), whole);
    }
}
