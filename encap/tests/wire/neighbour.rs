//! `neighbour` against etherparse: which questions are answered, and with what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv6Slice, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use proptest::prelude::*;
use weft_encap::neighbour::{Claim, MAX_ANSWER_LEN, Question, answer, claim, question};
use weft_encap::{Inner, MacAddr, Network};

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const TARGET4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x1234);
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x1234);
const SOURCE_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];
const NONCE_OPTION: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

fn asked(frame: &[u8]) -> Option<Question> {
    question(&Inner::parse(frame).unwrap())
}

fn answered(frame: &[u8]) -> Vec<u8> {
    let mut out = [0xee; MAX_ANSWER_LEN];
    let len = answer(&Inner::parse(frame).unwrap(), OWNER, &mut out).unwrap();
    assert!(out[len..].iter().all(|byte| *byte == 0xee));
    out[..len].to_vec()
}

fn arp(operation: u16, sender: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], ASKER.0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend([&sender.0.0[..], &sender.1.octets(), &[0; 6], &target.octets()].concat());
    frame
}

/// A solicitation, with a right checksum.
fn solicitation(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, hop_limit: u8, options: &[u8]) -> Vec<u8> {
    let payload = [&target.octets()[..], options].concat();
    let builder = PacketBuilder::ethernet2(ASKER.0, [0x33, 0x33, 0xff, 0, 0x12, 0x34]);
    let builder = builder.ipv6(src.octets(), dst.octets(), hop_limit).icmpv6(Icmpv6Type::NeighborSolicitation);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

#[test]
fn an_arp_request_is_answered_as_its_target_would() {
    let request = arp(1, (ASKER, OWN4), TARGET4);
    assert_eq!(asked(&request), Some(Question { target: TARGET4.into(), asker: Some(OWN4.into()) }));
    let reply = answered(&request);
    assert_eq!((&reply[..6], &reply[6..12]), (&ASKER.0[..], &OWNER.0[..]));
    let inner = Inner::parse(&reply).unwrap();
    let Network::Arp(seen) = inner.network else { panic!("{:?}", inner.network) };
    assert_eq!((seen.operation, seen.sender_mac, seen.sender_ip), (2, OWNER, TARGET4));
    assert_eq!((seen.target_mac, seen.target_ip), (ASKER, OWN4));
    let Some(LaxNetSlice::Arp(arp)) = LaxSlicedPacket::from_ethernet(&reply).unwrap().net else { panic!() };
    assert_eq!(arp.operation(), etherparse::ArpOperation::REPLY);
    assert_eq!((arp.hw_addr_size(), arp.proto_addr_size(), reply.len()), (6, 4, 42));
}

#[test]
fn an_arp_probe_asks_for_nobody() {
    let probe = arp(1, (ASKER, Ipv4Addr::UNSPECIFIED), TARGET4);
    assert_eq!(asked(&probe), Some(Question { target: TARGET4.into(), asker: None }));
    let reply = answered(&probe);
    assert_eq!((&reply[28..32], &reply[38..42]), (&TARGET4.octets()[..], &[0; 4][..]));
}

#[test]
fn announcements_answers_and_lies_ask_nothing() {
    for frame in [
        arp(1, (ASKER, TARGET4), TARGET4),
        arp(2, (ASKER, OWN4), TARGET4),
        arp(1, (OWNER, OWN4), TARGET4),
        arp(3, (ASKER, OWN4), TARGET4),
        arp(1, (ASKER, OWN4), TARGET4)[..41].to_vec(),
    ] {
        assert_eq!(asked(&frame), None, "{frame:02x?}");
    }
}

fn check_advertisement(reply: &[u8], to: (MacAddr, Ipv6Addr), solicited: bool) {
    let parsed = SlicedPacket::from_ethernet(reply).unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&to.0.0[..], &OWNER.0[..]));
    let Some(NetSlice::Ipv6(ip)) = &parsed.net else { panic!("{parsed:?}") };
    let header = ip.header().to_header();
    assert_eq!((header.source_addr(), header.destination_addr(), header.hop_limit), (TARGET6, to.1, 255));
    let Some(TransportSlice::Icmpv6(icmp)) = &parsed.transport else { panic!("{parsed:?}") };
    check_checksum(icmp, header.source, header.destination);
    let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else { panic!("{icmp:?}") };
    assert_eq!((flags.router, flags.solicited, flags.r#override), (false, solicited, true));
    assert_eq!(icmp.payload(), [&TARGET6.octets()[..], &[2, 1], &OWNER.0].concat());
}

fn check_checksum(icmp: &Icmpv6Slice<'_>, source: [u8; 16], destination: [u8; 16]) {
    assert!(icmp.is_checksum_valid(source, destination));
}

#[test]
fn a_solicitation_is_answered_as_its_target_would() {
    for (dst, options) in [
        (SOLICITED_NODE, &SOURCE_OPTION[..]),
        (TARGET6, &[]),
        (SOLICITED_NODE, &[SOURCE_OPTION, NONCE_OPTION].concat()),
    ] {
        let frame = solicitation(OWN6, dst, TARGET6, 255, options);
        assert_eq!(asked(&frame), Some(Question { target: TARGET6.into(), asker: Some(OWN6.into()) }));
        check_advertisement(&answered(&frame), (ASKER, OWN6), true);
    }
}

#[test]
fn duplicate_address_detection_is_answered_to_all() {
    let frame = solicitation(Ipv6Addr::UNSPECIFIED, SOLICITED_NODE, TARGET6, 255, &NONCE_OPTION);
    assert_eq!(asked(&frame), Some(Question { target: TARGET6.into(), asker: None }));
    let all = "ff02::1".parse().unwrap();
    check_advertisement(&answered(&frame), (MacAddr([0x33, 0x33, 0, 0, 0, 1]), all), false);
}

#[test]
fn what_breaks_a_rule_of_discovery_asks_nothing() {
    let group: Ipv6Addr = "ff02::5".parse().unwrap();
    let mut wrong_sum = solicitation(OWN6, SOLICITED_NODE, TARGET6, 255, &SOURCE_OPTION);
    wrong_sum[60] ^= 1;
    for (what, frame) in [
        ("came over a router", solicitation(OWN6, SOLICITED_NODE, TARGET6, 254, &SOURCE_OPTION)),
        ("for a group", solicitation(OWN6, SOLICITED_NODE, group, 255, &SOURCE_OPTION)),
        ("an option of no length", solicitation(OWN6, SOLICITED_NODE, TARGET6, 255, &[1, 0, 2, 0, 0, 0, 0, 1])),
        ("an option that is cut", solicitation(OWN6, SOLICITED_NODE, TARGET6, 255, &[1, 2, 2, 0, 0, 0, 0, 1])),
        ("a wrong checksum", wrong_sum),
        ("nobody, by name", solicitation(Ipv6Addr::UNSPECIFIED, SOLICITED_NODE, TARGET6, 255, &SOURCE_OPTION)),
        ("nobody, to one", solicitation(Ipv6Addr::UNSPECIFIED, TARGET6, TARGET6, 255, &[])),
        ("from a group", solicitation(group, SOLICITED_NODE, TARGET6, 255, &SOURCE_OPTION)),
    ] {
        assert_eq!(asked(&frame), None, "{what}");
    }
}

/// A message of neighbour discovery: its type, what follows the checksum, its options.
fn message(kind: u8, hop_limit: u8, rest: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ASKER.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(OWN6.octets(), "ff02::1".parse::<Ipv6Addr>().unwrap().octets(), hop_limit)
        .icmpv6_raw(kind, 0, *rest.first_chunk().unwrap())
        .write(&mut frame, &[&rest[4..], options].concat())
        .unwrap();
    frame
}

#[test]
fn what_a_sender_claims_by_discovery_is_seen() {
    let claimed = |frame: &[u8]| claim(&Inner::parse(frame).unwrap());
    let advertisement = [&[0x20, 0, 0, 0], &TARGET6.octets()[..]].concat();
    let [own, another] = [ASKER, OWNER].map(|mac| move |kind: u8| [&[kind, 1], &mac.0[..]].concat());
    let address = Some(Claim::Address(TARGET6));
    for (frame, expected) in [
        (message(136, 255, &advertisement, &own(2)), address),
        (message(136, 255, &advertisement, &[]), address),
        (message(136, 255, &advertisement, &another(2)), Some(Claim::AnotherMac)),
        (message(136, 255, &advertisement, &[own(2), another(2)].concat()), Some(Claim::AnotherMac)),
        (message(135, 255, &advertisement, &another(1)), Some(Claim::AnotherMac)),
        (message(135, 255, &advertisement, &own(1)), None),
        (message(133, 255, &[0; 4], &another(1)), Some(Claim::AnotherMac)),
        (message(133, 255, &[0; 4], &own(1)), None),
        (message(134, 255, &[0; 12], &[]), Some(Claim::Router)),
        (message(137, 255, &[0; 36], &[]), Some(Claim::Router)),
        (message(128, 255, &advertisement, &another(2)), None),
        // What no receiver heeds.
        (message(136, 254, &advertisement, &another(2)), None),
        (message(134, 64, &[0; 12], &[]), None),
        (message(136, 255, &advertisement[..19], &[]), None),
        (message(136, 255, &advertisement, &[2, 0, 0, 0, 0, 0, 0, 0]), None),
        (message(136, 255, &advertisement, &[2, 2, 0, 0, 0, 0, 0, 0]), None),
    ] {
        assert_eq!(claimed(&frame), expected, "{frame:02x?}");
    }
}

#[test]
fn an_answer_keeps_the_tags_and_to_its_room() {
    let mut tagged = arp(1, (ASKER, OWN4), TARGET4);
    tagged.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]);
    let reply = answered(&tagged);
    assert_eq!((reply.len(), &reply[12..22]), (50, &tagged[12..22]));
    for len in 0..50 {
        assert_eq!(answer(&Inner::parse(&tagged).unwrap(), OWNER, &mut vec![0; len]), None);
    }
}

proptest! {
    #[test]
    fn no_answer_is_a_question_and_nothing_panics(
        bytes in prop::collection::vec(any::<u8>(), 14..120), kind in 0..3_u8, damage in prop::collection::vec((0..90_usize, any::<u8>()), 0..3),
    ) {
        let mut frame = match kind {
            0 => bytes,
            1 => arp(1, (ASKER, OWN4), TARGET4),
            _ => solicitation(OWN6, SOLICITED_NODE, TARGET6, 255, &SOURCE_OPTION),
        };
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let inner = Inner::parse(&frame).unwrap();
        let mut out = [0; MAX_ANSWER_LEN];
        let written = answer(&inner, OWNER, &mut out);
        prop_assert_eq!(written.is_some(), question(&inner).is_some());
        if let Some(len) = written {
            prop_assert_eq!(question(&Inner::parse(&out[..len]).unwrap()), None);
            let family = question(&inner).map(|asked| matches!(asked.target, IpAddr::V4(_)));
            prop_assert_eq!(family, Some(len - inner.l3 == 28));
        }
    }
}
