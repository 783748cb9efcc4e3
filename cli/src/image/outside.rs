//! Registries outside the cluster, as whoever `docker login` says.

use std::time::Duration;

use coracle_registry::client::auth::Authed;
use coracle_registry::client::{Answer, BoxError, Payload, Transport, Unsent};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;

use super::{credentials, fail};
use crate::error::{CliError, Result};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// A registry outside.
pub struct Remote {
    /// How requests get there.
    pub transport: Authed<Https>,
    /// Where it is, as a URL without a slash at the end.
    pub base: String,
    /// The repository, as the registry knows it.
    pub repository: String,
}

/// HTTP, with TLS where it is asked for.
pub struct Https(reqwest::Client);

/// Finds a registry and who we are there.
pub async fn connect(host: &str, name: &str) -> Result<Remote> {
    // Taken by whoever is first; a process that has one has this one.
    drop(rustls::crypto::ring::default_provider().install_default());
    let failed = |e: &dyn std::fmt::Display| {
        CliError::new("E_REGISTRY", format!("{host}: {e}"))
            .fix("check the registry's address in front of the image's name")
    };
    let https = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| failed(&fail::chain(&e)))?;
    let (base, repository) = address(host, name);
    let uri: Uri = base.parse().map_err(|e| failed(&e))?;
    let credentials = credentials::find(host).await?;
    Ok(Remote {
        transport: Authed::new(Https(https), uri, repository.as_str(), credentials),
        base,
        repository,
    })
}

/// Where a registry is, and what it calls the repository. Loopback hosts speak plain HTTP, as they do for other tools.
fn address(host: &str, name: &str) -> (String, String) {
    if matches!(host, "docker.io" | "index.docker.io") {
        // Its API is not where its name points, and its own images have no owner.
        let owner = if name.contains('/') { "" } else { "library/" };
        return (
            "https://registry-1.docker.io".into(),
            format!("{owner}{name}"),
        );
    }
    let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
    let loopback = bare == "localhost" || bare.starts_with("127.") || bare == "[::1]";
    let scheme = if loopback { "http" } else { "https" };
    (format!("{scheme}://{host}"), name.into())
}

impl Transport for Https {
    async fn send(
        &self,
        request: Request<Payload>,
    ) -> std::result::Result<Response<Answer>, Unsent> {
        let request = request.map(|payload| match payload.is_empty() {
            // It can be sent again, to where a redirect leads.
            true => reqwest::Body::from(payload.into_bytes()),
            false => reqwest::Body::wrap(payload),
        });
        let sent = async { self.0.execute(request.try_into()?).await };
        let response: Response<reqwest::Body> = sent
            .await
            .map_err(|e: reqwest::Error| Unsent::Broken(fail::chain(&e)))?
            .into();
        Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_where_their_names_say_but_one() {
        for (host, name, base, repository) in [
            ("ghcr.io", "a/b", "https://ghcr.io", "a/b"),
            ("r.example:8443", "a", "https://r.example:8443", "a"),
            ("localhost", "a", "http://localhost", "a"),
            ("127.0.0.1:5001", "a", "http://127.0.0.1:5001", "a"),
            (
                "docker.io",
                "a",
                "https://registry-1.docker.io",
                "library/a",
            ),
            ("docker.io", "o/a", "https://registry-1.docker.io", "o/a"),
        ] {
            let want = (base.to_owned(), repository.to_owned());
            assert_eq!(address(host, name), want);
        }
    }
}
