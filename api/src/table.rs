//! Columns.
use jiff::Timestamp;
use serde_json::Value;
use crate::Kind;
/// A column of a `Table`; serialises as TableColumnDefinition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`, ...
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// Help text.
    pub description: &'static str,
    /// 0 shown always, 1 with `-o wide`.
    pub priority: i32,
}
/// The columns of a kind.
pub fn columns(kind: &Kind) -> Vec<Column> { let _ = kind; Vec::new() }
/// The cells of an object.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> { let _ = (kind, object, now); Vec::new() }
/// `5m12s`, `3h`, `2d`.
pub fn age(now: Timestamp, then: Timestamp) -> String { let _ = (now, then); String::new() }
