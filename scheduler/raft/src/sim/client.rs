//! Clients: writers of unique values, fresh readers and watchers, each of them going through any member.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_state::{Command, Expect, Propose, ProposeError, Refused, Results, View, Views};

use openraft::ReadPolicy;

use super::dice::Dice;
use super::history::{Operation, TABLE, Told, Want, decode, encode, key};
use super::host::Host;
use super::node::Node;
use super::plant::Plant;
use super::watcher::{Seen, Span};
use super::world::World;
use crate::replica::Replica;

/// A client waits this long for an answer, longer than any retry inside.
const PATIENCE: Duration = Duration::from_secs(15);
/// A watcher looks for another member when its own tells nothing for so long.
const QUIET: Duration = Duration::from_millis(700);

fn serving(world: &World, dice: &mut Dice) -> Option<(Arc<Node>, Arc<Host>, Arc<Replica>)> {
    let all = world.serving();
    dice.pick(&all).cloned()
}

fn command(op: &Operation, pad: usize, group: u32) -> Command {
    let mut c = match op.want {
        Want::Put(v) => Command::put(TABLE, key(op.key), Expect::Any, encode(v, pad), Vec::new()),
        Want::Create(v) => Command::put(
            TABLE,
            key(op.key),
            Expect::Absent,
            encode(v, pad),
            Vec::new(),
        ),
        Want::Swap { revision, to, .. } => Command::put(
            TABLE,
            key(op.key),
            Expect::Revision(revision),
            encode(to, pad),
            Vec::new(),
        ),
        Want::Delete => Command::delete(TABLE, key(op.key), Expect::Any),
        Want::Read => unreachable!("reads are not proposed"),
    };
    c.group = group;
    c
}

/// One operation a client is about to do.
fn begin(world: &World, client: u64, member: u64, key: u64, want: Want) -> Operation {
    let _ = world;
    Operation {
        client,
        member,
        key,
        want,
        group: 0,
        from: super::now(),
        to: super::now(),
        told: Told::Unknown,
    }
}

/// What an answer says about each of the operations of one proposal.
fn told(answer: Option<Result<Results, ProposeError>>, n: usize) -> Vec<Told> {
    match answer {
        Some(Ok(results)) => results
            .into_iter()
            .map(|r| match r {
                Ok(done) => Told::Done {
                    revision: done.revision,
                    changed: done.changed,
                },
                Err(Refused::Precondition { found }) => Told::Refused(found),
                Err(_) => Told::Refused(None),
            })
            .collect(),
        // Said to have done nothing.
        Some(Err(ProposeError::Unavailable(_) | ProposeError::TooLarge { .. })) => {
            vec![Told::Not; n]
        }
        Some(Err(ProposeError::NoLeader(_))) | None => vec![Told::Unknown; n],
    }
}

/// Proposes through a member; `None` if it died or did not answer.
pub async fn propose(
    host: &Arc<Host>,
    replica: &Arc<Replica>,
    commands: Vec<Command>,
) -> Option<Result<Results, ProposeError>> {
    let replica = replica.clone();
    let asked = host.spawn(async move { replica.propose(commands).await });
    tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
}

/// A fresh view through a member.
pub async fn fresh(
    host: &Arc<Host>,
    replica: &Arc<Replica>,
    plant: Option<Plant>,
) -> Option<Result<Arc<View>, ProposeError>> {
    let replica = replica.clone();
    let asked = host.spawn(async move {
        if plant == Some(Plant::StaleFresh) {
            return Ok(replica.view());
        }
        while plant == Some(Plant::TrustedConfirmation) && replica.is_leader() {
            let confirmed = replica.raft().get_read_linearizer(ReadPolicy::ReadIndex);
            if let Ok(linearizer) = confirmed.await {
                let index = linearizer.read_log_id().log_id().index;
                replica.service.published.wait_applied(index).await;
                return Ok(replica.view());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        replica.fresh().await
    });
    tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
}

/// The (revision, value) of a key.
fn object(view: &View, n: u64) -> Option<(u64, u64)> {
    view.get(TABLE, &key(n))
        .map(|o| (o.revision, decode(&o.bytes)))
}

/// Runs one write to its answer and notes it; whether it took effect.
pub async fn write(
    world: &World,
    through: &(Arc<Node>, Arc<Host>, Arc<Replica>),
    client: u64,
    key: u64,
    want: Want,
) -> Told {
    let (node, host, replica) = through;
    let mut op = begin(world, client, node.id, key, want);
    let answer = propose(host, replica, vec![command(&op, 0, 0)]).await;
    op.to = super::now();
    op.told = told(answer, 1)[0];
    world.note(op);
    op.told
}

/// Runs one fresh read and notes it.
pub async fn read(
    world: &World,
    through: &(Arc<Node>, Arc<Host>, Arc<Replica>),
    client: u64,
    key: u64,
) -> Told {
    let (node, host, replica) = through;
    let mut op = begin(world, client, node.id, key, Want::Read);
    let answer = fresh(host, replica, world.options.plant).await;
    op.to = super::now();
    if let Some(Ok(view)) = answer {
        op.told = Told::Saw {
            view: view.revision,
            object: object(&view, key),
        };
    }
    world.note(op);
    op.told
}

/// Writes and reads until the world stops.
pub async fn worker(world: Arc<World>, client: u64, pause_ms: u64, pad: usize) {
    let mut dice = world.dice(&format!("client {client}"));
    // What it last saw of each key: the base of its swaps.
    let mut known: Vec<Option<(u64, u64)>> = vec![None; world.options.keys as usize];
    while !world.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_micros(dice.range(0..pause_ms * 2_000 + 1))).await;
        let Some(through) = serving(&world, &mut dice) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let k = dice.range(0..world.options.keys);
        let slot = k as usize;
        match dice.range(0..100) {
            0..=29 => {
                if let Told::Saw { object, .. } = read(&world, &through, client, k).await {
                    known[slot] = object;
                }
            }
            30..=39 => group(&world, &through, client, &mut dice).await,
            n => {
                let v = world.value();
                let want = match (n, known[slot]) {
                    (40..=64, Some((revision, value))) => Want::Swap {
                        revision,
                        value,
                        to: v,
                    },
                    (65..=74, _) => Want::Create(v),
                    (75..=84, _) => Want::Delete,
                    _ => Want::Put(v),
                };
                let mut op = begin(&world, client, through.0.id, k, want);
                let answer = propose(&through.1, &through.2, vec![command(&op, pad, 0)]).await;
                op.to = super::now();
                op.told = told(answer, 1)[0];
                world.note(op);
                known[slot] = match (op.told, want.writes()) {
                    (
                        Told::Done {
                            revision,
                            changed: true,
                        },
                        Some(v),
                    ) => Some((revision, v)),
                    _ => None,
                };
            }
        }
    }
}

/// Two writes that take effect together or not at all.
async fn group(
    world: &World,
    through: &(Arc<Node>, Arc<Host>, Arc<Replica>),
    client: u64,
    dice: &mut Dice,
) {
    if world.options.keys < 2 {
        return;
    }
    let first = dice.range(0..world.options.keys);
    let second = (first + 1) % world.options.keys;
    let (a, b) = (world.value(), world.value());
    let wants = [(first, Want::Put(a)), (second, Want::Create(b))];
    let mut ops = wants.map(|(k, want)| Operation {
        group: a,
        ..begin(world, client, through.0.id, k, want)
    });
    let commands = ops.iter().map(|op| command(op, 0, 1)).collect();
    let told = told(propose(&through.1, &through.2, commands).await, ops.len());
    for (op, told) in ops.iter_mut().zip(told) {
        op.to = super::now();
        op.told = told;
        world.note(*op);
    }
}

/// Follows the table until the world stops, moving to another member when its own is gone or quiet.
pub async fn watch(world: Arc<World>, watcher: u64) {
    let mut dice = world.dice(&format!("watcher {watcher}"));
    let mut span: Option<Span> = None;
    while !world.stop.load(Ordering::SeqCst) {
        let Some(through) = serving(&world, &mut dice) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // Moves away after some time even from a member that serves.
        let leave = super::now() + Duration::from_millis(dice.range(200..4_000));
        follow(&world, &through, &mut span, leave).await;
        // What was collected is noted also if the world stops now.
    }
    if let Some(span) = span {
        world.note_span(span);
    }
}

/// One connection to one member.
pub async fn follow(
    world: &World,
    (node, host, replica): &(Arc<Node>, Arc<Host>, Arc<Replica>),
    span: &mut Option<Span>,
    leave: Duration,
) {
    let plant = world.options.plant;
    if let Some(s) = span
        && plant == Some(Plant::WatchForgets)
    {
        s.to = replica.view().revision;
    }
    while super::now() < leave && !world.stop.load(Ordering::SeqCst) {
        let Some(s) = span else {
            let Some(Ok(view)) = fresh(host, replica, None).await else {
                return;
            };
            *span = Some(list(&view));
            continue;
        };
        let (from, replica) = (s.to, replica.clone());
        // Waits on the member, as its watch handler does.
        let told = host.spawn(async move {
            let view = replica.newer_than(from).await;
            (view.revision, view.events_after(TABLE, from))
        });
        let abort = told.abort_handle();
        let Ok(told) = tokio::time::timeout(QUIET, told).await else {
            abort.abort();
            return;
        };
        let Ok((revision, events)) = told else {
            return;
        };
        match events {
            None => {
                // 410 Expired: a list begins a new span.
                if let Some(old) = span.take() {
                    world.note_span(old);
                }
            }
            Some(events) => {
                s.to = revision;
                for (n, e) in events.iter().enumerate() {
                    if plant == Some(Plant::WatchSkips) && n > 0 && n + 1 == events.len() {
                        continue;
                    }
                    s.events.push(Seen {
                        revision: e.revision,
                        key: decode(e.obj.key.name.as_bytes()),
                        value: (e.change != coracle_state::Change::Deleted)
                            .then(|| decode(&e.obj.bytes)),
                        member: node.id,
                        at: super::now(),
                    });
                }
            }
        }
    }
}

/// A list as the beginning of a watch.
pub fn list(view: &View) -> Span {
    Span {
        from: view.revision,
        to: view.revision,
        listed: view
            .list(TABLE, None)
            .map(|o| (decode(o.key.name.as_bytes()), o.revision, decode(&o.bytes)))
            .collect(),
        events: Vec::new(),
    }
}
