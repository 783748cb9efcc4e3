//! `push` and `pull`: components as OCI artifacts, in the cluster's own registry or another one.
//!
//! One client serves both ([`coracle_registry::client`]): what is there is not sent, what broke off is gone on with, and
//! what may be tried again is. The two differ in how requests travel ([`cluster`], [`outside`]).

mod cluster;
mod component;
mod credentials;
mod fail;
mod fetch;
mod name;
mod outside;
mod place;
mod sessions;
mod show;

use std::sync::Arc;

use coracle_registry::client::watch::{Memory, Sessions};
use coracle_registry::client::{self as registry, Options, Transport};

use crate::args::{PullArgs, PushArgs, Transfer};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::print;
use cluster::Cluster;
use show::Bars;

pub use component::{Component, read_component};
pub use name::Image;

/// Pushes a component to the cluster's registry; answers the manifest's digest.
pub async fn push_component(
    client: &Client,
    component: &Component,
    image: &Image,
) -> Result<String> {
    let cluster = Cluster(client.clone());
    let registry = registry::Client::new(cluster, "", Options::default());
    push_to(&registry, component, image, &image.name).await
}

async fn push_to<T: Transport>(
    registry: &registry::Client<T>,
    component: &Component,
    image: &Image,
    repository: &str,
) -> Result<String> {
    let artifact = component.artifact();
    registry
        .push(repository, &image.tag, &artifact, &component.bytes)
        .await
        .map_err(|e| fail::coded(&e, image))?;
    Ok(artifact.manifest_digest.to_string())
}

/// `coracle push`.
pub async fn push(args: PushArgs) -> Result<()> {
    let component = read_component(&args.file)?;
    let image = Image::parse(&args.image)?;
    if image.digest.is_some() {
        return Err(
            CliError::new("E_IMAGE_NAME", "a push names a tag, not a digest")
                .fix("write NAME[:TAG]"),
        );
    }
    let bars = Bars::new(args.transfer.quiet);
    let pushed = match &image.host {
        None => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            let options = options(args.transfer, &bars, &client.server);
            let registry = registry::Client::new(Cluster(client), "", options);
            push_to(&registry, &component, &image, &image.name).await
        }
        Some(host) => {
            let remote = outside::connect(host, &image.name).await?;
            let options = options(args.transfer, &bars, host);
            let registry = registry::Client::new(remote.transport, remote.base, options);
            push_to(&registry, &component, &image, &remote.repository).await
        }
    };
    bars.finish();
    print::out(&format!(
        "{}{}:{}@{}\n",
        image.shown_host(),
        image.name,
        image.tag,
        pushed?
    ));
    Ok(())
}

/// `coracle pull`.
pub async fn pull(args: PullArgs) -> Result<()> {
    let image = Image::parse(&args.image)?;
    let bars = Bars::new(args.transfer.quiet);
    let pulled = match &image.host {
        None => {
            let client = Client::find(args.target.kubeconfig.as_deref(), None).await?;
            let options = options(args.transfer, &bars, &client.server);
            let registry = registry::Client::new(Cluster(client), "", options);
            fetch::pull(&registry, &image, &image.name, &args).await
        }
        Some(host) => {
            let remote = outside::connect(host, &image.name).await?;
            let options = options(args.transfer, &bars, host);
            let registry = registry::Client::new(remote.transport, remote.base, options);
            fetch::pull(&registry, &image, &remote.repository, &args).await
        }
    };
    bars.finish();
    let bytes = pulled?;
    if !args.transfer.quiet {
        eprintln!("{}: {bytes} bytes", args.output.display());
    }
    Ok(())
}

/// How a command of a user goes about it. `registry` tells registries apart whose uploads are remembered.
fn options(transfer: Transfer, bars: &Arc<Bars>, registry: &str) -> Options {
    let sessions: Arc<dyn Sessions> = match sessions::Files::open(registry) {
        Some(files) => Arc::new(files),
        None => Arc::new(Memory::default()),
    };
    Options {
        parallel: usize::from(transfer.parallel),
        watch: bars.watch(),
        sessions,
        ..Options::default()
    }
}
