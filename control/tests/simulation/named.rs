//! Failures that others are known for, by the name of what must not happen.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_bridge::tables::VtepKind;
use weft_bridge::{Attachment, Learn, Port, PortMode, Seconds, Tables};
use weft_control::cluster::record::{Attached, Endpoint, ForeignVtep, Node, RECORD_VERSION, Standing, write};
use weft_control::cluster::{
    Holder, Key, OwnEndpoint, Presence, Step, View, Wanted, apply, conflicts, reconcile, wanted,
};
use weft_encap::{Encapsulation, Offload};
use weft_store::client::{Condition, Operation};

use crate::agent::{Pod, SimAgent, keys};
use crate::world::{World, address, frame, pod, vni};

pub(crate) const LAPSE: Duration = Duration::from_secs(11);

/// Machines `n1`, `n2`, ... with a pod each in VNI 1, numbered alike, which know each other.
pub(crate) fn cluster(machines: u8) -> World {
    let mut world = World::new();
    for number in 1..=machines {
        let place = world.add(&format!("n{number}"), &[pod(1, number)]);
        world.start(place);
    }
    world.meet_all();
    world.meet_all();
    world
}

/// Where a machine sends frames for a pod.
pub(crate) fn known_at(world: &mut World, machine: usize, (vni, mac): Pod) -> Option<IpAddr> {
    let tables = world.agent(machine).switch.tables();
    match tables.domain(vni)?.static_mac(mac)? {
        Attachment::Vtep(id) => Some(tables.vtep(id)?.address),
        Attachment::Port(_) => None,
    }
}

pub(crate) fn flooded_to(world: &mut World, machine: usize) -> usize {
    world.agent(machine).switch.tables().domain(vni(1)).unwrap().flood_list().len()
}

#[test]
fn a_rebooted_node_leaves_nothing_stale_when_its_deletions_were_missed() {
    // flannel#533, #1330, #1795, #2554; calico#7281, #9450.
    let mut world = cluster(3);
    world.kill(0);
    world.agent(2).cut_off = true;
    world.store.advance(LAPSE / 2);
    world.meet_all();
    world.store.advance(LAPSE / 2 + Duration::from_secs(1));
    // Another address, another pod, and what was deleted is compacted away.
    world.machines[0].identity.address = address(77);
    world.set_pods(0, &[pod(1, 9)]);
    world.start(0);
    world.meet_all();
    world.store.compact();
    world.agent(2).cut_off = false;
    world.meet_all();
    world.meet_all();
    for machine in [1, 2] {
        assert_eq!(known_at(&mut world, machine, pod(1, 1)), None);
        assert_eq!(known_at(&mut world, machine, pod(1, 9)), Some(address(77)));
        assert_eq!(flooded_to(&mut world, machine), 2);
        assert_eq!(world.agent(machine).switch.tables().vtep_by_address(address(1)), None);
    }
    world.check();
}

#[test]
fn a_readdressed_node_is_reached_at_its_new_address_alone() {
    // cilium#31528.
    let mut world = cluster(2);
    world.kill(0);
    world.machines[0].identity.address = address(50);
    world.start(0);
    world.meet_all();
    world.meet_all();
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(50)));
    assert_eq!(world.agent(1).switch.tables().vteps().count(), 1);
    world.check();
}

#[test]
fn a_restart_within_the_lease_opens_no_gap() {
    let mut world = cluster(2);
    world.kill(0);
    world.start(0);
    // One request after another: at no moment is the pod unknown.
    for _ in 0..10 {
        world.meet(0, 0, 1, false);
        world.meet(1, 100, 0, false);
        assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)));
    }
    assert_eq!(world.agent(0).membership.step(), Step::Rest);
    world.store.advance(LAPSE / 2);
    world.meet_all();
    world.store.advance(LAPSE / 2);
    world.meet_all();
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)), "the end of the old lease takes nothing along");
    world.check();
}

#[test]
fn a_pod_that_moves_is_found_as_soon_as_it_is_published() {
    // openperouter#203: 21 to 29 s.
    let mut world = cluster(3);
    world.set_pods(1, &[pod(1, 2), pod(1, 1)]);
    world.meet(1, 100, 100, false);
    world.meet(2, 100, 0, false);
    // Where it was has not even noticed.
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(2)));
    world.set_pods(0, &[]);
    world.meet_all();
    world.meet_all();
    assert_eq!(known_at(&mut world, 0, pod(1, 1)), Some(address(2)));
    world.check();
}

#[test]
fn a_node_that_comes_back_does_not_take_moved_pods_with_it() {
    let mut world = cluster(3);
    world.agent(0).cut_off = true;
    world.set_pods(1, &[pod(1, 2), pod(1, 1)]);
    for _ in 0..4 {
        world.store.advance(LAPSE / 3);
        world.meet_all();
    }
    world.agent(0).cut_off = false;
    world.meet_all();
    world.meet_all();
    assert!(world.agent(0).membership.incarnation().is_some(), "it is back, with its pod");
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(2)), "its claim is the older one");
    world.check();
}

#[test]
fn a_learned_mac_hides_no_missing_published_one() {
    // moby#52661: published rows vanish, and a learned one hides it until traffic pauses.
    let mut world = cluster(2);
    let agent = world.agent(1);
    let tables = agent.switch.tables();
    let (domain, owner) = (tables.domain(vni(1)).unwrap(), tables.vtep_by_address(address(1)).unwrap());
    assert_eq!(tables.vtep(owner).unwrap().kind, VtepKind::Managed);
    // A row is lost, and traffic has taught where the MAC is, or was.
    let (vni, mac) = pod(1, 1);
    let learn = Learn { domain: domain.id(), mac, attachment: Attachment::Vtep(owner), limit: 100 };
    agent.switch.fdb().learn(&learn, Seconds(1));
    let mut damaged = Tables::clone(&tables);
    assert!(damaged.unbind_mac(vni, mac));
    let wanted = wanted(&agent.view, &agent.local());
    let edits = reconcile(&damaged, &wanted);
    assert_eq!(edits.len(), 1, "what is learned is not looked at: {edits:?}");
    apply(&mut damaged, edits).unwrap();
    assert_eq!(damaged.domain(vni).unwrap().static_mac(mac), Some(Attachment::Vtep(owner)));
    // And what is learned elsewhere does not win over what is published.
    let mode = PortMode::Learning { limit: 10 };
    let port = Port { name: "bridge".to_owned(), vni, mac: pod(1, 99).1, mtu: 1450, mode };
    let port = damaged.add_port(port).unwrap();
    agent.switch.publish(damaged);
    let learn = Learn { domain: domain.id(), mac, attachment: Attachment::Port(port), limit: 10 };
    agent.switch.fdb().learn(&learn, Seconds(9));
    agent.ports[&pod(1, 2)].1.pod_sends(frame(pod(1, 2).1, mac), Ok(Offload::default()));
    agent.switch.run(Seconds(9));
    let sent = agent.switch.underlay().sent();
    assert_eq!(sent.iter().map(|sent| sent.peer.ip()).collect::<Vec<_>>(), [address(1)]);
}

#[test]
fn nothing_is_learned_from_a_peer_that_became_a_node() {
    let mut world = cluster(2);
    let agent = world.agent(1);
    let mut before = wanted(&agent.view, &agent.local());
    before.vteps.get_mut(&address(1)).unwrap().kind = VtepKind::Foreign;
    before.macs.clear();
    let mut tables = Tables::clone(&agent.switch.tables());
    let edits = reconcile(&tables, &before);
    apply(&mut tables, edits).unwrap();
    let foreign = tables.vtep_by_address(address(1)).unwrap();
    let edits = reconcile(&tables, &wanted(&agent.view, &agent.local()));
    apply(&mut tables, edits).unwrap();
    assert_ne!(tables.vtep_by_address(address(1)), Some(foreign), "what was learned behind the old id is void");
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)));
}

#[test]
fn a_mass_lapse_empties_nothing() {
    let mut world = cluster(3);
    for machine in [0, 1] {
        world.agent(machine).cut_off = true;
    }
    for _ in 0..10 {
        world.store.advance(Duration::from_secs(2));
        world.meet(2, 100, 100, false);
    }
    let suspects = world.agent(2).view.members().filter(|(_, member)| member.presence() == Presence::Suspect).count();
    assert_eq!(suspects, 2);
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(1)));
    assert_eq!(known_at(&mut world, 2, pod(1, 2)), Some(address(2)));
    // A listing does not change that.
    world.agent(2).list_again();
    world.meet(2, 100, 100, false);
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(1)));
    // One of them is gone for good: its path is silent too.
    world.kill(0);
    world.meet(2, 100, 100, false);
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), None);
    assert_eq!(flooded_to(&mut world, 2), 1);
    world.agent(1).cut_off = false;
    world.meet_all();
    world.meet_all();
    world.check();
}

#[test]
fn a_store_that_went_back_empties_nothing() {
    for new_cluster in [false, true] {
        let mut world = World::new();
        let empty = world.store.backup();
        for number in 1..=3 {
            let place = world.add(&format!("n{number}"), &[pod(1, number)]);
            world.start(place);
        }
        world.meet_all();
        world.meet_all();
        world.store.restore(&empty, new_cluster);
        // Nobody has published again yet.
        world.meet(2, 100, 0, false);
        assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(1)));
        assert_eq!(flooded_to(&mut world, 2), 2);
        for _ in 0..4 {
            for machine in 0..3 {
                world.meet(machine, 1, 1, false);
                assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(1)));
            }
        }
        world.meet_all();
        world.meet_all();
        // What was not published again goes.
        world.set_pods(0, &[]);
        world.meet_all();
        world.meet_all();
        assert_eq!(known_at(&mut world, 2, pod(1, 1)), None);
        world.check();
    }
}

#[test]
fn a_backup_brings_no_pod_back_that_has_moved_since() {
    let mut world = cluster(3);
    let backup = world.store.backup();
    world.set_pods(0, &[]);
    world.set_pods(1, &[pod(1, 2), pod(1, 1)]);
    world.meet_all();
    world.meet_all();
    world.store.restore(&backup, false);
    world.meet(2, 100, 0, false);
    assert_eq!(known_at(&mut world, 2, pod(1, 1)), Some(address(2)), "the old row says otherwise");
    world.rest();
    world.check();
}

#[test]
fn a_node_that_is_removed_is_gone_at_once() {
    let mut world = cluster(2);
    world.remove(0);
    world.meet(1, 100, 0, false);
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), None);
    assert_eq!(flooded_to(&mut world, 1), 0);
    world.start(0);
    world.meet_all();
    world.meet_all();
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)), "and welcome again");
}

#[test]
fn a_suspect_is_removed_by_hand_though_its_row_is_gone() {
    let mut world = cluster(2);
    world.agent(0).cut_off = true;
    for _ in 0..4 {
        world.store.advance(LAPSE / 3);
        world.meet(1, 100, 100, false);
    }
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)), "its path answers");
    world.remove(0);
    // Heard of as an event by one who keeps hearing, and not at all by one who lists when it is over.
    world.meet(1, 100, 0, false);
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), None);
    world.store.advance(LAPSE);
    world.rest();
    world.check();
}

#[test]
fn the_second_node_of_one_name_is_refused_until_the_first_is_gone() {
    let mut world = cluster(2);
    let second = world.add("n1", &[pod(1, 7)]);
    world.start(second);
    world.meet_all();
    assert!(world.agent(second).refused);
    assert_eq!(known_at(&mut world, 1, pod(1, 7)), None);
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)));
    world.kill(0);
    world.rest();
    assert!(!world.agent(second).refused);
    assert_eq!(known_at(&mut world, 1, pod(1, 7)), Some(address(3)));
    assert_eq!(known_at(&mut world, 1, pod(1, 1)), None, "another machine has nothing of the first");
    world.check();
}

#[test]
fn who_lost_its_name_writes_nothing_any_more() {
    let mut world = cluster(2);
    world.agent(0).cut_off = true;
    world.store.advance(LAPSE);
    let second = world.add("n1", &[pod(1, 7)]);
    world.start(second);
    world.meet(second, 100, 100, false);
    assert!(!world.agent(second).refused);
    // The first does not know yet, and has something to say.
    world.set_pods(0, &[pod(1, 8)]);
    let Step::Write(conditions, operations) = world.agent(0).membership.step() else {
        panic!("it has something to say")
    };
    let before = world.store.revision();
    assert!(!world.store.commit(&conditions, &operations).unwrap().succeeded);
    assert_eq!(world.store.revision(), before);
    world.agent(0).cut_off = false;
    world.rest();
    assert!(world.agent(0).refused);
    world.check();
}

#[test]
fn bad_rows_are_refused_by_name_and_change_nothing() {
    let mut world = cluster(2);
    let node = keys().write(&Key::Node("n1".to_owned()));
    let (vni, mac) = pod(1, 1);
    let endpoint = keys().write(&Key::Endpoint("n1".to_owned(), vni, mac));
    let newer = format!("{{\"version\":{},\"who\":\"knows\"}}", RECORD_VERSION + 1);
    let other = write(&ForeignVtep {
        version: RECORD_VERSION,
        address: address(66),
        encapsulation: Encapsulation::Vxlan,
        udp_port: 4789,
        vnis: vec![vni],
    });
    let foreign = keys().write(&Key::Foreign(address(67)));
    let bad = [
        (node.clone(), newer.clone().into_bytes()),
        (endpoint.clone(), b"{".to_vec()),
        (foreign, other),
        ("/weft/v1/nonsense".into(), Vec::new()),
    ];
    for (key, value) in &bad {
        let put = Operation::Put(key.clone(), value.clone().into(), None);
        assert!(world.store.commit(&[Condition::Present(node.clone())], &[put]).unwrap().succeeded);
    }
    for again in [false, true] {
        if again {
            world.agent(1).list_again();
        }
        world.meet(1, 100, 0, false);
        let view = &world.agent(1).view;
        let refused: BTreeMap<_, _> = view.refused().map(|(key, error)| (key, error.to_string())).collect();
        assert_eq!(refused.len(), bad.len(), "{refused:?}");
        assert!(refused["/weft/v1/nodes/n1"].contains("version 2 is newer"), "{refused:?}");
        assert!(refused["/weft/v1/foreign/192.0.2.67"].contains("192.0.2.66"), "{refused:?}");
        assert_eq!(view.refusals(), if again { 8 } else { 4 });
        assert_eq!(known_at(&mut world, 1, pod(1, 1)), Some(address(1)), "what was known stays");
    }
}

#[test]
fn an_endpoint_of_another_incarnation_is_void() {
    let mut world = cluster(2);
    let (vni, mac) = pod(1, 33);
    let incarnation = world.agent(0).membership.incarnation().unwrap();
    for (incarnation, known) in [(incarnation - 1, None), (incarnation, Some(address(1)))] {
        let endpoint = Endpoint {
            version: RECORD_VERSION,
            vni,
            mac,
            ips: Vec::new(),
            node: "n1".to_owned(),
            incarnation,
            sequence: 0,
            port: "old".to_owned(),
            attached: Attached::Bound,
        };
        let key = keys().write(&Key::Endpoint("n1".to_owned(), vni, mac));
        world.store.commit(&[], &[Operation::Put(key, write(&endpoint).into(), None)]).unwrap();
        world.meet(1, 100, 0, false);
        assert_eq!(known_at(&mut world, 1, (vni, mac)), known);
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let mut view = View::new(keys());
    let node = Node {
        version: RECORD_VERSION,
        name: "n9".to_owned(),
        instance: "x".to_owned(),
        incarnation: 0,
        epoch: 0,
        standing: Standing::Joined,
        addresses: vec![address(9)],
        receives: Vec::new(),
        underlay_mtu: 1500,
        vnis: Vec::new(),
        pod_ranges: Vec::new(),
        overlay_addresses: Vec::new(),
        capabilities: Vec::new(),
    };
    let mut json: serde_json::Value = serde_json::from_slice(&write(&node)).unwrap();
    json["from_the_future"] = 1.into();
    json["receives"] = serde_json::json!([{"encapsulation": "geneve", "udp_port": 6081, "more": {}}]);
    let kv = weft_store::proto::mvccpb::KeyValue {
        key: keys().write(&Key::Node("n9".to_owned())),
        value: json.to_string().into(),
        mod_revision: 5,
        create_revision: 5,
        ..Default::default()
    };
    view.list(5, &[kv], false);
    assert_eq!((view.members().count(), view.refusals()), (1, 0));
}

#[test]
fn what_is_not_wanted_is_removed_and_what_stays_keeps_its_id() {
    let mut world = cluster(3);
    let agent: &SimAgent = world.agent(2);
    let wanted_now = wanted(&agent.view, &agent.local());
    let mut tables = Tables::clone(&agent.switch.tables());
    let kept = tables.vtep_by_address(address(2)).unwrap();
    tables.set_pod_mtu(kept, 1300);
    let mut less = wanted_now.clone();
    less.vteps.remove(&address(1));
    less.macs.retain(|_, at| at.address != address(1));
    let edits = reconcile(&tables, &less);
    apply(&mut tables, edits).unwrap();
    assert_eq!(tables.vtep_by_address(address(1)), None);
    assert_eq!(tables.vtep_by_address(address(2)), Some(kept));
    assert_eq!(tables.vtep(kept).unwrap().pod_mtu, 1300, "what probes found out stays");
    let mut vnis = less.clone();
    vnis.vteps.get_mut(&address(2)).unwrap().vnis = [vni(2)].into();
    vnis.macs.clear();
    let edits = reconcile(&tables, &vnis);
    apply(&mut tables, edits).unwrap();
    assert_eq!(tables.vtep_by_address(address(2)), Some(kept));
    assert_eq!(tables.domain(vni(1)).unwrap().flood_list(), []);
    assert_eq!(tables.domain(vni(2)).unwrap().flood_list(), [kept]);
    let edits = reconcile(&tables, &Wanted::default());
    apply(&mut tables, edits).unwrap();
    assert_eq!(tables.vteps().count(), 0);
    assert!(reconcile(&tables, &Wanted::default()).is_empty());
}

#[test]
fn a_learned_mac_is_where_it_was_learned_last_and_never_a_pods_own() {
    let mut world = cluster(3);
    let (guest, own) = (pod(1, 77), pod(1, 3));
    let learned =
        |mac: Pod| (mac, OwnEndpoint { ips: Vec::new(), port: "router".to_owned(), attached: Attached::Learned });
    let tell = |world: &mut World, machine: usize, macs: &[Pod]| {
        let agent = world.agent(machine);
        let mut endpoints = agent.membership.own().endpoints.clone();
        endpoints.retain(|_, row| row.attached != Attached::Learned);
        endpoints.extend(macs.iter().copied().map(learned));
        agent.membership.set_endpoints(endpoints);
        world.meet_all();
        world.meet_all();
    };
    tell(&mut world, 0, &[guest]);
    let roams = |world: &mut World, (vni, mac): Pod| {
        world.agent(2).switch.tables().domain(vni).unwrap().owner(mac).unwrap().roams
    };
    assert_eq!(known_at(&mut world, 2, guest), Some(address(1)));
    assert!(roams(&mut world, guest));
    // It turns up at another node, and the first one hears that it has lost it.
    tell(&mut world, 1, &[guest, own]);
    assert_eq!([0, 2].map(|machine| known_at(&mut world, machine, guest)), [Some(address(2)); 2]);
    let agent: &SimAgent = world.agent(0);
    assert_eq!(wanted(&agent.view, &agent.local()).taken_over, [guest].into());
    // A pod's own MAC is the pod's, whoever saw it later.
    assert_eq!([0, 1].map(|machine| known_at(&mut world, machine, own)), [Some(address(3)); 2]);
    assert!(!world.agent(0).switch.tables().domain(own.0).unwrap().owner(own.1).unwrap().roams);
    // Withdrawn and published again, it is back.
    tell(&mut world, 0, &[]);
    tell(&mut world, 0, &[guest]);
    assert_eq!(known_at(&mut world, 2, guest), Some(address(1)));
    // It becomes a pod's own, where it was only seen before.
    world.set_pods(1, &[pod(1, 2), guest]);
    world.meet_all();
    world.meet_all();
    assert_eq!(known_at(&mut world, 2, guest), Some(address(2)));
    assert!(!roams(&mut world, guest));
}

#[test]
fn only_a_holder_with_one_of_our_addresses_may_be_our_predecessor() {
    let own = [address(1), "2001:db8::1".parse().unwrap()];
    let holder = |addresses: &[IpAddr]| Holder { addresses: addresses.to_vec(), lease: 1 };
    assert!(holder(&own).may_be_predecessor(&own));
    assert!(holder(&[address(9), own[1]]).may_be_predecessor(&own), "one of its addresses changed");
    assert!(!holder(&[address(2)]).may_be_predecessor(&own));
    assert!(holder(&[]).may_be_predecessor(&own), "nothing is known of it");
}

#[test]
fn a_pod_that_moved_is_found_though_its_new_sequence_is_lower() {
    // frr#10468: who knows a higher sequence number keeps the old VTEP. Here a store that went back counts from less.
    let mut world = cluster(3);
    let backup = world.store.backup();
    for pods in [&[pod(1, 1), pod(1, 8)][..], &[], &[pod(1, 1), pod(1, 8)]] {
        world.set_pods(0, pods);
        world.meet_all();
    }
    world.meet_all();
    let sequence = |world: &mut World, name: &str| {
        let view = &world.agent(2).view;
        view.endpoints(view.member(name)?).find(|row| row.mac == pod(1, 8).1).map(|row| row.sequence)
    };
    let before = sequence(&mut world, "n1").unwrap();
    world.restore(&backup, false);
    // It moves before the node that had it is heard of again, and is published there at once.
    world.set_pods(0, &[pod(1, 1)]);
    world.set_pods(1, &[pod(1, 2), pod(1, 8)]);
    world.meet(1, 100, 100, false);
    world.meet(2, 100, 0, false);
    assert!(sequence(&mut world, "n2").unwrap() < before && sequence(&mut world, "n1") == Some(before));
    assert_eq!(known_at(&mut world, 2, pod(1, 8)), Some(address(2)));
    world.rest();
    world.check();
}

#[test]
fn a_pod_that_was_withdrawn_stays_in_no_table() {
    // frr#21473: of 20 live migrations one leaves the row of the old hypervisor behind.
    let mut world = cluster(3);
    let guest = pod(1, 8);
    for migration in 0..20 {
        let (from, to) = (migration % 2, (migration + 1) % 2);
        let own = |machine: usize| pod(1, machine as u8 + 1);
        // It is on both for a while, and what each says is heard in another order each time.
        world.set_pods(to, &[own(to), guest]);
        let said = [to, from, 2][migration % 3];
        world.meet(said, 1, 1, false);
        world.set_pods(from, &[own(from)]);
        for machine in [[0, 1, 2], [1, 0, 2], [2, 1, 0]][migration % 3] {
            world.meet(machine, migration % 4, 1 + migration % 3, false);
        }
        world.meet_all();
        world.meet_all();
        assert_eq!(known_at(&mut world, 2, guest), Some(address(to as u8 + 1)), "migration {migration}");
        assert_eq!(known_at(&mut world, from, guest), Some(address(to as u8 + 1)), "migration {migration}");
    }
    world.set_pods(0, &[pod(1, 1)]);
    world.meet_all();
    world.meet_all();
    for machine in 0..3 {
        let tables = world.agent(machine).switch.tables();
        let domain = tables.domain(guest.0).unwrap();
        assert_eq!(domain.static_mac(guest.1), None);
        assert!(domain.neighbours().all(|(_, mac)| mac != guest.1));
    }
    world.check();
}

#[test]
fn of_two_nodes_with_one_address_the_one_that_claimed_last_is_reached() {
    let mut world = cluster(3);
    world.machines[1].identity.address = address(1);
    for round in 0..2 {
        // Who has it starts once more, and so has claimed last.
        let (winner, loser) = if round == 0 { (1, 0) } else { (0, 1) };
        world.kill(winner);
        world.start(winner);
        world.meet_all();
        world.meet_all();
        let pods = [pod(1, 1), pod(1, 2)];
        assert_eq!(known_at(&mut world, 2, pods[winner]), Some(address(1)));
        assert_eq!(known_at(&mut world, 2, pods[loser]), None, "it has no address of its own");
        assert_eq!(flooded_to(&mut world, 2), 1);
        let known = conflicts(&world.agent(2).view);
        let names = ["n1", "n2"];
        assert_eq!(known.len(), 1, "{known:?}");
        assert_eq!(known[0].what, "VTEP address 192.0.2.1");
        assert_eq!((known[0].winner.as_str(), &known[0].others), (names[winner], &vec![names[loser].to_owned()]));
    }
}
