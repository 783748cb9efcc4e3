//! The registry as people read it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::backup;
use crate::print;

/// Members of a list; none if it is not one.
pub fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string, or nothing.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number of bytes in a unit, `-` if there is none.
pub fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), backup::size)
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), |n| n.to_string())
}

fn head<const N: usize>(columns: [&str; N]) -> Vec<Vec<String>> {
    vec![columns.map(str::to_owned).to_vec()]
}

/// `coracle registry usage`.
pub fn usage(answer: &Value) -> String {
    let mut namespaces = head([
        "NAMESPACE",
        "REPOSITORIES",
        "BLOBS",
        "MANIFESTS",
        "TAGS",
        "LOGICAL",
        "UNIQUE",
        "UPLOADS",
        "QUOTA",
    ]);
    namespaces.extend(rows(&answer["namespaces"]).map(|n| {
        vec![
            text(&n["namespace"]).into(),
            number(&n["repositories"]),
            number(&n["blobs"]),
            number(&n["manifests"]),
            number(&n["tags"]),
            bytes(&n["logicalBytes"]),
            bytes(&n["uniqueBytes"]),
            bytes(&n["uploadBytes"]),
            bytes(&n["quotaBytes"]),
        ]
    }));
    let mut repositories = head([
        "REPOSITORY",
        "BLOBS",
        "MANIFESTS",
        "TAGS",
        "LOGICAL",
        "UNIQUE",
    ]);
    repositories.extend(rows(&answer["repositories"]).map(|r| {
        vec![
            text(&r["repository"]).into(),
            number(&r["blobs"]),
            number(&r["manifests"]),
            number(&r["tags"]),
            bytes(&r["logicalBytes"]),
            bytes(&r["uniqueBytes"]),
        ]
    }));
    format!(
        "{}\n{}\n{} in {} blobs and manifests on a member's disk\n",
        print::align(&namespaces),
        print::align(&repositories),
        bytes(&answer["bytes"]),
        number(&answer["digests"])
    )
}

/// `coracle registry gc`.
pub fn gc(answer: &Value, dry: bool) -> String {
    let mut table = head([
        "MEMBER",
        "TAGS",
        "MANIFESTS",
        "LINKS",
        "UPLOADS",
        "BLOBS",
        "BYTES",
        "IN USE",
        "CONFLICTS",
    ]);
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for m in rows(&answer["members"]) {
        let report = &m["report"];
        table.push(vec![
            text(&m["member"]).into(),
            number(&report["tagsRemoved"]),
            number(&report["manifestsRemoved"]),
            number(&report["linksRemoved"]),
            number(&report["uploadsExpired"]),
            number(&report["blobsRemoved"]),
            bytes(&report["bytesRemoved"]),
            number(&report["promised"]),
            number(&report["conflicts"]),
        ]);
        for list in ["tags", "manifests"] {
            named.extend(rows(&report[list]).map(text));
        }
    }
    let (what, word) = match dry {
        true => ("would be removed (dry run)", "would remove"),
        false => ("removed", "removed"),
    };
    let mut out = format!("{what}:\n{}", print::align(&table));
    for name in named {
        out.push_str(&format!("{word} {name}\n"));
    }
    out
}

/// `coracle registry scrub`.
pub fn scrub(answer: &Value) -> String {
    let mut table = head([
        "MEMBER", "CHECKED", "BYTES", "CORRUPT", "MISSING", "HEALED", "PENDING", "LOST",
    ]);
    let mut lines: BTreeSet<String> = BTreeSet::new();
    for m in rows(&answer["members"]) {
        let report = &m["status"]["report"];
        table.push(vec![
            text(&m["member"]).into(),
            number(&report["checked"]),
            bytes(&report["bytes"]),
            number(&report["corrupt"]),
            number(&report["missing"]),
            number(&report["healed"]),
            number(&report["pending"]),
            number(&report["lost"]),
        ]);
        lines.extend(rows(&report["lostBlobs"]).map(|lost| {
            let repositories: Vec<&str> = rows(&lost["repositories"]).map(text).collect();
            format!(
                "lost {} ({}), needed by {}\n",
                text(&lost["digest"]),
                bytes(&lost["size"]),
                repositories.join(", ")
            )
        }));
    }
    let mut out = print::align(&table);
    out.extend(lines);
    out
}

/// Blobs that are lost: the most that any member has found, for each looks at all of them.
pub fn lost(answer: &Value) -> u64 {
    rows(&answer["members"])
        .filter_map(|m| m["status"]["report"]["lost"].as_u64())
        .max()
        .unwrap_or_default()
}

/// `coracle registry quota get`.
pub fn quotas(quotas: &Value) -> String {
    let mut table = head(["NAMESPACE", "QUOTA"]);
    for (namespace, quota) in quotas.as_object().into_iter().flatten() {
        table.push(vec![namespace.clone(), bytes(quota)]);
    }
    print::align(&table)
}

/// A number of seconds in the largest unit that needs no fraction.
fn age(value: &Value) -> String {
    let Some(seconds) = value.as_u64() else {
        return "-".into();
    };
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds > 0 && seconds % length == 0 {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

/// `coracle registry retention get`.
pub fn policies(policies: &Value) -> String {
    let mut table = head([
        "NAME",
        "REPOSITORIES",
        "TAGS",
        "KEEP",
        "NEWEST",
        "OLDER THAN",
        "UNTAGGED",
    ]);
    let list = |value: &Value, none: &str| {
        let all: Vec<&str> = rows(value).map(text).collect();
        match all.is_empty() {
            true => none.to_owned(),
            false => all.join(","),
        }
    };
    for (name, policy) in policies.as_object().into_iter().flatten() {
        table.push(vec![
            name.clone(),
            list(&policy["repositories"], "-"),
            list(&policy["tags"], "*"),
            list(&policy["keep"], "-"),
            number(&policy["newest"]),
            age(&policy["olderThanSeconds"]),
            age(&policy["untaggedOlderThanSeconds"]),
        ]);
    }
    print::align(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables() {
        let used = json!({
            "namespaces": [{"namespace": "demo", "repositories": 1, "blobs": 2, "manifests": 1, "tags": 1,
                "logicalBytes": 2048, "uniqueBytes": 1, "uploadBytes": 0, "quotaBytes": null}],
            "repositories": [{"repository": "demo/a", "blobs": 2, "manifests": 1, "tags": 1,
                "logicalBytes": 2048, "uniqueBytes": 1}],
            "bytes": 2048, "digests": 3,
        });
        assert_eq!(
            usage(&used),
            "NAMESPACE   REPOSITORIES   BLOBS   MANIFESTS   TAGS   LOGICAL   UNIQUE   UPLOADS   QUOTA\n\
             demo        1              2       1           1      2.0 KiB   1 B      0 B       -\n\
             \n\
             REPOSITORY   BLOBS   MANIFESTS   TAGS   LOGICAL   UNIQUE\n\
             demo/a       2       1           1      2.0 KiB   1 B\n\
             \n\
             2.0 KiB in 3 blobs and manifests on a member's disk\n"
        );
        let done = json!({"members": [
            {"member": "a", "report": {"tagsRemoved": 1, "tags": ["demo/a:v1"], "manifestsRemoved": 0,
                "linksRemoved": 2, "uploadsExpired": 0, "blobsRemoved": 1, "bytesRemoved": 10, "promised": 0, "conflicts": 0}},
            {"member": "b", "error": "no connection"},
        ]});
        assert_eq!(
            gc(&done, true),
            "would be removed (dry run):\n\
             MEMBER   TAGS   MANIFESTS   LINKS   UPLOADS   BLOBS   BYTES   IN USE   CONFLICTS\n\
             a        1      0           2       0         1       10 B    0        0\n\
             b        -      -           -       -         -       -       -        -\n\
             would remove demo/a:v1\n"
        );
        let blob = json!({"digest": "sha256:aa", "size": 3, "repositories": ["demo/a", "demo/b"]});
        let scrubbed = json!({"members": [
            {"member": "a", "status": {"report": {"checked": 3, "bytes": 9, "corrupt": 1, "missing": 0,
                "healed": 0, "pending": 0, "lost": 1, "lostBlobs": [blob]}}},
            {"member": "b", "status": {"report": {"checked": 4, "bytes": 12, "corrupt": 0, "missing": 0,
                "healed": 0, "pending": 0, "lost": 0, "lostBlobs": []}}},
        ]});
        assert_eq!(
            scrub(&scrubbed),
            "MEMBER   CHECKED   BYTES   CORRUPT   MISSING   HEALED   PENDING   LOST\n\
             a        3         9 B     1         0         0        0         1\n\
             b        4         12 B    0         0         0        0         0\n\
             lost sha256:aa (3 B), needed by demo/a, demo/b\n"
        );
        assert_eq!(lost(&scrubbed), 1);
        assert_eq!(
            quotas(&json!({"demo": 1024})),
            "NAMESPACE   QUOTA\ndemo        1.0 KiB\n"
        );
        let rules = json!({"old": {"repositories": ["demo/**"], "keep": ["v*", "latest"], "newest": 3,
            "olderThanSeconds": 2_592_000, "untaggedOlderThanSeconds": 90}});
        assert_eq!(
            policies(&rules),
            "NAME   REPOSITORIES   TAGS   KEEP        NEWEST   OLDER THAN   UNTAGGED\n\
             old    demo/**        *      v*,latest   3        30d          90s\n"
        );
    }
}
