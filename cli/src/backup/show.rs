//! Backups as people read them.

use std::path::Path;

use coracle_scheduler::backup::{Restored, Summary};
use serde_json::Value;

use crate::print;

/// Bytes in the unit that leaves at most three digits before the point.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// What a backup says about itself.
pub fn summary(file: &Path, s: &Summary, sha256: Option<&str>) -> String {
    let at = s.at.map_or_else(|| "-".into(), |at| at.to_string());
    let members: Vec<String> = s
        .members
        .iter()
        .map(|m| {
            let role = if m.voter { "" } else { ", learner" };
            format!("{} ({}{role})", or_dash(&m.name), m.id)
        })
        .collect();
    let mut lines = vec![
        ("cluster", or_dash(&s.cluster).to_string()),
        (
            "saved",
            format!(
                "{at} by {}, Coracle {}, format {}",
                or_dash(&s.member),
                or_dash(&s.version),
                s.format
            ),
        ),
        ("revision", s.revision.to_string()),
        ("log", format!("index {}, term {}", s.index, s.term)),
        ("members", members.join(", ")),
        ("objects", s.objects.to_string()),
        ("size", size(s.bytes)),
        ("state hash", s.hash.clone()),
    ];
    if let Some(sha256) = sha256 {
        lines.push(("sha256", sha256.into()));
    }
    let mut text = format!("{}\n", file.display());
    for (name, value) in lines {
        text.push_str(&format!("  {name:<11} {value}\n"));
    }
    if sha256.is_none() {
        let mut rows = vec![vec![
            "  TABLE".to_string(),
            "OBJECTS".into(),
            "BYTES".into(),
        ]];
        rows.extend(s.tables.iter().map(|t| {
            vec![
                format!("  {}", t.table),
                t.objects.to_string(),
                t.bytes.to_string(),
            ]
        }));
        text.push_str(&print::align(&rows));
    }
    text
}

/// A member's own backups, as the API lists them.
pub fn list(list: &Value) {
    let rows = list["backups"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value| match v {
        Value::String(s) => s.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    if rows.is_empty() {
        print::out(&format!("no backups in {} yet\n", text(&list["folder"])));
    } else {
        let mut table = vec![
            ["NAME", "SAVED", "REVISION", "OBJECTS", "SIZE"]
                .map(String::from)
                .to_vec(),
        ];
        table.extend(rows.iter().map(|r| {
            let bytes = r["bytes"].as_u64().map_or_else(|| "-".into(), size);
            vec![
                text(&r["name"]),
                text(&r["at"]),
                text(&r["revision"]),
                text(&r["objects"]),
                bytes,
            ]
        }));
        print::out(&print::align(&table));
    }
    for row in rows.iter().filter(|r| !r["error"].is_null()) {
        eprintln!("Warning: {}", text(&row["error"]));
    }
    if let Some(why) = list["schedule"]["error"].as_str() {
        eprintln!("Warning: the last backup was not saved: {why}");
    }
}

/// What a restore has made, and what to do next.
pub fn restored(file: &Path, r: &Restored) -> String {
    let at = r
        .from
        .at
        .map_or_else(String::new, |at| format!(", saved {at}"));
    format!(
        "restored {} objects into {}\n  \
         from      {} (cluster {}, revision {}{at})\n  \
         revision  {}: every watch of before lists again\n  \
         member    {} ({})\n\
         start it with `coracle scheduler --data-dir {}`\n\
         it begins a new cluster with a new id and a new CA: runners and members join again with new tokens\n\
         images are not in a backup: copy DATA/registry of an old member into {}, or push them again\n",
        r.objects,
        r.data_dir.display(),
        file.display(),
        or_dash(&r.from.cluster),
        r.from.revision,
        r.revision,
        r.name,
        r.id,
        r.data_dir.display(),
        r.data_dir.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_scheduler::backup::{Inside, Table};

    #[test]
    fn sizes_have_few_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 KiB"),
            (1_500_000, "1.4 MiB"),
            (5 << 30, "5.0 GiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_summary_reads_like_this() {
        let s = Summary {
            format: 2,
            cluster: "00000000000000c1".into(),
            member: "a".into(),
            version: "0.1.0".into(),
            at: Some("2026-11-22T10:00:00Z".parse().unwrap()),
            revision: 4711,
            term: 3,
            index: 4800,
            members: vec![
                Inside {
                    name: "a".into(),
                    id: "00000000000000a1".into(),
                    voter: true,
                },
                Inside {
                    name: "b".into(),
                    id: "00000000000000b2".into(),
                    voter: false,
                },
            ],
            hash: "0123456789abcdef".into(),
            objects: 12,
            bytes: 2048,
            tables: vec![
                Table {
                    table: "pods".into(),
                    objects: 10,
                    bytes: 1500,
                },
                Table {
                    table: "coracle.pki".into(),
                    objects: 2,
                    bytes: 99,
                },
            ],
        };
        let head = "f.backup\n  \
             cluster     00000000000000c1\n  \
             saved       2026-11-22T10:00:00Z by a, Coracle 0.1.0, format 2\n  \
             revision    4711\n  \
             log         index 4800, term 3\n  \
             members     a (00000000000000a1), b (00000000000000b2, learner)\n  \
             objects     12\n  \
             size        2.0 KiB\n  \
             state hash  0123456789abcdef\n";
        let table = "  TABLE         OBJECTS   BYTES\n  pods          10        1500\n  coracle.pki   2         99\n";
        assert_eq!(
            summary(Path::new("f.backup"), &s, None),
            format!("{head}{table}")
        );
        let checked = summary(Path::new("f.backup"), &s, Some("ab"));
        assert_eq!(checked, format!("{head}  sha256      ab\n"));
    }
}
