//! Repository names, tags and upload ids against the regular expressions of the specification.

use std::path::{Component, Path};

use super::{Target, grammar, texts};
use crate::name::{Name, Tag};
use crate::upload::UploadId;

pub(super) const TARGET: Target = Target {
    name: "names",
    seeds,
    words: &[
        "/",
        ".",
        "_",
        "__",
        "-",
        "--",
        "..",
        "//",
        "%2f",
        "@",
        ":",
        "\\",
        "\0",
        "\n",
        "A",
        "é",
        "manifests",
        "sha256",
    ],
    check,
};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "a",
        "demo/hello-world",
        "a.b_c__d---e/0/x",
        "blobs/uploads",
        "0/manifests/tags/list",
        "v1.2.3-rc_1",
        "_x",
        "UPPER",
        "",
        "a/../b",
        "a._b",
        "a___b",
        "a/",
        "a\n",
        "00112233445566778899aabbccddeeff",
    ]);
    for len in [127, 128, 129, 254, 255, 256] {
        seeds.push(vec![b'a'; len]);
        seeds.push("a/".repeat(len / 2).into_bytes());
        seeds.push("a-".repeat(len / 2 + 1).into_bytes()[..len].to_vec());
    }
    seeds
}

fn check(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let name = text.parse::<Name>();
    assert_eq!(name.is_ok(), grammar::is_name(text), "name {text:?}");
    match &name {
        Ok(name) => printed_name(name, text),
        // A refusal is shown to a person: whatever was sent, it stays short.
        Err(error) => assert!(error.to_string().len() < 640, "{error}"),
    }
    let tag = text.parse::<Tag>();
    assert_eq!(tag.is_ok(), grammar::is_tag(text), "tag {text:?}");
    if let Ok(tag) = &tag {
        assert_eq!(tag.as_str(), text);
        assert_eq!(tag.to_string(), text);
        assert_eq!(String::from(tag.clone()), text);
        let json = serde_json::to_string(tag).expect("a tag is a string");
        assert_eq!(serde_json::from_str::<Tag>(&json).ok().as_ref(), Some(tag));
        // A tag and a digest never look alike: one text means one thing in a manifest's path.
        assert!(!text.contains(':') && !text.contains('/'));
    }
    let id = text.parse::<UploadId>();
    assert_eq!(id.is_ok(), grammar::is_upload_id(text), "id {text:?}");
    if let Ok(id) = &id {
        assert_eq!(id.to_string(), text);
        let bits = u128::from_str_radix(text, 16).expect("an id is 32 hex digits");
        assert_eq!(&UploadId::from_bits(bits), id);
    }
    name.is_ok() || tag.is_ok()
}

fn printed_name(name: &Name, text: &str) {
    assert_eq!(name.as_str(), text);
    assert_eq!(name.to_string(), text);
    assert_eq!(String::from(name.clone()), text);
    let json = serde_json::to_string(name).expect("a name is a string");
    let back = serde_json::from_str::<Name>(&json).ok();
    assert_eq!(back.as_ref(), Some(name));
    // The safety argument of the module: as a path it goes down and nowhere else, and the separators of row keys are
    // not in it.
    let down = |part| matches!(part, Component::Normal(_));
    assert!(Path::new(text).components().all(down), "{text:?}");
    assert!(!text.contains(['@', ':', '%', '\\', '\0', ' ']), "{text:?}");
}
