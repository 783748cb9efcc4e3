//! The README's first command, and what a new user does next.

use crate::harness::program::{self, wait_for};
use crate::harness::{Cluster, cluster::LONG};

fn hello() -> std::path::PathBuf {
    program::root().join("samples/hello")
}

#[test]
fn up_hello_answers_and_ctrl_c_ends_it_and_up_finds_it_again() {
    let mut c = Cluster::up(Some(&hello()));
    let url = c.info["url"]
        .as_str()
        .expect("run.json names the URL")
        .to_string();
    assert!(url.contains("hello.localhost"), "{url}");
    let r = c.get("hello.localhost", "/").unwrap();
    assert_eq!(
        (r.status, r.text().as_str()),
        (200, "Hello from Coracle!\n")
    );
    let log = c.log();
    assert!(
        log.contains(&url) && log.contains("kubeconfig") && log.contains("Ctrl-C"),
        "{log}"
    );
    assert_eq!(c.interrupt(), 0, "{}", c.log());
    assert!(
        !c.dir.path().join(".coracle/run.json").exists(),
        "run.json is removed at exit"
    );

    // The same data directory, no application named: it is there and running.
    let mut again = Cluster::start(c.dir.clone(), ".coracle", Cluster::up_args(None));
    assert_eq!(again.api(), c.api(), "a port taken by 0 is kept");
    wait_for("hello after the restart", LONG, || {
        match again.get("hello.localhost", "/") {
            Ok(r) if r.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(again.interrupt(), 0);
}
