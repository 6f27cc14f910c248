//! What is told of frames, live and of what would become of them.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{Attachment, DropReason, FloodCause, How, PortId, Seconds, Tables};
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, MacAddr, Offload, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};
use weft_switch::port::TapOffloads;
use weft_switch::trace::{CopyTold, Depth, Filter, Identity, Ingress, RING_RECORDS, Record, Sent, Told};
use weft_switch::what_if::WhatIf;

const NOW: Seconds = Seconds(1);
const MTU: u16 = 1450;
const MSS: u16 = MTU - 40;

struct Node {
    address: IpAddr,
    switch: MemorySwitch,
    ids: [PortId; 2],
    pods: [MemoryPort; 2],
}

fn vni() -> Vni {
    Vni::new(100).unwrap()
}

fn mac(node: u8, pod: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, node, pod])
}

fn address(node: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, node])
}

/// One of two nodes, with a bound pod and a learning one.
fn node(number: u8) -> Node {
    let mut tables = Tables::new(vec![address(number)], vec![4789]);
    tables.add_domain(vni(), DomainOptions::default()).unwrap();
    let modes = [PortMode::Bound { addresses: Vec::new() }, PortMode::Learning { limit: 16 }];
    let mut pod = 0;
    let ids = modes.map(|mode| {
        pod += 1;
        tables.add_port(Port { name: format!("pod{pod}"), vni: vni(), mac: mac(number, pod), mtu: MTU, mode }).unwrap()
    });
    let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Foreign);
    let vtep = Vtep { address: address(3 - number), udp_port: 4789, encapsulation, kind, pod_mtu: MTU };
    tables.add_vtep(vtep, &[vni()]).unwrap();
    let mut switch = MemorySwitch::new(tables, 1024);
    let pods = ids.map(|id| switch.attach(id));
    Node { address: address(number), switch, ids, pods }
}

/// Serves a node, and carries to the other what it sent, a packet at a time.
fn carry(from: &mut Node, to: &mut Node) {
    from.switch.run(NOW);
    for datagram in from.switch.underlay().sent() {
        for packet in datagram.bytes.chunks(datagram.segment) {
            let arrives = to.switch.underlay();
            arrives.arrives(from.address, Encapsulation::Vxlan, packet.len(), 0, packet.to_vec());
        }
    }
    to.switch.run(NOW);
}

fn tcp(src: MacAddr, dst: MacAddr, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.tcp(4000, 5000, seq, 1000).ack(7).write(&mut frame, payload).unwrap();
    frame
}

fn udp(src: MacAddr, dst: MacAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.udp(4000, 5000).write(&mut frame, payload).unwrap();
    frame
}

fn superframe(kind: GsoKind, mut frame: Vec<u8>) -> (Vec<u8>, Offload) {
    let (protocol, offset, header_len, size) = match kind {
        GsoKind::Udp => (17, 6, 42, 1000),
        GsoKind::Tcp4 | GsoKind::Tcp6 => (6, 16, 54, MSS),
    };
    let l4_len = u16::try_from(frame.len() - 34).unwrap();
    let pseudo = weft_encap::checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol, l4_len);
    let field = 34 + usize::from(offset);
    frame[field..field + 2].copy_from_slice(&weft_encap::checksum::fold(pseudo).to_be_bytes());
    let gso = Some(Gso { kind, size, header_len, ecn: false });
    (frame, Offload { checksum: Checksum::Needed { start: 34, offset }, gso })
}

fn taken(trace: &weft_switch::trace::Trace) -> Vec<Record> {
    trace.take(RING_RECORDS).into_iter().map(|(_, record)| record).collect()
}

#[test]
fn parts_of_a_superframe_are_known_on_the_other_node() {
    let (mut a, mut b) = (node(1), node(2));
    let cases = [
        superframe(GsoKind::Tcp4, tcp(mac(1, 1), mac(2, 1), 5000, &vec![7; 20 * usize::from(MSS) + 3])),
        superframe(GsoKind::Udp, udp(mac(1, 1), mac(2, 1), &(0..9_500).map(|i| (i % 251) as u8).collect::<Vec<_>>())),
    ];
    for (frame, offload) in cases {
        let packets = frame.len().div_ceil(usize::from(offload.gso.unwrap().size)) as u32;
        let sending = a.switch.trace(&Filter::default(), Depth::Fates).unwrap();
        let receiving = b.switch.trace(&Filter::default(), Depth::Fates).unwrap();
        a.pods[0].pod_sends(frame, Ok(offload));
        carry(&mut a, &mut b);
        let sent = taken(&sending);
        let crossing: Vec<_> =
            sent.iter().filter(|record| matches!(record.copy.unwrap().egress, Attachment::Vtep(_))).collect();
        let [whole] = crossing[..] else { panic!("{sent:?}") };
        assert_eq!(whole.copy.unwrap().outcome, Ok(Sent { packets, merged: 1 }));
        assert_eq!(whole.decision, Told::Flood(FloodCause::Unknown));
        let came = taken(&receiving);
        let to_first: Vec<_> =
            came.iter().filter(|record| record.copy.unwrap().egress == Attachment::Port(b.ids[0])).collect();
        assert_eq!(to_first.len() as u32, packets);
        let identity = whole.identity.as_ref().unwrap();
        for part in &to_first {
            assert!(identity.meets(part.identity.as_ref().unwrap()) && part.identity.as_ref().unwrap().meets(identity));
            assert!(part.copy.unwrap().outcome.unwrap().merged > 1, "{part:?}");
        }
        let identities: Vec<&Identity> = to_first.iter().map(|part| part.identity.as_ref().unwrap()).collect();
        for (place, part) in identities.iter().enumerate() {
            assert!(identities[place + 1..].iter().all(|other| !part.meets(other)), "one packet is not another");
        }
    }
}

#[test]
fn fragments_are_known_as_parts_of_their_packet() {
    let (mut a, mut b) = (node(1), node(2));
    let mut tables = (*a.switch.tables()).clone();
    let peer = tables.vtep_by_address(address(2)).unwrap();
    tables.set_pod_mtu(peer, 600);
    a.switch.publish(tables);
    let sending = a.switch.trace(&Filter { peer: Some(address(2)), ..Filter::default() }, Depth::Fates).unwrap();
    let receiving = b.switch.trace(&Filter::default(), Depth::Fates).unwrap();
    let mut frame = udp(mac(1, 1), mac(2, 1), &[9; 1200]);
    // Clear DF, as a sender that may be fragmented does.
    (frame[20], frame[24], frame[25]) = (0, 0, 0);
    let sum = weft_encap::checksum::finish(weft_encap::checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    a.pods[0].pod_sends(frame, Ok(Offload::NONE));
    carry(&mut a, &mut b);
    let sent = taken(&sending);
    let [whole] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(whole.copy.unwrap().outcome, Ok(Sent { packets: 3, merged: 1 }));
    let came = taken(&receiving);
    let frames: std::collections::BTreeSet<u64> = came.iter().map(|record| record.frame).collect();
    assert_eq!(frames.len(), 3);
    assert!(came.iter().all(|part| whole.identity.as_ref().unwrap().meets(part.identity.as_ref().unwrap())));
}

#[test]
fn every_drop_is_told_with_its_name() {
    let (mut a, mut b) = (node(1), node(2));
    let trace = a.switch.trace(&Filter { drops: true, ..Filter::default() }, Depth::Fates).unwrap();
    a.pods[0].pod_sends(udp(mac(9, 9), mac(1, 2), b"spoofed"), Ok(Offload::NONE));
    a.pods[0].pod_sends(udp(mac(1, 1), mac(1, 2), b"passes"), Ok(Offload::NONE));
    a.switch.underlay().refuse(Some(DropReason::UnderlayUnreachable));
    a.pods[0].pod_sends(udp(mac(1, 1), MacAddr::BROADCAST, b"half"), Ok(Offload::NONE));
    let underlay = a.switch.underlay();
    underlay.arrives([198, 51, 100, 1].into(), Encapsulation::Vxlan, 8, 0, vec![0; 8]);
    underlay.arrives(address(2), Encapsulation::Vxlan, 7, 0, vec![8, 0, 0, 0, 0, 0, 100]);
    let elsewhere = [&[8, 0, 0, 0, 0, 0, 99, 0][..], &udp(mac(2, 1), mac(1, 1), b"elsewhere")].concat();
    underlay.arrives(address(2), Encapsulation::Vxlan, elsewhere.len(), 0, elsewhere);
    carry(&mut a, &mut b);
    let records = taken(&trace);
    let told: Vec<_> = records.iter().map(|record| (record.ingress, record.dropped().unwrap())).collect();
    let last = records.last().unwrap();
    assert_eq!(last.vni, Vni::new(99).ok());
    assert_eq!(last.summary.unwrap().ports, Some((4000, 5000)), "what is inside is told all the same");
    let port = Ingress::Port(a.ids[0]);
    let peer = Ingress::Vtep(a.switch.tables().vtep_by_address(address(2)).unwrap(), address(2));
    let expected = [
        (port, DropReason::SpoofedMac),
        // The second frame floods too: nobody has learned the other pod's MAC.
        (port, DropReason::UnderlayUnreachable),
        (port, DropReason::UnderlayUnreachable),
        (Ingress::Stranger([198, 51, 100, 1].into()), DropReason::UnknownSource),
        (peer, DropReason::TunnelTruncated),
        (peer, DropReason::UnknownVni),
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_does_not_match_is_not_told() {
    let mut a = node(1);
    let filters = [
        (Filter { pod: Some("pod2".to_owned()), ..Filter::default() }, 2),
        (Filter { pod: Some("pod9".to_owned()), ..Filter::default() }, 0),
        (Filter { vni: Some(Vni::new(9).unwrap()), ..Filter::default() }, 0),
        (Filter { vni: Some(vni()), ..Filter::default() }, 4),
        (Filter { peer: Some(address(2)), ..Filter::default() }, 2),
        (Filter { ip: Some([10, 0, 0, 2].into()), ..Filter::default() }, 4),
        (Filter { ip: Some([10, 0, 0, 3].into()), ..Filter::default() }, 0),
        (Filter { mac: Some(mac(1, 1)), ..Filter::default() }, 4),
        (Filter { mac: Some(mac(1, 2)), ..Filter::default() }, 0),
        (Filter { protocols: vec![6], ..Filter::default() }, 2),
        (Filter { port: Some(5000), protocols: vec![17], ..Filter::default() }, 2),
        (Filter { port: Some(5001), ..Filter::default() }, 0),
        (Filter { drops: true, ..Filter::default() }, 0),
    ];
    for (filter, expected) in filters {
        let trace = a.switch.trace(&filter, Depth::Fates).unwrap();
        a.pods[0].pod_sends(udp(mac(1, 1), MacAddr::BROADCAST, b"x"), Ok(Offload::NONE));
        a.pods[0].pod_sends(tcp(mac(1, 1), MacAddr::BROADCAST, 1, b"x"), Ok(Offload::NONE));
        a.switch.run(NOW);
        assert_eq!(taken(&trace).len(), expected, "{filter:?}");
        assert_eq!(trace.lost(), 0);
    }
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut a = node(1);
    let trace = a.switch.trace(&Filter { pod: Some("pod2".to_owned()), ..Filter::default() }, Depth::Fates).unwrap();
    for _ in 0..RING_RECORDS + 10 {
        a.pods[0].pod_sends(udp(mac(1, 1), MacAddr::BROADCAST, b"x"), Ok(Offload::NONE));
    }
    a.switch.run(NOW);
    assert_eq!((taken(&trace).len(), trace.lost()), (RING_RECORDS, 10));
}

#[test]
fn captured_bytes_are_those_that_crossed() {
    let (mut a, mut b) = (node(1), node(2));
    let sending = a.switch.trace(&Filter { peer: Some(address(2)), ..Filter::default() }, Depth::Bytes).unwrap();
    let receiving =
        b.switch.trace(&Filter { pod: Some("pod1".to_owned()), ..Filter::default() }, Depth::Bytes).unwrap();
    let frame = udp(mac(1, 1), mac(2, 1), b"inside and outside");
    a.pods[0].pod_sends(frame.clone(), Ok(Offload::NONE));
    carry(&mut a, &mut b);
    let (sent, came) = (taken(&sending), taken(&receiving));
    let (sent, came) = (sent[0].captured.as_ref().unwrap(), came[0].captured.as_ref().unwrap());
    assert_eq!((&**sent.inner, &**came.inner), (&frame[..], &frame[..]));
    let (left, arrived) = (&sent.outer_out[0], came.outer_in.as_ref().unwrap());
    assert_eq!((left.peer, arrived.peer), (address(2), address(1)));
    assert_eq!(left.payload[..], arrived.payload[..]);
    assert_eq!(left.payload[8..], frame[..]);
}

/// Everything that a question could have changed.
fn known(node: &Node) -> (String, Vec<String>, String) {
    let mut learned: Vec<_> = node.switch.fdb().rows(NOW).map(|row| format!("{row:?}")).collect();
    learned.sort();
    (format!("{:?}", node.switch.tables()), learned, format!("{:?}", node.switch.totals()))
}

#[test]
fn what_if_changes_nothing_and_says_what_then_happens() {
    let mut a = node(1);
    // Pod 2 is known by now, pod 9 of the other node is not.
    a.pods[1].pod_sends(udp(mac(1, 2), MacAddr::BROADCAST, b"hello"), Ok(Offload::NONE));
    a.switch.run(NOW);
    drop(a.switch.underlay().sent());
    let before = known(&a);
    for (target, expected) in [(mac(1, 2), Told::Unicast(How::Learned)), (mac(2, 9), Told::Flood(FloodCause::Unknown))]
    {
        let frame = udp(mac(1, 1), target, b"what if");
        let mut what_if = WhatIf::new((*a.switch.tables()).clone(), a.switch.fdb(), NOW);
        a.ids.iter().for_each(|id| what_if.attach(*id, TapOffloads::ALL));
        let outcome = what_if.pod_sends(a.ids[0], frame.clone(), Offload::NONE).unwrap();
        assert_eq!(known(&a), before, "it only asked");
        assert!(a.switch.underlay().sent().is_empty() && a.pods[1].pod_received().is_empty());
        assert!(outcome.records.iter().all(|record| record.decision == expected), "{:?}", outcome.records);
        let trace = a.switch.trace(&Filter::default(), Depth::Fates).unwrap();
        a.pods[0].pod_sends(frame, Ok(Offload::NONE));
        a.switch.run(NOW);
        let copies = |records: &[Record]| records.iter().map(|record| record.copy).collect::<Vec<Option<CopyTold>>>();
        assert_eq!(copies(&outcome.records), copies(&taken(&trace)));
        drop((a.switch.underlay().sent(), a.pods[1].pod_received()));
        // What happened is known from now on.
        assert_ne!(known(&a), before);
        a = node(1);
        a.pods[1].pod_sends(udp(mac(1, 2), MacAddr::BROADCAST, b"hello"), Ok(Offload::NONE));
        a.switch.run(NOW);
        drop(a.switch.underlay().sent());
        assert_eq!(known(&a).1, before.1);
    }
}

#[test]
fn what_if_knows_a_port_without_a_device() {
    let a = node(1);
    let ask = |has_device: bool| {
        let mut what_if = WhatIf::new((*a.switch.tables()).clone(), a.switch.fdb(), NOW);
        what_if.attach(a.ids[1], TapOffloads::ALL);
        if has_device {
            what_if.attach(a.ids[0], TapOffloads::ALL);
        }
        let outcome = what_if.pod_sends(a.ids[1], udp(mac(1, 2), mac(1, 1), b"x"), Offload::NONE).unwrap();
        (outcome.records[0].copy.unwrap().outcome, outcome.to_ports.len())
    };
    assert_eq!(ask(true), (Ok(Sent { packets: 1, merged: 1 }), 1));
    assert_eq!(ask(false), (Err(DropReason::PortDown), 0));
}
