//! Output forms: JSON, YAML, names and the server's tables.

use coracle_api::{doc, kinds, meta};
use serde_json::Value;

use crate::args::Output;
use crate::objects;

/// Writes to standard output; a closed pipe ends the process quietly, as Unix tools do.
pub fn out(text: &str) {
    use std::io::Write;
    let mut o = anstream::stdout().lock();
    if o.write_all(text.as_bytes())
        .and_then(|()| o.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Prints an object or list in a machine form; tables are not this function's.
pub fn object(value: &Value, form: Output) {
    match form {
        Output::Json => out(&format!(
            "{}\n",
            serde_json::to_string_pretty(value).unwrap_or_default()
        )),
        Output::Yaml => out(&doc::write_yaml(value)),
        Output::Name | Output::Wide => {
            let items: Vec<&Value> = match value["items"].as_array() {
                Some(items) => items.iter().collect(),
                None => vec![value],
            };
            for item in items {
                let kind = kinds::by_type(
                    item["apiVersion"].as_str().unwrap_or_default(),
                    item["kind"].as_str().unwrap_or_default(),
                );
                let word = kind.map_or_else(
                    || meta::name(item).to_string(),
                    |k| objects::word(k, meta::name(item)),
                );
                out(&format!("{word}\n"));
            }
        }
    }
}

/// Lines of a server table: the header if wanted, then the rows, columns padded as kubectl does.
pub fn table(
    table: &Value,
    wide: bool,
    namespaces: bool,
    header: bool,
    prefix: Option<&str>,
) -> String {
    let columns: Vec<(usize, String)> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, c)| wide || c["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(i, c)| (i, c["name"].as_str().unwrap_or_default().to_uppercase()))
        .collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    if header {
        let mut row: Vec<String> = if namespaces {
            vec!["NAMESPACE".into()]
        } else {
            Vec::new()
        };
        row.extend(columns.iter().map(|(_, n)| n.clone()));
        rows.push(row);
    }
    for r in table["rows"].as_array().into_iter().flatten() {
        let mut row = if namespaces {
            vec![meta::namespace(&r["object"]).to_string()]
        } else {
            Vec::new()
        };
        for (n, (i, _)) in columns.iter().enumerate() {
            let text = match &r["cells"][*i] {
                Value::String(s) => s.clone(),
                Value::Null => "<none>".into(),
                other => other.to_string(),
            };
            row.push(match prefix {
                Some(p) if n == 0 => format!("{p}/{text}"),
                _ => text,
            });
        }
        rows.push(row);
    }
    align(&rows)
}

/// Pads columns to their widest cell, three spaces between them.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| {
            rows.iter()
                .filter_map(|r| r.get(i))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if i + 1 < row.len() {
                line.push_str(&" ".repeat(widths[i] + 3 - cell.chars().count()));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
