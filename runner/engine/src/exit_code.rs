//! Lets a preview 1 module say its exit code.
//!
//! The adapter turns `proc_exit(3)` into `wasi:cli/exit.exit(err)`, which is exit code 1: it was written before
//! `exit-with-code` became stable in 0.2.12. Both functions take one `i32` in core Wasm, so it is enough to rename the
//! module's import and to tell wit-component about it.

use std::ops::Range;

use wasmparser::{Imports, Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const OLD: (&str, &str) = ("wasi_snapshot_preview1", "proc_exit");
const NEW: (&str, &str) = ("wasi:cli/exit@0.2.12", "exit-with-code");
/// The interface as in `wit/deps/cli`; it is merged with the adapter's, so it must be all of it.
const WIT: &str = "package wasi:cli@0.2.12;
interface exit { exit: func(status: result); exit-with-code: func(status-code: u8); }
world exiting { import exit; }";

/// The module with its exit import renamed, or `None` if it has none.
pub(crate) fn carry_exit_code(module: &[u8]) -> Option<Vec<u8>> {
    let (section, imports) = import_section(module)?;
    let mut renamed = Vec::new();
    write_u32(&mut renamed, u32::try_from(imports.len()).ok()?);
    let mut found = false;
    for import in imports {
        let names = if import.names == OLD {
            NEW
        } else {
            import.names
        };
        found |= import.names == OLD;
        for name in [names.0, names.1] {
            write_u32(&mut renamed, u32::try_from(name.len()).ok()?);
            renamed.extend_from_slice(name.as_bytes());
        }
        renamed.extend_from_slice(import.ty);
    }
    if !found {
        return None;
    }
    let mut out = module[..section.start].to_vec();
    out.push(2);
    write_u32(&mut out, u32::try_from(renamed.len()).ok()?);
    out.extend(renamed);
    out.extend_from_slice(&module[section.end..]);

    let mut resolve = Resolve::default();
    let package = resolve.push_str("exit.wit", WIT).ok()?;
    let world = resolve.select_world(&[package], Some("exiting")).ok()?;
    embed_component_metadata(&mut out, &resolve, world, StringEncoding::UTF8).ok()?;
    Some(out)
}

struct RawImport<'a> {
    names: (&'a str, &'a str),
    /// The type as encoded.
    ty: &'a [u8],
}

/// The import section's place (its id and length included) and its entries. `None` if there is none or it is not in
/// the plain encoding.
fn import_section(module: &[u8]) -> Option<(Range<usize>, Vec<RawImport<'_>>)> {
    for payload in Parser::new(0).parse_all(module) {
        let Payload::ImportSection(section) = payload.ok()? else {
            continue;
        };
        let body = section.range();
        let mut starts = Vec::new();
        let mut names = Vec::new();
        for group in section {
            let Imports::Single(at, import) = group.ok()? else {
                return None;
            };
            starts.push(at);
            names.push((import.module, import.name));
        }
        let ends = starts.iter().skip(1).copied().chain([body.end]);
        let mut imports = Vec::with_capacity(names.len());
        for ((start, end), names) in starts.iter().zip(ends).zip(names) {
            let entry = module.get(*start..end)?;
            imports.push(RawImport {
                names,
                ty: skip_string(skip_string(entry)?)?,
            });
        }
        return Some((header_start(module, &body)?..body.end, imports));
    }
    None
}

fn skip_string(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = read_u32(bytes)?;
    rest.get(length as usize..)
}

/// Where the section that has this body begins: its id is followed by its length in up to five bytes.
fn header_start(module: &[u8], body: &Range<usize>) -> Option<usize> {
    (2..=6)
        .filter_map(|back| body.start.checked_sub(back))
        .find(|start| {
            module[*start] == 2
                && read_u32(&module[start + 1..body.start])
                    .is_some_and(|(length, rest)| rest.is_empty() && length as usize == body.len())
        })
}

fn read_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0u32;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn write_u32(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exit_import_changes() {
        let wat = r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $e (param i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $e (i32.const 7))))"#;
        let module = wat::parse_str(wat).unwrap();
        let renamed = carry_exit_code(&module).unwrap();
        let (_, imports) = import_section(&renamed).unwrap();
        let names: Vec<_> = imports.iter().map(|i| i.names).collect();
        assert_eq!(names, [NEW, ("wasi_snapshot_preview1", "fd_close")]);
        wasmparser::Validator::new().validate_all(&renamed).unwrap();
        assert!(carry_exit_code(&renamed).is_none());
        assert!(carry_exit_code(&wat::parse_str("(module)").unwrap()).is_none());
    }
}
