//! The members as operators see and change them: `/coracle/v1/members`. Which changes of the membership are sound is
//! decided by the leader, in `coracle-raft`; here names become ids, and newcomers are looked at.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use coracle_api::ApiError;
use coracle_raft::{Member, MemberError, MemberInfo, Replica, node_id_text, parse_node_id};
use coracle_server::Identity;
use coracle_state::{BoxFuture, Views};
use serde_json::{Value, json};

/// A member that was heard within this time is alive: heartbeats come every 75 ms, and elections take 400.
const ALIVE_MS: u64 = 3_000;

/// The members of this cluster.
pub(crate) struct Members {
    replica: Arc<Replica>,
}

fn not_found(message: String) -> ApiError {
    ApiError::new(404, "NotFound", message)
}

fn conflict(message: String) -> ApiError {
    ApiError::new(409, "Conflict", message)
}

/// The leader's refusal, or that there is none. It may have come from another member, so its code is what counts.
fn refused(e: &MemberError) -> ApiError {
    let message = e.to_string();
    match message.split(':').next().unwrap_or_default() {
        "E_MEMBER_UNKNOWN" => not_found(message),
        "E_NO_LEADER" | "E_MEMBER_BUSY" | "E_MEMBER_TRANSFER" => {
            let mut error = ApiError::new(503, "ServiceUnavailable", message);
            error.retry_after_seconds = Some(1);
            error
        }
        _ => conflict(message),
    }
}

/// Whether a member counts as alive. (Silence begins to count when this process starts.)
fn alive(m: &MemberInfo) -> bool {
    m.leader || m.silent_ms < ALIVE_MS
}

/// Whether those left could still agree on anything. Refused whatever is forced: there would be no way back.
fn check_quorum(list: &[MemberInfo], gone: &MemberInfo) -> Result<(), ApiError> {
    let left: Vec<&MemberInfo> = list.iter().filter(|m| m.voter && m.id != gone.id).collect();
    let (living, dead): (Vec<_>, Vec<_>) = left.iter().copied().partition(|m| alive(m));
    if !gone.voter || left.is_empty() || living.len() * 2 > left.len() {
        return Ok(());
    }
    let dead: Vec<String> = dead.into_iter().map(shown).collect();
    Err(conflict(format!(
        "E_MEMBER_QUORUM: without {} only {} of {} voters would be alive and the cluster would stop; remove or restart {} first",
        shown(gone),
        living.len(),
        left.len(),
        dead.join(", ")
    )))
}

/// How a list names a member.
fn shown(m: &MemberInfo) -> String {
    format!("{} ({})", m.member.name, node_id_text(m.id))
}

/// The member with this id or name.
fn find<'a>(list: &'a [MemberInfo], which: &str) -> Result<&'a MemberInfo, ApiError> {
    if let Some(m) = parse_node_id(which).and_then(|id| list.iter().find(|m| m.id == id)) {
        return Ok(m);
    }
    let named: Vec<&MemberInfo> = list.iter().filter(|m| m.member.name == which).collect();
    match named.as_slice() {
        [one] => Ok(one),
        [] => Err(not_found(format!(
            "E_MEMBER_UNKNOWN: there is no member {which:?}; name one of {}",
            list.iter().map(shown).collect::<Vec<_>>().join(", ")
        ))),
        several => Err(conflict(format!(
            "E_MEMBER_AMBIGUOUS: {} members are named {which:?}; give an id: {}",
            several.len(),
            several
                .iter()
                .map(|m| {
                    let state = if alive(m) { "alive" } else { "not heard of" };
                    format!("{} ({state})", node_id_text(m.id))
                })
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

/// Whether an address is one of this machine only; `None` if it does not resolve here.
fn loopback(addr: &str) -> Option<bool> {
    let host = addr.rsplit_once(':').map_or(addr, |(h, _)| h);
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(ip.is_loopback());
    }
    Some(addr.to_socket_addrs().ok()?.next()?.ip().is_loopback())
}

/// A member on loopback and one elsewhere cannot reach each other; told before anything has happened.
fn check_reach(list: &[MemberInfo], raft: &str) -> Result<(), ApiError> {
    let Some(theirs) = loopback(raft) else {
        return Err(ApiError::bad_request(format!(
            "E_RAFT_ADDRESS: the joining member's raft address {raft:?} is not HOST:PORT of a host known here; start it with --advertise HOST"
        )));
    };
    for m in list {
        match loopback(&m.member.raft) {
            Some(true) if !theirs => {
                return Err(conflict(format!(
                    "E_RAFT_LOOPBACK: member {} listens for other members on {} only, which {raft} cannot reach; restart it with --raft-addr 0.0.0.0:2380 --advertise HOST",
                    m.member.name, m.member.raft
                )));
            }
            Some(false) if theirs => {
                return Err(conflict(format!(
                    "E_RAFT_LOOPBACK: the joining member listens on {raft}, which member {} at {} cannot reach; start it with --raft-addr 0.0.0.0:2380 --advertise HOST",
                    m.member.name, m.member.raft
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A living member's name is taken; one that is silent gives its name away.
fn check_name(list: &[MemberInfo], name: &str, but: Option<u64>) -> Result<(), ApiError> {
    let namesake = list
        .iter()
        .find(|m| m.member.name == name && Some(m.id) != but && alive(m));
    let Some(m) = namesake else { return Ok(()) };
    Err(conflict(format!(
        "E_NAME_TAKEN: member {} is alive; choose another --name, or stop it (or `coracle members remove {}`) first",
        shown(m),
        node_id_text(m.id)
    )))
}

/// A member that says it is elsewhere now must not be alive where it was: else a copy of its directory would take its
/// place, and with an older log bring the leader down.
fn check_same(there: &MemberInfo, now: &Member) -> Result<(), ApiError> {
    let moved = there.member.raft != now.raft && alive(there);
    if there.member.name == now.name && !moved {
        return Ok(());
    }
    Err(conflict(format!(
        "E_MEMBER_DUPLICATE: another live process is member {} at {}; a data directory was copied: stop one of the two, and let it join again with an empty directory",
        shown(there),
        there.member.raft
    )))
}

fn row(m: &MemberInfo) -> Value {
    json!({
        "name": m.member.name, "id": node_id_text(m.id), "voter": m.voter, "leader": m.leader,
        "api": m.member.api, "raft": m.member.raft, "applied": m.applied, "silentMs": m.silent_ms,
    })
}

impl Members {
    pub fn new(replica: Arc<Replica>) -> Arc<Self> {
        Arc::new(Self { replica })
    }

    /// Whether an id is or was a member's, as far as this member knows.
    pub fn knows(&self, id: u64) -> bool {
        self.replica.status().members.iter().any(|(i, _)| *i == id)
    }

    fn all(&self) -> Vec<MemberInfo> {
        self.replica.members()
    }

    /// Looks at who wants a certificate, before its token is used up.
    pub fn check_joiner(&self, name: &str, raft: &str) -> Result<(), ApiError> {
        let list = self.all();
        check_name(&list, name, None)?;
        check_reach(&list, raft)
    }

    async fn enter(&self, user: &Identity, body: Value) -> Result<Value, ApiError> {
        let text = |field: &str| {
            body[field]
                .as_str()
                .filter(|t| !t.is_empty())
                .ok_or_else(|| {
                    ApiError::bad_request(format!("{field}: is required and must be a string"))
                })
        };
        let id = parse_node_id(text("id")?)
            .ok_or_else(|| ApiError::bad_request("id: must be 16 hex digits"))?;
        let member = Member {
            name: text("name")?.into(),
            raft: text("raft")?.into(),
            api: text("api")?.into(),
        };
        if user.user != format!("system:member:{}", member.name) {
            return Err(ApiError::new(
                403,
                "Forbidden",
                format!(
                    "E_MEMBER_ADD: {} is not {}; a member adds only itself",
                    user.user, member.name
                ),
            ));
        }
        let list = self.all();
        if let Some(there) = list.iter().find(|m| m.id == id) {
            // Asked again after a lost answer, or by a certificate's owner about itself.
            check_same(there, &member)?;
            if there.member != member {
                self.replica
                    .update_member(id, member)
                    .await
                    .map_err(|e| refused(&e))?;
            }
            return Ok(self.table());
        }
        check_name(&list, &member.name, Some(id))?;
        check_reach(&list, &member.raft)?;
        let name = member.name.clone();
        self.replica
            .add_member(id, member)
            .await
            .map_err(|e| refused(&e))?;
        tracing::info!(target: crate::LOG, name, id = node_id_text(id), "a member has joined as a learner; it becomes a voter when it has caught up and the number of voters stays odd");
        Ok(self.table())
    }

    /// The answer to a list.
    pub fn table(&self) -> Value {
        json!({"members": self.all().iter().map(row).collect::<Vec<_>>()})
    }

    async fn drop_one(&self, which: &str, body: Value) -> Result<Value, ApiError> {
        let list = self.all();
        let gone = find(&list, which)?.clone();
        check_quorum(&list, &gone)?;
        self.replica
            .remove_member(gone.id, body["force"] == true)
            .await
            .map_err(|e| refused(&e))?;
        tracing::info!(target: crate::LOG, name = gone.member.name, id = node_id_text(gone.id), "a member was removed");
        let left: Vec<MemberInfo> = self.all();
        let mut answer =
            json!({"removed": row(&gone), "members": left.iter().map(row).collect::<Vec<_>>()});
        if let Some(warning) = advice(&left) {
            answer["warning"] = json!(warning);
        }
        Ok(answer)
    }

    async fn raise(&self, which: &str, body: Value) -> Result<Value, ApiError> {
        let list = self.all();
        let raised = find(&list, which)?.clone();
        if !raised.voter {
            self.replica
                .promote(raised.id, body["force"] == true)
                .await
                .map_err(|e| refused(&e))?;
            tracing::info!(target: crate::LOG, name = raised.member.name, id = node_id_text(raised.id), "a member was made a voter");
        }
        let after = self.all();
        let mut answer = json!({"promoted": row(find(&after, &node_id_text(raised.id))?), "already": raised.voter});
        if let Some(warning) = advice(&after) {
            answer["warning"] = json!(warning);
        }
        Ok(answer)
    }

    async fn hand_over(&self, body: Value) -> Result<Value, ApiError> {
        let list = self.all();
        let to = match &body["to"] {
            Value::Null => heir(&list).ok_or_else(|| {
                conflict("E_MEMBER_TRANSFER: no other voter answers; see `coracle members`".into())
            })?,
            Value::String(which) => {
                let to = find(&list, which)?;
                if !to.voter {
                    return Err(conflict(format!(
                        "E_MEMBER_LEARNER: {} is a learner and cannot lead; see `coracle members`",
                        shown(to)
                    )));
                }
                to.id
            }
            _ => return Err(ApiError::bad_request("to: must be a member's name or id")),
        };
        if !list.iter().any(|m| m.leader && m.id == to) {
            self.replica
                .transfer(Some(to))
                .await
                .map_err(|e| refused(&e))?;
        }
        Ok(self.table())
    }
}

/// Who should lead next: the voter that is alive and furthest. Named, because a request that nobody names a target in
/// would be answered by the next leader, too, which would hand leadership back.
pub(crate) fn heir(list: &[MemberInfo]) -> Option<u64> {
    list.iter()
        .filter(|m| m.voter && !m.leader && alive(m))
        .max_by_key(|m| (m.applied, m.id))
        .map(|m| m.id)
}

/// What an operator should know about the voters that are left.
fn advice(list: &[MemberInfo]) -> Option<String> {
    let voters = list.iter().filter(|m| m.voter).count();
    let learners = list.len() - voters;
    if voters % 2 == 1 {
        return None;
    }
    let tolerated = (voters - 1) / 2;
    Some(format!(
        "the cluster has {voters} voters now, which bear the loss of {tolerated}, no more than {} would; {}",
        voters - 1,
        if learners > 0 {
            "a learner becomes the next voter when it has caught up"
        } else {
            "let another member join: `coracle token create --role scheduler`, then `coracle scheduler --join HOST:PORT --token TOKEN`"
        }
    ))
}

impl coracle_server::Members for Members {
    fn list(&self) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(std::future::ready(Ok(self.table())))
    }

    fn add<'a>(
        &'a self,
        user: &'a Identity,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(self.enter(user, body))
    }

    fn remove<'a>(&'a self, which: &'a str, body: Value) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(self.drop_one(which, body))
    }

    fn promote<'a>(
        &'a self,
        which: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(self.raise(which, body))
    }

    fn transfer(&self, body: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(self.hand_over(body))
    }

    fn endpoints(&self) -> Value {
        let status = self.replica.status();
        let mut members = status.members;
        // This member first: whoever asks has reached it.
        members.sort_by_key(|(id, _)| (*id != status.id, *id));
        let urls: Vec<String> = members
            .into_iter()
            .map(|(_, m)| m.api)
            .filter(|url| !url.is_empty())
            .collect();
        let registry = crate::rotate::registries(&self.replica.view());
        json!({"api": urls, "registry": registry})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, silent_ms: u64) -> MemberInfo {
        MemberInfo {
            id,
            member: Member {
                name: name.into(),
                raft: format!("10.0.0.{id}:2380"),
                api: format!("https://10.0.0.{id}:6443"),
            },
            voter: true,
            leader: id == 1,
            applied: Some(7),
            silent_ms,
        }
    }

    #[test]
    fn a_member_is_found_by_id_or_by_a_name_that_is_one_members() {
        let list = [
            member(1, "a", 0),
            member(2, "b", 10),
            member(3, "b", 60_000),
        ];
        let found = |which: &str| find(&list, which).map(|m| m.id).map_err(|e| e.message);
        assert_eq!(found("a"), Ok(1));
        assert_eq!(found("0000000000000003"), Ok(3));
        let unknown = found("c").unwrap_err();
        assert!(
            unknown.starts_with("E_MEMBER_UNKNOWN: there is no member \"c\""),
            "{unknown}"
        );
        assert!(
            unknown.contains("a (0000000000000001), b (0000000000000002)"),
            "{unknown}"
        );
        let both = found("b").unwrap_err();
        assert!(both.starts_with("E_MEMBER_AMBIGUOUS"), "{both}");
        assert!(
            both.contains("0000000000000002 (alive), 0000000000000003 (not heard of)"),
            "{both}"
        );
        assert!(
            found("000000000000000f")
                .unwrap_err()
                .starts_with("E_MEMBER_UNKNOWN")
        );
    }

    #[test]
    fn a_name_is_free_when_its_member_is_silent() {
        let list = [
            member(1, "a", 0),
            member(2, "b", 10),
            member(3, "c", ALIVE_MS),
            member(4, "d", 0),
        ];
        for (name, but, free) in [
            ("a", None, false),
            ("b", None, false),
            ("b", Some(2), true),
            ("c", None, true),
            // Not heard of by a new leader: it may be alive.
            ("d", None, false),
            ("e", None, true),
        ] {
            let checked = check_name(&list, name, but);
            assert_eq!(checked.is_ok(), free, "{name}");
            if let Err(e) = checked {
                assert!(e.message.starts_with("E_NAME_TAKEN: member "), "{e}");
            }
        }
    }

    #[test]
    fn a_copy_does_not_take_a_living_members_place() {
        let (silent, living) = (member(2, "b", ALIVE_MS), member(3, "c", 0));
        let at = |m: &MemberInfo, raft: &str, name: &str| Member {
            name: name.into(),
            raft: raft.into(),
            ..m.member.clone()
        };
        for (there, now, fine) in [
            (&silent, at(&silent, "10.0.0.9:1", "b"), true),
            (&living, at(&living, "10.0.0.9:1", "c"), false),
            (&living, at(&living, &living.member.raft, "c"), true),
            (&silent, at(&silent, "10.0.0.9:1", "d"), false),
        ] {
            let checked = check_same(there, &now);
            assert_eq!(checked.is_ok(), fine, "{now:?}");
            if let Err(e) = checked {
                assert!(e.message.starts_with("E_MEMBER_DUPLICATE"), "{e}");
            }
        }
    }

    #[test]
    fn loopback_and_the_network_do_not_mix() {
        let mut local = member(1, "a", 0);
        local.member.raft = "127.0.0.1:2380".into();
        let (near, far) = ([local], [member(1, "a", 0)]);
        let code = |list: &[MemberInfo], raft: &str| {
            check_reach(list, raft)
                .map_err(|e| e.message.split(':').next().unwrap_or_default().to_string())
        };
        assert_eq!(code(&near, "127.0.0.1:9"), Ok(()));
        assert_eq!(code(&near, "[::1]:9"), Ok(()));
        assert_eq!(code(&far, "10.0.0.2:9"), Ok(()));
        let refused = Err("E_RAFT_LOOPBACK".to_string());
        assert_eq!(code(&near, "10.0.0.2:9"), refused);
        assert_eq!(code(&far, "127.0.0.1:9"), refused);
        assert_eq!(code(&far, "nothing"), Err("E_RAFT_ADDRESS".into()));
    }

    #[test]
    fn nobody_is_removed_whom_the_quorum_needs() {
        for (silent, gone, refused) in [
            ([0, 0, 0], 3, false),
            // A dead one of three may go, a living one beside it may not.
            ([0, 0, 60_000], 3, false),
            ([0, 0, 60_000], 2, true),
            ([0, 0, 60_000], 1, true),
            ([0, 60_000, 60_000], 2, true),
        ] {
            let list: Vec<MemberInfo> = (1..)
                .zip(silent)
                .map(|(id, silent)| member(id, "m", silent))
                .collect();
            let gone = list.iter().find(|m| m.id == gone).unwrap();
            let checked = check_quorum(&list, gone);
            assert_eq!(checked.is_err(), refused, "{silent:?} without {}", gone.id);
            if let Err(e) = checked {
                assert!(e.message.starts_with("E_MEMBER_QUORUM"), "{e}");
            }
        }
        let mut learner = member(3, "c", 0);
        learner.voter = false;
        let list = [member(1, "a", 0), member(2, "b", 0), learner.clone()];
        assert!(check_quorum(&list, &learner).is_ok());
        assert!(
            check_quorum(&list[..1], &list[0]).is_ok(),
            "the leader says that it is the last"
        );
    }

    #[test]
    fn the_heir_is_alive_votes_and_is_furthest() {
        let mut list = vec![member(1, "a", 0), member(2, "b", 0), member(3, "c", 0)];
        list[1].applied = Some(9);
        assert_eq!(heir(&list), Some(2));
        list[1].silent_ms = ALIVE_MS;
        assert_eq!(heir(&list), Some(3));
        list[2].voter = false;
        assert_eq!(heir(&list), None, "the leader itself is none");
    }

    #[test]
    fn even_numbers_of_voters_are_commented() {
        let mut list = vec![member(1, "a", 0), member(2, "b", 0), member(3, "c", 0)];
        assert_eq!(advice(&list), None);
        list.truncate(2);
        let text = advice(&list).unwrap();
        assert!(
            text.contains("2 voters") && text.contains("--join"),
            "{text}"
        );
        let mut learner = member(3, "c", 0);
        learner.voter = false;
        list.push(learner);
        assert!(advice(&list).unwrap().contains("learner becomes"));
    }
}
