//! What a request costs this crate, in CPU time of one thread; run by hand, in release, on a calm machine:
//! `cargo test -p coracle-server --release --lib bench -- --ignored --nocapture --test-threads 1`.

use super::*;

/// Nanoseconds that this thread was on a processor.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn report(what: &str, n: usize, since: u64) {
    let each = (cpu_ns() - since) as f64 / n as f64 / 1_000.0;
    println!("{what}: {each:.1} us CPU each");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn creating_config_maps_of_one_kilobyte() {
    const N: usize = 50_000;
    let s = Server::new().await;
    let body = |i: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("bench-{i:08}")}, "data": {"value": "x".repeat(1_000)}});
    let bodies: Vec<Value> = (0..N).map(body).collect();
    let since = cpu_ns();
    for body in &bodies {
        s.post(CONFIG_MAPS).body(body).send().await.expect(201);
    }
    report(
        "create, with making the request and reading the answer",
        N,
        since,
    );
    let since = cpu_ns();
    for i in 0..N {
        s.get(&format!("{CONFIG_MAPS}/bench-{i:08}"))
            .send()
            .await
            .expect(200);
    }
    report("get, likewise", N, since);
    let since = cpu_ns();
    for body in &bodies {
        let text = body.to_string();
        drop(serde_json::from_str::<Value>(&text).unwrap());
    }
    report("of that, the client's part", N, since);
    let since = cpu_ns();
    let commands = |i: usize| {
        let body = &bodies[i];
        let mut object = body.clone();
        object["metadata"]["name"] = json!(format!("direct-{i}"));
        let bytes = coracle_api::canonical::encode(&object);
        let key = coracle_state::Key::new("default", format!("direct-{i}"));
        vec![Command::put(
            "configmaps",
            key,
            coracle_state::Expect::Absent,
            bytes,
            Vec::new(),
        )]
    };
    for i in 0..N {
        s.fake.apply(commands(i));
    }
    report(
        "apply and publish of one write, with its encoding",
        N,
        since,
    );
}

#[tokio::test]
#[ignore = "a measurement"]
async fn watching_with_many() {
    const WATCHERS: usize = 5_000;
    const WRITES: usize = 200;
    let s = Server::new().await;
    for own in [false, true] {
        let rv = s.revision();
        let mut watches = Vec::new();
        for i in 0..WATCHERS {
            let path = match own {
                false => format!("{CONFIG_MAPS}?watch=true&resourceVersion={rv}"),
                true => format!("{CONFIG_MAPS}/w{own}-{i}?watch=true&resourceVersion={rv}"),
            };
            watches.push(s.get(&path).frames().await);
        }
        let reads: Vec<_> = watches
            .into_iter()
            .enumerate()
            .map(|(i, mut w)| {
                tokio::spawn(async move {
                    let want = if own { usize::from(i < WRITES) } else { WRITES };
                    let mut seen = 0;
                    while seen < want {
                        let chunk = w.body.next().await.unwrap().unwrap();
                        seen += chunk.iter().filter(|b| **b == b'\n').count();
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let since = cpu_ns();
        for i in 0..WRITES {
            let body = json!({"metadata": {"name": format!("w{own}-{i}")}, "data": {"value": "x".repeat(1_000)}});
            s.post(CONFIG_MAPS).body(&body).send().await.expect(201);
            tokio::task::yield_now().await;
        }
        for read in reads {
            read.await.unwrap();
        }
        let events = if own { WRITES } else { WRITES * WATCHERS };
        report(
            &format!("one event to one watch, own key: {own}"),
            events,
            since,
        );
    }
}
