//! `Accept`: which shape of an answer the client wants. Bodies are always JSON; a client that would rather have
//! protobuf names JSON second, and client-go chooses its decoder by the Content-Type we send.

use coracle_api::{ApiError, Kind, Timestamp, table};
use serde_json::{Value, json};

/// The shape of an object or list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Object,
    /// A `Table` made by the server, in this version of meta.k8s.io.
    Table(&'static str),
    /// Only metadata, in this version of meta.k8s.io.
    Metadata(&'static str),
}

/// What a Table row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    Nothing,
    /// PartialObjectMetadata.
    Metadata,
    /// The object.
    Object,
}

/// One media range of an Accept header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// `application/json`, `*/*`.
    pub range: String,
    /// Parameters by name.
    pub parameters: Vec<(String, String)>,
}

impl Media {
    /// A parameter's value, or "".
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v)
    }

    /// Whether JSON satisfies the range.
    pub fn takes_json(&self) -> bool {
        matches!(
            self.range.as_str(),
            "application/json" | "application/*" | "*/*"
        )
    }
}

/// Parses an Accept header; an absent or empty one accepts everything.
pub fn accept(header: Option<&str>) -> Vec<Media> {
    let header = header
        .map(str::trim)
        .filter(|h| !h.is_empty())
        .unwrap_or("*/*");
    header
        .split(',')
        .map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters = parts
                .filter_map(|p| p.split_once('='))
                .map(|(n, v)| {
                    (
                        n.trim().to_ascii_lowercase(),
                        v.trim().trim_matches('"').to_string(),
                    )
                })
                .collect();
            Media { range, parameters }
        })
        .filter(|m| !m.range.is_empty())
        .collect()
}

/// The first shape in the client's order that we can make.
pub fn shape(accepted: &[Media]) -> Result<Shape, ApiError> {
    for media in accepted {
        let version = match media.parameter("v") {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        };
        let meta = media.parameter("g") == "meta.k8s.io";
        match (media.takes_json(), media.parameter("as"), version) {
            (true, "", _) => return Ok(Shape::Object),
            (true, "Table", Some(v)) if meta => return Ok(Shape::Table(v)),
            (true, "PartialObjectMetadata" | "PartialObjectMetadataList", Some(v)) if meta => {
                return Ok(Shape::Metadata(v));
            }
            _ => {}
        }
    }
    // Protobuf alone: JSON with its Content-Type is what every Kubernetes client can still read.
    if accepted.iter().any(|m| {
        m.range.starts_with("application/vnd.kubernetes.protobuf") && m.parameter("as").is_empty()
    }) {
        return Ok(Shape::Object);
    }
    Err(ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    ))
}

/// `includeObject` of a Table request.
pub fn include(parameter: Option<&str>) -> Result<Include, ApiError> {
    match parameter {
        None | Some("Metadata") => Ok(Include::Metadata),
        Some("None") => Ok(Include::Nothing),
        Some("Object") => Ok(Include::Object),
        Some(other) => Err(ApiError::bad_request(format!(
            "includeObject: {other:?} is not supported, use None, Metadata or Object"
        ))),
    }
}

/// Only the metadata of an object.
pub fn metadata_only(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"]})
}

/// A row of a Table.
pub fn row(kind: &Kind, object: &Value, version: &str, include: Include, now: Timestamp) -> Value {
    let mut row = json!({"cells": table::cells(kind, object, now)});
    match include {
        Include::Nothing => {}
        Include::Metadata => row["object"] = metadata_only(object, version),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// A Table around rows. A watch sends columns in its first event only.
pub fn table_of(
    kind: &Kind,
    version: &str,
    metadata: Value,
    rows: Vec<Value>,
    columns: bool,
) -> Value {
    let columns = if columns {
        json!(table::columns(kind))
    } else {
        json!([])
    };
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

/// One object in the wanted shape.
pub fn object(kind: &Kind, object: Value, shape: Shape, include: Include, now: Timestamp) -> Value {
    match shape {
        Shape::Object => object,
        Shape::Metadata(version) => metadata_only(&object, version),
        Shape::Table(version) => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            table_of(
                kind,
                version,
                metadata,
                vec![row(kind, &object, version, include, now)],
                true,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_shape_we_can_make_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (header, want) in [
            (None, Shape::Object),
            (Some(table), Shape::Table("v1")),
            (
                Some("application/vnd.kubernetes.protobuf,application/json"),
                Shape::Object,
            ),
            (Some("application/vnd.kubernetes.protobuf"), Shape::Object),
            (
                Some("application/json;as=Table;v=v2;g=meta.k8s.io,*/*"),
                Shape::Object,
            ),
            (
                Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
                Shape::Metadata("v1"),
            ),
            (Some("text/html, */*;q=0.8"), Shape::Object),
        ] {
            assert_eq!(shape(&accept(header)).unwrap(), want, "{header:?}");
        }
        assert_eq!(
            shape(&accept(Some(
                "application/json;as=Table;v=v9;g=meta.k8s.io"
            )))
            .unwrap_err()
            .code,
            406
        );
    }
}
