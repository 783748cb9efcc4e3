//! The tables' format itself: what is read, and that nothing is skipped.

use super::content::Names;
use super::parse::{Check, Step, Table, Text};
use super::run::like;
use crate::digest::Algorithm;

const GOOD: &str = r#"
# A comment.
== A case | with a bar
limits blob=10 uploads=2
let B = text a = b
+ blob B in demo/a
+ manifest B in demo/a as v1
+ session LOC in demo/a
! restart
> PUT $LOC?digest=$B | content-range: 0-4 | x: y: z | body "a b"
< 201 [end-6] | location: /v2/$B | link ~ <*>; rel="next" | no etag | all oci-tag: a, b | save AT = location
> GET /v2/
< 404 [end-1] | code NAME_UNKNOWN | body empty | body = @B | json /a/0 = {"b": 1} | json /c absent | digests $B $B | entry $B /size = 3
"#;

#[test]
fn every_word_of_the_format() {
    let table = Table::parse(GOOD).unwrap();
    assert_eq!((table.cases.len(), table.rows()), (1, 2));
    let case = &table.cases[0];
    assert_eq!(case.title, "A case | with a bar");
    assert_eq!(
        case.limits,
        [("blob".to_owned(), 10), ("uploads".to_owned(), 2)]
    );
    assert!(
        matches!(&case.steps[0].1, Step::Let { name, words } if name == "B" && words == "text a = b")
    );
    assert!(matches!(&case.steps[2].1, Step::Manifest { tag: Some(tag), .. } if tag == "v1"));
    let (line, Step::Row(first)) = &case.steps[5] else {
        panic!("{:?}", case.steps[5]);
    };
    assert_eq!(
        (*line, first.status, first.reference.as_str()),
        (10, 201, "end-6")
    );
    assert_eq!(first.request.target, "$LOC?digest=$B");
    assert_eq!(
        first.request.headers[1],
        ("x".to_owned(), "y: z".to_owned())
    );
    assert_eq!(first.request.body, Some(Text::Words("a b".to_owned())));
    assert_eq!(
        first.checks[1],
        Check::Like("link".to_owned(), "<*>; rel=\"next\"".to_owned())
    );
    let (_, Step::Row(second)) = &case.steps[6] else {
        panic!("{:?}", case.steps[6]);
    };
    assert_eq!(second.checks.len(), 7);
    assert_eq!(
        second.checks[3],
        Check::Json("/a/0".to_owned(), Some("{\"b\": 1}".to_owned()))
    );
}

#[test]
fn what_is_not_understood_is_an_error() {
    for (bad, why) in [
        ("", "no case"),
        ("# nothing but a comment\n", "no case"),
        ("> GET /v2/\n< 200 [end-1]\n", "no case yet"),
        ("== a\n", "without a row"),
        ("== a\nlet B = text x\n", "without a row"),
        ("== a\n> GET /v2/\n< 200 [end-1]\n== b\n", "without a row"),
        ("== a\n> GET /v2/\n", "no answer"),
        (
            "== a\n> GET /v2/\n> GET /v2/\n< 200 [end-1]\n",
            "must follow",
        ),
        ("== a\n< 200 [end-1]\n", "no request"),
        ("== a\nGET /v2/\n", "not a step"),
        ("== a\n+ blob b in demo/a\n", "not a name"),
        ("== a\n+ blob B demo/a\n", "given"),
        ("== a\nlimits blob\n", "KEY=NUMBER"),
        ("== a\n> get /v2/\n", "METHOD"),
        ("== a\n> GET v2\n", "begins with /"),
        ("== a\n> GET /v2/ | host\n", "header: value"),
        ("== a\n> GET /v2/ | body x\n", "a body is"),
        ("== a\n> GET /v2/ | body \"x\" | body \"y\"\n", "two bodies"),
    ] {
        let error = Table::parse(bad).unwrap_err();
        assert!(error.contains(why), "{bad:?}: {error}");
    }
    for (bad, why) in [
        ("200", "STATUS"),
        ("two [end-1]", "STATUS"),
        ("200 end-1", "STATUS"),
        ("999 [end-1]", "not a status"),
        ("200 [end-99]", "not a reference"),
        ("200 []", "not a reference"),
        ("200 [end-1] | ", "STATUS"),
        ("200 [end-1] | hello", "not a check"),
        ("200 [end-1] | locaton: x", "not a header"),
        ("200 [end-1] | no locaton", "not a header"),
        ("200 [end-1] | locaton ~ x", "not a header"),
        ("200 [end-1] | all locaton: x", "not a header"),
        ("200 [end-1] | save X = locaton", "not a header"),
        ("200 [end-1] | save x = location", "not a name"),
        ("200 [end-1] | code DENIED", "no error"),
        ("404 [end-1] | code", "not a check"),
        ("200 [end-1] | body", "body ="),
        ("200 [end-1] | body @B", "body ="),
        ("200 [end-1] | json a = 1", "begins with /"),
        ("200 [end-1] | json /a", "json POINTER"),
        ("200 [end-1] | json /a 1", "= VALUE"),
        ("200 [end-1] | entry $B /a 1", "= VALUE"),
    ] {
        let error = Table::parse(&format!("== a\n> GET /v2/\n< {bad}\n")).unwrap_err();
        assert!(error.contains(why), "{bad:?}: {error}");
    }
}

#[test]
fn names_and_their_attributes() {
    let mut names = Names::new(Algorithm::Sha512);
    names.define("B", "text hello").unwrap();
    names.define("P", "part B 1..3").unwrap();
    names.define("Q", "repeat 3 t#,").unwrap();
    names.save("LOC", "/v2/a/blobs/uploads/77".to_owned());
    let short = Algorithm::Sha256.digest(b"hello");
    let long = Algorithm::Sha512.digest(b"hello");
    for (text, want) in [
        ("no name", "no name".to_owned()),
        ("$B", long.to_string()),
        ("/$B/$B.size/", format!("/{long}/5/")),
        ("$B.sha256", short.to_string()),
        ("$B.other", short.to_string()),
        ("$B.hex", long.hex().to_owned()),
        ("$B.enc", format!("sha512%3A{}", long.hex())),
        ("$B.tag", format!("sha512-{}", &long.hex()[..64])),
        ("$B.last", "4".to_owned()),
        ("$P.text$Q.text", "elt0,t1,t2,".to_owned()),
        ("$LOC?x", "/v2/a/blobs/uploads/77?x".to_owned()),
        ("$LOC.id", "77".to_owned()),
        ("$ALG $OTHER", "sha512 sha256".to_owned()),
    ] {
        assert_eq!(names.expand(text).unwrap(), want, "{text}");
    }
    for bad in ["$", "$b", "$X", "a$ b"] {
        assert!(names.expand(bad).is_err(), "{bad}");
    }
    for bad in [
        "",
        "texts x",
        "empty x",
        "noise x",
        "part B",
        "part B 3..1",
        "part B 0..6",
        "image",
        "image config=B confg=B",
        "image config=B layers=X",
        "image config=B config=B",
        "index of",
    ] {
        assert!(names.define("X1", bad).is_err(), "{bad}");
    }
}

#[test]
fn manifests_are_made_of_true_descriptors() {
    let mut names = Names::new(Algorithm::Sha256);
    names.define("C", "text {}").unwrap();
    names
        .define("M", "image config=C layers=C,C artifact=a/b note=k:v pad=3")
        .unwrap();
    let made: serde_json::Value = serde_json::from_slice(&names.bytes("M").unwrap()).unwrap();
    assert_eq!(made["config"]["size"], 2);
    assert_eq!(
        made["layers"][1]["digest"],
        names.digest("C").unwrap().to_string()
    );
    assert_eq!(made["annotations"]["pad"], "xxx");
    names
        .define("I", "index of=M subject=M media=none")
        .unwrap();
    let made: serde_json::Value = serde_json::from_slice(&names.bytes("I").unwrap()).unwrap();
    assert_eq!(
        made["manifests"][0]["digest"],
        names.digest("M").unwrap().to_string()
    );
    assert!(made.get("mediaType").is_none());
}

#[test]
fn patterns() {
    for (pattern, text, want) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("a*c", "abcc", true),
        ("a*b*c", "axxbxxc", true),
        ("a*b*c", "axxcxxb", false),
        ("a*ä", "aöä", true),
    ] {
        assert_eq!(like(pattern, text), want, "{pattern} {text}");
    }
}
