//! The schemas in the form that requests walk: every type once, its shape decided, its fields found by binary search.
//!
//! Every write walks its object several times (decoding, pruning, ownership). Doing that over the JSON of the schemas
//! compared strings for each step of the way: about a tenth of what a small write cost the server.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::{REFERENCE, REGISTRY, Shape};

/// One type.
#[derive(Debug)]
pub(super) struct Type {
    /// OpenAPI name, "" for an anonymous one.
    pub name: &'static str,
    /// What its values are.
    pub shape: Shape,
    /// Fields of a struct and their types, sorted by name.
    pub fields: Vec<(&'static str, usize)>,
    /// The type of a map's values.
    pub values: Option<usize>,
    /// The type of a list's items.
    pub items: Option<usize>,
}

/// All types. They refer to each other by their places, because some contain themselves.
#[derive(Debug, Default)]
pub(super) struct Types {
    /// Every type.
    pub all: Vec<Type>,
    /// Places of the named ones.
    pub named: BTreeMap<&'static str, usize>,
}

/// Immutable once made, like the schemas it is made from.
pub(super) static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let mut types = Types::default();
    let definitions = &REGISTRY.definitions;
    // Named ones first, so that references find their places.
    for name in definitions.keys() {
        types.named.insert(name, types.all.len());
        types.all.push(empty(name));
    }
    for (at, schema) in definitions.values().enumerate() {
        types.fill(at, schema);
    }
    types
});

fn empty(name: &'static str) -> Type {
    Type {
        name,
        shape: Shape::Any,
        fields: Vec::new(),
        values: None,
        items: None,
    }
}

impl Types {
    fn fill(&mut self, at: usize, schema: &'static Value) {
        self.all[at].shape = shape(self.all[at].name, schema);
        let fields = schema["properties"].as_object().into_iter().flatten();
        let mut fields: Vec<_> = fields
            .map(|(name, below)| (name.as_str(), self.place(below)))
            .collect();
        fields.sort_unstable();
        self.all[at].fields = fields;
        self.all[at].values = schema
            .get("additionalProperties")
            .map(|below| self.place(below));
        self.all[at].items = schema.get("items").map(|below| self.place(below));
    }

    /// Where the type of a schema is: the one it refers to, or a new one of its own.
    fn place(&mut self, schema: &'static Value) -> usize {
        let reference = schema["$ref"]
            .as_str()
            .and_then(|r| r.strip_prefix(REFERENCE));
        if let Some(name) = reference {
            if let Some(at) = self.named.get(name) {
                return *at;
            }
            // A reference to nothing: anything may stand there.
            self.all.push(empty(name));
            return self.all.len() - 1;
        }
        self.all.push(empty(""));
        let at = self.all.len() - 1;
        self.fill(at, schema);
        at
    }
}

fn shape(name: &str, schema: &Value) -> Shape {
    if name.ends_with(".resource.Quantity") {
        return Shape::Quantity;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return Shape::IntOrString;
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("object"), _) if schema["properties"].is_object() => Shape::Struct,
        (Some("object"), _) if schema["additionalProperties"].is_object() => Shape::Map,
        (Some("array"), _) => Shape::List,
        (Some("string"), Some("date-time")) => Shape::Time,
        (Some("string"), Some("byte")) => Shape::Bytes,
        (Some("string"), _) => Shape::Text,
        (Some("integer"), format) => Shape::Integer {
            short: format == Some("int32"),
        },
        (Some("number"), _) => Shape::Number,
        (Some("boolean"), _) => Shape::Bool,
        _ => Shape::Any,
    }
}
