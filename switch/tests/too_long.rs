//! What is longer than its path or the receiving port: cut where its sender allows it, else answered, never lost
//! without a name. One switch in memory; its path is the other end of a wire that the test reads.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::IpAddr;

use etherparse::defrag::IpDefragPool;
use etherparse::{IpHeaders, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket};
use proptest::prelude::*;
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{DropReason, Seconds, Tables};
use weft_encap::checksum::Verified;
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, Inner, L4, MacAddr, Offload, Splitter, Vni, checksum};
use weft_switch::memory::{MemoryFrame, MemoryPort, MemorySwitch};

const NOW: Seconds = Seconds(1);
const VNI: Vni = Vni::MAX;
const WIDE: u16 = 1450;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
/// The pod behind the wide port.
const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The pod behind the other port.
const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The pod behind the peer.
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

struct Lab {
    switch: MemorySwitch,
    here: MemoryPort,
    near: MemoryPort,
}

impl Lab {
    /// With a port and a path of these MTUs beside the wide port.
    fn new(port_mtu: u16, path_mtu: u16) -> Self {
        let mut tables = Tables::new(vec![[192, 0, 2, 1].into()], vec![4789]);
        tables.add_domain(VNI, DomainOptions::default()).unwrap();
        let mode = PortMode::Bound { addresses: Vec::new() };
        let port = |mac: MacAddr, mtu| Port { name: mac.to_string(), vni: VNI, mac, mtu, mode: mode.clone() };
        let ids = [port(HERE, WIDE), port(NEAR, port_mtu)].map(|row| tables.add_port(row).unwrap());
        let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Foreign);
        let vtep = Vtep { address: PEER, udp_port: 4789, encapsulation, kind, pod_mtu: path_mtu };
        tables.add_vtep(vtep, &[VNI]).unwrap();
        let mut switch = MemorySwitch::new(tables, 64);
        let [here, near] = ids.map(|id| switch.attach(id));
        let mut lab = Self { switch, here, near };
        lab.arrive(&packet(FAR, MacAddr::BROADCAST, true, false, false, b"hello"));
        assert_eq!((lab.here.pod_received().len(), lab.near.pod_received().len()), (1, 1));
        lab
    }

    fn send(&mut self, frame: &[u8], offload: Offload) {
        self.here.pod_sends(frame.to_vec(), Ok(offload));
        self.run();
    }

    /// Lets a frame come from the peer.
    fn arrive(&mut self, frame: &[u8]) {
        let packet = [Encapsulation::Vxlan.header(VNI).as_bytes(), frame].concat();
        self.switch.underlay().arrives(PEER, Encapsulation::Vxlan, packet.len(), 0, packet);
        self.run();
    }

    fn run(&mut self) {
        self.switch.run(NOW);
        self.switch.totals().check().unwrap();
    }

    fn sent_to_peer(&self) -> Vec<Vec<u8>> {
        let groups = self.switch.underlay().sent();
        let packets = groups.iter().flat_map(|group| group.bytes.chunks(group.segment));
        packets.map(|packet| packet[8..].to_vec()).collect()
    }

    fn received_near(&self) -> Vec<Vec<u8>> {
        let frames = self.near.pod_received();
        assert!(frames.iter().all(|frame| frame.offload == Offload::NONE), "what is cut needs nothing any more");
        frames.into_iter().map(|frame| frame.bytes).collect()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.switch.totals().dropped(reason)
    }
}

/// A whole packet, TCP or UDP, over IPv6 or over IPv4 with or without DF.
fn packet(src: MacAddr, dst: MacAddr, tcp: bool, ipv6: bool, dont_fragment: bool, payload: &[u8]) -> Vec<u8> {
    let ip = if ipv6 {
        let (source, destination) = ([0xfd; 16], [0xfc; 16]);
        let flow_label = Ipv6FlowLabel::ZERO;
        let header = Ipv6Header { source, destination, hop_limit: 64, flow_label, ..Ipv6Header::default() };
        IpHeaders::Ipv6(header, Default::default())
    } else {
        let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let header = Ipv4Header {
            source,
            destination,
            dont_fragment,
            identification: 0xfffe,
            time_to_live: 64,
            ..Ipv4Header::default()
        };
        IpHeaders::Ipv4(header, Default::default())
    };
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ip(ip);
    let mut frame = Vec::new();
    if tcp {
        builder.tcp(4000, 5000, 77, 1000).ack(7).write(&mut frame, payload).unwrap();
    } else {
        builder.udp(4000, 5000).write(&mut frame, payload).unwrap();
    }
    frame
}

/// What a TAP says of such a packet if it is not finished; with a segment size, of a superframe.
fn unfinished(frame: &mut [u8], size: Option<u16>) -> Offload {
    let inner = Inner::parse(frame).unwrap();
    let l4 = L4::of(&inner).unwrap();
    let offset = if l4.tcp { 16 } else { 6 };
    let kind = match (l4.tcp, l4.ipv6) {
        (true, false) => GsoKind::Tcp4,
        (true, true) => GsoKind::Tcp6,
        (false, _) => GsoKind::Udp,
    };
    let protocol = if l4.tcp { 6 } else { 17 };
    let len = l4.len() as u16;
    let pseudo = if l4.ipv6 {
        checksum::pseudo_header_v6([0xfd; 16].into(), [0xfc; 16].into(), protocol, len)
    } else {
        checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol, len)
    };
    let (start, header_len) = (l4.start, l4.payload as u16);
    frame[start + offset..start + offset + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    let gso = size.map(|size| Gso { kind, size, header_len, ecn: false });
    Offload { checksum: Checksum::Needed { start: start as u16, offset: offset as u16 }, gso }
}

/// The packets that a superframe stands for.
fn segments(frame: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(frame, offload).unwrap();
    let mut headers = vec![0; splitter.header_len()];
    let mut out = Vec::new();
    while let Some(payload) = splitter.next_segment(&mut headers) {
        out.push([&headers[..], &frame[payload]].concat());
    }
    out
}

/// The packets that these frames are, put together where they are fragments; each is right, and none too long.
fn whole(frames: &[Vec<u8>], mtu: u16) -> Vec<Vec<u8>> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut out = Vec::new();
    for frame in frames {
        assert!(frame.len() <= 14 + usize::from(mtu), "{} bytes, MTU {mtu}", frame.len());
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("IPv4") };
        let mut header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        if !sliced.is_ip_payload_fragmented() {
            out.push(frame.clone());
        } else if let Some(payload) = pool.process_sliced_packet(&sliced, (), ()).unwrap() {
            (header.more_fragments, header.fragment_offset) = (false, 0.try_into().unwrap());
            header.total_len = (20 + payload.payload.len()) as u16;
            header.header_checksum = header.calc_header_checksum();
            let mut packet = frame[..14].to_vec();
            header.write(&mut packet).unwrap();
            packet.extend(payload.payload);
            let inner = Inner::parse(&packet).unwrap();
            assert_eq!(checksum::verify(&inner), Ok(Verified::Right));
            out.push(packet);
        }
    }
    out
}

/// The MTUs in answers to the pod.
fn told(frames: &[MemoryFrame]) -> Vec<u32> {
    let told = |frame: &MemoryFrame| match SlicedPacket::from_ethernet(&frame.bytes).unwrap().transport.unwrap() {
        etherparse::TransportSlice::Icmpv4(icmp) => u32::from_be_bytes(icmp.bytes5to8()),
        etherparse::TransportSlice::Icmpv6(icmp) => u32::from_be_bytes(icmp.bytes5to8()),
        other => panic!("{other:?}"),
    };
    frames.iter().map(told).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever DF allows to be cut arrives as the packets that it stands for, over the path, at a port of this node and
    /// at one that is narrower than its peer's.
    #[test]
    fn what_may_be_cut_arrives_as_what_it_stands_for(
        tcp in any::<bool>(), superframe in any::<bool>(), mtu in 300..1400u16, size in 300..1400u16,
        bytes in prop::collection::vec(any::<u8>(), 1500..20_000),
    ) {
        let len = if superframe { bytes.len() } else { usize::from(size.min(WIDE - 40)) };
        let frame = |dst| {
            let whole = packet(HERE, dst, tcp, false, false, &bytes[..len]);
            let mut frame = whole.clone();
            let offload = unfinished(&mut frame, superframe.then_some(size));
            let wanted = if superframe { segments(&frame, &offload) } else { vec![whole] };
            (frame, offload, wanted)
        };
        // What fits goes as it is, and others test that.
        let too_long = |wanted: &[Vec<u8>]| wanted.iter().any(|packet| packet.len() - 14 > usize::from(mtu));

        let mut lab = Lab::new(mtu, mtu);
        let (bytes, offload, wanted) = frame(FAR);
        prop_assume!(too_long(&wanted));
        lab.send(&bytes, offload);
        prop_assert_eq!(whole(&lab.sent_to_peer(), mtu), wanted);
        let (bytes, offload, wanted) = frame(NEAR);
        lab.send(&bytes, offload);
        prop_assert_eq!(&whole(&lab.received_near(), mtu), &wanted);
        for packet in wanted {
            let from_far = [&packet[..6], &FAR.0, &packet[12..]].concat();
            lab.arrive(&from_far);
            let merged: Vec<_> = lab.near.pod_received().into_iter().map(|frame| frame.bytes).collect();
            prop_assert_eq!(whole(&merged, mtu), [from_far]);
        }
        let totals = lab.switch.totals();
        prop_assert_eq!(totals.dropped_at(weft_bridge::Stage::Egress), 0);
        prop_assert_eq!(lab.here.pod_received(), []);
    }
}

/// One copy is one copy, whatever it was cut to, and is lost as one.
#[test]
fn a_copy_in_pieces_counts_once() {
    let mut lab = Lab::new(600, 600);
    let before = lab.switch.totals();
    for dst in [NEAR, FAR] {
        let mut frame = packet(HERE, dst, true, false, false, &[7; 14_000]);
        let offload = unfinished(&mut frame, Some(1400));
        lab.send(&frame, offload);
    }
    assert_eq!((lab.received_near().len(), lab.sent_to_peer().len()), (30, 30));
    let totals = lab.switch.totals();
    assert_eq!((totals.copies - before.copies, totals.sent - before.sent), (2, 2));
    lab.near.refuse(Some(DropReason::PortDown));
    let mut frame = packet(HERE, NEAR, true, false, false, &[7; 14_000]);
    let offload = unfinished(&mut frame, Some(1400));
    lab.send(&frame, offload);
    assert_eq!(lab.dropped(DropReason::PortDown), 1);
}

/// To one that is flooded, each gets what fits it.
#[test]
fn a_flood_is_cut_for_those_whom_it_does_not_fit() {
    let mut lab = Lab::new(WIDE, 600);
    let mut frame = packet(HERE, MacAddr::BROADCAST, false, false, false, &[7; 1000]);
    let offload = unfinished(&mut frame, None);
    lab.send(&frame, offload);
    assert_eq!(whole(&lab.sent_to_peer(), 600), [packet(HERE, MacAddr::BROADCAST, false, false, false, &[7; 1000])]);
    assert_eq!(lab.near.pod_received()[0].bytes.len(), 14 + 28 + 1000);
}

#[test]
fn what_may_not_be_cut_is_answered_at_a_port_as_for_a_path() {
    for ipv6 in [false, true] {
        for tcp in [false, true] {
            for size in [None, Some(1380)] {
                let len = if size.is_some() { 10_000 } else { 1380 };
                let mut lab = Lab::new(1300, 1290);
                for (dst, mtu, reason) in
                    [(NEAR, 1300, DropReason::ExceedsPortMtu), (FAR, 1290, DropReason::ExceedsPathMtu)]
                {
                    let mut frame = packet(HERE, dst, tcp, ipv6, true, &vec![7; len]);
                    let offload = unfinished(&mut frame, size);
                    lab.send(&frame, offload);
                    assert_eq!(told(&lab.here.pod_received()), [mtu], "{ipv6} {tcp} {size:?}");
                    assert_eq!(lab.dropped(reason), 1);
                }
                assert_eq!((lab.received_near(), lab.sent_to_peer()), (vec![], vec![]));
            }
        }
    }
}

/// No sender of IPv6 believes an MTU below 1280, so that the drop has to tell.
#[test]
fn ipv6_that_would_have_to_be_shorter_than_1280_is_refused_by_name() {
    for (mtu, told_mtu, refused) in [(1280, vec![1280], 0), (1279, vec![], 1)] {
        for size in [None, Some(1380)] {
            for dst in [NEAR, FAR] {
                let mut lab = Lab::new(mtu, mtu);
                let len = if size.is_some() { 10_000 } else { 1380 };
                let mut frame = packet(HERE, dst, true, true, true, &vec![7; len]);
                let offload = unfinished(&mut frame, size);
                lab.send(&frame, offload);
                assert_eq!(told(&lab.here.pod_received()), told_mtu);
                assert_eq!(lab.dropped(DropReason::BelowIpv6Minimum), refused);
                assert_eq!((lab.received_near(), lab.sent_to_peer()), (vec![], vec![]));
            }
        }
    }
}

/// A superframe whose headers lie is no reason to tell its sender of an MTU.
#[test]
fn a_bad_superframe_that_is_too_long_is_a_bad_superframe() {
    let mut lab = Lab::new(600, 600);
    for dst in [NEAR, FAR] {
        let mut frame = packet(HERE, dst, true, false, false, &[7; 5000]);
        let mut offload = unfinished(&mut frame, Some(1400));
        offload.gso.as_mut().unwrap().kind = GsoKind::Udp;
        lab.send(&frame, offload);
    }
    assert_eq!(lab.dropped(DropReason::BadSuperframe), 2);
}

/// From the peer, what may not be cut is dropped by name: its sender is its own switch's to tell.
#[test]
fn what_comes_too_long_from_a_peer_and_may_not_be_cut_is_dropped_by_name() {
    let mut lab = Lab::new(1300, WIDE);
    lab.arrive(&packet(FAR, NEAR, false, false, true, &[7; 1380]));
    lab.arrive(&packet(FAR, NEAR, false, true, true, &[7; 1380]));
    let mut damaged = packet(FAR, NEAR, false, false, false, &[7; 1380]);
    damaged[100] ^= 1;
    lab.arrive(&damaged);
    assert_eq!(lab.dropped(DropReason::ExceedsPortMtu), 3);
    assert_eq!(lab.near.pod_received(), []);
}
