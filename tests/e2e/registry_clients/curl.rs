//! curl: the protocol by hand.

use super::*;

/// Where a session that was just begun is.
fn location(head: &str) -> String {
    let found = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location")
            .then(|| value.trim().to_owned())
    });
    found.unwrap_or_else(|| panic!("no Location in {head}"))
}

#[test]
fn curl_pushes_and_pulls() {
    let Some(program) = client("curl") else {
        return;
    };
    let c = Cluster::up(None);
    let curl = Tool {
        program,
        cluster: &c,
    };
    let base = format!("http://{}", c.registry());
    let bytes = noise(3 << 20);
    c.write("blob", &bytes);
    let d = digest(&bytes);
    let quiet = ["-sS", "--max-time", "60"];
    let status = |args: &[&str]| {
        let asked = [&quiet[..], &["-w", "%{http_code}"], args].concat();
        curl.says(&asked)
    };
    let begin = || {
        let uploads = format!("{base}/v2/demo/c/blobs/uploads/");
        let asked = [
            &quiet[..],
            &["-D", "-", "-o", "body", "-X", "POST", &uploads],
        ]
        .concat();
        location(&curl.says(&asked))
    };
    assert_eq!(status(&["-o", "body", &format!("{base}/v2/")]), "200");
    let session = begin();
    let joiner = if session.contains('?') { '&' } else { '?' };
    let wrong = format!("{base}{session}{joiner}digest={}", digest(b"other"));
    assert_eq!(status(&["-o", "body", "-T", "blob", &wrong]), "400");
    let refusal = String::from_utf8(curl.file("body")).unwrap();
    assert!(refusal.contains("DIGEST_INVALID"), "{refusal}");

    let right = format!("{base}{}{joiner}digest={d}", begin());
    assert_eq!(status(&["-o", "body", "-T", "blob", &right]), "201");
    let blob = format!("{base}/v2/demo/c/blobs/{d}");
    assert_eq!(status(&["-o", "got", &blob]), "200");
    assert_eq!(curl.file("got"), bytes);
    assert_eq!(status(&["-o", "part", "-r", "10-19", &blob]), "206");
    assert_eq!(curl.file("part"), bytes[10..20]);
    // A download that was cut goes on where it ended.
    c.write("resumed", &bytes[..1_000_000]);
    assert_eq!(status(&["-o", "resumed", "-C", "-", &blob]), "206");
    assert_eq!(curl.file("resumed"), bytes);
    let climbing = format!("{base}/v2/../etc/blobs/{d}");
    let answer = status(&["-o", "body", "--path-as-is", &climbing]);
    assert!(answer.starts_with('4'), "{answer}");
}
