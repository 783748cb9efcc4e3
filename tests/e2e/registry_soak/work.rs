//! The clients' tasks: what a build server, a deployment and a cleaner do, one step after the other.

use std::sync::Arc;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::SliceRandom;

use super::client::{Client, LOOK, Taken};
use super::model::Name;
use super::plan::{Blob, Manifest, Task, Way, one, tag};
use super::shared::{Repository, Shared};

/// Blobs of an image at most.
const BLOBS_MAX: usize = 4;
/// How often a push begins again when something is missing.
const PUSHES_MAX: usize = 4;
/// A client is mostly alone in its repository.
const OWN: f64 = 0.7;
/// Clients of one race.
const RACERS: usize = 4;

/// Runs until told to stop; `own` is the client's repository, the last `common` ones are everybody's.
pub fn run(mut client: Client, own: usize, common: usize) {
    let shared = client.shared.clone();
    let all = shared.repositories.len();
    while !shared.stopped() {
        choose_member(&mut client);
        let which = match client.rng.random_bool(OWN) {
            true => own,
            false => all - 1 - client.rng.random_range(0..common),
        };
        let repository = &shared.repositories[which];
        let manifests = repository.known().manifests.len();
        let task = Task::draw(&mut client.rng, manifests);
        act(&mut client, &shared, repository, task);
    }
}

/// One that is up, if there is one.
fn choose_member(client: &mut Client) {
    let shared = client.shared.clone();
    let mut order: Vec<usize> = (0..shared.addresses.len()).collect();
    order.shuffle(&mut client.rng);
    while !shared.stopped() {
        if let Some(up) = order.iter().find(|m| shared.is_up(**m)) {
            client.member = *up;
            return;
        }
        std::thread::park_timeout(LOOK);
    }
}

fn act(client: &mut Client, shared: &Arc<Shared>, repository: &Repository, task: Task) {
    let name = &repository.name;
    match task {
        Task::Image => {
            image(client, repository, None, true);
        }
        Task::Index => index(client, repository),
        Task::Referrer => {
            if let Some(subject) = some_manifest(client, repository)
                && image(client, repository, Some(&subject), false).is_some()
            {
                client.referrers(repository, &subject.digest);
            }
        }
        Task::MoveTag => {
            if let Some(manifest) = some_manifest(client, repository) {
                let tag = tag(&mut client.rng);
                put(client, repository, &manifest, std::slice::from_ref(&tag));
                client.pull_manifest(name, &tag);
            }
        }
        Task::Race => race(client, shared, repository),
        Task::Lease => lease(client, repository),
        Task::Orphan => {
            let blob = Blob::fresh(&mut client.rng);
            let way = Way::draw(&mut client.rng);
            if client.push(repository, &blob, way) {
                client.pull_blob(name, &blob.digest);
            }
        }
        Task::Cancel => {
            let blob = Blob::fresh(&mut client.rng);
            client.cancel(name, &blob);
        }
        Task::Pull => pull(client, repository),
        Task::Range => {
            let manifest = some_manifest(client, repository);
            if let Some(blob) = manifest.and_then(|m| one(&mut client.rng, &m.blobs).cloned()) {
                client.pull_range(name, &blob);
            }
        }
        Task::DeleteTag => {
            let tag = tag(&mut client.rng);
            client.delete_tag(name, &tag);
            client.pull_manifest(name, &tag);
        }
        Task::DeleteManifest => {
            if let Some(manifest) = some_manifest(client, repository) {
                client.delete_manifest(repository, &manifest.digest);
                client.pull_manifest(name, &manifest.digest);
                if let Some(subject) = &manifest.subject {
                    client.referrers(repository, subject);
                }
            }
        }
        Task::DeleteBlob => {
            let unnamed = repository.known().unnamed();
            if let Some(blob) = one(&mut client.rng, &unnamed) {
                client.delete_blob(repository, &blob.digest);
                client.pull_blob(name, &blob.digest);
            }
        }
        Task::PushAgain => {
            if let Some(manifest) = some_manifest(client, repository) {
                client.delete_manifest(repository, &manifest.digest);
                client.gate("before a push again");
                let tag = tag(&mut client.rng);
                whole(client, repository, &manifest, &[tag]);
                client.pull_manifest(name, &manifest.digest);
            }
        }
    }
}

fn some_manifest(client: &mut Client, repository: &Repository) -> Option<Manifest> {
    let known = repository.known();
    let n = known.manifests.len();
    let at = client.rng.random_range(0..n.max(1));
    known.manifests.values().nth(at).cloned()
}

/// Brings one blob, from another repository if it can be.
fn bring(client: &mut Client, repository: &Repository, blob: &Blob) -> bool {
    let shared = client.shared.clone();
    if client.rng.random_bool(0.3) {
        let has = |r: &&Repository| r.known().blobs.contains_key(&blob.digest);
        let holders: Vec<&Repository> = shared.repositories.iter().filter(has).collect();
        if let Some(from) = one(&mut client.rng, &holders).map(|r| r.name.clone())
            && client.mount(repository, &from, blob)
        {
            return true;
        }
    }
    if client.rng.random_bool(0.3) && client.head(repository, blob) == Some(true) {
        return true;
    }
    let way = Way::draw(&mut client.rng);
    client.push(repository, blob, way)
}

/// A blob of somebody's.
fn some_blob(client: &mut Client) -> Blob {
    if client.rng.random_bool(0.3) {
        return Blob::common(&mut client.rng);
    }
    if client.rng.random_bool(0.3) {
        let shared = client.shared.clone();
        let other = one(&mut client.rng, &shared.repositories);
        if let Some(other) = other {
            let blobs: Vec<Blob> = other.known().blobs.values().cloned().collect();
            if let Some(blob) = one(&mut client.rng, &blobs) {
                return blob.clone();
            }
        }
    }
    Blob::fresh(&mut client.rng)
}

/// An image, and its tag or two.
fn image(
    client: &mut Client,
    repository: &Repository,
    subject: Option<&Manifest>,
    tagged: bool,
) -> Option<Manifest> {
    let n = client.rng.random_range(1..=BLOBS_MAX);
    let blobs: Vec<Blob> = (0..n).map(|_| some_blob(client)).collect();
    let manifest = Manifest::image(blobs, subject, client.rng.random());
    let tags: Vec<Name> = match tagged {
        false => Vec::new(),
        true => {
            let n = if client.rng.random_bool(0.1) { 2 } else { 1 };
            (0..n).map(|_| tag(&mut client.rng)).collect()
        }
    };
    whole(client, repository, &manifest, &tags).then_some(manifest)
}

/// Blobs, then the manifest; again if the collector was faster than the client.
fn whole(client: &mut Client, repository: &Repository, manifest: &Manifest, tags: &[Name]) -> bool {
    for blob in &manifest.blobs {
        if !bring(client, repository, blob) {
            return false;
        }
    }
    put(client, repository, manifest, tags)
}

/// The manifest, and what it says is missing.
fn put(client: &mut Client, repository: &Repository, manifest: &Manifest, tags: &[Name]) -> bool {
    for _ in 0..PUSHES_MAX {
        let missing = match client.put_manifest(repository, manifest, tags) {
            Taken::Yes => return true,
            Taken::No => return false,
            Taken::Missing(missing) => missing,
        };
        let mut brought = true;
        for blob in manifest
            .blobs
            .iter()
            .filter(|b| missing.contains(&b.digest))
        {
            let way = Way::draw(&mut client.rng);
            brought &= client.push(repository, blob, way);
        }
        // A child was deleted: the index is not pushed any more.
        if !brought || manifest.children.iter().any(|c| missing.contains(c)) {
            return false;
        }
    }
    false
}

fn index(client: &mut Client, repository: &Repository) {
    let mut children = Vec::new();
    for _ in 0..client.rng.random_range(1..=3) {
        match image(client, repository, None, false) {
            Some(child) => children.push(child),
            None => return,
        }
        client.gate("between children");
    }
    let mut index = Manifest::index(&children, client.rng.random());
    if client.rng.random_bool(0.3) {
        if !put(client, repository, &index, &[]) {
            return;
        }
        children.push(index);
        index = Manifest::index(&children, client.rng.random());
    }
    let tag = tag(&mut client.rng);
    if put(client, repository, &index, std::slice::from_ref(&tag)) {
        client.pull_manifest(&repository.name, &tag);
    }
}

/// Several clients send the same bytes at the same moment, here and elsewhere.
fn race(client: &mut Client, shared: &Arc<Shared>, repository: &Repository) {
    let blob = match client.rng.random_bool(0.5) {
        true => Blob::fresh(&mut client.rng),
        false => Blob::common(&mut client.rng),
    };
    let other = one(&mut client.rng, &shared.repositories).unwrap_or(repository);
    let start = Barrier::new(RACERS);
    std::thread::scope(|scope| {
        for n in 0..RACERS {
            let mut racer = client.fork();
            let (start, blob) = (&start, &blob);
            let place = if n % 2 == 0 { repository } else { other };
            let way = Way::ALL[(n + racer.rng.random_range(0..Way::ALL.len())) % Way::ALL.len()];
            scope.spawn(move || {
                start.wait();
                racer.push(place, blob, way);
            });
        }
    });
    shared.recorder.count("races");
    client.pull_blob(&repository.name, &blob.digest);
    let manifest = Manifest::image(vec![blob], None, client.rng.random());
    let tag = tag(&mut client.rng);
    put(client, repository, &manifest, &[tag]);
}

/// A blob is pushed and grows about as old as the collector spares; a HEAD that finds it is a promise.
fn lease(client: &mut Client, repository: &Repository) {
    let blob = Blob::fresh(&mut client.rng);
    let way = Way::draw(&mut client.rng);
    if !client.push(repository, &blob, way) {
        return;
    }
    let grown = client.rng.random_range(0.7..1.5);
    let wait = Duration::from_nanos(client.shared.age).mul_f64(grown);
    let until = Instant::now() + wait;
    while Instant::now() < until && !client.shared.stopped() {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
    client.shared.recorder.count("grown old");
    match client.head(repository, &blob) {
        Some(true) => {}
        Some(false) => {
            if !client.push(repository, &blob, way) {
                return;
            }
        }
        None => return,
    }
    let manifest = Manifest::image(vec![blob], None, client.rng.random());
    let tag = tag(&mut client.rng);
    put(client, repository, &manifest, &[tag]);
}

/// Everything behind a tag or a manifest.
fn pull(client: &mut Client, repository: &Repository) {
    let name = &repository.name;
    let reference = match client.rng.random_bool(0.6) {
        true => Some(tag(&mut client.rng)),
        false => some_manifest(client, repository).map(|m| m.digest),
    };
    let Some(reference) = reference else { return };
    let mut wanted = vec![reference];
    while let Some(reference) = wanted.pop() {
        let Some((digest, _)) = client.pull_manifest(name, &reference) else {
            continue;
        };
        let found = repository.known().manifests.get(&digest).cloned();
        let Some(manifest) = found else { continue };
        for blob in &manifest.blobs {
            client.pull_blob(name, &blob.digest);
        }
        wanted.extend(manifest.children);
    }
}
