//! The compile cache: once per digest, never code that is not ours, limits on the child.

use std::path::PathBuf;

use coracle_engine::{CompilerCommand, Grants, digest_of};

use crate::guests;
use crate::setup::*;

fn files(dir: &std::path::Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("aot"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn many_askers_share_one_compilation_and_one_mapping() {
    let (engine, dir) = fresh_engine(|_| {});
    on_one_thread(async {
        let wasm = wat::parse_str(guests::PREVIEW_1_EXIT_3).unwrap();
        let digest = digest_of(&wasm);
        let all =
            futures_util::future::join_all((0..8).map(|_| engine.artifact(&digest, wasm.clone())))
                .await;
        for artifact in &all {
            assert_eq!(
                artifact.as_ref().unwrap().code_bytes(),
                all[0].as_ref().unwrap().code_bytes()
            );
        }
        assert_eq!(
            (
                files(dir.path(), "cwasm").len(),
                files(dir.path(), "mac").len()
            ),
            (1, 1)
        );
        drop(all);
        // Found on disk now: the bytes are not needed.
        engine
            .artifact(&digest, PathBuf::from("/does/not/exist"))
            .await
            .unwrap();
    });
}

#[test]
fn an_edited_file_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    on_one_thread(async {
        let wasm = guests::service();
        let digest = digest_of(wasm);
        engine_in(dir.path(), |_| {})
            .artifact(&digest, wasm.to_vec())
            .await
            .unwrap();
        let code = files(dir.path(), "cwasm").remove(0);
        let good = std::fs::read(&code).unwrap();

        // One bit of native code flipped, in a new file as an intruder would put it there.
        let mut forged = good.clone();
        let middle = forged.len() / 2;
        forged[middle] ^= 1;
        std::fs::remove_file(&code).unwrap();
        std::fs::write(&code, &forged).unwrap();
        let engine = engine_in(dir.path(), |_| {});
        // Refused, and without the source it cannot be made again.
        let error = engine
            .artifact(&digest, PathBuf::from("/does/not/exist"))
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), "E_CACHE_IO");
        assert!(!code.exists());
        let artifact = engine.artifact(&digest, wasm.to_vec()).await.unwrap();
        assert_eq!(std::fs::read(&code).unwrap().len(), good.len());
        let replica = engine.link(&artifact, Grants::new("t")).unwrap();
        assert_eq!(call(&replica, "/hello").await.unwrap().status(), 200);
    });
}

#[test]
fn signed_code_under_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    on_one_thread(async {
        let engine = engine_in(dir.path(), |_| {});
        let (one, two) = (
            wat::parse_str(guests::PREVIEW_1_LOOP).unwrap(),
            wat::parse_str(guests::PREVIEW_1_CAT).unwrap(),
        );
        engine
            .artifact(&digest_of(&one), one.clone())
            .await
            .unwrap();
        let first = files(dir.path(), "cwasm").remove(0);
        engine
            .artifact(&digest_of(&two), two.clone())
            .await
            .unwrap();
        let second = files(dir.path(), "cwasm")
            .into_iter()
            .find(|f| *f != first)
            .unwrap();
        for extension in ["cwasm", "mac"] {
            std::fs::rename(
                first.with_extension(extension),
                second.with_extension(extension),
            )
            .unwrap();
        }
        let error = engine
            .artifact(&digest_of(&two), PathBuf::from("/does/not/exist"))
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), "E_CACHE_IO");
    });
}

#[test]
fn bytes_of_another_digest_are_refused() {
    on_one_thread(async {
        let wasm = wat::parse_str("(component)").unwrap();
        let error = engine()
            .artifact(&digest_of(b"other"), wasm)
            .await
            .err()
            .unwrap();
        assert!(error.code() == "E_DIGEST_MISMATCH" && error.permanent);
        let error = engine()
            .artifact("sha256:xyz", Vec::new())
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), "E_DIGEST");
        let error = engine()
            .artifact(&digest_of(b"text"), b"text".to_vec())
            .await
            .err()
            .unwrap();
        assert!(error.code() == "E_NOT_WASM" && error.permanent);
    });
}

#[test]
fn a_compilation_over_its_time_is_killed_and_remembered() {
    let (engine, _dir) = fresh_engine(|config| config.compile_timeout_ms = 1);
    on_one_thread(async {
        let wasm = guests::service();
        let error = engine
            .artifact(&digest_of(wasm), wasm.to_vec())
            .await
            .err()
            .unwrap();
        assert!(
            error.code() == "E_COMPILE_LIMIT" && error.permanent,
            "{error}"
        );
        // Remembered: the source is not even looked at.
        let again = engine
            .artifact(&digest_of(wasm), PathBuf::from("/does/not/exist"))
            .await
            .err()
            .unwrap();
        assert_eq!(again, error);
    });
}

#[test]
fn a_compilation_over_its_memory_is_ended() {
    let (engine, _dir) = fresh_engine(|config| config.compile_memory_bytes = 48 << 20);
    on_one_thread(async {
        let wasm = guests::service();
        let error = engine
            .artifact(&digest_of(wasm), wasm.to_vec())
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error.code(), "E_COMPILE_LIMIT" | "E_COMPILER_START"),
            "{error}"
        );
    });
}

#[test]
fn a_compiler_that_is_not_there_or_not_ours_is_said() {
    for program in ["/does/not/exist", "/bin/true", "/bin/false"] {
        let (engine, _dir) = fresh_engine(|config| {
            config.compiler = CompilerCommand {
                program: program.into(),
                args: Vec::new(),
            }
        });
        on_one_thread(async {
            let wasm = wat::parse_str("(component)").unwrap();
            let error = engine
                .artifact(&digest_of(&wasm), wasm)
                .await
                .err()
                .unwrap();
            assert!(
                matches!(error.code(), "E_COMPILER_START" | "E_CACHE_LOST"),
                "{program}: {error}"
            );
            assert!(!error.permanent);
        });
    }
}

#[test]
fn old_code_makes_room() {
    let (engine, dir) = fresh_engine(|config| config.cache_max_bytes = 1);
    on_one_thread(async {
        for wat in [guests::PREVIEW_1_LOOP, guests::PREVIEW_1_CAT] {
            let wasm = wat::parse_str(wat).unwrap();
            drop(engine.artifact(&digest_of(&wasm), wasm).await.unwrap());
        }
        assert_eq!(files(dir.path(), "cwasm").len(), 1);
    });
}
