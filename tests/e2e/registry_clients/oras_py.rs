//! oras-py: whole blobs in one PUT, chunks on request, an empty configuration of no bytes.

use super::*;

/// What a Python program does with the library. Arguments: the registry.
const SCRIPT: &str = r#"
import hashlib, sys
import oras.client

host = sys.argv[1]
client = oras.client.OrasClient(hostname=host, insecure=True)
wasm = open("app.wasm", "rb").read()
config = "/dev/null:application/vnd.wasm.config.v0+json"
for name, chunked in (("whole", False), ("chunks", True)):
    target = f"{host}/demo/{name}:v1"
    pushed = client.push(target=target, files=["app.wasm:application/wasm"], manifest_config=config,
                         disable_path_validation=True, do_chunked=chunked)
    assert pushed.status_code == 201, (name, pushed.status_code, pushed.text)
    pulled = client.pull(target=target, outdir=f"out-{name}")
    assert len(pulled) == 1, pulled
    assert open(pulled[0], "rb").read() == wasm, name
    manifest = client.get_manifest(target)
    digest = "sha256:" + hashlib.sha256(wasm).hexdigest()
    assert [layer["digest"] for layer in manifest["layers"]] == [digest], manifest
    assert manifest["config"]["size"] == 0, manifest
    assert client.get_tags(f"{host}/demo/{name}") == ["v1"]
    print(name)
assert client.delete_tags(f"{host}/demo/whole", ["v1"]) == ["v1"]
assert client.get_tags(f"{host}/demo/whole") == []
"#;

#[test]
fn oras_py_pushes_and_pulls() {
    let Some(program) = client("python3") else {
        return;
    };
    let import = program::run(Command::new(&program).args(["-c", "import oras.client"]));
    if import.code != 0 {
        unusable("oras-py", "python3 has no module oras");
        return;
    }
    let c = Cluster::up(None);
    let python = Tool {
        program,
        cluster: &c,
    };
    c.write("app.wasm", wasm());
    let said = python.says(&["-c", SCRIPT, &c.registry()]);
    assert!(said.ends_with("whole\nchunks"), "{said}");
    assert_eq!(tags(&c, "demo/chunks"), ["v1"]);
    // An empty configuration makes no worse an artifact.
    assert_eq!(
        c.coracle(&["run", "demo/chunks:v1", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
}
