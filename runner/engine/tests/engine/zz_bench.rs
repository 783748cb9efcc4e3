use crate::setup::*;
use std::time::Instant;
#[test]
#[ignore]
fn bench() {
    let reuse = std::env::var("REUSE").ok().map(|r| r.parse().unwrap());
    let n: u32 = std::env::var("N").ok().map_or(20000, |r| r.parse().unwrap());
    on_one_thread(async {
        for name in ["wat", "hello"] {
            let wasm = if name == "wat" { crate::guests::service().to_vec() } else { sample("hello").to_vec() };
            let replica = replica(&wasm, |g| g.reuse = reuse).await;
            for _ in 0..500 { call(&replica, "/").await.unwrap(); }
            let cpu0 = replica.metrics().cpu_ns;
            let t = Instant::now();
            for _ in 0..n {
                let r = call(&replica, "/").await.unwrap();
                std::hint::black_box(text(r).await);
            }
            let e = t.elapsed();
            println!("{name}: {:.0} calls/s, {:.2} us/call, {:.2} us cpu/call", n as f64 / e.as_secs_f64(), e.as_micros() as f64 / n as f64, (replica.metrics().cpu_ns - cpu0) as f64 / 1e3 / n as f64);
        }
    });
}
