//! Outer headers against etherparse.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use weft_encap::checksum::{self, Verified};
use weft_encap::outer::{Addresses, Link, MAX_LEN, UdpChecksum};
use weft_encap::{L4Error, MacAddr, Outer, OuterError};

fn addresses() -> impl Strategy<Value = Addresses> {
    prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|[src, dst]| Addresses::V4 { src: src.into(), dst: dst.into() }),
        any::<[[u8; 16]; 2]>().prop_map(|[src, dst]| Addresses::V6 { src: src.into(), dst: dst.into() }),
    ]
}

fn outer() -> impl Strategy<Value = Outer> {
    (addresses(), any::<(u16, u16, u8, u8, u16)>()).prop_map(
        |(addresses, (src_port, dst_port, tos, ttl, identification))| {
            let identification = if matches!(addresses, Addresses::V4 { .. }) { identification } else { 0 };
            Outer { addresses, src_port, dst_port, tos, ttl, identification }
        },
    )
}

const LINK: Link = Link { dst: MacAddr([2, 0, 0, 0, 0, 2]), src: MacAddr([2, 0, 0, 0, 0, 1]) };

fn write(outer: &Outer, payload: &[u8], udp: UdpChecksum) -> Vec<u8> {
    let mut headers = [0xee; MAX_LEN];
    let link = LINK.write(&mut headers, &outer.addresses).unwrap();
    let len = link + outer.write(&mut headers[link..], payload.len(), udp).unwrap();
    [&headers[..len], payload].concat()
}

/// The same packet, written by etherparse.
fn theirs(outer: &Outer, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(LINK.src.0, LINK.dst.0);
    let (dscp, ecn) = (outer.tos >> 2, outer.tos & 3);
    let builder = match outer.addresses {
        Addresses::V4 { src, dst } => {
            let mut ip =
                etherparse::Ipv4Header::new(0, outer.ttl, etherparse::ip_number::UDP, src.octets(), dst.octets())
                    .unwrap();
            ip.dscp = dscp.try_into().unwrap();
            ip.ecn = ecn.try_into().unwrap();
            ip.identification = outer.identification;
            ip.dont_fragment = true;
            builder.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        }
        Addresses::V6 { src, dst } => {
            let ip = etherparse::Ipv6Header {
                traffic_class: outer.tos,
                hop_limit: outer.ttl,
                source: src.octets(),
                destination: dst.octets(),
                ..Default::default()
            };
            builder.ip(etherparse::IpHeaders::Ipv6(ip, Default::default()))
        }
    };
    let mut bytes = Vec::new();
    builder.udp(outer.src_port, outer.dst_port).write(&mut bytes, payload).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn headers_are_those_of_etherparse(outer in outer(), payload in vec(any::<u8>(), 0..300)) {
        let sum = checksum::sum(&payload);
        let frame = write(&outer, &payload, UdpChecksum::Complete { payload: sum });
        prop_assert_eq!(&frame, &theirs(&outer, &payload));
        let received = Outer::read(&frame).unwrap();
        prop_assert_eq!((received.outer, received.link, received.payload), (outer, LINK, &payload[..]));
        prop_assert_eq!(received.verify(), Verified::Right);
    }

    #[test]
    fn a_partial_checksum_completes_to_the_whole_one(outer in outer(), payload in vec(any::<u8>(), 0..300)) {
        let mut frame = write(&outer, &payload, UdpChecksum::Partial);
        let start = (14 + outer.header_len() - 8) as u16;
        checksum::complete(&mut frame, start, 6).unwrap();
        prop_assert_eq!(&frame, &theirs(&outer, &payload));
        let zero = write(&outer, &payload, UdpChecksum::Zero);
        prop_assert_eq!(Outer::read(&zero).unwrap().verify(), Verified::Absent);
    }

    #[test]
    fn one_wrong_byte_is_noticed(outer in outer(), payload in vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut frame = write(&outer, &payload, UdpChecksum::Complete { payload: checksum::sum(&payload) });
        // Beyond Ethernet, and without what IPv6 covers with nothing: flow label, class and hop limit.
        let covered: Vec<usize> = (14..frame.len())
            .filter(|at| matches!(outer.addresses, Addresses::V4 { .. }) || !matches!(at, 14..=17 | 21))
            .collect();
        let at = covered[at.index(covered.len())];
        frame[at] ^= flip;
        let noticed = match Outer::read(&frame) {
            Ok(received) => received.verify() != Verified::Right,
            Err(_) => true,
        };
        prop_assert!(noticed, "byte {}", at);
    }
}

fn sample() -> Outer {
    Outer {
        addresses: Addresses::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into() },
        src_port: 50_000,
        dst_port: 4789,
        tos: 0,
        ttl: 64,
        identification: 0,
    }
}

#[test]
fn refuses_by_name() {
    let outer = sample();
    let frame = write(&outer, &[1, 2, 3], UdpChecksum::Zero);
    assert!(matches!(SlicedPacket::from_ethernet(&frame).unwrap().transport, Some(TransportSlice::Udp(_))));
    let change = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        Outer::read(&frame).map(|received| received.payload.len())
    };
    assert_eq!(change(22, 63), Err(OuterError::HeaderChecksum));
    assert_eq!(change(23, 132), Err(OuterError::L4(L4Error::Protocol { seen: 132 })));
    assert_eq!(change(20, 0x20), Err(OuterError::L4(L4Error::Fragment)));
    assert_eq!(change(39, 10), Err(OuterError::L4(L4Error::UdpLength { seen: 10, have: 11 })));
    assert_eq!(change(12, 0x86), Err(OuterError::L4(L4Error::NotIp { ethertype: 0x8600 })));
    let tagged = [&frame[..12], &[0x81, 0, 0, 1], &frame[12..]].concat();
    assert_eq!(Outer::read(&tagged).map(|_| ()), Err(OuterError::Tagged));
    let padded = [&frame[..], &[0; 15]].concat();
    assert_eq!(Outer::read(&padded).unwrap().payload, [1, 2, 3]);
}

#[test]
fn lengths_have_limits() {
    let outer = sample();
    let mut headers = [0; 28];
    assert_eq!(outer.write(&mut headers[..27], 0, UdpChecksum::Zero), Err(OuterError::NoRoom { have: 27, need: 28 }));
    assert_eq!(outer.write(&mut headers, 65_507, UdpChecksum::Zero), Ok(28));
    assert_eq!(headers[2..4], [0xff, 0xff]);
    assert_eq!(
        outer.write(&mut headers, 65_508, UdpChecksum::Zero),
        Err(OuterError::TooLong { have: 65_508, max: 65_507 })
    );
}
