//! Commands: exit codes, arguments, streams, volumes.

use std::time::{Duration, Instant};

use coracle_engine::{
    CallContext, CallError, ExitStatus, Kind, Mount, RunOptions, Stdin, Stream, WasiVersion,
};

use crate::guests::{PREVIEW_1_CAT, PREVIEW_1_EXIT_3, PREVIEW_1_LOOP};
use crate::setup::*;

#[test]
fn a_core_module_runs_with_arguments_and_carries_its_exit_code() {
    on_one_thread(async {
        let printed = Printed::new();
        let module = wat::parse_str(PREVIEW_1_EXIT_3).unwrap();
        let replica = replica(&module, |grants| {
            grants.args = vec!["job".into(), "granted".into()];
            grants.log = printed.clone();
        })
        .await;
        assert_eq!(replica.kind(), Kind::Command(WasiVersion::P2));
        let status = replica
            .run(CallContext::default(), RunOptions::default())
            .await
            .unwrap();
        assert_eq!(
            (status, printed.text(Stream::Stdout).as_str()),
            (ExitStatus { code: 3 }, "granted")
        );

        let elsewhere = Printed::new();
        let options = RunOptions {
            args: Some(vec!["job".into(), "exec".into()]),
            log: Some(elsewhere.clone()),
            ..RunOptions::default()
        };
        replica.run(CallContext::default(), options).await.unwrap();
        assert_eq!(
            (
                elsewhere.text(Stream::Stdout).as_str(),
                printed.text(Stream::Stdout).as_str()
            ),
            ("exec", "granted")
        );
    });
}

#[test]
fn the_rust_sample_exits_as_it_says() {
    on_one_thread(async {
        let printed = Printed::new();
        let replica = replica(&sample("job"), |grants| grants.log = printed.clone()).await;
        assert_eq!(
            replica
                .run(CallContext::default(), RunOptions::default())
                .await
                .unwrap()
                .code,
            0
        );
        assert_eq!(printed.text(Stream::Stdout), "168 primes below 1000\n");
        let options = RunOptions {
            args: Some(vec!["job".into(), "fail".into()]),
            ..RunOptions::default()
        };
        assert_eq!(
            replica
                .run(CallContext::default(), options)
                .await
                .unwrap()
                .code,
            1
        );
        assert!(printed.text(Stream::Stderr).contains("asked to fail"));
    });
}

#[test]
fn stdin_is_bytes_or_a_stream() {
    on_one_thread(async {
        let module = wat::parse_str(PREVIEW_1_CAT).unwrap();
        let printed = Printed::new();
        let replica = replica(&module, |grants| grants.log = printed.clone()).await;
        let options = RunOptions {
            stdin: Stdin::Bytes("all at once, ".into()),
            ..RunOptions::default()
        };
        assert_eq!(
            replica
                .run(CallContext::default(), options)
                .await
                .unwrap()
                .code,
            0
        );
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let options = RunOptions {
            stdin: Stdin::Stream(receiver),
            ..RunOptions::default()
        };
        let feed = async move {
            for part in ["bit ", "by ", "bit"] {
                sender.send(part.into()).await.unwrap();
            }
        };
        let (status, ()) = tokio::join!(replica.run(CallContext::default(), options), feed);
        assert_eq!(status.unwrap().code, 0);
        assert_eq!(printed.text(Stream::Stdout), "all at once, bit by bit");
    });
}

#[test]
fn a_command_is_killed_or_runs_out_of_time() {
    on_one_thread(async {
        let module = wat::parse_str(PREVIEW_1_LOOP).unwrap();
        let replica = replica(&module, |_| {}).await;
        let ctx = CallContext {
            deadline: Some(Instant::now() + Duration::from_millis(30)),
            ..CallContext::default()
        };
        assert_eq!(
            replica
                .run(ctx, RunOptions::default())
                .await
                .err()
                .unwrap()
                .code(),
            "E_DEADLINE"
        );
        let running = tokio::spawn(replica.run(CallContext::default(), RunOptions::default()));
        while replica.metrics().in_flight == 0 {
            tokio::task::yield_now().await;
        }
        replica.kill();
        assert_eq!(running.await.unwrap(), Err(CallError::Killed));
    });
}

#[test]
fn services_and_commands_are_not_mixed_up() {
    on_one_thread(async {
        let module = wat::parse_str(PREVIEW_1_LOOP).unwrap();
        assert_eq!(
            call(&replica(&module, |_| {}).await, "/").await.err(),
            Some(CallError::NotAService)
        );
        let run = service(|_| {})
            .await
            .run(CallContext::default(), RunOptions::default())
            .await;
        assert_eq!(run, Err(CallError::NotACommand));
    });
}

#[test]
fn a_guest_sees_its_mounts_and_read_only_is_kept() {
    on_one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        let mount = |read_only| Mount {
            host_path: dir.path().into(),
            guest_path: "/data".into(),
            read_only,
        };
        let counter = sample("counter");
        let writable = replica(&counter, |grants| grants.mounts = vec![mount(false)]).await;
        assert_eq!(
            text(call(&writable, "/").await.unwrap()).await,
            "{\"hits\":1,\"ticks\":0}\n"
        );
        assert_eq!(
            std::fs::read_to_string(dir.path().join("hits")).unwrap(),
            "hit\n"
        );
        let read_only = replica(&counter, |grants| grants.mounts = vec![mount(true)]).await;
        assert_eq!(call(&read_only, "/").await.unwrap().status(), 500);
        let nothing = replica(&counter, |_| {}).await;
        assert_eq!(call(&nothing, "/").await.unwrap().status(), 500);
        assert_eq!(
            std::fs::read_to_string(dir.path().join("hits")).unwrap(),
            "hit\n"
        );

        let mut grants = coracle_engine::Grants::new("lost");
        grants.mounts = vec![Mount {
            host_path: dir.path().join("absent"),
            guest_path: "/x".into(),
            read_only: true,
        }];
        let error = engine()
            .link(&artifact(&counter).await, grants)
            .err()
            .unwrap();
        assert_eq!(error.code(), "E_MOUNT");
    });
}
