//! Containers of a pod linked to each other.

use std::collections::BTreeSet;

use coracle_engine::{CallContext, RunOptions, compose, inspect};

use crate::guests::component_of;
use crate::setup::*;

const WIT: &str = "
package acme:math@1.0.0;
interface add { add: func(a: u32, b: u32) -> u32; }
interface wrong { other: func(); }
world library { export add; }
world user { import add; export run; }
interface run { run: func() -> result; }
";

fn library() -> Vec<u8> {
    let wat = r#"(module (func (export "acme:math/add@1.0.0#add") (param i32 i32) (result i32)
        (i32.add (local.get 0) (local.get 1))))"#;
    component_of(wat, WIT, "library")
}

/// Exits well if 20 + 22 is 42 by the sibling.
fn user() -> Vec<u8> {
    let wit = "
package acme:user;
world user { import acme:math/add@1.0.0; export wasi:cli/run@0.2.12; }
package acme:math@1.0.0 { interface add { add: func(a: u32, b: u32) -> u32; } }
package wasi:cli@0.2.12 { interface run { run: func() -> result; } }
";
    let wat = r#"(module
        (import "acme:math/add@1.0.0" "add" (func $add (param i32 i32) (result i32)))
        (func (export "wasi:cli/run@0.2.12#run") (result i32)
          (i32.ne (call $add (i32.const 20) (i32.const 22)) (i32.const 42))))"#;
    component_of(wat, wit, "user")
}

#[test]
fn an_import_is_met_by_a_sibling() {
    let (library, user) = (library(), user());
    assert_eq!(
        inspect(&user, &BTreeSet::new()).unwrap_err().code(),
        "E_UNKNOWN_IMPORT"
    );
    let exports = inspect(&library, &BTreeSet::new()).unwrap().exports;
    assert_eq!(exports, ["acme:math/add@1.0.0"]);
    inspect(&user, &exports.into_iter().collect()).unwrap();

    let composed = compose("main", &[("main", &user), ("lib", &library)])
        .unwrap()
        .unwrap();
    inspect(&composed, &BTreeSet::new()).unwrap();
    on_one_thread(async {
        let replica = replica(&composed, |_| {}).await;
        assert_eq!(
            replica
                .run(CallContext::default(), RunOptions::default())
                .await
                .unwrap()
                .code,
            0
        );
    });
}

#[test]
fn parts_that_need_nothing_stay_as_they_are() {
    let (library, hello) = (library(), sample("hello"));
    assert_eq!(
        compose("hello", &[("hello", &hello), ("lib", &library)]).unwrap(),
        None
    );
}

#[test]
fn two_providers_and_circles_are_refused() {
    let (library, user) = (library(), user());
    let error = compose("main", &[("main", &user), ("a", &library), ("b", &library)]).unwrap_err();
    assert_eq!(error.code(), "E_COMPOSE_AMBIGUOUS");
    assert!(error.message().contains("a, b"), "{error}");

    let wit = |own: &str, other: &str| {
        format!(
            "package t:{own}; interface x {{ f: func(); }} world w {{ import t:{other}/x; export x; }} \
                 package t:{other} {{ interface x {{ f: func(); }} }}"
        )
    };
    let part = |own: &str, other: &str| {
        let wat = format!(
            r#"(module (import "t:{other}/x" "f" (func $f)) (func (export "t:{own}/x#f") (call $f)))"#
        );
        component_of(&wat, &wit(own, other), "w")
    };
    let (left, right) = (part("left", "right"), part("right", "left"));
    let error = compose("l", &[("l", &left), ("r", &right)]).unwrap_err();
    assert_eq!(error.code(), "E_COMPOSE_CYCLE");
    assert!(error.message().contains("l → r → l"), "{error}");
}

#[test]
fn an_export_of_another_type_is_refused() {
    let wit = "package acme:math@1.0.0; interface add { add: func(a: string) -> u32; } world library { export add; }";
    let wat = r#"(module (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export "acme:math/add@1.0.0#add") (param i32 i32) (result i32) (i32.const 0)))"#;
    let error = compose(
        "main",
        &[
            ("main", &user()),
            ("lib", &component_of(wat, wit, "library")),
        ],
    )
    .unwrap_err();
    assert_eq!(error.code(), "E_COMPOSE_TYPES");
}
