//! `Inner` against etherparse.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, LinkExtSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use weft_encap::checksum::{self, Verified};
use weft_encap::inner::{MAX_EXTENSION_HEADERS, PROTOCOL_TCP};
use weft_encap::{Inner, InnerError, L4Error, MacAddr, Network};

use crate::packet::{Ip, Packet, Sum};
use crate::strategies::packet;

/// Wherever etherparse understands a frame, we see the same in it.
fn agree(frame: &[u8]) -> Result<(), TestCaseError> {
    let inner = match Inner::parse(frame) {
        Ok(inner) => inner,
        Err(InnerError::Runt { have, need }) => {
            prop_assert_eq!((have, need), (frame.len(), 14));
            prop_assert!(frame.len() < 14);
            return Ok(());
        }
    };
    let Ok(theirs) = SlicedPacket::from_ethernet(frame) else { return Ok(()) };
    if theirs.link_exts.len() > 2 || theirs.link_exts.iter().any(|ext| !matches!(ext, LinkExtSlice::Vlan(_))) {
        return Ok(());
    }
    prop_assert_eq!(inner.tagged, !theirs.link_exts.is_empty());
    prop_assert_eq!(inner.l3, 14 + 4 * theirs.link_exts.len());
    let at = |slice: &[u8]| slice.as_ptr() as usize - frame.as_ptr() as usize;
    match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => {
            let Network::Ipv4(ours) = inner.network else { panic!("{inner:?}") };
            let header = ip.header();
            prop_assert_eq!((ours.src, ours.dst), (header.source_addr(), header.destination_addr()));
            prop_assert_eq!(Some(ours.protocol), Some(header.protocol().0));
            prop_assert_eq!((ours.ttl, ours.identification), (header.ttl(), header.identification()));
            prop_assert_eq!(ours.tos, header.dcp().value() << 2 | header.ecn().value());
            prop_assert_eq!((ours.dont_fragment, ours.fragment), (header.dont_fragment(), ip.is_payload_fragmented()));
            prop_assert_eq!(ours.l4, inner.l3 + header.slice().len());
            prop_assert_eq!(ours.end, inner.l3 + usize::from(header.total_len()));
        }
        Some(NetSlice::Ipv6(ip)) if ip.header().payload_length() > 0 => {
            let Network::Ipv6(ours) = inner.network else { panic!("{inner:?}") };
            let header = ip.header();
            prop_assert_eq!((ours.src, ours.dst), (header.source_addr(), header.destination_addr()));
            prop_assert_eq!((ours.traffic_class, ours.hop_limit), (header.traffic_class(), header.hop_limit()));
            prop_assert_eq!(ours.end, inner.l3 + 40 + usize::from(header.payload_length()));
            if !ours.fragment && ip.extensions().clone().into_iter().count() <= MAX_EXTENSION_HEADERS {
                prop_assert_eq!(ours.protocol, ip.payload().ip_number.0);
                prop_assert_eq!(ours.l4, at(ip.payload().payload));
            }
        }
        Some(NetSlice::Arp(arp)) if arp.hw_addr_size() == 6 && arp.proto_addr_size() == 4 => {
            let is_ours = arp.hw_addr_type().0 == 1 && arp.proto_addr_type() == EtherType::IPV4;
            prop_assert_eq!(matches!(inner.network, Network::Arp(_)), is_ours);
            if let Network::Arp(ours) = inner.network {
                prop_assert_eq!(ours.operation, arp.operation().0);
                prop_assert_eq!(&ours.sender_mac.0, arp.sender_hw_addr());
                prop_assert_eq!(&ours.sender_ip.octets(), arp.sender_protocol_addr());
                prop_assert_eq!(&ours.target_mac.0, arp.target_hw_addr());
                prop_assert_eq!(&ours.target_ip.octets(), arp.target_protocol_addr());
            }
        }
        Some(NetSlice::Ipv6(_) | NetSlice::Arp(_)) | None => {}
    }
    let ports = match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        _ => return Ok(()),
    };
    if matches!(inner.network, Network::Ipv6(ip) if ip.fragment) {
        return Ok(());
    }
    // Of a payload length of zero etherparse thinks of RFC 2675 and takes what follows; we take it at its word.
    if matches!(inner.network, Network::Ipv6(ip) if ip.end == inner.l3 + 40 && frame.len() > ip.end) {
        return Ok(());
    }
    prop_assert_eq!(inner.ports(), ports);
    Ok(())
}

/// What etherparse computes for a frame's TCP or UDP checksum, and what stands in it.
pub(crate) fn their_checksum(frame: &[u8]) -> Option<(u16, u16)> {
    let theirs = SlicedPacket::from_ethernet(frame).ok()?;
    let (v4, v6) = match theirs.net? {
        NetSlice::Ipv4(ip) => (Some((ip.header().source(), ip.header().destination())), None),
        NetSlice::Ipv6(ip) => (None, Some((ip.header().source(), ip.header().destination()))),
        NetSlice::Arp(_) => return None,
    };
    match theirs.transport? {
        TransportSlice::Tcp(tcp) => {
            let sum = match (v4, v6) {
                (Some((src, dst)), _) => tcp.calc_checksum_ipv4(src, dst).ok()?,
                (_, Some((src, dst))) => tcp.calc_checksum_ipv6(src, dst).ok()?,
                (None, None) => return None,
            };
            Some((sum, tcp.checksum()))
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match (v4, v6) {
                (Some((src, dst)), _) => header.calc_checksum_ipv4_raw(src, dst, udp.payload()).ok()?,
                (_, Some((src, dst))) => header.calc_checksum_ipv6_raw(src, dst, udp.payload()).ok()?,
                (None, None) => return None,
            };
            Some((sum, udp.checksum()))
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn sees_what_etherparse_sees(packet in packet(300), padding in 0..30usize) {
        let frame = [packet.bytes(Sum::Right), vec![0; padding]].concat();
        agree(&frame)?;
        let inner = Inner::parse(&frame).unwrap();
        prop_assert_eq!(inner.ports(), Some(packet.ports()));
        prop_assert_eq!([inner.dst, inner.src], [MacAddr(packet.macs[..6].try_into().unwrap()), MacAddr(packet.macs[6..].try_into().unwrap())]);
        let (sum, field) = their_checksum(&frame).unwrap();
        prop_assert_eq!(sum, field);
        prop_assert_eq!(checksum::verify(&inner), Ok(Verified::Right));
        let wrong = packet.bytes(Sum::Wrong);
        prop_assert_eq!(checksum::verify(&Inner::parse(&wrong).unwrap()), Ok(Verified::Wrong));
    }

    #[test]
    fn sees_what_etherparse_sees_in_damaged_frames(
        packet in packet(60),
        damage in vec((0..120usize, any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut frame = packet.bytes(Sum::Right);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        agree(&frame)?;
    }

    #[test]
    fn complete_gives_the_checksum_of_etherparse(packet in packet(1500)) {
        let mut frame = packet.bytes(Sum::Partial);
        let offset = if packet.is_tcp() { 16 } else { 6 };
        checksum::complete(&mut frame, packet.l4_offset() as u16, offset).unwrap();
        prop_assert_eq!(&frame, &packet.bytes(Sum::Right));
        let (sum, field) = their_checksum(&frame).unwrap();
        prop_assert_eq!(sum, field);
    }

    #[test]
    fn padding_behind_the_ip_packet_is_not_summed(packet in packet(100), padding in vec(1..=255u8, 1..40)) {
        let mut frame = [packet.bytes(Sum::Partial), padding.clone()].concat();
        let offset = if packet.is_tcp() { 16 } else { 6 };
        checksum::complete(&mut frame, packet.l4_offset() as u16, offset).unwrap();
        prop_assert_eq!(frame, [packet.bytes(Sum::Right), padding].concat());
    }

    #[test]
    fn a_checksum_deeper_in_the_packet_is_filled(carried in packet(200), carrier in packet(0), padding in vec(1..=255u8, 0..40)) {
        // What a tunnel of the pod's own leaves: the checksum of the packet inside is unfilled.
        let around = |sum| {
            let mut carrier = carrier.clone();
            carrier.payload = carried.bytes(sum);
            carrier.bytes(Sum::Zero)
        };
        let mut frame = [around(Sum::Partial), padding.clone()].concat();
        let start = (carrier.header_len() + carried.l4_offset()) as u16;
        checksum::complete(&mut frame, start, if carried.is_tcp() { 16 } else { 6 }).unwrap();
        prop_assert_eq!(frame, [around(Sum::Right), padding].concat());
    }

    #[test]
    fn a_checksum_request_never_changes_addresses(packet in packet(60), start in 0..200u16, offset in 0..40u16) {
        let before = packet.bytes(Sum::Partial);
        let mut frame = before.clone();
        let headers = packet.l4_offset();
        let outcome = checksum::complete(&mut frame, start, offset);
        prop_assert_eq!(&frame[..headers], &before[..headers]);
        let fits = usize::from(start) >= headers && usize::from(start + offset) + 2 <= before.len();
        prop_assert_eq!(outcome.is_ok(), fits);
        if outcome.is_err() {
            prop_assert_eq!(frame, before);
        }
    }

    #[test]
    fn walks_extension_headers_as_etherparse_does(
        kinds in vec(prop::sample::select(vec![0u8, 43, 60, 51]), 0..=MAX_EXTENSION_HEADERS),
        lens in any::<[u8; 8]>(),
        last in prop::sample::select(vec![6u8, 17, 58, 59, 132, 50]),
    ) {
        // Hop-by-hop is allowed in front only, which etherparse insists on.
        let kinds: Vec<u8> =
            kinds.into_iter().enumerate().map(|(i, kind)| if i > 0 && kind == 0 { 60 } else { kind }).collect();
        let frame = chain(&kinds, &lens, last);
        let inner = Inner::parse(&frame).unwrap();
        let Network::Ipv6(ip) = inner.network else { panic!("{inner:?}") };
        prop_assert_eq!((ip.protocol, ip.end), (last, frame.len()));
        prop_assert_eq!(ip.l4, frame.len() - 40);
        agree(&frame)?;
    }
}

/// An IPv6 frame with these extension headers and 40 bytes after them.
fn chain(kinds: &[u8], lens: &[u8], last: u8) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(last);
        let words = lens[index % lens.len()] % 4;
        let (field, len) =
            if *kind == 51 { (words + 1, (usize::from(words) + 3) * 4) } else { (words, (usize::from(words) + 1) * 8) };
        let start = body.len();
        body.extend([next, field]);
        body.resize(start + len, 0);
    }
    body.extend([0x50; 40]);
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([kinds.first().copied().unwrap_or(last), 64]);
    frame.extend([0xfd; 32]);
    frame.extend(body);
    frame
}

#[test]
fn more_extension_headers_than_walked_hide_the_ports_but_not_the_addresses() {
    let frame = chain(&[60; MAX_EXTENSION_HEADERS + 1], &[0], PROTOCOL_TCP);
    let inner = Inner::parse(&frame).unwrap();
    let Network::Ipv6(ip) = inner.network else { panic!("{inner:?}") };
    assert_eq!(ip.protocol, 60);
    assert_eq!(ip.src, Ipv6Addr::from([0xfd; 16]));
    assert_eq!(inner.ports(), None);
}

#[test]
fn a_routing_header_with_hops_left_is_marked() {
    let mut frame = chain(&[43], &[0], PROTOCOL_TCP);
    let Network::Ipv6(ip) = Inner::parse(&frame).unwrap().network else { panic!() };
    assert!(!ip.source_routed);
    frame[14 + 40 + 3] = 1;
    let inner = Inner::parse(&frame).unwrap();
    assert!(matches!(inner.network, Network::Ipv6(ip) if ip.source_routed));
    assert_eq!(checksum::verify(&inner), Err(L4Error::SourceRouted));
}

#[test]
fn arp_is_read() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6])
        .arp(
            etherparse::ArpPacket::new(
                etherparse::ArpHardwareId::ETHERNET,
                EtherType::IPV4,
                etherparse::ArpOperation::REQUEST,
                &[2, 0, 0, 0, 0, 1],
                &[10, 0, 0, 1],
                &[0; 6],
                &[10, 0, 0, 2],
            )
            .unwrap(),
        )
        .write(&mut frame)
        .unwrap();
    frame.resize(60, 0);
    agree(&frame).unwrap();
    let inner = Inner::parse(&frame).unwrap();
    let Network::Arp(arp) = inner.network else { panic!("{inner:?}") };
    assert_eq!((arp.operation, arp.target_ip), (1, Ipv4Addr::new(10, 0, 0, 2)));
    frame[18] = 8;
    assert_eq!(Inner::parse(&frame).unwrap().network, Network::Other);
}

#[test]
fn a_third_tag_and_a_cut_tag_end_the_dissection() {
    let mut frame = vec![2; 12];
    frame.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0]);
    frame.extend([0x45; 40]);
    let inner = Inner::parse(&frame).unwrap();
    assert_eq!((inner.tagged, inner.ethertype, inner.l3), (true, 0x8100, 22));
    assert_eq!(inner.network, Network::Other);
    for len in 14..18 {
        let inner = Inner::parse(&frame[..len]).unwrap();
        assert_eq!((inner.tagged, inner.ethertype, inner.l3), (true, 0x88a8, 14));
    }
}

#[test]
fn malformed_packets_are_frames_still() {
    let good = Packet {
        macs: [2; 12],
        tags: vec![],
        ip: Ip::V4 { src: [1; 4], dst: [2; 4], tos: 0, ttl: 1, id: 0, df: false, fragment: 0, options: vec![] },
        l4: crate::packet::L4::Udp { ports: (1, 2) },
        payload: vec![0; 4],
    }
    .bytes(Sum::Right);
    let version = (14, 0x65);
    let header_len = (14, 0x44);
    let header_beyond = (14, 0x4f);
    let total_beyond = (17, 33);
    let total_below = (17, 19);
    for (at, value) in [version, header_len, header_beyond, total_beyond, total_below] {
        let mut frame = good.clone();
        frame[at] = value;
        let inner = Inner::parse(&frame).unwrap();
        assert_eq!((inner.network, inner.ethertype, inner.ports()), (Network::Other, 0x0800, None), "{at}");
    }
}
