//! Who may do what in the registry: pure, from who asks to the answer and its challenge.
//!
//! A user of the API is asked about at the API's own authoriser, as `get`, `create`, `delete` (or, for the catalog,
//! `list`) on `images.registry.coracle.dev` in the namespace that the repository's first segment names. The holder of a
//! registry token may what its role says, in its namespaces. Everybody may pull where the namespace allows it. A bearer
//! token of the token service adds nothing to that: it speaks for one of these, for the scopes it was issued for.

use coracle_registry::authorise::{Action, Verdict, namespace};
use coracle_registry::name::Name;
use coracle_server::{Attributes, Decision, Identity, authorise};

use super::bearer::SERVICE;
use super::logins::{Login, RegistryRole};
use super::scope::{Place, Right, Scope};

/// API group of `images`.
const GROUP: &str = "registry.coracle.dev";
/// Where the token service is, below the origin. Docker sends credentials only under `/v2/`.
pub(crate) const TOKEN_PATH: &str = "/v2/token";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nobody in particular.
    Nobody,
    /// A user of the API.
    User(Identity),
    /// The holder of a registry token.
    Login(Login),
}

/// Who asks, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// With its own credentials, or with none.
    Direct(Who),
    /// With a bearer token that speaks for it in these scopes.
    Bearer(Who, Vec<Scope>),
}

/// Whether a right is somebody's; if not, why. `is_open` says whether everybody may pull from a repository.
pub(crate) fn may(
    who: &Who,
    right: Right,
    at: &Place,
    is_open: &dyn Fn(&Name) -> bool,
) -> Result<(), String> {
    if let (Right::Pull, Place::Repository(name)) = (right, at)
        && is_open(name)
    {
        return Ok(());
    }
    match who {
        Who::Nobody => Err("E_REGISTRY_ANONYMOUS: credentials are needed; log in with any user name and a token made by `coracle token create --role puller|pusher`".into()),
        Who::User(identity) => user(identity, right, at),
        Who::Login(login) => holder(login, right, at),
    }
}

fn user(identity: &Identity, right: Right, at: &Place) -> Result<(), String> {
    let (namespace, name) = match at {
        Place::Repository(name) => (namespace(name), name.as_str()),
        Place::Catalog => ("", ""),
    };
    let asked = Attributes {
        verb: match right {
            Right::Pull => "get",
            Right::Push => "create",
            Right::Delete => "delete",
            Right::List => "list",
        },
        group: GROUP,
        resource: "images",
        namespace,
        name,
        ..Attributes::default()
    };
    match authorise(identity, &asked) {
        Decision::Allow => Ok(()),
        Decision::Deny(why) => Err(format!("E_REGISTRY_DENIED: {why}")),
    }
}

fn holder(login: &Login, right: Right, at: &Place) -> Result<(), String> {
    let role = match login.role {
        RegistryRole::Pusher => "pusher",
        RegistryRole::Puller => "puller",
    };
    match (right, login.role) {
        (Right::Pull | Right::List, _) | (Right::Push, RegistryRole::Pusher) => {}
        (Right::Push, RegistryRole::Puller) => {
            return Err(format!(
                "E_REGISTRY_DENIED: the token {} only pulls; make one with `coracle token create --role pusher`",
                login.id
            ));
        }
        (Right::Delete, _) => {
            return Err(format!(
                "E_REGISTRY_DENIED: the token {} of a {role} deletes nothing; delete as an administrator",
                login.id
            ));
        }
    }
    if login.namespaces.is_empty() {
        return Ok(());
    }
    let of = |name: &Name| login.namespaces.iter().any(|n| n == namespace(name));
    match at {
        Place::Repository(name) if of(name) => Ok(()),
        Place::Repository(name) => Err(format!(
            "E_REGISTRY_DENIED: the token {} works in the namespaces {} and not in {}; make one with `coracle token create --role {role} --namespace {2}`",
            login.id,
            login.namespaces.join(", "),
            namespace(name)
        )),
        Place::Catalog => Err(format!(
            "E_REGISTRY_DENIED: the token {} works in single namespaces and does not list all repositories; make one without --namespace",
            login.id
        )),
    }
}

/// What of `asked` somebody has; a scope of which nothing is left goes.
pub(crate) fn granted(who: &Who, asked: Vec<Scope>, is_open: &dyn Fn(&Name) -> bool) -> Vec<Scope> {
    let mut granted = asked;
    for scope in &mut granted {
        let at = &scope.at;
        scope.rights.retain(|r| may(who, *r, at, is_open).is_ok());
    }
    granted.retain(|scope| !scope.rights.is_empty());
    granted
}

/// The rights an action needs, and where: the last is the one that is asked about, all go into the challenge's scope.
fn needs(action: Action, repository: Option<&Name>) -> Option<Scope> {
    let rights = match action {
        Action::Ping => return None,
        Action::Pull => vec![Right::Pull],
        // Who pushes looks first whether a blob is there.
        Action::Push => vec![Right::Pull, Right::Push],
        Action::Delete => vec![Right::Delete],
        Action::Catalog => vec![Right::List],
    };
    let at = match (action, repository) {
        (Action::Catalog, _) => Place::Catalog,
        (_, Some(name)) => Place::Repository(name.clone()),
        (_, None) => return None,
    };
    Some(Scope { at, rights })
}

/// `WWW-Authenticate`: where tokens are had, and for what.
fn challenge(origin: &str, needed: Option<&Scope>, error: Option<&str>) -> String {
    let mut text = format!("Bearer realm=\"{origin}{TOKEN_PATH}\",service=\"{SERVICE}\"");
    if let Some(scope) = needed {
        text.push_str(&format!(",scope=\"{scope}\""));
    }
    if let Some(error) = error {
        text.push_str(&format!(",error=\"{error}\""));
    }
    text
}

/// The answer to credentials that are none, or no longer: 401, so that a client asks for new ones.
pub(crate) fn unknown(action: Action, repository: Option<&Name>, origin: &str) -> Verdict {
    let needed = needs(action, repository);
    Verdict::Challenge(challenge(origin, needed.as_ref(), Some("invalid_token")))
}

/// The answer. `origin` is `SCHEME://HOST` as the client reaches this listener.
pub(crate) fn decide(
    action: Action,
    repository: Option<&Name>,
    caller: &Caller,
    is_open: &dyn Fn(&Name) -> bool,
    origin: &str,
) -> Verdict {
    let needed = needs(action, repository);
    let Some(asked) = &needed else {
        return match caller {
            // Some clients learn only here that there is something to log in to, also where anybody may pull.
            Caller::Direct(Who::Nobody) => Verdict::Challenge(challenge(origin, None, None)),
            _ => Verdict::Allow,
        };
    };
    let (who, scopes) = match caller {
        Caller::Direct(who) => (who, None),
        Caller::Bearer(who, scopes) => (who, Some(scopes)),
    };
    let Some(right) = asked.rights.last().copied() else {
        return Verdict::Allow;
    };
    let covered = scopes.is_none_or(|all| all.iter().any(|s| s.includes(right, &asked.at)));
    match (may(who, right, &asked.at, is_open), who) {
        (Ok(()), _) if covered => Verdict::Allow,
        // A new token for this scope would do.
        (Ok(()), _) => Verdict::Challenge(challenge(
            origin,
            needed.as_ref(),
            Some("insufficient_scope"),
        )),
        (Err(_), Who::Nobody) => Verdict::Challenge(challenge(origin, needed.as_ref(), None)),
        (Err(why), _) => Verdict::Deny(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_server::identity::{MASTERS, NODES};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn who(text: &str) -> Who {
        let login = |role, namespaces: &[&str]| {
            Who::Login(Login {
                id: "t1".into(),
                role,
                namespaces: namespaces.iter().map(ToString::to_string).collect(),
            })
        };
        match text {
            "nobody" => Who::Nobody,
            "admin" => Who::User(Identity::new("admin", &[MASTERS])),
            "node" => Who::User(Identity::new("system:node:n1", &[NODES])),
            "stranger" => Who::User(Identity::new("eve", &[])),
            "pusher" => login(RegistryRole::Pusher, &[]),
            "puller" => login(RegistryRole::Puller, &[]),
            "pusher of a" => login(RegistryRole::Pusher, &["a", "c"]),
            "puller of a" => login(RegistryRole::Puller, &["a"]),
            other => panic!("{other}"),
        }
    }

    /// The namespace `open` may be pulled from by everybody.
    fn open(name: &Name) -> bool {
        namespace(name) == "open"
    }

    fn short(verdict: Verdict) -> String {
        match verdict {
            Verdict::Allow => "allow".into(),
            Verdict::Deny(_) => "403".into(),
            Verdict::Challenge(_) => "401".into(),
            Verdict::Unavailable(_) => "503".into(),
        }
    }

    #[test]
    fn everybody_may_what_is_theirs() {
        const ALL: [&str; 8] = [
            "nobody",
            "admin",
            "node",
            "stranger",
            "pusher",
            "puller",
            "pusher of a",
            "puller of a",
        ];
        let row = |action: Action, at: &str| -> String {
            let at = (!at.is_empty()).then(|| name(at));
            let of = |w: &&str| {
                let caller = Caller::Direct(who(w));
                short(decide(action, at.as_ref(), &caller, &open, "http://h"))
            };
            ALL.iter().map(of).collect::<Vec<_>>().join(" ")
        };
        for (action, at, expected) in [
            // nobody admin node stranger pusher puller pusher-a puller-a
            (
                Action::Ping,
                "",
                "401 allow allow allow allow allow allow allow",
            ),
            (
                Action::Pull,
                "a/x",
                "401 allow allow 403 allow allow allow allow",
            ),
            (
                Action::Pull,
                "b/x",
                "401 allow allow 403 allow allow 403 403",
            ),
            (
                Action::Pull,
                "open/x",
                "allow allow allow allow allow allow allow allow",
            ),
            (Action::Push, "a/x", "401 allow 403 403 allow 403 allow 403"),
            (Action::Push, "b/x", "401 allow 403 403 allow 403 403 403"),
            (
                Action::Push,
                "open/x",
                "401 allow 403 403 allow 403 403 403",
            ),
            (Action::Delete, "a/x", "401 allow 403 403 403 403 403 403"),
            (
                Action::Catalog,
                "",
                "401 allow allow 403 allow allow 403 403",
            ),
            // Without a namespace it is in `default`, whatever it is called.
            (Action::Pull, "a", "401 allow allow 403 allow allow 403 403"),
            (
                Action::Pull,
                "open",
                "401 allow allow 403 allow allow 403 403",
            ),
        ] {
            assert_eq!(row(action, at), expected, "{action:?} {at}");
        }
    }

    #[test]
    fn a_bearer_token_does_what_it_was_issued_for_and_its_subject_may_still() {
        let check = |w: &str, scope: &str, action: Action, at: &str| {
            let scopes = Scope::parse(scope).into_iter().collect();
            let at = (!at.is_empty()).then(|| name(at));
            let caller = Caller::Bearer(who(w), scopes);
            decide(action, at.as_ref(), &caller, &open, "https://h:1")
        };
        let pull = "repository:a/x:pull";
        for (w, scope, action, at, expected) in [
            ("nobody", "", Action::Ping, "", "allow"),
            (
                "nobody",
                "repository:open/x:pull",
                Action::Pull,
                "open/x",
                "allow",
            ),
            // Issued while it was open, used when it was not any more.
            ("nobody", pull, Action::Pull, "a/x", "401"),
            ("puller", pull, Action::Pull, "a/x", "allow"),
            ("puller", pull, Action::Pull, "a/y", "401"),
            ("puller", "repository:a/x:push", Action::Push, "a/x", "403"),
            ("puller", "", Action::Push, "a/x", "403"),
            ("pusher", pull, Action::Push, "a/x", "401"),
            (
                "pusher",
                "repository:a/x:pull,push",
                Action::Push,
                "a/x",
                "allow",
            ),
            ("pusher", "repository:a/x:*", Action::Delete, "a/x", "403"),
            (
                "admin",
                "repository:a/x:delete",
                Action::Delete,
                "a/x",
                "allow",
            ),
            ("admin", "registry:catalog:*", Action::Catalog, "", "allow"),
            ("admin", pull, Action::Catalog, "", "401"),
        ] {
            let verdict = short(check(w, scope, action, at));
            assert_eq!(verdict, expected, "{w} {scope} {action:?} {at}");
        }
    }

    #[test]
    fn a_challenge_says_where_and_for_what() {
        let nobody = Caller::Direct(Who::Nobody);
        let of = |verdict| match verdict {
            Verdict::Challenge(text) => text,
            other => panic!("{other:?}"),
        };
        let at = name("a/x");
        let ask = |action, at| of(decide(action, at, &nobody, &open, "https://h:1"));
        let start = "Bearer realm=\"https://h:1/v2/token\",service=\"coracle\"";
        assert_eq!(ask(Action::Ping, None), start);
        for (action, scope) in [
            (Action::Pull, "repository:a/x:pull"),
            (Action::Push, "repository:a/x:pull,push"),
            (Action::Delete, "repository:a/x:delete"),
        ] {
            assert_eq!(ask(action, Some(&at)), format!("{start},scope=\"{scope}\""));
        }
        let catalog = format!("{start},scope=\"registry:catalog:*\"");
        assert_eq!(ask(Action::Catalog, None), catalog);
        let late = of(unknown(Action::Pull, Some(&at), "http://h"));
        assert!(late.ends_with("scope=\"repository:a/x:pull\",error=\"invalid_token\""));
        let narrow = Caller::Bearer(who("pusher"), Vec::new());
        let narrow = of(decide(Action::Push, Some(&at), &narrow, &open, "http://h"));
        assert!(
            narrow.ends_with(",error=\"insufficient_scope\""),
            "{narrow}"
        );
    }

    #[test]
    fn a_token_gets_what_its_holder_has() {
        let check = |w: &str, asked: &[&str]| {
            let asked = Scope::parse_all(asked.iter().copied()).unwrap();
            let got = granted(&who(w), asked, &open);
            let got: Vec<String> = got.iter().map(ToString::to_string).collect();
            got.join(" ")
        };
        let push = "repository:a/x:pull,push";
        for (w, asked, expected) in [
            ("nobody", &[push][..], ""),
            (
                "nobody",
                &["repository:open/x:pull,push"],
                "repository:open/x:pull",
            ),
            (
                "puller",
                &[push, "registry:catalog:*"],
                "repository:a/x:pull registry:catalog:*",
            ),
            ("pusher", &["repository:a/x:*"], "repository:a/x:pull,push"),
            (
                "admin",
                &["repository:a/x:*"],
                "repository:a/x:pull,push,delete",
            ),
            // A mount: push here, pull there.
            (
                "pusher of a",
                &[push, "repository:b/x:pull", "repository:open/x:pull"],
                "repository:a/x:pull,push repository:open/x:pull",
            ),
            ("stranger", &[push], ""),
        ] {
            assert_eq!(check(w, asked), expected, "{w} {asked:?}");
        }
    }
}
