//! wkg, where it is installed (building it takes longer than all of these tests): the Wasm package tool.

use super::*;

#[test]
fn wkg_pushes_and_pulls() {
    let Some(program) = client("wkg") else {
        return;
    };
    let c = Cluster::up(None);
    let wkg = Tool {
        program,
        cluster: &c,
    };
    let wasm = wasm();
    c.write("app.wasm", &wasm);
    let host = c.registry();
    let image = format!("{host}/demo/wkg:1.0.0");
    let said = wkg.run(&["oci", "push", "--insecure", &host, &image, "app.wasm"]);
    let stored = digest(&manifest(&c, "demo/wkg", "1.0.0"));
    // It prints the last segment of the answer's Location for the digest.
    let text = format!("{}{}", said.out, said.err);
    assert!(said.code == 0 && text.contains(&stored), "{text}");
    wkg.says(&["oci", "pull", "--insecure", &host, &image, "-o", "out.wasm"]);
    assert!(wkg.file("out.wasm") == wasm);
    assert_eq!(
        c.coracle(&["run", "demo/wkg:1.0.0", "--", "10"]).ok(),
        "4 primes below 10\n"
    );
}
