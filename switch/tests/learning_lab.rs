//! What is learned from whole conversations, on a clock that is moved by hand.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::IpAddr;
use std::time::Duration;

use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{Seconds, Tables};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_memory_lab::{MemoryLab, PodConfig, PodId};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const SECOND: Duration = Duration::from_secs(1);
const NODES: [u8; 3] = [1, 2, 3];

fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// A node with one learning port, to which the other two are foreign.
fn node(number: u8) -> (MemorySwitch, MemoryPort) {
    let vni = Vni::new(7).unwrap();
    let mut tables = Tables::new(vec![address(number)], vec![4789]);
    tables.add_domain(vni, DomainOptions::default()).unwrap();
    for other in NODES.into_iter().filter(|other| *other != number) {
        let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Foreign);
        let vtep = Vtep { address: address(other), udp_port: 4789, encapsulation, kind, pod_mtu: 1450 };
        tables.add_vtep(vtep, &[vni]).unwrap();
    }
    let mode = PortMode::Learning { limit: 16 };
    let port = Port { name: format!("pod{number}"), vni, mac: MacAddr([2, 0, 0, 0, 1, number]), mtu: 1450, mode };
    let id = tables.add_port(port).unwrap();
    let mut switch = MemorySwitch::new(tables, 64);
    let port = switch.attach(id);
    (switch, port)
}

fn lab() -> (MemoryLab, Vec<(IpAddr, MemorySwitch)>, [PodId; 3]) {
    let mut lab = MemoryLab::new(1);
    let mut nodes = Vec::new();
    let pods = NODES.map(|number| {
        let (switch, port) = node(number);
        nodes.push((address(number), switch));
        lab.add_pod(&PodConfig::new(mac(number), &[&format!("10.0.0.{number}/24")]), port)
    });
    (lab, nodes, pods)
}

#[test]
fn a_conversation_is_flooded_until_it_is_learned_and_never_after() {
    let (mut lab, mut nodes, [a, b, _]) = lab();
    let stream = lab.stream(a, b, IpAddr::from([10, 0, 0, 2]), 500_000);
    assert!(lab.run_until(&mut nodes, 10 * SECOND, |lab| lab.stream_is_done(stream)));
    // The question for the neighbour goes to all, who hand it to all their pods. Nothing else does.
    assert!(nodes.iter().all(|(_, switch)| switch.totals().flood == 1));
    let (_, to_third) = lab.wire().link_counters(address(3)).unwrap();
    assert_eq!(to_third.frames, 1);
    nodes.iter().for_each(|(_, switch)| switch.totals().check().unwrap());
}

#[test]
fn a_pod_that_was_silent_for_long_is_found_by_a_flood() {
    let (mut lab, mut nodes, [a, b, _]) = lab();
    let (from, to) = (lab.udp(a, 1000), lab.udp(b, 2000));
    let target = (IpAddr::from([10, 0, 0, 2]), 2000).into();
    lab.send((a, from), target, b"first");
    lab.run(&mut nodes, SECOND);
    assert_eq!(lab.received((b, to)), [b"first"]);
    let (_, before) = lab.wire().link_counters(address(3)).unwrap();
    // The pod forgets its neighbour after a minute by itself; the switch is told to after twenty seconds.
    lab.run(&mut nodes, 30 * SECOND);
    for (_, switch) in &nodes {
        switch.fdb().sweep(Seconds(31), 20);
    }
    lab.send((a, from), target, b"second");
    lab.run(&mut nodes, SECOND);
    assert_eq!(lab.received((b, to)), [b"second"]);
    let (_, after) = lab.wire().link_counters(address(3)).unwrap();
    assert_eq!(after.frames, before.frames + 1, "the third node sees the frame whose receiver is not known any more");
}
