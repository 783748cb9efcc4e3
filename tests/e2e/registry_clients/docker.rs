//! docker, where a daemon answers: a push and a pull through dockerd.

use super::*;

#[test]
fn docker_pushes_and_pulls_an_image() {
    let Some(program) = client("docker") else {
        return;
    };
    let daemon =
        program::run(Command::new(&program).args(["version", "--format", "{{.Server.Version}}"]));
    if daemon.code != 0 {
        unusable("docker", "no daemon answers");
        return;
    }
    let c = Cluster::up(None);
    let docker = Tool {
        program,
        cluster: &c,
    };
    let content = noise(1_000_000);
    tar(&c, "fs.tar", "data.bin", &content);
    // dockerd takes registries on loopback for insecure by itself.
    let image = format!("{}/demo/do:v1", c.registry());
    docker.says(&["import", "fs.tar", &image]);
    docker.says(&["push", &image]);
    let stored = manifest(&c, "demo/do", "v1");
    docker.says(&["rmi", &image]);
    let by_digest = format!("{}/demo/do@{}", c.registry(), digest(&stored));
    docker.says(&["pull", &by_digest]);
    let container = docker.says(&["create", &by_digest, "/data.bin"]);
    docker.says(&["cp", &format!("{container}:/data.bin"), "copied.bin"]);
    docker.says(&["rm", &container]);
    docker.says(&["rmi", &by_digest]);
    assert!(docker.file("copied.bin") == content);
}
