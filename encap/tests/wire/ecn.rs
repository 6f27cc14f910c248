//! DSCP and ECN out and in, on packets, against etherparse.

use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;
use weft_encap::ecn::{apply_ecn, decap_frame, outer_tos};
use weft_encap::outer::{Ttl, outer_ttl};
use weft_encap::{Decapsulated, Dscp, Ecn, Inner};

use crate::packet::{Ip, Packet, Sum};
use crate::strategies::packet;

fn set_tos(packet: &mut Packet, value: u8) {
    match &mut packet.ip {
        Ip::V4 { tos, .. } => *tos = value,
        Ip::V6 { class, .. } => *class = value,
    }
}

fn tos(packet: &Packet) -> u8 {
    match packet.ip {
        Ip::V4 { tos, .. } => tos,
        Ip::V6 { class, .. } => class,
    }
}

fn ecn() -> impl Strategy<Value = Ecn> {
    prop::sample::select(vec![Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_field_changes_and_nothing_else(packet in packet(300), ecn in ecn(), partial in any::<bool>()) {
        let sum = if partial { Sum::Partial } else { Sum::Right };
        let mut frame = packet.bytes(sum);
        prop_assert!(apply_ecn(&mut frame, ecn));
        let mut wanted = packet.clone();
        set_tos(&mut wanted, tos(&packet) & 0xfc | ecn as u8);
        prop_assert_eq!(&frame, &wanted.bytes(sum));
        match SlicedPacket::from_ip(&frame[packet.l3_offset()..]).unwrap().net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
                prop_assert_eq!(header.ecn.value(), ecn as u8);
            }
            Some(NetSlice::Ipv6(ip)) => prop_assert_eq!(ip.header().traffic_class() & 3, ecn as u8),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_wrong_header_checksum_stays_wrong_by_as_much(packet in packet(50), ecn in ecn(), error in 1..0xffffu16) {
        if packet.is_v6() {
            return Ok(());
        }
        let at = packet.l3_offset() + 10;
        let add = |frame: &mut [u8]| {
            let field = u32::from(u16::from_be_bytes([frame[at], frame[at + 1]])) + u32::from(error);
            let field = (field % 0xffff) as u16;
            frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
            field
        };
        let (mut damaged, mut whole) = (packet.bytes(Sum::Right), packet.bytes(Sum::Right));
        add(&mut damaged);
        apply_ecn(&mut damaged, ecn);
        apply_ecn(&mut whole, ecn);
        let wanted = add(&mut whole);
        let field = u16::from_be_bytes([damaged[at], damaged[at + 1]]);
        prop_assert_eq!(field % 0xffff, wanted % 0xffff);
    }

    #[test]
    fn out_and_in_without_a_mark_changes_nothing(packet in packet(50), dscp in prop::option::of(0..64u8)) {
        let frame = packet.bytes(Sum::Right);
        let inner = Inner::parse(&frame).unwrap();
        let knob = dscp.map_or(Dscp::Inherit, Dscp::Fixed);
        let outer = outer_tos(&inner, knob);
        prop_assert_eq!(outer >> 2, dscp.unwrap_or(tos(&packet) >> 2));
        prop_assert_eq!(outer & 3, tos(&packet) & 3);
        prop_assert_eq!(decap_frame(&inner, outer), Decapsulated::Keep);
        let marked = match Ecn::of(&inner).unwrap() {
            Ecn::NotEct => Decapsulated::Drop,
            Ecn::Ect0 | Ecn::Ect1 => Decapsulated::Set(Ecn::Ce),
            Ecn::Ce => Decapsulated::Keep,
        };
        prop_assert_eq!(decap_frame(&inner, outer | 3), marked);
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), ipv4 in any::<bool>(), ecn in ecn()) {
        if let Some(head) = bytes.get_mut(12..15) {
            head.copy_from_slice(if ipv4 { &[8, 0, 0x45] } else { &[0x86, 0xdd, 0x60] });
        }
        let before = bytes.clone();
        if !apply_ecn(&mut bytes, ecn) {
            prop_assert_eq!(&bytes, &before);
        }
    }
}

proptest! {
    #[test]
    fn the_outer_ttl_is_the_inner_one_or_fixed(packet in packet(50), hops in 1..=255u8) {
        let frame = packet.bytes(Sum::Right);
        let inner = Inner::parse(&frame).unwrap();
        let own = match packet.ip {
            Ip::V4 { ttl, .. } => ttl,
            Ip::V6 { hops, .. } => hops,
        };
        prop_assert_eq!(outer_ttl(&inner, Ttl::Fixed(hops)), hops);
        prop_assert_eq!(outer_ttl(&inner, Ttl::Inherit), own.max(1));
    }
}

#[test]
fn what_has_no_ttl_leaves_with_the_default() {
    for ethertype in [[0x08, 0x06], [0x88, 0xb5], [0x08, 0x00]] {
        let mut frame = [0; 60];
        frame[12..14].copy_from_slice(&ethertype);
        let inner = Inner::parse(&frame).unwrap();
        assert_eq!(outer_ttl(&inner, Ttl::Inherit), 64);
        assert_eq!(outer_ttl(&inner, Ttl::Fixed(9)), 9);
    }
}

#[test]
fn what_is_not_ip_is_not_capable_and_kept() {
    let mut frame = [0; 60];
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    let inner = Inner::parse(&frame).unwrap();
    assert_eq!(outer_tos(&inner, Dscp::Inherit), 0);
    assert_eq!(outer_tos(&inner, Dscp::Fixed(46)), 46 << 2);
    assert_eq!(outer_tos(&inner, Dscp::Fixed(0xff)), 0xfc);
    assert_eq!(decap_frame(&inner, 0xff), Decapsulated::Keep);
    assert!(!apply_ecn(&mut frame, Ecn::Ce));
}
