//! Logins for registries outside, from the Secrets that a pod names in `imagePullSecrets`.
//!
//! They are read when an image has to be fetched from outside and not before, kept for that pull and never written
//! anywhere. Which login is for an image is said as Kubernetes says it: an entry names a host, perhaps with a port and
//! with a path; the one with the longest path that the image begins with is tried first, the others after it. A path is
//! compared by whole segments: what is for `ghcr.io/team` is not for `ghcr.io/teammate`.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use oci_distribution::secrets::RegistryAuth;
use serde_json::Value;

use crate::api::Api;

/// Secrets of one pod that are read; more are named in an Event and left out.
const SECRETS_MAX: usize = 16;
/// Entries of one Secret that are read.
const ENTRIES_MAX: usize = 256;
/// Names that Docker Hub goes by.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// One entry of a Secret. No `Debug`: it is never to be printed.
struct Login {
    /// `HOST` or `HOST:PORT`; a `*` stands for any letters within one label.
    host: String,
    /// Segments of the path.
    path: Vec<String>,
    auth: RegistryAuth,
}

impl Login {
    /// How many segments of an image's path it names; `None`: it is for another image.
    fn fits(&self, host: &str, path: &[&str]) -> Option<usize> {
        let named = path.get(..self.path.len())?;
        (host_fits(&self.host, host) && named.iter().eq(self.path.iter()))
            .then_some(self.path.len())
    }
}

/// A login and the Secret it is from.
pub(super) struct Chosen {
    /// Name of the Secret.
    pub secret: String,
    pub auth: RegistryAuth,
}

/// The Secrets of one pod, for one pull.
pub(crate) struct Keyring {
    api: Api,
    namespace: String,
    names: Vec<String>,
    troubles: Mutex<Vec<String>>,
}

impl Keyring {
    /// Of a pod in this namespace that names these.
    pub fn new(api: Api, namespace: &str, names: Vec<String>) -> Self {
        Self {
            api,
            namespace: namespace.into(),
            names,
            troubles: Mutex::default(),
        }
    }

    /// What was wrong with the Secrets, a sentence each with the name and the fix.
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.clone()
    }

    /// What to do when the registry at `host` gives the image to nobody who asked.
    pub(super) fn fix(&self, host: &str) -> String {
        let troubles = self.troubles();
        if !troubles.is_empty() {
            return troubles.join("; ");
        }
        match self.names.first() {
            Some(name) => format!(
                "Put a login for {host} that may pull it into the Secret {}/{name}",
                self.namespace
            ),
            None => "Name a Secret with a login in the pod's imagePullSecrets, make the image public, or push it to the cluster's registry".into(),
        }
    }

    /// Logins for an image, the best first; none: it is asked for without.
    pub(super) async fn logins(&self, host: &str, repository: &str) -> Vec<Chosen> {
        let (mut found, mut troubles) = (Vec::new(), Vec::new());
        for name in self.names.iter().take(SECRETS_MAX) {
            match self.read(name).await {
                Ok(logins) => found.extend(logins.into_iter().map(|l| (name.clone(), l))),
                Err(why) => troubles.push(why),
            }
        }
        if self.names.len() > SECRETS_MAX {
            troubles.push(format!(
                "Only the first {SECRETS_MAX} of {} imagePullSecrets are read: put their logins into fewer Secrets",
                self.names.len()
            ));
        }
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) = troubles;
        choose(found, host, repository)
    }

    async fn read(&self, name: &str) -> Result<Vec<Login>, String> {
        let (space, path) = (
            &self.namespace,
            format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace),
        );
        match self.api.get(&path).await {
            Ok(secret) => parse(&secret).map_err(|why| {
                format!(
                    "Secret {space}/{name} of imagePullSecrets cannot be used: {why}: make it with `kubectl create secret docker-registry {name} --namespace {space} --docker-server HOST --docker-username USER --docker-password PASSWORD`"
                )
            }),
            Err(e) if e.code() == 404 => Err(format!(
                "Secret {space}/{name} of imagePullSecrets does not exist: create it, or take it out of the pod"
            )),
            Err(e) => Err(format!(
                "Secret {space}/{name} of imagePullSecrets cannot be read: {e}: it is tried again with the pull"
            )),
        }
    }
}

/// The entries of a Secret of type `kubernetes.io/dockerconfigjson`, or of the older `kubernetes.io/dockercfg`. Errors
/// name what is wrong and nothing of what is inside.
fn parse(secret: &Value) -> Result<Vec<Login>, String> {
    let data = &secret["data"];
    let (key, text) = [".dockerconfigjson", ".dockercfg"]
        .into_iter()
        .find_map(|key| Some((key, data[key].as_str()?)))
        .ok_or("it has no data[\".dockerconfigjson\"]")?;
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| format!("data[{key:?}] is no base64"))?;
    let config: Value =
        serde_json::from_slice(&bytes).map_err(|_| format!("data[{key:?}] is no JSON"))?;
    let auths = match key {
        ".dockercfg" => &config,
        _ => &config["auths"],
    };
    let auths = auths
        .as_object()
        .ok_or_else(|| format!("data[{key:?}] has no \"auths\""))?;
    if auths.len() > ENTRIES_MAX {
        return Err(format!("data[{key:?}] has more than {ENTRIES_MAX} logins"));
    }
    let login = |(place, entry): (&String, &Value)| -> Result<Login, String> {
        let (host, path) = place_of(place);
        let auth = credentials(entry).map_err(|why| format!("its login for {host:?} {why}"))?;
        Ok(Login { host, path, auth })
    };
    auths.iter().map(login).collect()
}

/// Host and path of an entry's key, which may be a URL: `https://index.docker.io/v1/` is Docker Hub.
fn place_of(key: &str) -> (String, Vec<String>) {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut path: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(String::from)
        .collect();
    // The API's version is no part of an image's name.
    if path.first().is_some_and(|s| s == "v1" || s == "v2") {
        path.remove(0);
    }
    (host.to_ascii_lowercase(), path)
}

fn credentials(entry: &Value) -> Result<RegistryAuth, &'static str> {
    let field = |name: &str| entry[name].as_str().filter(|s| !s.is_empty());
    if let (Some(user), Some(password)) = (field("username"), field("password")) {
        return Ok(RegistryAuth::Basic(user.into(), password.into()));
    }
    if let Some(auth) = field("auth") {
        let bytes = STANDARD
            .decode(auth)
            .or_else(|_| STANDARD_NO_PAD.decode(auth));
        let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or("has an \"auth\" that is no base64")?;
        let pair = text.split_once(':');
        let (user, password) = pair.ok_or("has an \"auth\" that is not USER:PASSWORD")?;
        return Ok(RegistryAuth::Basic(user.into(), password.into()));
    }
    match field("registrytoken") {
        Some(token) => Ok(RegistryAuth::Bearer(token.into())),
        None => Err("has neither \"auth\" nor \"username\" and \"password\""),
    }
}

/// Whether an entry's host is an image's: label by label, port by port.
fn host_fits(pattern: &str, host: &str) -> bool {
    if HUB.contains(&pattern) && HUB.contains(&host) {
        return true;
    }
    let (pattern, port) = pattern.split_once(':').unwrap_or((pattern, ""));
    let (host, of_host) = host.split_once(':').unwrap_or((host, ""));
    let (labels, of) = (pattern.split('.'), host.split('.'));
    port == of_host
        && labels.clone().count() == of.clone().count()
        && labels.zip(of).all(|(p, l)| label_fits(p, l))
}

/// `*` stands for any letters, none included.
fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern.eq_ignore_ascii_case(label);
    };
    let Some(mut left) = label.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    // Each part at its first place leaves the most for those after it.
    for part in parts {
        let Some(at) = left.find(part) else {
            return false;
        };
        left = &left[at + part.len()..];
    }
    left.ends_with(end)
}

/// Those for an image, the longest path first, then as the pod and its Secrets list them.
fn choose(all: Vec<(String, Login)>, host: &str, repository: &str) -> Vec<Chosen> {
    let mut path: Vec<&str> = repository.split('/').collect();
    if HUB.contains(&host) && path.len() == 1 {
        path.insert(0, "library");
    }
    let mut fitting: Vec<(usize, Chosen)> = all
        .into_iter()
        .filter_map(|(secret, login)| {
            let segments = login.fits(host, &path)?;
            let auth = login.auth;
            Some((segments, Chosen { secret, auth }))
        })
        .collect();
    fitting.sort_by_key(|(segments, _)| std::cmp::Reverse(*segments));
    fitting.into_iter().map(|(_, chosen)| chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(config: &Value) -> Value {
        json!({"data": {".dockerconfigjson": STANDARD.encode(config.to_string())}})
    }

    fn login(place: &str, user: &str) -> Login {
        let (host, path) = place_of(place);
        let auth = RegistryAuth::Basic(user.into(), "p".into());
        Login { host, path, auth }
    }

    fn user(auth: &RegistryAuth) -> String {
        match auth {
            RegistryAuth::Basic(user, password) => format!("{user}:{password}"),
            RegistryAuth::Bearer(token) => format!("bearer {token}"),
            RegistryAuth::Anonymous => "anonymous".into(),
        }
    }

    #[test]
    fn the_longest_path_is_tried_first() {
        let places = [
            "ghcr.io",
            "ghcr.io/team",
            "https://ghcr.io/v2/team/web",
            "ghcr.io/team/",
            "GHCR.io/other",
            "*.example.com",
            "reg-*.example.com:5000/a",
            "https://index.docker.io/v1/",
            "docker.io/team",
            "docker.io/library/redis",
            "127.0.0.1:5001",
        ];
        for (host, repository, expected) in [
            ("ghcr.io", "team/web", "2 1 3 0"),
            ("ghcr.io", "team/web/api", "2 1 3 0"),
            ("ghcr.io", "team/webs", "1 3 0"),
            ("ghcr.io", "teammate/web", "0"),
            ("ghcr.io", "other", "4 0"),
            ("ghcr.io:443", "team/web", ""),
            ("eu.ghcr.io", "team/web", ""),
            ("a.example.com", "x", "5"),
            ("a.b.example.com", "x", ""),
            ("example.com", "x", ""),
            ("reg-1.example.com:5000", "a/b", "6"),
            ("reg-1.example.com:5000", "b/a", ""),
            ("docker.io", "library/redis", "9 7"),
            ("docker.io", "redis", "9 7"),
            ("docker.io", "team/x", "8 7"),
            ("127.0.0.1:5001", "demo/x", "10"),
            ("127.0.0.1", "demo/x", ""),
            ("evil-ghcr.io", "team/web", ""),
        ] {
            let all = places.iter().enumerate();
            let all = all.map(|(n, place)| (n.to_string(), login(place, "u")));
            let chosen = choose(all.collect(), host, repository);
            let chosen: Vec<String> = chosen.into_iter().map(|c| c.secret).collect();
            assert_eq!(chosen.join(" "), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn stars_stay_within_a_label() {
        for (pattern, label, fits) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*", "abc", true),
            ("a*", "ba", false),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("ab*ba", "aba", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("abc", "ABC", true),
        ] {
            assert_eq!(label_fits(pattern, label), fits, "{pattern} {label}");
        }
    }

    #[test]
    fn logins_are_read_as_docker_and_kubectl_write_them() {
        let b64 = |text: &str| STANDARD.encode(text);
        for (entry, expected) in [
            (json!({"username": "u", "password": "p"}), "u:p"),
            (json!({"auth": b64("u:a:b")}), "u:a:b"),
            (json!({"auth": b64("u:pw").trim_end_matches('=')}), "u:pw"),
            // kubectl writes both.
            (
                json!({"username": "u", "password": "p", "email": "e", "auth": b64("u:p")}),
                "u:p",
            ),
            (json!({"registrytoken": "t"}), "bearer t"),
        ] {
            let read = parse(&secret(&json!({"auths": {"h": entry}})));
            let read = read.unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(user(&read[0].auth), expected);
        }
        let old =
            json!({"data": {".dockercfg": b64(r#"{"h": {"username": "u", "password": "p"}}"#)}});
        assert_eq!(parse(&old).map(|l| l.len()), Ok(1));
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_its_content() {
        let b64 = |text: &str| STANDARD.encode(text);
        let key = ".dockerconfigjson";
        for (secret, word) in [
            (json!({"data": {"password": "hunter2"}}), "has no data"),
            (json!({}), "has no data"),
            (json!({"data": {key: "hunter2 ***"}}), "no base64"),
            (json!({"data": {key: b64("hunter2")}}), "no JSON"),
            (
                json!({"data": {key: b64(r#"{"h": "hunter2"}"#)}}),
                "\"auths\"",
            ),
            (
                secret(&json!({"auths": {"h": {"auth": "hunter2*"}}})),
                "no base64",
            ),
            (
                secret(&json!({"auths": {"h": {"auth": b64("hunter2")}}})),
                "USER:PASSWORD",
            ),
            (
                secret(&json!({"auths": {"h": {"identitytoken": "hunter2"}}})),
                "neither",
            ),
        ] {
            let why = parse(&secret).err().unwrap();
            assert!(why.contains(word) && !why.contains("hunter2"), "{why}");
        }
    }
}
