//! `too_big` against etherparse, and each reason for silence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4::DestUnreachableHeader};
use proptest::prelude::*;
use weft_encap::too_big::{MAX_LEN, NoReply, Source, too_big};
use weft_encap::{Inner, checksum};

use crate::packet::{Ip, L4, Packet, Sum, ones_sum};
use crate::strategies::packet;

const GATEWAY_4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// A packet between single hosts, with DF.
fn answerable(mut packet: Packet) -> Packet {
    packet.macs[0] &= 0xfe;
    packet.macs[6] &= 0xfe;
    match &mut packet.ip {
        Ip::V4 { src, dst, df, .. } => {
            (src[0], dst[0]) = (10, 10);
            *df = true;
        }
        Ip::V6 { src, dst, .. } => (src[0], dst[0]) = (0xfd, 0xfd),
    }
    packet
}

fn gateway(packet: &Packet) -> Source {
    Source::Address(if packet.is_v6() { GATEWAY_6.into() } else { GATEWAY_4.into() })
}

fn answer(frame: &[u8], mtu: u16, source: Source) -> Result<Vec<u8>, NoReply> {
    let mut out = [0xee; MAX_LEN];
    let result = too_big(&Inner::parse(frame).unwrap(), mtu, source, &mut out);
    if result.is_err() {
        assert_eq!(out, [0xee; MAX_LEN]);
    }
    result.map(|len| out[..len].to_vec())
}

fn check(packet: &Packet, frame: &[u8], mtu: u16, source: Source, claimed: IpAddr) {
    let out = answer(frame, mtu, source).unwrap();
    assert_eq!(out[..6], packet.macs[6..]);
    assert_eq!(out[6..12], packet.macs[..6]);
    assert_eq!(out[12..packet.l3_offset()], frame[12..packet.l3_offset()]);
    let original = &frame[packet.l3_offset()..];
    let bytes = &out[packet.l3_offset()..];
    let parsed = SlicedPacket::from_ip(bytes).unwrap();
    let sender = match (&parsed.net, &packet.ip) {
        (Some(NetSlice::Ipv4(ip)), Ip::V4 { src, .. }) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert_eq!(usize::from(header.total_len), bytes.len());
            assert!(header.dont_fragment && bytes.len() <= 576);
            assert_eq!((header.destination, header.dscp.value(), header.ecn.value()), (*src, 48, 0));
            IpAddr::from(header.source)
        }
        (Some(NetSlice::Ipv6(ip)), Ip::V6 { src, .. }) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, bytes.len());
            assert!(bytes.len() <= 1280);
            assert_eq!(header.destination, *src);
            IpAddr::from(header.source)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sender, claimed);
    match parsed.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            let wanted = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(wanted));
            assert_eq!(ones_sum(icmp.slice()), 0xffff);
            let quoted = icmp.payload();
            assert_eq!(quoted, &original[..quoted.len()]);
            assert_eq!(quoted.len(), original.len().min(548));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: mtu.into() });
            let (IpAddr::V6(from), Some(NetSlice::Ipv6(ip))) = (sender, parsed.net) else { panic!("family") };
            assert!(icmp.is_checksum_valid(from.octets(), ip.header().destination()));
            let quoted = icmp.payload();
            assert_eq!(quoted, &original[..quoted.len()]);
            assert_eq!(quoted.len(), original.len().min(1232));
        }
        other => panic!("{other:?}"),
    }
}

fn destination(packet: &Packet) -> IpAddr {
    match packet.ip {
        Ip::V4 { dst, .. } => dst.into(),
        Ip::V6 { dst, .. } => dst.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn senders_understand_the_answer(packet in packet(9000), mtu in 68..9000u16) {
        let packet = answerable(packet);
        let mtu = if packet.is_v6() { mtu.max(1280) } else { mtu };
        let frame = packet.bytes(Sum::Partial);
        let have = frame.len() - packet.l3_offset();
        if have <= usize::from(mtu) {
            prop_assert_eq!(answer(&frame, mtu, gateway(&packet)), Err(NoReply::Fits { have, mtu }));
            return Ok(());
        }
        let ours = if packet.is_v6() { IpAddr::V6(GATEWAY_6) } else { IpAddr::V4(GATEWAY_4) };
        check(&packet, &frame, mtu, gateway(&packet), ours);
        check(&packet, &frame, mtu, Source::Destination, destination(&packet));
        let foreign = Source::Address(if packet.is_v6() { GATEWAY_4.into() } else { GATEWAY_6.into() });
        check(&packet, &frame, mtu, foreign, destination(&packet));
        let none = Source::Address(if packet.is_v6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() });
        check(&packet, &frame, mtu, none, destination(&packet));
    }

    #[test]
    fn superframes_are_answered_too(packet in packet(65_300), padding in 0..40usize) {
        let packet = answerable(packet);
        let mut frame = packet.bytes(Sum::Partial);
        prop_assume!(frame.len() - packet.l3_offset() > 1450);
        frame.resize(frame.len() + padding, 0);
        let end = frame.len() - padding;
        check(&packet, &frame[..end], 1450, Source::Destination, destination(&packet));
        prop_assert_eq!(answer(&frame, 1450, Source::Destination), answer(&frame[..end], 1450, Source::Destination));
    }

    #[test]
    fn no_bytes_make_it_panic(packet in packet(1500), damage in prop::collection::vec((0..100usize, any::<u8>()), 0..5),
                              mtu in any::<u16>(), room in 0..MAX_LEN) {
        let mut frame = packet.bytes(Sum::Right);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(answer) = answer(&frame, mtu, Source::Destination) {
            let need = answer.len();
            let mut out = [0; MAX_LEN];
            let short = too_big(&Inner::parse(&frame).unwrap(), mtu, Source::Destination, &mut out[..room]);
            let wanted = if room < need { Err(NoReply::NoRoom { have: room, need }) } else { Ok(need) };
            prop_assert_eq!(short, wanted);
            // Nobody answers an answer.
            prop_assert!(too_big(&Inner::parse(&answer).unwrap(), 68, Source::Destination, &mut out).is_err());
        }
    }
}

fn sample(v6: bool) -> Packet {
    let ip = if v6 {
        Ip::V6 { src: [0xfd; 16], dst: [0xfc; 16], class: 0, label: 0, hops: 64, destination_options: false }
    } else {
        Ip::V4 {
            src: [10, 1, 1, 1],
            dst: [10, 2, 2, 2],
            tos: 0,
            ttl: 64,
            id: 1,
            df: true,
            fragment: 0,
            options: vec![],
        }
    };
    Packet {
        macs: [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1],
        tags: vec![],
        ip,
        l4: L4::Udp { ports: (1000, 2000) },
        payload: vec![7; 3000],
    }
}

fn refusal(frame: &[u8]) -> NoReply {
    answer(frame, 1400, Source::Destination).unwrap_err()
}

/// The frame with some bytes changed and its IPv4 header checksum as it was: nobody looks at it here.
fn with(v6: bool, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = sample(v6).bytes(Sum::Right);
    assert!(answer(&frame, 1400, Source::Destination).is_ok());
    for (at, value) in changes {
        frame[*at] = *value;
    }
    frame
}

#[test]
fn silence_has_a_name() {
    for v6 in [false, true] {
        assert_eq!(refusal(&with(v6, &[(0, 3)])), NoReply::Group);
        assert_eq!(refusal(&with(v6, &[(6, 3)])), NoReply::Source);
    }
    assert_eq!(refusal(&with(false, &[(13, 6)])), NoReply::NotIp { ethertype: 0x0806 });
    assert_eq!(refusal(&with(false, &[(20, 0)])), NoReply::MayFragment);
    assert_eq!(refusal(&with(false, &[(21, 1)])), NoReply::LaterFragment);
    assert!(answer(&with(false, &[(20, 0x60)]), 1400, Source::Destination).is_ok(), "the first fragment");
    for (src, dst) in [(0, 10), (127, 10), (224, 10)] {
        assert_eq!(refusal(&with(false, &[(26, src), (30, dst)])), NoReply::Source);
    }
    assert_eq!(refusal(&with(false, &[(26, 255), (27, 255), (28, 255), (29, 255)])), NoReply::Source);
    assert_eq!(refusal(&with(false, &[(30, 239)])), NoReply::Group);
    assert_eq!(refusal(&with(false, &[(30, 255), (31, 255), (32, 255), (33, 255)])), NoReply::Group);
    assert_eq!(refusal(&with(false, &[(30, 0)])), NoReply::Destination);
    assert_eq!(refusal(&with(true, &[(22, 0xff)])), NoReply::Source);
    assert_eq!(refusal(&with(true, &[(38, 0xff)])), NoReply::Group);
    let packet = sample(true);
    for (at, name) in [(22, NoReply::Source), (38, NoReply::Destination)] {
        for last in [0, 1] {
            let mut frame = packet.bytes(Sum::Right);
            frame[at..at + 16].fill(0);
            frame[at + 15] = last;
            assert_eq!(refusal(&frame), name);
        }
    }
}

#[test]
fn what_may_be_fragmented_is_said_to_be_even_where_no_answer_may_be_sent() {
    for changes in [&[(0, 3)][..], &[(21, 1)], &[(30, 239)], &[(23, 1), (34, 3)]] {
        let frame = with(false, &[&[(20, 0)], changes].concat());
        assert_eq!(refusal(&frame), NoReply::MayFragment);
    }
}

#[test]
fn icmp_errors_are_never_answered_but_icmp_is() {
    for kind in 0..=255 {
        let errors = [3, 4, 5, 11, 12, 31, 40];
        let known = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43];
        let result = answer(&with(false, &[(23, 1), (34, kind)]), 1400, Source::Destination);
        assert_eq!(result.is_ok(), known.contains(&kind), "{kind}");
        assert!(!errors.contains(&kind) || result == Err(NoReply::IcmpError), "{kind}");
        let result = answer(&with(true, &[(20, 58), (54, kind)]), 1400, Source::Destination);
        assert_eq!(result.is_ok(), kind >= 128 && kind != 137, "{kind}");
    }
}

#[test]
fn fragments_of_ipv6_are_answered_for_the_first_only() {
    // Next header 44; the fragment header: UDP inside, offset and M, identification.
    let fragment = |offset: u16| {
        let [a, b] = (offset << 3 | 1).to_be_bytes();
        with(true, &[(20, 44), (54, 17), (55, 0), (56, a), (57, b), (58, 0), (59, 0), (60, 0), (61, 9)])
    };
    assert!(answer(&fragment(0), 1400, Source::Destination).is_ok());
    assert_eq!(refusal(&fragment(180)), NoReply::LaterFragment);
}

#[test]
fn nobody_is_told_less_than_the_familys_minimum() {
    let (v4, v6) = (sample(false).bytes(Sum::Right), sample(true).bytes(Sum::Right));
    assert!(answer(&v4, 68, Source::Destination).is_ok());
    assert_eq!(answer(&v4, 67, Source::Destination), Err(NoReply::MtuTooSmall { mtu: 67, min: 68 }));
    assert!(answer(&v6, 1280, Source::Destination).is_ok());
    assert_eq!(answer(&v6, 1279, Source::Destination), Err(NoReply::MtuTooSmall { mtu: 1279, min: 1280 }));
}

#[test]
fn the_longest_answer_fits_the_constant() {
    let mut packet = sample(true);
    packet.tags = vec![(0x88a8, 5), (0x8100, 6)];
    let frame = packet.bytes(Sum::Right);
    assert_eq!(answer(&frame, 1280, Source::Destination).unwrap().len(), MAX_LEN);
    let answer = answer(&frame, 1280, Source::Destination).unwrap();
    assert_eq!(answer[12..22], [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd]);
    assert!(checksum::ipv4_header_is_right(&with(false, &[])[14..34]));
}
