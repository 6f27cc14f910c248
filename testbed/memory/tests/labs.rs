//! Pods over links that misbehave: what arrives is what was sent, and a seed decides everything.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{PortId, Tables};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_memory_lab::{MemoryLab, PodConfig, PodId};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const SECOND: Duration = Duration::from_secs(1);
const ENCAPSULATIONS: [Encapsulation; 2] = [Encapsulation::Vxlan, Encapsulation::Geneve];

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

fn node_address(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 { format!("fd99::{number}") } else { format!("192.0.2.{number}") }.parse().unwrap()
}

/// A switch that knows the other node by its address alone, with a learning port for each of these pods.
fn switch(number: u8, ipv6: bool, encapsulation: Encapsulation, pods: &[u8]) -> (MemorySwitch, Vec<MemoryPort>) {
    let mut tables = Tables::new(vec![node_address(number, ipv6)], vec![4789, 6081]);
    tables.add_domain(vni(), DomainOptions::default()).unwrap();
    let vtep = Vtep {
        address: node_address(3 - number, ipv6),
        udp_port: encapsulation.default_port(),
        encapsulation,
        kind: VtepKind::Foreign,
        pod_mtu: 1400,
    };
    tables.add_vtep(vtep, &[vni()]).unwrap();
    let mut port = |pod: u8| -> PortId {
        let mode = PortMode::Bound { addresses: Vec::new() };
        tables.add_port(Port { name: format!("pod{pod}"), vni: vni(), mac: mac(pod), mtu: 1400, mode }).unwrap()
    };
    let ids: Vec<PortId> = pods.iter().map(|pod| port(*pod)).collect();
    let mut switch = MemorySwitch::new(tables, 64);
    let ports = ids.into_iter().map(|id| switch.attach(id)).collect();
    (switch, ports)
}

/// Pods 1 and 2 on the first node, pod 3 on the second.
struct Pair {
    lab: MemoryLab,
    nodes: Vec<(IpAddr, MemorySwitch)>,
    pods: [PodId; 3],
}

impl Pair {
    fn new(seed: u64, ipv6: bool, encapsulation: Encapsulation, offloads: bool) -> Self {
        let (first, mut ports) = switch(1, ipv6, encapsulation, &[1, 2]);
        let (second, others) = switch(2, ipv6, encapsulation, &[3]);
        ports.extend(others);
        let mut lab = MemoryLab::new(seed);
        let mut number = 0;
        let pods = ports.into_iter().map(|port| {
            number += 1;
            let addresses = [format!("10.0.0.{number}/24"), format!("fd00::{number}/64")];
            let mut config = PodConfig::new(mac(number), &addresses.each_ref().map(String::as_str));
            (config.mtu, config.offloads) = (1400, offloads);
            lab.add_pod(&config, port)
        });
        let pods: Vec<PodId> = pods.collect();
        let nodes = vec![(node_address(1, ipv6), first), (node_address(2, ipv6), second)];
        Self { lab, nodes, pods: pods.try_into().unwrap() }
    }

    fn assert_laws(&self) {
        self.nodes.iter().for_each(|(_, switch)| switch.totals().check().unwrap());
    }
}

#[test]
fn streams_arrive_byte_for_byte_whatever_the_link_does() {
    for (case, encapsulation) in ENCAPSULATIONS.into_iter().enumerate() {
        for (offloads, ipv6) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut pair = Pair::new(case as u64, ipv6, encapsulation, offloads);
            let far = node_address(2, ipv6);
            for text in ["loss=1%", "delay=5ms", "jitter=2ms", "reorder=1%", "duplicate=1%", "corrupt=1%"] {
                pair.lab.wire().impair(far, None, text).unwrap();
            }
            let [a, b, c] = pair.pods;
            let there = pair.lab.stream(a, c, "10.0.0.3".parse().unwrap(), 300_000);
            let back = pair.lab.stream(c, b, "fd00::2".parse().unwrap(), 300_000);
            let near = pair.lab.stream(a, b, "10.0.0.2".parse().unwrap(), 300_000);
            let all = |lab: &MemoryLab| [there, back, near].iter().all(|stream| lab.stream_is_done(*stream));
            let done = pair.lab.run_until(&mut pair.nodes, 120 * SECOND, all);
            let read = [there, back, near].map(|stream| pair.lab.stream_read(stream));
            assert!(done, "{encapsulation:?}, offloads {offloads}, IPv6 {ipv6}: {read:?} at {:?}", pair.lab.now());
            pair.assert_laws();
            let (from, to) = pair.lab.wire().link_counters(far).unwrap();
            assert!(
                from.lost + to.lost > 0 && from.corrupted + to.corrupted > 0 && to.duplicated > 0,
                "{from:?} {to:?}"
            );
            assert!(pair.lab.wire().counters().damaged > 0, "what is damaged ends at the checksum");
        }
    }
}

#[test]
fn a_seed_decides_everything() {
    let trace = |seed| {
        let mut pair = Pair::new(seed, false, Encapsulation::Geneve, true);
        for text in ["loss=3%", "delay=5ms", "jitter=5ms", "duplicate=2%"] {
            pair.lab.wire().impair(node_address(1, false), None, text).unwrap();
        }
        let [a, _, c] = pair.pods;
        let stream = pair.lab.stream(a, c, "10.0.0.3".parse().unwrap(), 100_000);
        assert!(pair.lab.run_until(&mut pair.nodes, 60 * SECOND, |lab| lab.stream_is_done(stream)));
        (pair.lab.trace(), pair.lab.now())
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn superframes_go_through_whole() {
    let mut pair = Pair::new(5, false, Encapsulation::Vxlan, true);
    let [a, _, c] = pair.pods;
    let stream = pair.lab.stream(a, c, "10.0.0.3".parse().unwrap(), 1_000_000);
    assert!(pair.lab.run_until(&mut pair.nodes, 10 * SECOND, |lab| lab.stream_is_done(stream)));
    let (from, _) = pair.lab.wire().link_counters(node_address(1, false)).unwrap();
    let frames = pair.nodes[0].1.totals().frames_in;
    assert!(from.frames > 2 * frames, "{} packets for {frames} frames", from.frames);
}

#[test]
fn a_cut_is_survived_and_counted() {
    let mut pair = Pair::new(9, false, Encapsulation::Vxlan, true);
    let far = node_address(2, false);
    pair.lab.wire().impair(far, None, "delay=10ms").unwrap();
    let [a, _, c] = pair.pods;
    let stream = pair.lab.stream(a, c, "10.0.0.3".parse().unwrap(), 5_000_000);
    pair.lab.run(&mut pair.nodes, SECOND / 10);
    pair.lab.wire().cut(far, true);
    pair.lab.run(&mut pair.nodes, SECOND / 10);
    let before = pair.lab.stream_read(stream);
    assert!(before < 5_000_000, "it ended too soon to be cut");
    pair.lab.run(&mut pair.nodes, 3 * SECOND);
    assert_eq!(pair.lab.stream_read(stream), before);
    assert!(pair.lab.wire().counters().cut > 0);
    pair.lab.wire().cut(far, false);
    assert!(pair.lab.run_until(&mut pair.nodes, 60 * SECOND, |lab| lab.stream_is_done(stream)));
    pair.assert_laws();
}

#[test]
fn the_first_datagram_to_a_new_pod_arrives() {
    let mut pair = Pair::new(11, true, Encapsulation::Geneve, false);
    let [a, b, c] = pair.pods;
    let (from, near, far) = (pair.lab.udp(a, 1000), pair.lab.udp(b, 2000), pair.lab.udp(c, 2000));
    pair.lab.send((a, from), SocketAddr::new("fd00::3".parse().unwrap(), 2000), b"far");
    pair.lab.send((a, from), SocketAddr::new("10.0.0.2".parse().unwrap(), 2000), b"near");
    pair.lab.run(&mut pair.nodes, 5 * SECOND);
    assert_eq!(pair.lab.received((c, far)), [b"far"]);
    assert_eq!(pair.lab.received((b, near)), [b"near"]);
    pair.assert_laws();
}
