//! A full disk and a killed process, on a real file system.

use std::path::Path;

use super::client::{Rig, noise};
use crate::blobs::disk;
use crate::digest::Algorithm;

/// Puts the directory tree of one store beside another: what a process that starts after a crash would find.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_copy_of_the_directory_at_any_acknowledgement_is_a_whole_registry() {
    let rig = Rig::disk().await;
    let dir = rig.dir.clone().unwrap();
    let (_, manifest) = rig.push_image("demo/a", "v1", "content").await;
    let half = rig.start("demo/a").await;
    rig.send("PATCH", &half, &[], noise(100_000, 1))
        .await
        .expect(202);

    let image = tempfile::tempdir().unwrap();
    copy(dir.path(), image.path());
    let mut later = rig.clone();
    later.blobs = std::sync::Arc::new(disk::open(image.path()).unwrap());
    let later = later.restart().await;
    later.get("/v2/demo/a/manifests/v1").await.expect(200);
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(
        later.get(&format!("/v2/demo/a/blobs/{layer}")).await.body,
        "content"
    );
    assert_eq!(
        later.get(&half).await.expect(204).header("range"),
        "0-99999"
    );
}

#[tokio::test]
async fn half_made_sessions_are_swept_at_the_next_start() {
    let rig = Rig::disk().await;
    let uploads = rig.dir.clone().unwrap().path().join("uploads");
    // Died while writing the note; died in a single-request upload; something that is not ours.
    for (id, note) in [("0".repeat(32), Some("{\"repos")), ("1".repeat(32), None)] {
        std::fs::create_dir(uploads.join(&id)).unwrap();
        std::fs::write(uploads.join(&id).join("data"), b"x").unwrap();
        if let Some(note) = note {
            std::fs::write(uploads.join(&id).join("note"), note).unwrap();
        }
    }
    std::fs::create_dir(uploads.join("lost+found")).unwrap();
    let rig = rig.restart().await;
    assert_eq!(rig.registry.uploads(), 0);
    let left: Vec<_> = std::fs::read_dir(&uploads)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lost+found"]);
}

#[tokio::test]
async fn a_full_disk_is_a_clear_answer_and_passes() {
    // /dev/full fails every write as a full disk does; a session's data file made of it meets that in `append`.
    if !Path::new("/dev/full").exists() {
        eprintln!("SKIPPED: no /dev/full");
        return;
    }
    let rig = Rig::disk().await;
    let uploads = rig.dir.clone().unwrap().path().join("uploads");
    let location = rig.start("demo/a").await;
    let id = location.rsplit('/').next().unwrap();
    let data = uploads.join(id).join("data");
    std::os::unix::fs::symlink("/dev/full", &data).unwrap();
    let reply = rig.send("PATCH", &location, &[], "hello").await;
    let reply = reply.refused(507, "INSUFFICIENT_STORAGE");
    let message = reply.json()["errors"][0]["message"].to_string();
    assert!(
        message.contains("disk is full") && message.contains("free some space"),
        "{message}"
    );
    // Space again: the same session goes on where it was.
    std::fs::remove_file(&data).unwrap();
    assert_eq!(rig.get(&location).await.expect(204).header("range"), "0-0");
    let digest = Algorithm::Sha256.digest(b"hello");
    let uri = format!("{location}?digest={digest}");
    rig.send("PUT", &uri, &[], "hello").await.expect(201);
}
