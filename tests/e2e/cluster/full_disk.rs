//! One member's disk is full: a follower's, then the leader's. Writes go on or are refused with a code, reads go on, no
//! process ends, and with the first free space everything is as before.

use super::fleet::{Fleet, SmallDisk};
use super::nemesis::refused_for_space;
use super::net;
use crate::harness::cluster::LONG;
use crate::harness::program::wait_for;

const SMALL_MIB: u32 = 512;
/// Writes while a follower's disk is full.
const WRITES: usize = 30;

#[test]
fn a_full_disk_of_a_follower_and_of_the_leader() {
    if !net::possible() {
        return;
    }
    let disks = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(disks.path().join("small"), SMALL_MIB);
    let mut fleet = Fleet::start_with(3, &|m| {
        if m.index == 0 {
            m.data = disk.0.join("data");
        }
    });

    // A follower's.
    if fleet.leader() == 0 {
        fleet.coracle(1, &["members", "transfer", "m2"]).ok();
    }
    wait_for("another leader", LONG, || match fleet.leader() {
        0 => Err("it leads".to_string()),
        _ => Ok(()),
    });
    disk.fill();
    for n in 0..WRITES {
        wait_for("a write while a follower's disk is full", LONG, || {
            fleet.write_marker(1 + n % 2)
        });
    }
    assert!(fleet.get(0, "/api/v1/namespaces/default").is_ok());
    assert!(fleet.members[0].running(), "{}", fleet.members[0].log());
    disk.free();
    fleet.wait_writable();

    // The leader's.
    fleet.coracle(1, &["members", "transfer", "m1"]).ok();
    wait_for(
        "the member with the small disk to lead",
        LONG,
        || match fleet.leader() {
            0 => Ok(()),
            other => Err(format!("m{} leads", other + 1)),
        },
    );
    disk.fill();
    refused_for_space(&mut fleet, 0);
    assert!(fleet.members[0].running(), "{}", fleet.members[0].log());
    disk.free();
    fleet.wait_writable();
    super::verdict::same_state(&fleet);
}
