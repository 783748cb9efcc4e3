//! Guests as WAT.

use std::path::Path;
use std::sync::LazyLock;

use coracle_engine::componentize;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module with the given world of `wit/`, as a component.
pub fn component(wat: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(Path::new(crate::WIT_DIR)).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    componentize(&module).unwrap()
}

/// A core module with a world given as WIT text, as a component.
pub fn component_of(wat: &str, wit: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("test.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    componentize(&module).unwrap()
}

/// A service that does what the second character of its path says:
/// `h` answer, `t` trap, `l` loop, `m` eat memory, `n` return without an answer, `d` answer and then loop, `c` count
/// requests of this instance, `p` print for ever, anything else answers too.
pub fn service() -> &'static [u8] {
    static SERVICE: LazyLock<Vec<u8>> = LazyLock::new(|| component(SERVICE_WAT, "service"));
    &SERVICE
}

/// The source of [`service`].
pub const SERVICE_WAT: &str = r#"
(module
  (import "wasi:http/types@0.2.12" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.12" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
    (func $print (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $close (param i32)))
  (import "wasi:http/types@0.2.12" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))
  (global $count (mut i32) (i32.const 0))
  (data (i32.const 1024) "Hello, world!\n")
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $new)))
    (local.get $at))
  (func $answer (param $out i32) (param $from i32) (param $length i32) (param $stay i32)
    (local $response i32) (local $body i32) (local $stream i32)
    (local.set $response (call $response (call $fields)))
    (call $body (local.get $response) (i32.const 0))
    (local.set $body (i32.load (i32.const 4)))
    (call $write (local.get $body) (i32.const 0))
    (local.set $stream (i32.load (i32.const 4)))
    (call $set (local.get $out) (i32.const 0) (local.get $response)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $print (local.get $stream) (local.get $from) (local.get $length) (i32.const 0))
    (if (local.get $stay) (then (loop $forever (br $forever))))
    (call $close (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 0)))
  (func $printing (local $stream i32)
    (local.set $stream (call $stdout))
    (loop $forever
      (call $print (local.get $stream) (i32.const 1024) (i32.const 14) (i32.const 0))
      (br $forever)))
  (func $handle (export "wasi:http/incoming-handler@0.2.12#handle") (param $request i32) (param $out i32)
    (local $what i32)
    (call $path (local.get $request) (i32.const 16))
    (local.set $what (i32.load8_u offset=1 (i32.load (i32.const 20))))
    (if (i32.eq (local.get $what) (i32.const 116)) (then (unreachable)))
    (if (i32.eq (local.get $what) (i32.const 108)) (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $what) (i32.const 110)) (then (return)))
    (if (i32.eq (local.get $what) (i32.const 112)) (then (call $printing)))
    (if (i32.eq (local.get $what) (i32.const 109)) (then
      (loop $more
        (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
      (unreachable)))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (i32.store8 (i32.const 1100) (i32.add (i32.const 48) (global.get $count)))
    (if (i32.eq (local.get $what) (i32.const 99))
      (then (call $answer (local.get $out) (i32.const 1100) (i32.const 1) (i32.const 0)) (return)))
    (call $answer (local.get $out) (i32.const 1024) (i32.const 14) (i32.eq (local.get $what) (i32.const 100))))
)"#;

/// A preview 1 command that prints its first argument, or `none`, and exits with 3.
pub const PREVIEW_1_EXIT_3: &str = r#"
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "none")
  (func (export "_start") (local $at i32) (local $length i32)
    (local.set $at (i32.const 64))
    (local.set $length (i32.const 4))
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (if (i32.gt_u (i32.load (i32.const 0)) (i32.const 1)) (then
      (drop (call $args (i32.const 128) (i32.const 256)))
      (local.set $at (i32.load (i32.const 132)))
      (local.set $length (i32.const 0))
      (loop $next
        (if (i32.load8_u (i32.add (local.get $at) (local.get $length))) (then
          (local.set $length (i32.add (local.get $length) (i32.const 1)))
          (br $next))))))
    (i32.store (i32.const 16) (local.get $at))
    (i32.store (i32.const 20) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
    (call $exit (i32.const 3)))
)"#;

/// A preview 1 command that copies stdin to stdout until it ends.
pub const PREVIEW_1_CAT: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $next
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 512))
      (if (i32.eqz (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))) (then
        (if (i32.load (i32.const 8)) (then
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
          (br $next)))))))
)"#;

/// A preview 1 command that never ends.
pub const PREVIEW_1_LOOP: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;
