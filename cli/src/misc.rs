//! `version`, and durations on the command line.

use serde_json::json;

use crate::args::{Output, VersionArgs};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::print;

/// `coracle version`.
pub async fn version(args: VersionArgs) -> Result<()> {
    let client = json!({"version": env!("CARGO_PKG_VERSION"), "kubernetes": format!("v1.{}", coracle_api::KUBERNETES_MINOR), "wasmtime": "48.0.8"});
    let server = if args.client {
        None
    } else {
        match Client::find(args.target.kubeconfig.as_deref(), None).await {
            Ok(c) => Some(c.get("/version").await?),
            Err(e) if e.code == "E_NO_CLUSTER" => None,
            Err(e) => return Err(e),
        }
    };
    match args.output {
        Some(form @ (Output::Json | Output::Yaml)) => {
            let mut v = json!({"client": client});
            if let Some(s) = server {
                v["server"] = s;
            }
            print::object(&v, form);
        }
        _ => {
            print::out(&format!(
                "coracle {} (Kubernetes API v1.{})\n",
                env!("CARGO_PKG_VERSION"),
                coracle_api::KUBERNETES_MINOR
            ));
            if let Some(s) = server {
                print::out(&format!(
                    "server  {}\n",
                    s["gitVersion"].as_str().unwrap_or("unknown")
                ));
            }
        }
    }
    Ok(())
}

/// `90`, `90s`, `30m`, `24h`, `7d` in seconds.
pub fn seconds(text: &str) -> Result<u64> {
    let bad = || {
        CliError::new("E_TTL", format!("{text:?} is no duration"))
            .fix("write seconds, or a number with s, m, h or d")
    };
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(i) => text.split_at(i),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let n: u64 = number.parse().map_err(|_| bad())?;
    n.checked_mul(factor).filter(|s| *s > 0).ok_or_else(bad)
}
