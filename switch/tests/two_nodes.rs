//! Two switches in memory, joined by a wire that the test carries by hand.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{DropReason, Seconds, Tables};
use weft_encap::checksum::Verified;
use weft_encap::ecn::{Ecn, apply_ecn};
use weft_encap::mtu::overhead;
use weft_encap::probe::{Kind, Probe};
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, Inner, MacAddr, Offload, OffloadError, Splitter, Vni};
use weft_switch::memory::{MemoryFrame, MemoryPort, MemorySwitch};
use weft_switch::underlay::{LANES, MAX_GROUP_BYTES, MAX_GROUP_SEGMENTS};
use weft_switch::{ProbeEcho, RevisionReply};

const NOW: Seconds = Seconds(1);
const MTU: u16 = 1450;
/// TCP payload of a full frame: MTU less 20 bytes each of IP and TCP.
const MSS: u16 = MTU - 40;

struct Node {
    address: IpAddr,
    switch: MemorySwitch,
    pods: Vec<MemoryPort>,
}

fn vni() -> Vni {
    Vni::new(100).unwrap()
}

fn mac(node: u8, pod: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, node, pod])
}

/// Node `number` of `nodes`, with two bound pods.
fn node(number: u8, nodes: u8, encapsulation: Encapsulation) -> Node {
    let address = |number: u8| IpAddr::from([192, 0, 2, number]);
    let mut tables = Tables::new(vec![address(number)], vec![4789, 6081]);
    tables.add_domain(vni(), DomainOptions::default()).unwrap();
    let ids = [1, 2].map(|pod| {
        let mode = PortMode::Bound { addresses: Vec::new() };
        tables.add_port(Port { name: format!("pod{pod}"), vni: vni(), mac: mac(number, pod), mtu: MTU, mode }).unwrap()
    });
    for other in (1..=nodes).filter(|other| *other != number) {
        let vtep = Vtep {
            address: address(other),
            udp_port: encapsulation.default_port(),
            encapsulation,
            kind: VtepKind::Foreign,
            pod_mtu: MTU,
        };
        tables.add_vtep(vtep, &[vni()]).unwrap();
    }
    let mut switch = MemorySwitch::new(tables, 1024);
    let pods = ids.map(|id| switch.attach(id)).to_vec();
    Node { address: address(number), switch, pods }
}

fn lab(nodes: u8, encapsulation: Encapsulation) -> Vec<Node> {
    (1..=nodes).map(|number| node(number, nodes, encapsulation)).collect()
}

/// Serves all nodes until nothing is under way.
fn settle(nodes: &mut [Node], encapsulation: Encapsulation) {
    loop {
        let mut quiet = true;
        for node in nodes.iter_mut() {
            node.switch.run(NOW);
        }
        let sent: Vec<_> = nodes.iter().map(|node| (node.address, node.switch.underlay().sent())).collect();
        for (source, datagrams) in sent {
            for datagram in datagrams {
                quiet = false;
                assert_eq!(datagram.peer.port(), encapsulation.default_port());
                assert!(datagram.bytes.len() <= MAX_GROUP_BYTES && datagram.lane < LANES);
                assert!(datagram.bytes.len().div_ceil(datagram.segment) <= MAX_GROUP_SEGMENTS);
                let receiver = nodes.iter().find(|node| node.address == datagram.peer.ip()).unwrap();
                receiver.switch.underlay().arrives(
                    source,
                    encapsulation,
                    datagram.segment,
                    datagram.tos,
                    datagram.bytes,
                );
            }
        }
        if quiet {
            nodes.iter().for_each(|node| node.switch.totals().check().unwrap());
            return;
        }
    }
}

fn tcp(src: MacAddr, dst: MacAddr, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.tcp(4000, 5000, seq, 1000).ack(7).write(&mut frame, payload).unwrap();
    frame
}

/// A frame as a TAP gives it: with the pseudo-header sum in the checksum field.
fn unfilled(mut frame: Vec<u8>) -> Vec<u8> {
    let l4_len = u16::try_from(frame.len() - 34).unwrap();
    let pseudo = weft_encap::checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, l4_len);
    frame[50..52].copy_from_slice(&weft_encap::checksum::fold(pseudo).to_be_bytes());
    frame
}

fn superframe_offload() -> Offload {
    Offload {
        checksum: Checksum::Needed { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::Tcp4, size: MSS, header_len: 54, ecn: false }),
    }
}

/// Lets everybody learn everybody.
fn introduce(nodes: &mut [Node], encapsulation: Encapsulation) {
    let count = u8::try_from(nodes.len()).unwrap();
    for number in 1..=count {
        for pod in [1, 2] {
            let hello = tcp(mac(number, pod), MacAddr::BROADCAST, 0, b"hello");
            nodes[usize::from(number) - 1].pods[usize::from(pod) - 1].pod_sends(hello, Ok(Offload::NONE));
        }
    }
    settle(nodes, encapsulation);
    for node in nodes.iter() {
        for pod in &node.pods {
            let heard = pod.pod_received();
            assert_eq!(heard.len(), 2 * usize::from(count) - 1, "each other pod once");
        }
    }
}

#[test]
fn a_superframe_crosses_whole() {
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let mut nodes = lab(2, encapsulation);
        introduce(&mut nodes, encapsulation);
        let payload: Vec<u8> = (0..44 * usize::from(MSS)).map(|i| (i * 7 % 251) as u8).collect();
        let frame = unfilled(tcp(mac(1, 1), mac(2, 1), 77, &payload));
        nodes[0].pods[0].pod_sends(frame.clone(), Ok(superframe_offload()));
        settle(&mut nodes, encapsulation);
        let received = nodes[1].pods[0].pod_received();
        assert_eq!(received.len(), 1, "one write for one read");
        assert_eq!(received[0].offload.gso.unwrap().size, MSS);
        assert_eq!(received[0].offload.checksum, superframe_offload().checksum);
        assert_eq!(received[0].bytes[54..], payload);
        assert_eq!(received[0].bytes[50..52], frame[50..52], "pseudo-header sum of the whole");
        assert!(nodes[1].pods[1].pod_received().is_empty());
        let (sender, receiver) = (nodes[0].switch.totals(), nodes[1].switch.totals());
        assert_eq!(sender.unicast, 1);
        assert_eq!(receiver.unicast, 44, "the receiver decides wire frames");
    }
}

#[test]
fn a_superframe_longer_than_a_group_is_sent_in_two() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let payload = vec![5; 46 * usize::from(MSS)];
    let frame = unfilled(tcp(mac(1, 1), mac(2, 1), 1, &payload));
    nodes[0].pods[0].pod_sends(frame, Ok(superframe_offload()));
    nodes[0].switch.run(NOW);
    let sent = nodes[0].switch.underlay().sent();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|datagram| datagram.lane == sent[0].lane), "a flow keeps to its source port");
    let totals = nodes[0].switch.totals();
    totals.check().unwrap();
    assert_eq!(totals.underlay_datagrams_out - 2, 46, "besides the introduction of two pods");
}

#[test]
fn the_longest_superframe_fits_no_packet_with_its_headers_and_is_split_first() {
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let mut nodes = lab(2, encapsulation);
        introduce(&mut nodes, encapsulation);
        // An IP packet of 65,535 bytes.
        let payload: Vec<u8> = (0..65_535 - 40).map(|at| (at * 11 % 253) as u8).collect();
        let frame = unfilled(tcp(mac(1, 1), mac(2, 1), 1, &payload));
        nodes[0].pods[0].pod_sends(frame, Ok(superframe_offload()));
        // That no group is longer than an IP packet may be is checked there.
        settle(&mut nodes, encapsulation);
        let received = nodes[1].pods[0].pod_received();
        assert_eq!(received.iter().flat_map(|frame| frame.bytes[54..].to_vec()).collect::<Vec<_>>(), payload);
        assert_eq!(nodes[0].switch.totals().dropped_at(weft_bridge::Stage::Egress), 0);
    }
}

#[test]
fn checksums_are_filled_before_they_leave_the_node_and_not_within_it() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let needed = Offload { checksum: Checksum::Needed { start: 34, offset: 16 }, gso: None };
    let whole = tcp(mac(1, 1), mac(2, 1), 5, b"across");
    nodes[0].pods[0].pod_sends(unfilled(whole.clone()), Ok(needed));
    let within = unfilled(tcp(mac(1, 1), mac(1, 2), 5, b"within"));
    nodes[0].pods[0].pod_sends(within.clone(), Ok(needed));
    settle(&mut nodes, Encapsulation::Vxlan);
    assert_eq!(nodes[1].pods[0].pod_received()[0].bytes, whole);
    let same_node = nodes[0].pods[1].pod_received();
    assert_eq!((&same_node[0].bytes, same_node[0].offload), (&within, needed));
}

#[test]
fn a_flooded_frame_reaches_every_pod_once_and_never_returns() {
    let mut nodes = lab(3, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let frame = unfilled(tcp(mac(1, 1), MacAddr([0x01, 0, 0x5e, 0, 0, 9]), 5, b"multicast"));
    let needed = Offload { checksum: Checksum::Needed { start: 34, offset: 16 }, gso: None };
    nodes[0].pods[0].pod_sends(frame, Ok(needed));
    settle(&mut nodes, Encapsulation::Vxlan);
    let heard = |node: usize, pod: usize| nodes[node].pods[pod].pod_received().len();
    assert_eq!([heard(0, 0), heard(0, 1), heard(1, 0), heard(1, 1), heard(2, 0), heard(2, 1)], [0, 1, 1, 1, 1, 1]);
}

#[test]
fn one_bad_frame_costs_only_itself() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let good = || tcp(mac(1, 1), mac(2, 1), 1, b"good");
    let pod = &nodes[0].pods[0];
    pod.pod_sends(good(), Ok(Offload::NONE));
    pod.pod_sends(vec![1, 2, 3], Ok(Offload::NONE));
    pod.pod_sends(good(), Err(OffloadError::ZeroSegment));
    let outside = Offload { checksum: Checksum::Needed { start: 60_000, offset: 16 }, gso: None };
    pod.pod_sends(good(), Ok(outside));
    let mut lies = good();
    lies[46] = 0x10;
    pod.pod_sends(lies, Ok(superframe_offload()));
    pod.pod_sends(vec![0; 60], Ok(Offload::NONE));
    pod.pod_sends(good(), Ok(Offload::NONE));
    settle(&mut nodes, Encapsulation::Vxlan);
    assert_eq!(nodes[1].pods[0].pod_received().len(), 2);
    let totals = nodes[0].switch.totals();
    let expected = [DropReason::Runt, DropReason::BadOffload, DropReason::BadSuperframe, DropReason::BadSourceMac];
    assert_eq!(expected.map(|reason| totals.dropped(reason)), [1, 2, 1, 1]);
}

#[test]
fn what_the_kernel_refuses_is_counted_by_name() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    nodes[0].switch.underlay().refuse(Some(DropReason::UnderlayUnreachable));
    nodes[0].pods[1].refuse(Some(DropReason::PortDown));
    nodes[0].pods[0].pod_sends(tcp(mac(1, 1), MacAddr::BROADCAST, 1, b"to all"), Ok(Offload::NONE));
    nodes[0].pods[0].pod_sends(tcp(mac(1, 1), mac(2, 2), 1, b"to one"), Ok(Offload::NONE));
    settle(&mut nodes, Encapsulation::Vxlan);
    let totals = nodes[0].switch.totals();
    assert_eq!(totals.dropped(DropReason::UnderlayUnreachable), 2);
    assert_eq!(totals.dropped(DropReason::PortDown), 1);
}

#[test]
fn longer_than_the_port_is_dropped_by_name_and_answered() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let longest = tcp(mac(1, 1), mac(2, 1), 1, &vec![1; usize::from(MSS)]);
    let longer = tcp(mac(1, 1), mac(2, 1), 1, &vec![1; usize::from(MSS) + 1]);
    nodes[0].pods[0].pod_sends(longest, Ok(Offload::NONE));
    nodes[0].pods[0].pod_sends(longer, Ok(Offload::NONE));
    settle(&mut nodes, Encapsulation::Vxlan);
    assert_eq!(nodes[1].pods[0].pod_received().len(), 1);
    let totals = nodes[0].switch.totals();
    assert_eq!(totals.dropped(DropReason::ExceedsIngressMtu), 1);
    assert_eq!(told_mtu(&nodes[0].pods[0].pod_received()), [MTU]);
    assert_eq!(totals.answers_sent, 1);
}

#[test]
fn congestion_marks_cross_the_tunnel() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let mut capable = tcp(mac(1, 1), mac(2, 1), 1, b"capable");
    assert!(apply_ecn(&mut capable, Ecn::Ect0));
    let incapable = tcp(mac(1, 1), mac(2, 1), 1, b"incapable");
    for frame in [capable.clone(), incapable] {
        nodes[0].pods[0].pod_sends(frame, Ok(Offload::NONE));
    }
    nodes[0].switch.run(NOW);
    let sent = nodes[0].switch.underlay().sent();
    assert_eq!(sent.iter().map(|datagram| datagram.tos).collect::<Vec<_>>(), [Ecn::Ect0 as u8, 0]);
    for datagram in sent {
        let source = nodes[0].address;
        let marked = Ecn::Ce as u8;
        nodes[1].switch.underlay().arrives(source, Encapsulation::Vxlan, datagram.segment, marked, datagram.bytes);
    }
    nodes[1].switch.run(NOW);
    assert!(apply_ecn(&mut capable, Ecn::Ce));
    let received = nodes[1].pods[0].pod_received();
    assert_eq!(received.iter().map(|frame| &frame.bytes).collect::<Vec<_>>(), [&capable]);
    assert_eq!(nodes[1].switch.totals().dropped(DropReason::EcnNotCapable), 1);
    nodes[1].switch.totals().check().unwrap();
}

/// The tunnel packets of a superframe from the first node to the second, and the inner frames in them.
fn segments_of_a_superframe(nodes: &mut [Node], seq: u32) -> (Vec<u8>, usize) {
    let payload: Vec<u8> = (0..20 * usize::from(MSS)).map(|at| (at * 7 % 251) as u8).collect();
    let frame = unfilled(tcp(mac(1, 1), mac(2, 1), seq, &payload));
    nodes[0].pods[0].pod_sends(frame, Ok(superframe_offload()));
    nodes[0].switch.run(NOW);
    let sent = nodes[0].switch.underlay().sent().remove(0);
    (sent.bytes, sent.segment)
}

/// A frame to a pod as wire packets.
fn wire_frames(frame: &MemoryFrame) -> Vec<Vec<u8>> {
    let Ok(mut splitter) = Splitter::new(&frame.bytes, &frame.offload) else { return vec![frame.bytes.clone()] };
    let mut headers = [0; weft_encap::split::MAX_HEADER_LEN];
    let mut out = Vec::new();
    while let Some(payload) = splitter.next_segment(&mut headers) {
        out.push([&headers[..splitter.header_len()], &frame.bytes[payload]].concat());
    }
    out
}

#[test]
fn a_frame_damaged_on_the_way_is_dropped_by_name_and_its_neighbours_are_not() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let before = nodes[1].switch.totals().sent;
    let (mut bytes, segment) = segments_of_a_superframe(&mut nodes, 1);
    let intact: Vec<_> = bytes.chunks(segment).map(|packet| packet[8..].to_vec()).collect();
    bytes[7 * segment + 500] ^= 0x10;
    nodes[1].switch.underlay().arrives(nodes[0].address, Encapsulation::Vxlan, segment, 0, bytes);
    nodes[1].switch.run(NOW);
    let received = nodes[1].pods[0].pod_received();
    assert_eq!(received.len(), 2, "what came before it and what came after it");
    let arrived: Vec<_> = received.iter().flat_map(wire_frames).collect();
    assert_eq!(arrived, [&intact[..7], &intact[8..]].concat());
    let totals = nodes[1].switch.totals();
    totals.check().unwrap();
    assert_eq!((totals.dropped(DropReason::BadInnerChecksum), totals.sent - before), (1, 19));
}

#[test]
fn random_corruption_on_the_way_is_never_repaired() {
    const ROUNDS: u32 = 300;
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    for round in 0..ROUNDS {
        let (mut bytes, segment) = segments_of_a_superframe(&mut nodes, round);
        let intact: Vec<_> = bytes.chunks(segment).map(|packet| packet[8..].to_vec()).collect();
        for _ in 0..=random(4) {
            // Anywhere behind the tunnel header; often where the headers are.
            let within = if random(2) == 0 { 8 + random(60) } else { 8 + random(segment - 8) };
            bytes[random(intact.len()) * segment + within] ^= 1 << random(8);
        }
        let came: Vec<_> = bytes.chunks(segment).map(|packet| packet[8..].to_vec()).collect();
        nodes[1].switch.underlay().arrives(nodes[0].address, Encapsulation::Vxlan, segment, 0, bytes);
        nodes[1].switch.run(NOW);
        for frame in nodes[1].pods.iter().flat_map(MemoryPort::pod_received) {
            let allowed = if frame.offload == Offload::NONE { &came } else { &intact };
            assert!(wire_frames(&frame).iter().all(|frame| allowed.contains(frame)), "round {round}");
        }
    }
    let totals = nodes[1].switch.totals();
    totals.check().unwrap();
    assert!(totals.dropped(DropReason::BadInnerChecksum) > u64::from(ROUNDS) / 2, "{:?}", totals.drops);
}

#[test]
fn answers_to_long_packets_are_bounded() {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    for _ in 0..1000 {
        let longer = tcp(mac(1, 1), mac(2, 1), 1, &vec![1; usize::from(MSS) + 1]);
        nodes[0].pods[0].pod_sends(longer, Ok(Offload::NONE));
    }
    settle(&mut nodes, Encapsulation::Vxlan);
    let totals = nodes[0].switch.totals();
    assert_eq!(totals.dropped(DropReason::ExceedsIngressMtu), 1000);
    assert_eq!(nodes[0].pods[0].pod_received().len() as u64, totals.answers_sent);
    assert_eq!(totals.answers_sent + totals.answers_suppressed, 1000);
    assert!(totals.answers_sent <= 200);
}

/// Two nodes of which the first has a narrower tunnel to the second than its pods' MTU.
fn narrow(path_mtu: u16, options: DomainOptions) -> Vec<Node> {
    let mut nodes = lab(2, Encapsulation::Vxlan);
    let mut tables = Tables::new(vec![nodes[0].address], vec![4789]);
    tables.add_domain(vni(), options).unwrap();
    let mode = PortMode::Bound { addresses: Vec::new() };
    let port = Port { name: "pod".to_owned(), vni: vni(), mac: mac(1, 1), mtu: MTU, mode };
    let id = tables.add_port(port).unwrap();
    let vtep = Vtep {
        address: nodes[1].address,
        udp_port: 4789,
        encapsulation: Encapsulation::Vxlan,
        kind: VtepKind::Foreign,
        pod_mtu: path_mtu,
    };
    tables.add_vtep(vtep, &[vni()]).unwrap();
    let mut switch = MemorySwitch::new(tables, 1024);
    let pods = vec![switch.attach(id)];
    (nodes[0].switch, nodes[0].pods) = (switch, pods);
    nodes
}

#[test]
fn longer_than_the_path_is_answered_and_fragmented_where_its_sender_allows() {
    let mut nodes = narrow(1280, DomainOptions::default());
    let long = udp(mac(1, 1), mac(2, 1), true, &[7; 1300]);
    let may_be_cut = udp(mac(1, 1), mac(2, 1), false, &[7; 1300]);
    nodes[0].pods[0].pod_sends(long, Ok(Offload::NONE));
    nodes[0].pods[0].pod_sends(may_be_cut, Ok(Offload::NONE));
    settle(&mut nodes, Encapsulation::Vxlan);
    assert_eq!(told_mtu(&nodes[0].pods[0].pod_received()), [1280]);
    assert_eq!(nodes[0].switch.totals().dropped(DropReason::ExceedsPathMtu), 1);
    let received = nodes[1].pods[0].pod_received();
    let payload = |frame: &MemoryFrame| {
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame.bytes).unwrap();
        assert!(frame.bytes.len() <= 14 + 1280);
        assert!(sliced.is_ip_payload_fragmented());
        sliced.ip_payload().unwrap().payload.len()
    };
    assert_eq!(received.iter().map(payload).sum::<usize>(), 8 + 1300);
    assert_eq!(received.len(), 2);
}

#[test]
fn a_path_too_narrow_for_ipv6_is_refused_by_name() {
    let mut nodes = narrow(1230, DomainOptions::default());
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(mac(1, 1).0, mac(2, 1).0).ipv6([0xfd; 16], [0xfc; 16], 64);
    builder.udp(1, 2).write(&mut frame, &[7; 1200]).unwrap();
    nodes[0].pods[0].pod_sends(frame, Ok(Offload::NONE));
    settle(&mut nodes, Encapsulation::Vxlan);
    assert_eq!(nodes[0].switch.totals().dropped(DropReason::BelowIpv6Minimum), 1);
    assert!(nodes[0].pods[0].pod_received().is_empty());
}

#[test]
fn a_clamped_network_announces_segments_that_fit_the_tunnel() {
    for (clamp_mss, expected) in [(false, MSS), (true, 1280 - 40)] {
        let mut nodes = narrow(1280, DomainOptions { clamp_mss, ..DomainOptions::default() });
        let mut syn = Vec::new();
        let builder = PacketBuilder::ethernet2(mac(1, 1).0, mac(2, 1).0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let options = [etherparse::TcpOptionElement::MaximumSegmentSize(MSS)];
        builder.tcp(4000, 5000, 1, 1000).syn().options(&options).unwrap().write(&mut syn, &[]).unwrap();
        nodes[0].pods[0].pod_sends(syn, Ok(Offload::NONE));
        settle(&mut nodes, Encapsulation::Vxlan);
        let received = nodes[1].pods[0].pod_received();
        let sliced = etherparse::SlicedPacket::from_ethernet(&received[0].bytes).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        let announced: Vec<_> = tcp.options_iterator().flatten().collect();
        assert_eq!(announced, [etherparse::TcpOptionElement::MaximumSegmentSize(expected)]);
        let inner = Inner::parse(&received[0].bytes).unwrap();
        assert_eq!(weft_encap::checksum::verify(&inner).unwrap(), Verified::Right);
    }
}

#[test]
fn a_probe_is_echoed_by_the_peers_data_plane_and_meets_no_pod() {
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let mut nodes = lab(2, encapsulation);
        let peer = nodes[0].switch.tables().vtep_by_address(nodes[1].address).unwrap();
        let probe = Probe { kind: Kind::Request, nonce: 0x1234_5678_9abc_def0, size: 1500 };
        nodes[0].switch.probe(peer, &probe);
        let request = nodes[0].switch.underlay().sent().remove(0);
        assert_eq!(request.bytes.len(), 1500 - 28, "the outer IP packet has the size under test");
        let source = nodes[0].address;
        nodes[1].switch.underlay().arrives(source, encapsulation, request.segment, 0, request.bytes);
        nodes[1].switch.run(NOW);
        let echo = nodes[1].switch.underlay().sent().remove(0);
        assert!(echo.bytes.len() < 64, "a short answer");
        let source = nodes[1].address;
        nodes[0].switch.underlay().arrives(source, encapsulation, echo.segment, 0, echo.bytes);
        nodes[0].switch.run(NOW);
        let echoes: Vec<_> = nodes[0].switch.probe_echoes().collect();
        let at = echoes[0].at;
        assert_eq!(echoes, [ProbeEcho { vtep: peer, nonce: probe.nonce, size: 1500, at }]);
        for node in &nodes {
            assert!(node.pods.iter().all(|pod| pod.pod_received().is_empty()));
            assert_eq!((node.switch.totals().frames_in, node.switch.totals().sent), (0, 0));
        }
    }
}

#[test]
fn a_peer_says_by_which_revision_it_forwards() {
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let mut nodes = lab(2, encapsulation);
        let peer = nodes[0].switch.tables().vtep_by_address(nodes[1].address).unwrap();
        let request = Probe::revision_request(0x1234, overhead(encapsulation, nodes[1].address.is_ipv6(), 0));
        for revision in [0, 57] {
            let mut tables = Tables::clone(&nodes[1].switch.tables());
            tables.set_revision(revision);
            nodes[1].switch.publish(tables);
            nodes[0].switch.probe(peer, &request);
            for (from, to) in [(0, 1), (1, 0)] {
                let (source, packet) = (nodes[from].address, nodes[from].switch.underlay().sent().remove(0));
                nodes[to].switch.underlay().arrives(source, encapsulation, packet.segment, 0, packet.bytes);
                nodes[to].switch.run(NOW);
            }
            let replies: Vec<_> = nodes[0].switch.revision_replies().collect();
            assert_eq!(replies, [RevisionReply { vtep: peer, nonce: 0x1234, revision }]);
            assert_eq!(nodes[0].switch.probe_echoes().count(), 0, "no path was asked for");
        }
    }
}

fn udp(src: MacAddr, dst: MacAddr, dont_fragment: bool, payload: &[u8]) -> Vec<u8> {
    let mut ip = etherparse::Ipv4Header { dont_fragment, identification: 9, time_to_live: 64, ..Default::default() };
    (ip.source, ip.destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
    builder.udp(1000, 2000).write(&mut frame, payload).unwrap();
    frame
}

/// The MTUs in ICMP "fragmentation needed" messages.
fn told_mtu(frames: &[MemoryFrame]) -> Vec<u16> {
    let told = |frame: &MemoryFrame| {
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame.bytes).unwrap();
        match sliced.transport {
            Some(etherparse::TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
                etherparse::Icmpv4Type::DestinationUnreachable(
                    etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
                ) => next_hop_mtu,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    frames.iter().map(told).collect()
}

#[test]
fn a_length_beyond_its_frame_costs_only_that_frame() {
    const FRAME: usize = 154;
    const PACKET: usize = 8 + FRAME;
    const FLOWS: u16 = 64;
    let mut nodes = lab(2, Encapsulation::Vxlan);
    introduce(&mut nodes, Encapsulation::Vxlan);
    // A datagram that claims, in every length and sum, to be as long as the group of so many packets that it begins.
    for packets in 2..=12 {
        let mut liar = udp(mac(1, 1), mac(2, 1), true, &vec![0; packets * PACKET - 8 - 42]);
        let len = u16::try_from(liar.len() - 34).unwrap();
        let pseudo = weft_encap::checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, len);
        liar[40..42].copy_from_slice(&weft_encap::checksum::fold(pseudo).to_be_bytes());
        liar.truncate(FRAME);
        let pod = &nodes[0].pods[0];
        pod.pod_sends(liar, Ok(Offload::NONE));
        for flow in 0..FLOWS {
            let mut good = Vec::new();
            let builder = PacketBuilder::ethernet2(mac(1, 1).0, mac(2, 1).0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            builder.udp(4000 + flow, 5000).write(&mut good, &[7; FRAME - 42]).unwrap();
            pod.pod_sends(good, Ok(Offload::NONE));
        }
        settle(&mut nodes, Encapsulation::Vxlan);
        assert_eq!(nodes[1].pods[0].pod_received().len(), usize::from(FLOWS));
    }
    assert_eq!(nodes[0].switch.totals().dropped(DropReason::MalformedIp), 11);
}
