//! What is written is what is read, and what the kernel is told.

use std::net::{IpAddr, SocketAddr};

use weft_bridge::tables::{DomainOptions, Vtep, VtepKind};
use weft_bridge::{DropReason, Tables, VtepId};
use weft_encap::outer::{Addresses, Link, Outer as OuterHeader};
use weft_encap::{
    Checksum, Encapsulation, Gso, GsoKind, MacAddr, Offload, TunnelGso, TunnelOffload, VIRTIO_NET_HDR_TUNNEL_LEN, Vni,
};

use super::incoming::Accepted;
use super::outgoing::Preamble;
use super::{NextHop, NextHops, UplinkState};
use crate::underlay::{Datagram, Form, Group, Lane, Listen, Outer};

const TUNNEL: [u8; 8] = [8, 0, 0, 0, 0, 0, 7, 0];
const TTL: u8 = 9;
const SOURCE_PORT: u16 = 50_000;

/// A VTEP of each family, and the way to it.
fn ways() -> [(VtepId, NextHop, SocketAddr); 2] {
    let mut tables = Tables::new(Vec::new(), Vec::new());
    assert!(tables.add_domain(Vni::MAX, DomainOptions::default()).is_ok());
    let link = Link { dst: MacAddr([2, 0, 0, 0, 0, 2]), src: MacAddr([2, 0, 0, 0, 0, 1]) };
    ["192.0.2.2", "2001:db8::2"].map(|address| {
        let address: IpAddr = address.parse().unwrap();
        let encapsulation = Encapsulation::Vxlan;
        let vtep = Vtep { address, udp_port: 4789, encapsulation, kind: VtepKind::Foreign, pod_mtu: 1430 };
        let addresses = match address {
            IpAddr::V4(dst) => Addresses::V4 { src: [192, 0, 2, 1].into(), dst },
            IpAddr::V6(dst) => Addresses::V6 { src: "2001:db8::1".parse().unwrap(), dst },
        };
        (tables.add_vtep(vtep, &[Vni::MAX]).unwrap(), NextHop { link, addresses, mtu: 1500 }, (address, 4789).into())
    })
}

/// The kernel's header and the packet of a group, whose frames lie in `arena`.
fn packet(lane: &Lane, group: &Group, hop: &NextHop, arena: &[u8]) -> ([u8; VIRTIO_NET_HDR_TUNNEL_LEN], Vec<u8>) {
    let mut preamble = Preamble::new();
    assert_eq!(preamble.write(group, hop, SOURCE_PORT), Ok(()));
    let (header, outer) = preamble.bytes().split_first_chunk().unwrap();
    let buffers = lane.buffers(arena);
    let payload = lane.pieces(group).iter().flat_map(|piece| piece.bytes(&buffers));
    (*header, outer.iter().chain(payload).copied().collect())
}

fn accepted() -> Accepted {
    let at = |address: &str| Listen {
        at: (address.parse::<IpAddr>().unwrap(), 4789).into(),
        encapsulation: Encapsulation::Vxlan,
    };
    let listen = vec![at("192.0.2.2"), at("2001:db8::2")];
    Accepted { listen, zero_checksums_over_ipv6: false }
}

fn receive(header: &[u8; VIRTIO_NET_HDR_TUNNEL_LEN], packet: &[u8]) -> Option<Datagram> {
    accepted().read(header, packet, 100)
}

#[test]
fn a_superframe_goes_whole_and_arrives_so() {
    let arena = vec![3; 4000];
    let checksum = Checksum::Needed { start: 34, offset: 16 };
    let gso = Gso { kind: GsoKind::Tcp4, size: 1358, header_len: 54, ecn: false };
    let offload = Offload { checksum, gso: Some(gso) };
    for (vtep, hop, to) in ways() {
        let mut lane = Lane::new();
        lane.push_superframe(
            Outer { vtep, to, tos: 0x2a, ttl: TTL, alone: false },
            &TUNNEL,
            0..4000,
            offload,
            8 + 54 + 1358,
        );
        let (header, packet) = packet(&lane, &lane.groups()[0], &hop, &arena);
        let ip = if to.is_ipv6() { 40 } else { 20 };
        let frame = 14 + ip + 8 + 8;
        let told = TunnelOffload::from_bytes(&header).unwrap();
        let (outer_transport, inner_network) = (14 + ip, frame + 14);
        let tunnel = TunnelGso { ipv6: to.is_ipv6(), checksum: true, outer_transport, inner_network };
        assert_eq!(told.tunnel, Some(tunnel));
        assert_eq!(told.offload.checksum, Checksum::Needed { start: frame + 34, offset: 16 });
        assert_eq!(told.offload.gso, Some(Gso { header_len: frame + 54, ..gso }));
        let OuterHeader { addresses, src_port, dst_port, tos, ttl, .. } = OuterHeader::read(&packet).unwrap().outer;
        assert_eq!((addresses, src_port, dst_port, tos, ttl), (hop.addresses, SOURCE_PORT, 4789, 0x2a, TTL));

        let datagram = receive(&header, &packet).unwrap();
        assert_eq!((datagram.form, datagram.tos, datagram.source), (Form::Packet(offload), 0x2a, hop.addresses.src()));
        assert_eq!(&packet[datagram.range.start - 100..datagram.range.end - 100], [&TUNNEL[..], &arena].concat());
    }
}

#[test]
fn equal_packets_go_as_one_and_a_single_one_alone() {
    let arena = vec![5; 600];
    for (vtep, hop, to) in ways() {
        for packets in [1, 3] {
            let mut lane = Lane::new();
            (0..packets).for_each(|n| {
                lane.push_frame(Outer { vtep, to, tos: 0, ttl: TTL, alone: false }, &TUNNEL, n..n + 300, &arena);
            });
            let (header, packet) = packet(&lane, &lane.groups()[0], &hop, &arena);
            let told = TunnelOffload::from_bytes(&header).unwrap();
            let udp = if to.is_ipv6() { 54 } else { 34 };
            assert_eq!((told.tunnel, told.offload.checksum), (None, Checksum::Needed { start: udp, offset: 6 }));
            assert_eq!(told.offload.gso.map(|gso| (gso.kind, gso.size)), (packets > 1).then_some((GsoKind::Udp, 308)));
            let datagram = receive(&header, &packet).unwrap();
            assert_eq!((datagram.form, datagram.segment, datagram.range.len()), (Form::Packets, 308, packets * 308));
        }
    }
}

#[test]
fn what_is_longer_than_the_uplink_takes_is_not_sent() {
    let arena = vec![5; 2000];
    for (vtep, hop, to) in ways() {
        let mut lane = Lane::new();
        let outer = Outer { vtep, to, tos: 0, ttl: TTL, alone: false };
        let longest = 1500 - if to.is_ipv6() { 56 } else { 36 };
        [longest, longest + 1].iter().for_each(|len| lane.push_frame(outer, &TUNNEL, 0..*len, &arena));
        let outcomes: Vec<_> =
            lane.groups().iter().map(|group| Preamble::new().write(group, &hop, SOURCE_PORT)).collect();
        assert_eq!(outcomes, [Ok(()), Err(DropReason::ExceedsPathMtu)]);
    }
}

#[test]
fn what_is_damaged_or_for_nobody_is_refused() {
    let arena = vec![5; 600];
    for (vtep, hop, to) in ways() {
        let mut lane = Lane::new();
        lane.push_frame(Outer { vtep, to, tos: 0, ttl: TTL, alone: false }, &TUNNEL, 0..300, &arena);
        let (marked, good) = packet(&lane, &lane.groups()[0], &hop, &arena);
        let at = if to.is_ipv6() { 54 } else { 34 };
        // As it comes from a wire: filled, and vouched for by nobody.
        let mut filled = good.clone();
        assert_eq!(weft_encap::checksum::complete(&mut filled, at, 6), Ok(()));
        let unmarked = TunnelOffload::default().to_bytes();
        assert!(receive(&unmarked, &filled).is_some());
        let changed = |at: usize, to: u8| {
            let mut packet = filled.clone();
            packet[at] = to;
            packet
        };
        assert!(receive(&unmarked, &changed(filled.len() - 1, 6)).is_none(), "a wrong checksum");
        assert!(receive(&marked, &good).is_some(), "one that nobody has filled yet");
        assert!(receive(&unmarked, &changed(12, 0x86)).is_none() || to.is_ipv6(), "of another protocol");
        assert!(receive(&marked, &changed(usize::from(at) + 3, 1)).is_none(), "another port");
        assert!(receive(&marked, &good[..40]).is_none(), "cut off");
        let mut without = filled.clone();
        without[usize::from(at) + 6..usize::from(at) + 8].fill(0);
        assert_eq!(receive(&unmarked, &without).is_some(), to.is_ipv4(), "without a checksum");
    }
}

#[test]
fn of_what_is_refused_is_said_what_can_be_read() {
    let arena = vec![5; 600];
    for (vtep, hop, to) in ways() {
        let mut lane = Lane::new();
        lane.push_frame(Outer { vtep, to, tos: 0x2a, ttl: TTL, alone: false }, &TUNNEL, 0..300, &arena);
        let (_, damaged) = packet(&lane, &lane.groups()[0], &hop, &arena);
        let whole = accepted().malformed(&damaged, 100);
        assert_eq!((whole.form, whole.tos, whole.source_port), (Form::Malformed, 0x2a, SOURCE_PORT));
        assert_eq!(whole.source, hop.addresses.src());
        let payload = &damaged[whole.range.start - 100..whole.range.end - 100];
        assert_eq!(payload, [&TUNNEL[..], &arena[..300]].concat());
        assert_eq!(Encapsulation::Vxlan.decap(payload).map(|(vni, _)| vni.get()), Ok(7));
        // Lengths that disagree: nobody knows what lies behind them.
        let cut = accepted().malformed(&damaged[..damaged.len() - 1], 100);
        assert_eq!((cut.source, cut.range.len()), (hop.addresses.src(), 0));
        let short = accepted().malformed(&damaged[..20], 100);
        assert!(short.source.is_unspecified() && short.range.is_empty(), "{short:?}");
        let mut elsewhere = damaged;
        elsewhere[if to.is_ipv6() { 57 } else { 37 }] ^= 1;
        assert!(accepted().malformed(&elsewhere, 100).range.is_empty(), "not ours to read");
    }
}

#[test]
fn what_is_given_up_stays_so_with_its_first_reason() {
    let [(vtep, hop, _), _] = ways();
    let state = UplinkState::new().unwrap();
    let hops = || {
        let mut hops = NextHops::default();
        hops.insert(vtep, hop);
        hops
    };
    state.publish(hops());
    assert_eq!((state.hops().count(), state.is_given_up(), state.reason()), (1, false, None));
    state.give_up("first".to_owned());
    state.give_up("second".to_owned());
    state.publish(hops());
    assert_eq!((state.hops().count(), state.is_given_up(), state.reason()), (0, true, Some("first")));
}
