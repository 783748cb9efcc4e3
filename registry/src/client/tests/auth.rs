//! Registries that want to know who asks.

use axum::extract::RawQuery;
use axum::routing::{any, get};

use super::*;
use crate::client::auth::{Authed, Credentials};

/// A registry that wants tokens of a service, and what the service was asked.
struct Guarded {
    rig: Rig,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Guarded {
    /// Takes the tokens `pull` and `pull,push`, each `times` times, before it wants another one.
    async fn new(times: usize) -> Guarded {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = asked.clone();
        // The token names what it is good for, and which one of them it is.
        let token = move |headers: http::HeaderMap, RawQuery(query): RawQuery, body: String| {
            let kept = kept.clone();
            async move {
                let who = headers.get(header::AUTHORIZATION);
                let who = who.map_or("nobody", |w| w.to_str().unwrap()).to_owned();
                let query = query.unwrap_or_default();
                if who == "Basic ZXZlOmhlcg==" {
                    return Response::builder().status(401).body(Body::empty()).unwrap();
                }
                let push = query.contains("push") || body.contains("push");
                let mut kept = kept.lock().unwrap();
                kept.push(format!("{who} {query}{body}"));
                let token = format!("{}-{}", if push { "push" } else { "pull" }, kept.len());
                let said = serde_json::json!({ "access_token": token, "expires_in": 60 });
                Response::new(Body::from(said.to_string()))
            }
        };
        let service = serve(Router::new().route("/token", any(token))).await;
        let used: Mutex<Vec<String>> = Mutex::default();
        let odd: Odd = Arc::new(move |request| {
            let push = !matches!(request.method().as_str(), "GET" | "HEAD");
            let scope = if push { "pull,push" } else { "pull" };
            let sent = request.headers().get(header::AUTHORIZATION);
            let sent = sent.map_or("", |s| s.to_str().unwrap()).to_owned();
            let good =
                sent.starts_with("Bearer push") || (!push && sent.starts_with("Bearer pull"));
            let mut used = used.lock().unwrap();
            let fresh = used.iter().filter(|u| **u == sent).count() < times;
            used.push(sent);
            if good && fresh {
                return None;
            }
            let challenge = format!(
                "Bearer realm=\"http://{service}/token\",service=\"r\",scope=\"repository:demo:{scope}\""
            );
            status(401, &[("www-authenticate", &challenge)])
        });
        Guarded {
            rig: Rig::odd(odd).await,
            asked,
        }
    }

    fn client(&self, credentials: Option<Credentials>) -> Client<Authed<Wire>> {
        let base = self.rig.base();
        let authed = Authed::new(Wire::new(), base.parse().unwrap(), "demo", credentials);
        Client::new(authed, base, self.rig.options())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn password(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        user: user.into(),
        password: password.into(),
    })
}

#[tokio::test]
async fn a_token_is_asked_for_once_for_pulls_and_once_for_pushes() {
    let guarded = Guarded::new(100).await;
    let bytes = noise(200_000);
    let target = target(&bytes);
    let client = guarded.client(password("bob", "secret"));
    client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert_eq!(client.small("demo", &target, 1 << 20).await.unwrap(), bytes);
    let basic = "Basic Ym9iOnNlY3JldA==";
    assert_eq!(
        guarded.asked(),
        [
            format!("{basic} scope=repository%3Ademo%3Apull&service=r"),
            format!("{basic} scope=repository%3Ademo%3Apull%2Cpush&service=r"),
        ]
    );
    let log = guarded.rig.log();
    let refused = log.iter().filter(|l| l.ends_with("401")).count();
    assert_eq!(refused, 1, "no body is sent in vain: {log:?}");
}

#[tokio::test]
async fn nobody_and_identity_tokens() {
    let guarded = Guarded::new(100).await;
    let bytes = noise(1_000);
    let target = target(&bytes);
    let identity = Some(Credentials::Identity("id/1".into()));
    let client = guarded.client(identity);
    client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert_eq!(
        guarded.asked()[0],
        "nobody scope=repository%3Ademo%3Apull&service=r&grant_type=refresh_token&client_id=coracle&refresh_token=id%2F1"
    );
    let client = guarded.client(None);
    assert_eq!(client.small("demo", &target, 1 << 20).await.unwrap(), bytes);
    assert_eq!(
        guarded.asked(),
        ["nobody scope=repository%3Ademo%3Apull&service=r"]
    );
}

#[tokio::test]
async fn a_token_that_ran_out_is_replaced() {
    let guarded = Guarded::new(3).await;
    let bytes = noise(400_000);
    let target = target(&bytes);
    let client = guarded.client(password("bob", "secret"));
    client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert!(guarded.asked().len() > 2);
    let after = guarded.client(password("bob", "secret"));
    assert_eq!(after.small("demo", &target, 1 << 20).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once() {
    let guarded = Guarded::new(100).await;
    let bytes = noise(1_000);
    let target = target(&bytes);
    let client = guarded.client(password("eve", "her"));
    let e = client.upload("demo", &target.digest, &bytes).await;
    assert!(
        matches!(&e, Err(Error::Denied(why)) if why.contains("401")),
        "{e:?}"
    );
    assert_eq!(guarded.rig.log().len(), 1);
    assert!(guarded.rig.pauses.lock().unwrap().is_empty());
}

#[tokio::test]
async fn basic_and_nothing_to_say() {
    let basic = || -> Odd {
        Arc::new(|request| {
            let sent = request.headers().get(header::AUTHORIZATION);
            let good = sent.is_some_and(|s| s == "Basic Ym9iOnNlY3JldA==");
            match good {
                true => None,
                false => status(401, &[("www-authenticate", "Basic realm=\"r\"")]),
            }
        })
    };
    let bytes = noise(1_000);
    let target = target(&bytes);
    for (credentials, good) in [(password("bob", "secret"), true), (None, false)] {
        let guarded = Guarded {
            rig: Rig::odd(basic()).await,
            asked: Arc::default(),
        };
        let client = guarded.client(credentials);
        let sent = client.upload("demo", &target.digest, &bytes).await;
        match sent {
            Ok(_) => assert!(good),
            Err(Error::Refused { status, .. }) => assert!(!good && status.as_u16() == 401),
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn another_host_learns_nothing() {
    let seen: Arc<Mutex<Vec<Option<http::HeaderValue>>>> = Arc::default();
    let kept = seen.clone();
    let other = Router::new().fallback(move |headers: http::HeaderMap| {
        let sent = headers.get(header::AUTHORIZATION).cloned();
        kept.lock().unwrap().push(sent);
        async { http::StatusCode::CREATED }
    });
    let other = serve(other).await;
    let location = format!("http://{other}/elsewhere/1");
    let rig = Rig::odd(Arc::new(move |request| {
        let open = request.headers().contains_key(header::AUTHORIZATION);
        match (open, request.method().as_str()) {
            (false, _) => status(401, &[("www-authenticate", "Basic realm=\"r\"")]),
            (true, "POST") => status(202, &[("location", &location)]),
            (true, _) => None,
        }
    }))
    .await;
    let guarded = Guarded {
        rig,
        asked: Arc::default(),
    };
    let bytes = noise(1_000);
    let client = guarded.client(password("bob", "secret"));
    let target = target(&bytes);
    client.upload("demo", &target.digest, &bytes).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [None]);
}

#[tokio::test]
async fn a_registry_with_https_does_not_send_passwords_elsewhere_in_the_clear() {
    let service = Router::new().route("/token", get(|| async { "{\"token\":\"x\"}" }));
    let service = serve(service).await;
    let challenge = format!("Bearer realm=\"http://{service}/token\"");
    let rig = Rig::odd(Arc::new(move |_| {
        status(401, &[("www-authenticate", &challenge)])
    }))
    .await;
    // The transport goes to the same place as the address says, which only claims to be secure.
    let base: http::Uri = format!("https://{}", rig.line.address).parse().unwrap();
    let authed = Authed::new(Wire::new(), base, "demo", password("bob", "secret"));
    let client = Client::new(authed, rig.base(), rig.options());
    let e = client.manifest("demo", "v1").await.unwrap_err();
    assert!(
        matches!(&e, Error::Denied(why) if why.contains("not reached by https")),
        "{e}"
    );
}
