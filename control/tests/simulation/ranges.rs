//! Ranges of addresses: never the same for two nodes, and the same for one node as long as it is not removed.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use weft_control::cluster::record::{Attached, Endpoint, Network, RECORD_VERSION, read, write};
use weft_control::cluster::{ClusterRange, Key, NoRanges, OwnEndpoint};
use weft_encap::MacAddr;
use weft_store::KeyRange;
use weft_store::client::Operation;

use crate::agent::keys;
use crate::schedule::{Dice, in_parallel, seeds};
use crate::world::{World, address, pod, vni};

/// Schedules in a run, in each of which up to seven nodes race for three or seven ranges of each family.
const RACES: u64 = 1_000;

fn ranges(world: &World, machine: usize) -> Vec<IpNet> {
    world.ranges(machine).unwrap().unwrap()
}

/// Machines that have just started.
fn started(machines: u8, node_prefix: u8) -> World {
    let mut world = World::with_network(node_prefix);
    for number in 1..=machines {
        let place = world.add(&format!("n{number}"), &[]);
        world.start(place);
    }
    world
}

#[test]
fn nodes_that_race_never_get_the_same_range() {
    in_parallel(seeds(RACES), race);
}

fn race(seed: u64) {
    let mut dice = Dice::new(seed);
    // 3 or 7 ranges for up to 6 nodes, so that most are wanted by several.
    let machines = 2 + dice.roll(5);
    let mut world = started(machines as u8, if dice.one_in(2) { 18 } else { 19 });
    for _ in 0..40 {
        let machine = dice.roll(machines);
        match dice.roll(12) {
            0 => world.kill(machine),
            1 => world.store.advance(Duration::from_secs(dice.roll(8) as u64)),
            _ if world.machines[machine].agent.is_none() => {
                if dice.one_in(2) {
                    world.machines[machine].identity.had.clear();
                }
                world.start(machine);
            }
            // One request at a time, so that they come between each other's; this looks at all after each.
            _ => world.meet(machine, 3, 1, dice.one_in(6)),
        }
    }
    for machine in 0..machines {
        if world.machines[machine].agent.is_none() {
            world.start(machine);
        }
        world.agent(machine).membership.verify();
    }
    for _ in 0..3 {
        world.meet_all();
    }
    world.check_ranges();
}

#[test]
fn a_node_keeps_its_ranges_over_restarts_and_leases() {
    let mut world = started(3, 19);
    world.meet_all();
    let before = ranges(&world, 0);
    assert_eq!(before.len(), 2, "one of each family");
    world.kill(0);
    // Away for longer than its lease, with its run directory gone and at another address.
    world.store.advance(Duration::from_secs(60));
    world.meet_all();
    let identity = &mut world.machines[0].identity;
    (identity.had, identity.instance, identity.address) = (Vec::new(), "new".to_owned(), address(70));
    world.start(0);
    world.meet_all();
    assert_eq!(ranges(&world, 0), before);
    world.rest();
    world.check();
}

#[test]
fn ranges_of_a_removed_node_are_given_to_others() {
    let mut world = started(4, 18);
    world.meet_all();
    let refused = world.ranges(3).unwrap().unwrap_err();
    assert!(matches!(refused, NoRanges::Exhausted { given: 3, .. }), "{refused}");
    assert!(refused.to_string().contains("weft node remove"), "{refused}");
    let (freed, other) = (ranges(&world, 1), ranges(&world, 0));
    world.kill(1);
    world.store.advance(Duration::from_secs(60));
    world.rest();
    assert!(world.ranges(3).unwrap().is_err(), "that a lease ends gives nothing back");
    world.remove(1);
    world.rest();
    assert_eq!(ranges(&world, 3)[0], freed[0], "the next look finds what was given back");
    assert_eq!(ranges(&world, 0), other);
    world.check();
}

#[test]
fn a_node_that_was_removed_and_runs_gets_the_same_again_if_it_is_free() {
    let mut world = started(2, 19);
    world.meet_all();
    let before = ranges(&world, 0);
    // A machine of that name that does not run is removed: what is removed is the name.
    let silent = world.add("n1", &[]);
    world.remove(silent);
    world.rest();
    assert_eq!(ranges(&world, 0), before);
    world.check();
}

#[test]
fn a_node_whose_network_is_another_is_refused_by_name() {
    let mut world = started(1, 19);
    world.meet_all();
    let place = world.add("other", &[]);
    let other = ClusterRange { range: "10.99.0.0/16".parse().unwrap(), node_prefix: 24 };
    world.machines[place].identity.network = Network::new(vni(1), vec![other]);
    world.start(place);
    world.meet_all();
    let refused = world.ranges(place).unwrap().unwrap_err();
    assert!(matches!(refused, NoRanges::Disagrees { .. }), "{refused}");
    for word in ["10.99.0.0/16 in /24 of VNI 1", "10.244.0.0/16 in /19", "/weft/v1/network", "[network]"] {
        assert!(refused.to_string().contains(word), "no {word} in: {refused}");
    }
    assert!(world.agent(0).view.ranges().all(|row| row.record.node == "n1"));
}

#[test]
fn what_a_replaced_store_gave_to_another_is_given_up() {
    let mut world = started(1, 18);
    let empty = world.store.backup();
    world.meet_all();
    let before = ranges(&world, 0);
    world.store.restore(&empty, true);
    world.store_went_back = true;
    // The newcomers take all there are, before the first is heard of again.
    for number in 2..=4 {
        let place = world.add(&format!("n{number}"), &[]);
        world.start(place);
        world.meet(place, 100, 100, false);
    }
    assert!((1..4).any(|place| ranges(&world, place)[0] == before[0]));
    world.rest();
    assert!(matches!(world.ranges(0), Some(Err(NoRanges::Exhausted { .. }))));
    assert!(world.agent(0).membership.own().node.overlay_addresses.is_empty());
    world.check();
}

#[test]
fn ranges_that_a_store_forgot_are_granted_again_though_an_answer_was_lost() {
    let mut world = started(1, 19);
    world.meet_all();
    // An older backup was restored, and by its revisions it is not to be told from what was there.
    let forget = ranges(&world, 0).into_iter().map(|range| keys().write(&Key::Range(range)));
    let forget: Vec<Operation> = forget.map(|key| Operation::Delete(KeyRange::One(key))).collect();
    world.store.commit(&[], &forget).unwrap();
    world.store_went_back = true;
    world.set_pods(0, &[pod(1, 1)]);
    world.meet(0, 0, 1, true);
    world.rest();
    world.check();
}

#[test]
fn a_node_publishes_its_overlay_addresses_as_long_as_it_has_them() {
    let mut world = started(2, 19);
    let mac = MacAddr([2, 0, 0, 0, 0, 0x10]);
    let host = OwnEndpoint { ips: Vec::new(), port: "host".to_owned(), attached: Attached::Host };
    world.agent(0).membership.set_endpoints([((vni(1), mac), host)].into());
    world.meet_all();
    let key = keys().write(&Key::Endpoint("n1".to_owned(), vni(1), mac));
    let rows = world.store.list(&KeyRange::One(key.clone()));
    let published: Endpoint = read(&rows[0].value).unwrap();
    let range = ranges(&world, 0);
    assert_eq!(published.ips, world.agent(0).membership.own().node.overlay_addresses);
    assert_eq!(published.ips.len(), 2);
    assert!(published.ips.iter().zip(&range).all(|(ip, range)| range.contains(ip)), "{published:?} in {range:?}");
    // Another has them all of a sudden: a row that an operator wrote, say.
    let taken =
        weft_control::cluster::record::AddressRange { version: RECORD_VERSION, range: range[0], node: "n9".to_owned() };
    let put = Operation::Put(keys().write(&Key::Range(range[0])), write(&taken).into(), None);
    assert!(world.store.commit(&[], &[put]).unwrap().succeeded);
    world.store_went_back = true;
    world.rest();
    let rows = world.store.list(&KeyRange::One(key));
    let again: Endpoint = read(&rows[0].value).unwrap();
    let now: BTreeSet<IpNet> = ranges(&world, 0).into_iter().collect();
    assert!(!now.contains(&range[0]) && again.ips.iter().all(|ip| now.iter().any(|range| range.contains(ip))));
}
