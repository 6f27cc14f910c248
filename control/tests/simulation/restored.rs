//! Stores that were restored from a backup: nothing that is known is lost meanwhile, and nothing stays of what was before.

use std::net::IpAddr;
use std::time::Duration;

use weft_control::cluster::record::{AddressRange, ForeignVtep, Network, RECORD_VERSION, write};
use weft_control::cluster::{Key, NAME_GRACE, View};
use weft_store::client::Operation;

use crate::agent::keys;
use crate::named::{LAPSE, cluster, flooded_to, known_at};
use crate::world::{World, address, pod};

/// Everybody tries again, one request at a time, and says each second what two machines know of each other's pods.
fn follow(world: &mut World, seconds: u64, mut look: impl FnMut(&mut World)) {
    for _ in 0..seconds {
        world.store.advance(Duration::from_secs(1));
        for machine in 0..world.machines.len() {
            if world.agent(machine).refused {
                world.agent(machine).membership.retry();
            }
            for _ in 0..4 {
                world.meet(machine, 1, 1, false);
                look(world);
            }
        }
    }
}

#[test]
fn a_backup_older_than_a_reboot_empties_nothing() {
    for (new_cluster, readdressed) in [(false, false), (true, false), (false, true)] {
        let mut world = cluster(2);
        let backup = world.store.backup();
        world.kill(0);
        let identity = &mut world.machines[0].identity;
        identity.instance = "rebooted".to_owned();
        let at = if readdressed { address(9) } else { address(1) };
        identity.address = at;
        world.store.advance(LAPSE);
        world.set_pods(0, &[pod(1, 1), pod(1, 4)]);
        world.start(0);
        world.meet_all();
        world.meet_all();
        let look = |world: &mut World| {
            assert_eq!(known_at(world, 0, pod(1, 2)), Some(address(2)));
            assert_eq!([pod(1, 1), pod(1, 4)].map(|pod| known_at(world, 1, pod)), [Some(at); 2]);
            assert_eq!([0, 1].map(|machine| flooded_to(world, machine)), [1, 1]);
        };
        look(&mut world);
        world.restore(&backup, new_cluster);
        let mut was_refused = false;
        follow(&mut world, 20, |world| {
            was_refused |= world.agent(0).refused;
            look(world);
        });
        assert!(was_refused, "its predecessor had the name");
        assert!(world.agent(0).membership.incarnation().is_some());
        assert!(world.law.looks > 0);
        world.rest();
        world.check();
    }
}

#[test]
fn a_pod_that_a_node_had_at_the_backup_is_not_taken_for_its_own() {
    let mut world = cluster(2);
    let backup = world.store.backup();
    world.set_pods(0, &[]);
    world.set_pods(1, &[pod(1, 1), pod(1, 2)]);
    world.rest();
    // It forgets itself, as it forgets others whose leases end.
    world.agent(0).clock = 20;
    world.store.advance(LAPSE);
    world.meet(1, 100, 100, false);
    world.meet(0, 100, 0, false);
    world.restore(&backup, false);
    follow(&mut world, 5, |world| assert_eq!(known_at(world, 0, pod(1, 1)), Some(address(2))));
    assert!(world.law.looks > 0);
    world.rest();
    world.check();
}

#[test]
fn a_removed_node_that_a_backup_brings_back_has_nothing_that_another_has() {
    let mut world = cluster(3);
    let backup = world.store.backup();
    world.remove(0);
    world.set_pods(0, &[]);
    world.set_pods(1, &[pod(1, 1), pod(1, 2)]);
    world.rest();
    // The last to tell of the pod lapses, and is known all the same.
    world.agent(1).cut_off = true;
    world.store.advance(LAPSE);
    world.meet(2, 100, 100, false);
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(2)));
    world.restore(&backup, true);
    for _ in 0..4 {
        world.meet(2, 1, 1, false);
        assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(2)));
    }
    world.agent(1).cut_off = false;
    world.rest();
    world.check();
}

#[test]
fn who_lost_its_name_for_good_takes_no_part_after_a_while() {
    let mut world = cluster(2);
    world.agent(0).cut_off = true;
    world.store.advance(LAPSE);
    let second = world.add("n1", &[pod(1, 7)]);
    world.start(second);
    world.meet(second, 100, 100, false);
    world.agent(0).cut_off = false;
    world.meet(0, 100, 100, false);
    assert!(world.agent(0).refused);
    assert_eq!(known_at(&mut world, 0, pod(1, 2)), Some(address(2)), "it may be its predecessor that has the name");
    follow(&mut world, NAME_GRACE.as_secs() - 1, |world| {
        assert_eq!(known_at(world, 0, pod(1, 2)), Some(address(2)));
    });
    follow(&mut world, 2, |_| {});
    assert_eq!((known_at(&mut world, 0, pod(1, 2)), flooded_to(&mut world, 0)), (None, 0));
    world.kill(second);
    world.rest();
    world.check();
}

#[test]
fn a_claim_that_a_peer_never_saw_is_not_taken_for_a_new_one() {
    let mut world = cluster(2);
    let backup = world.store.backup();
    // A claim of the same instance, which has a pod more and another address, and a peer that knows no other claim.
    world.kill(0);
    world.machines[0].identity.address = address(9);
    world.set_pods(0, &[pod(1, 1), pod(1, 4)]);
    world.start(0);
    world.meet_all();
    world.kill(1);
    world.start(1);
    world.meet_all();
    world.meet_all();
    world.restore(&backup, true);
    for _ in 0..3 {
        world.meet(1, 100, 0, false);
        assert_eq!([pod(1, 1), pod(1, 4)].map(|pod| known_at(&mut world, 1, pod)), [Some(address(9)); 2]);
        world.agent(1).list_again();
    }
    // And the new one is believed at once, also in a listing.
    world.set_pods(0, &[pod(1, 5)]);
    world.meet(0, 100, 100, false);
    world.agent(1).list_again();
    world.meet(1, 100, 0, false);
    assert_eq!([1, 4, 5].map(|number| known_at(&mut world, 1, pod(1, number))), [None, None, Some(address(9))]);
    world.rest();
    world.check();
}

#[test]
fn who_came_after_the_backup_yields_to_nobody_of_before() {
    let mut world = cluster(2);
    let n3 = world.add("n3", &[pod(1, 3), pod(1, 8)]);
    world.machines[n3].identity.address = address(1);
    let backup = world.store.backup();
    // n1 is gone for good. Another has its address and its pod, and is not in the backup.
    world.kill(0);
    world.set_pods(0, &[]);
    world.set_pods(n3, &[pod(1, 3), pod(1, 1)]);
    world.start(n3);
    world.meet_all();
    world.meet_all();
    world.restore(&backup, true);
    for _ in 0..12 {
        world.meet(1, 100, 100, false);
        assert_eq!([pod(1, 3), pod(1, 1)].map(|pod| known_at(&mut world, 1, pod)), [Some(address(1)); 2]);
        world.store.advance(Duration::from_secs(1));
    }
    world.rest();
    world.check();
}

#[test]
fn the_end_of_an_old_lease_takes_nothing_that_is_published_again() {
    let mut world = cluster(2);
    world.kill(0);
    world.store.advance(LAPSE * 2 / 3);
    world.agent(1).membership.verify();
    world.meet(1, 100, 100, false);
    world.start(0);
    // It claims its name, and then its predecessor's lease ends, with the endpoints that it has not published yet.
    while world.agent(0).membership.incarnation().is_none() {
        world.meet(0, 0, 1, false);
    }
    let before = world.store.revision();
    world.store.advance(LAPSE / 3 + Duration::from_secs(1));
    assert!(world.store.revision() > before, "the old rows are gone");
    world.meet(1, 100, 0, false);
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)));
    world.rest();
    world.check();
}

#[test]
fn a_held_foreign_vtep_can_be_removed() {
    for hears_late in [false, true] {
        let mut world = cluster(2);
        let foreign = address(66);
        let backup = world.store.backup();
        world.set_foreign(foreign, true);
        world.meet_all();
        world.restore(&backup, true);
        world.meet_all();
        assert_eq!([0, 1].map(|machine| flooded_to(&mut world, machine)), [2, 2], "nobody publishes it again");
        world.set_foreign(foreign, false);
        if hears_late {
            world.agent(1).list_again();
        }
        world.meet_all();
        assert_eq!([0, 1].map(|machine| flooded_to(&mut world, machine)), [1, 1]);
        assert_eq!(world.agent(1).view.foreign().count(), 0);
        world.rest();
        world.check();
    }
}

#[test]
fn bad_rows_that_no_node_owns_keep_what_was_known() {
    let mut world = cluster(2);
    world.set_foreign(address(66), true);
    world.meet_all();
    let known = |world: &mut World| {
        let tables = world.agent(1).switch.tables();
        let view = &world.agent(1).view;
        let ranges: Vec<AddressRange> = view.ranges().map(|row| row.record.clone()).collect();
        let foreign: Vec<ForeignVtep> = view.foreign().map(|row| row.record.clone()).collect();
        (ranges, foreign, view.network().cloned(), tables.vtep_by_address(address(66)))
    };
    let before = known(&mut world);
    assert!(before.0.len() == 4 && before.1.len() == 1 && before.2.is_some() && before.3.is_some());
    let newer = format!("{{\"version\":{}}}", RECORD_VERSION + 1);
    let bad = [Key::Foreign(address(66)), Key::Network, Key::Range(before.0[0].range)];
    for key in &bad {
        let put = Operation::Put(keys().write(key), newer.clone().into(), None);
        world.store.commit(&[], &[put]).unwrap();
    }
    for again in [false, true, true] {
        if again {
            world.agent(1).list_again();
        }
        world.meet(1, 100, 0, false);
        assert_eq!(known(&mut world), before);
        assert_eq!(world.agent(1).view.refused().count(), bad.len());
    }
    // One that is held since the store went back is known, too.
    let backup = world.store.backup();
    world.restore(&backup, true);
    world.meet(1, 100, 0, false);
    assert_eq!(known(&mut world), before);
    // What is good again counts, and what is deleted is gone.
    let network = before.2.clone().unwrap();
    let other = Network { ranges: Vec::new(), ..network };
    let put = Operation::Put(keys().write(&Key::Network), write(&other).into(), None);
    let delete = weft_store::KeyRange::One(keys().write(&Key::Foreign(address(66))));
    world.store.commit(&[], &[put, Operation::Delete(delete)]).unwrap();
    world.agent(1).list_again();
    world.meet(1, 100, 0, false);
    assert_eq!(known(&mut world).2, Some(other));
}

/// An agent takes over from another one: all that it has is what that one says that it knows.
fn hand_over(world: &mut World, machine: usize) {
    let agent = world.agent(machine);
    agent.view = View::inherited(keys(), agent.view.revision(), agent.view.rows());
    agent.list_again();
    world.meet(machine, 100, 0, false);
}

#[test]
fn a_takeover_keeps_what_is_held() {
    // While a node publishes again.
    let mut world = cluster(2);
    world.kill(0);
    world.start(0);
    while world.agent(0).membership.incarnation().is_none() {
        world.meet(0, 0, 1, false);
    }
    world.meet(1, 100, 0, false);
    for _ in 0..2 {
        assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)));
        hand_over(&mut world, 1);
    }
    world.set_pods(0, &[pod(1, 5)]);
    world.meet_all();
    world.meet_all();
    let known = |world: &mut World| [1, 5].map(|number| known_at(world, 1, pod(1, number)));
    assert_eq!(known(&mut world), [None, Some(address(1))], "and no longer");
    // While a store is doubted that went back.
    let backup = world.store.backup();
    world.set_pods(0, &[pod(1, 5), pod(1, 1)]);
    world.set_foreign(address(66), true);
    world.meet_all();
    world.meet_all();
    world.restore(&backup, true);
    world.meet(1, 100, 0, false);
    for _ in 0..3 {
        assert_eq!((known(&mut world), flooded_to(&mut world, 1)), ([Some(address(1)); 2], 2));
        assert!(world.agent(1).view.is_doubting());
        hand_over(&mut world, 1);
    }
    world.set_foreign(address(66), false);
    world.rest();
    assert!(!world.agent(1).view.is_doubting());
    world.check();
}

#[test]
fn what_a_backup_brings_back_is_believed_in_the_end() {
    let mut world = cluster(2);
    let backup = world.store.backup();
    world.set_pods(0, &[pod(1, 1), pod(1, 4)]);
    world.meet_all();
    world.meet_all();
    world.restore(&backup, true);
    world.meet(1, 100, 0, false);
    // n1 is gone, but for its row: who would not know of a lease would say that it is there.
    world.kill(0);
    let known = |world: &mut World| [1, 4].map(|number| known_at(world, 1, pod(1, number)));
    assert_eq!(known(&mut world), [Some(address(1)); 2]);
    world.agent(1).view.trust();
    world.meet(1, 100, 0, false);
    assert_eq!(known(&mut world), [Some(address(1)), None::<IpAddr>]);
    world.store.advance(LAPSE);
    world.rest();
    assert_eq!(known(&mut world), [None; 2]);
    world.check();
}
