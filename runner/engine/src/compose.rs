//! Joins a component with the siblings of its pod that export what it imports.
//!
//! Composition happens before compiling: calls between the parts become direct calls in one artifact with one store.
//! Each container that runs is the root of its own composition; a sibling it needs is instantiated once inside, however
//! many parts use it. Imports of the host (`wasi:*`) stay imports.

use std::collections::BTreeMap;

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

use crate::componentize::componentize;
use crate::hosted::satisfies;
use crate::problem::BadWasm;

/// Composes `root` (the name of one of `parts`) with the parts it needs. `None` if it needs none of them.
///
/// # Errors
/// `E_COMPOSE_AMBIGUOUS` if two siblings export the same interface, `E_COMPOSE_CYCLE` if parts import each other,
/// `E_COMPOSE_TYPES` if an export does not fit the import, `E_COMPOSE` for anything else.
pub fn compose(root: &str, parts: &[(&str, &[u8])]) -> Result<Option<Vec<u8>>, BadWasm> {
    let mut pod = Pod::new(parts)?;
    let Some(start) = pod.parts.iter().position(|part| part.name == root) else {
        return Err(broken(format!("the pod has no part called `{root}`")));
    };
    let node = pod.instantiate(start, &mut Vec::new())?;
    if pod.links == 0 {
        return Ok(None);
    }
    for export in pod.parts[start].exports.clone() {
        let alias = pod
            .graph
            .alias_instance_export(node, &export)
            .map_err(|e| broken(e.to_string()))?;
        pod.graph
            .export(alias, &export)
            .map_err(|e| broken(e.to_string()))?;
    }
    pod.graph
        .encode(EncodeOptions {
            validate: false,
            ..EncodeOptions::default()
        })
        .map(Some)
        .map_err(|e| broken(chain(&e)))
}

struct Part {
    name: String,
    package: PackageId,
    imports: Vec<String>,
    exports: Vec<String>,
}

struct Pod {
    graph: CompositionGraph,
    parts: Vec<Part>,
    nodes: BTreeMap<usize, NodeId>,
    links: usize,
}

impl Pod {
    fn new(parts: &[(&str, &[u8])]) -> Result<Pod, BadWasm> {
        let mut pod = Pod {
            graph: CompositionGraph::new(),
            parts: Vec::new(),
            nodes: BTreeMap::new(),
            links: 0,
        };
        for (index, (name, bytes)) in parts.iter().enumerate() {
            let package = Package::from_bytes(
                &format!("pod:part{index}"),
                None,
                componentize(bytes)?,
                pod.graph.types_mut(),
            )
            .map_err(|e| broken(format!("`{name}`: {e:#}")))?;
            let world = &pod.graph.types()[package.ty()];
            let imports = world.imports.keys().cloned().collect();
            let exports = world.exports.keys().cloned().collect();
            let package = pod
                .graph
                .register_package(package)
                .map_err(|e| broken(e.to_string()))?;
            pod.parts.push(Part {
                name: (*name).to_string(),
                package,
                imports,
                exports,
            });
        }
        Ok(pod)
    }

    /// Instantiates a part after the parts it needs; `path` is the chain of parts being instantiated.
    fn instantiate(&mut self, part: usize, path: &mut Vec<usize>) -> Result<NodeId, BadWasm> {
        if let Some(node) = self.nodes.get(&part) {
            return Ok(*node);
        }
        if path.contains(&part) {
            let names: Vec<&str> = path
                .iter()
                .chain([&part])
                .map(|p| self.parts[*p].name.as_str())
                .collect();
            return Err(BadWasm::new(
                "E_COMPOSE_CYCLE",
                format!(
                    "containers import each other in a circle: {}",
                    names.join(" → ")
                ),
                "Put them into two pods and let one call the other over HTTP",
            ));
        }
        path.push(part);
        let mut arguments = Vec::new();
        for import in self.parts[part].imports.clone() {
            if let Some((provider, export)) = self.provider(part, &import)? {
                arguments.push((import, self.instantiate(provider, path)?, export));
            }
        }
        path.pop();
        let node = self.graph.instantiate(self.parts[part].package);
        for (import, provider, export) in arguments {
            let alias = self
                .graph
                .alias_instance_export(provider, &export)
                .map_err(|e| broken(e.to_string()))?;
            self.graph
                .set_instantiation_argument(node, &import, alias)
                .map_err(|e| {
                    BadWasm::new(
                        "E_COMPOSE_TYPES",
                        format!(
                            "`{export}` does not fit what `{}` imports: {}",
                            self.parts[part].name,
                            chain(&e)
                        ),
                        "Build both components from the same version of the WIT package",
                    )
                })?;
            self.links += 1;
        }
        self.nodes.insert(part, node);
        Ok(node)
    }

    fn provider(&self, importer: usize, import: &str) -> Result<Option<(usize, String)>, BadWasm> {
        if import.starts_with("wasi:") {
            return Ok(None);
        }
        let mut found: Vec<(usize, &String)> = Vec::new();
        for (index, part) in self
            .parts
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != importer)
        {
            found.extend(
                part.exports
                    .iter()
                    .filter(|e| satisfies(e, import))
                    .map(|e| (index, e)),
            );
        }
        match found.as_slice() {
            [] => Ok(None),
            [(index, export)] => Ok(Some((*index, (*export).clone()))),
            several => {
                let names: Vec<&str> = several
                    .iter()
                    .map(|(index, _)| self.parts[*index].name.as_str())
                    .collect();
                Err(BadWasm::new(
                    "E_COMPOSE_AMBIGUOUS",
                    format!(
                        "`{import}` is exported by several containers: {}",
                        names.join(", ")
                    ),
                    "Leave one of them in the pod",
                ))
            }
        }
    }
}

fn broken(why: String) -> BadWasm {
    BadWasm::new(
        "E_COMPOSE",
        format!("the containers of the pod could not be composed: {why}"),
        "Check the WIT of the components",
    )
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
