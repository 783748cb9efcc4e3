//! Writes a line to a shared volume every 100 ms, for ever: the second container of the sample `counter`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    println!("ticker: writing to /data/ticks");
    loop {
        std::fs::OpenOptions::new().create(true).append(true).open("/data/ticks")?.write_all(b"tick\n")?;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
