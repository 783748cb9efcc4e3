//! Who the user is at a registry: what `docker login` (or a tool that keeps its files) has left in `config.json`, or the
//! credential helper that is named there.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_registry::client::auth::Credentials;
use docker_credential::{CredentialRetrievalError as Failed, DockerCredential};
use tokio::sync::oneshot;

use crate::error::{self, CliError, Result};

/// How long a credential helper may take: one that asks its user for a passphrase is answered within that.
const HELPER: Duration = Duration::from_secs(60);

/// The credentials for a host; `None` for a registry without a login.
pub async fn find(host: &str) -> Result<Option<Credentials>> {
    let Some(path) = path() else {
        return Ok(None);
    };
    let server = server(host).to_owned();
    let (tell, told) = oneshot::channel();
    // A thread of its own: a helper that hangs must not keep this process from ending.
    std::thread::spawn(move || {
        // Nobody waits any more if that fails.
        drop(tell.send(read(&path, &server)));
    });
    let late = || {
        CliError::new(
            "E_CREDENTIALS",
            format!("the credential helper for {host} did not answer"),
        )
        .fix("run `docker login` again, or take the helper out of Docker's config.json")
    };
    let told = tokio::time::timeout(HELPER, told).await;
    told.map_err(|_| late())?.map_err(|_| late())?
}

/// Docker's file.
fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let dir = set("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))?;
    Some(dir.join("config.json"))
}

/// What the file calls a registry.
fn server(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" => "https://index.docker.io/v1/",
        host => host,
    }
}

fn read(path: &Path, server: &str) -> Result<Option<Credentials>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error::file(path, &e)),
    };
    let bad = |why: String| {
        CliError::new("E_CREDENTIALS", format!("{}: {why}", path.display()))
            .fix(format!("run `docker login {server}` again"))
    };
    match docker_credential::get_credential_from_reader(BufReader::new(file), server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Credentials::Password { user, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credentials::Identity(token))),
        Err(Failed::NoCredentialConfigured) => Ok(None),
        Err(Failed::HelperFailure { stdout, stderr, .. }) => {
            let said = format!("{} {}", stdout.trim(), stderr.trim());
            // The helpers' protocol has this sentence and no other sign.
            if said.contains("credentials not found") {
                return Ok(None);
            }
            Err(bad(format!("the credential helper says: {}", said.trim())))
        }
        Err(e) => Err(bad(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_login_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert_eq!(read(&path, "ghcr.io").unwrap(), None, "no file, no login");
        let auths = r#"{"auths": {
            "ghcr.io": {"auth": "Ym9iOnNlY3JldA=="},
            "https://index.docker.io/v1/": {"auth": "YW5uOm90aGVy"},
            "empty.example": {}}}"#;
        std::fs::write(&path, auths).unwrap();
        let password = |user: &str, password: &str| {
            Some(Credentials::Password {
                user: user.into(),
                password: password.into(),
            })
        };
        for (host, want) in [
            ("ghcr.io", password("bob", "secret")),
            ("docker.io", password("ann", "other")),
            ("empty.example", None),
            ("other.example", None),
        ] {
            assert_eq!(read(&path, server(host)).unwrap(), want, "{host}");
        }
        for broken in ["{", r#"{"auths": {"ghcr.io": {"auth": "!"}}}"#] {
            std::fs::write(&path, broken).unwrap();
            let e = read(&path, "ghcr.io").unwrap_err();
            assert_eq!(e.code, "E_CREDENTIALS");
            assert!(e.fix.unwrap().contains("docker login ghcr.io"));
        }
        let helper = r#"{"credHelpers": {"ghcr.io": "no-such-helper-of-anybody"}}"#;
        std::fs::write(&path, helper).unwrap();
        assert_eq!(read(&path, "ghcr.io").unwrap_err().code, "E_CREDENTIALS");
        assert_eq!(read(&path, "other.example").unwrap(), None);
    }
}
