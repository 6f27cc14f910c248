//! How evenly and how steadily flows are spread.

use proptest::prelude::*;
use weft_encap::{FlowHash, Inner};

use crate::packet::{ACK, Ip, L4, Packet, Sum};
use crate::split::cut;
use crate::strategies::{packet, superframe};

const BUCKETS: usize = 64;
const FLOWS: u32 = 10_000;
/// A fair spread exceeds this once in a million times, with 63 degrees of freedom.
const CHI_SQUARE_LIMIT: f64 = 130.0;

fn hash(packet: &Packet) -> FlowHash {
    FlowHash::of(&Inner::parse(&packet.bytes(Sum::Right)).unwrap())
}

fn v4(src: u32, dst: u32, ports: (u16, u16)) -> Packet {
    let [_, _, a, b] = src.to_be_bytes();
    Packet {
        macs: [2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, a, b],
        tags: vec![],
        ip: Ip::V4 {
            src: src.to_be_bytes(),
            dst: dst.to_be_bytes(),
            tos: 0,
            ttl: 64,
            id: 0,
            df: true,
            fragment: 0,
            options: vec![],
        },
        l4: L4::Tcp { ports, seq: 0, ack: 0, flags: ACK, window: 0, urgent: 0, options: vec![] },
        payload: vec![],
    }
}

fn v6(src: u128, dst: u128, ports: (u16, u16)) -> Packet {
    let ip = Ip::V6 {
        src: src.to_be_bytes(),
        dst: dst.to_be_bytes(),
        class: 0,
        label: 0,
        hops: 64,
        destination_options: false,
    };
    Packet { ip, l4: L4::Udp { ports }, ..v4(0, 0, ports) }
}

fn chi_square(buckets: usize, flow: impl Fn(u32) -> Packet) -> f64 {
    let mut seen = vec![0u32; buckets];
    for index in 0..FLOWS {
        seen[hash(&flow(index)).index(buckets)] += 1;
    }
    let expected = f64::from(FLOWS) / buckets as f64;
    seen.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

type Pattern = (&'static str, Box<dyn Fn(u32) -> Packet>);

#[test]
fn flows_spread_evenly() {
    const NET: u32 = 0x0af4_0000;
    const NET6: u128 = 0xfd00_0000_0000_0000_0000_0000_0000_0000;
    let patterns: [Pattern; 8] = [
        ("source ports in a row", Box::new(|i| v4(NET + 1, NET + 2, (30_000 + i as u16, 80)))),
        ("every second source port", Box::new(|i| v4(NET + 1, NET + 2, ((i * 2) as u16, 443)))),
        ("clients in a row", Box::new(|i| v4(NET + i, NET + 2, (40_000, 80)))),
        ("clients by /24", Box::new(|i| v4(NET + (i << 8), NET + 2, (40_000, 80)))),
        ("both ends in a row", Box::new(|i| v4(NET + i, NET + i + 1, (40_000, 80)))),
        ("ports alike at both ends", Box::new(|i| v4(NET + 1, NET + 2, (i as u16, i as u16)))),
        ("IPv6 hosts in a row", Box::new(|i| v6(NET6 + u128::from(i), NET6 + 2, (4000, 53)))),
        ("IPv6 networks in a row", Box::new(|i| v6(NET6 + (u128::from(i) << 64), NET6 + 2, (4000, 53)))),
    ];
    for (name, flow) in patterns {
        let found = chi_square(BUCKETS, &flow);
        assert!(found < CHI_SQUARE_LIMIT, "{name}: {found}");
        let found = chi_square(61, &flow);
        assert!(found < CHI_SQUARE_LIMIT, "{name}, 61 buckets: {found}");
    }
}

#[test]
fn frames_that_are_not_ip_spread_by_their_macs() {
    let mut seen = vec![0u32; BUCKETS];
    for index in 0..FLOWS {
        let [_, _, a, b] = index.to_be_bytes();
        let frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, a, b, 0x88, 0xb5];
        seen[FlowHash::of(&Inner::parse(&frame).unwrap()).index(BUCKETS)] += 1;
    }
    let expected = f64::from(FLOWS) / BUCKETS as f64;
    let found: f64 = seen.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert!(found < CHI_SQUARE_LIMIT, "{found}");
}

#[test]
fn pods_with_the_same_addresses_in_two_networks_have_flows_of_their_own() {
    let mut other = v4(1, 2, (3, 4));
    other.macs[5] ^= 1;
    assert_ne!(hash(&v4(1, 2, (3, 4))), hash(&other));
}

#[test]
fn the_hash_is_the_same_in_every_release() {
    assert_eq!(hash(&v4(0x0a00_0001, 0x0a00_0002, (40_000, 80))).get(), 3_723_340_893);
    assert_eq!(hash(&v6(1, 2, (40_000, 80))).get(), 374_815_919);
}

#[test]
fn index_stays_in_range() {
    for packet in (0..500).map(|i| v4(i, 1, (1, 2))) {
        assert_eq!(hash(&packet).index(0), 0);
        assert_eq!(hash(&packet).index(1), 0);
        for n in [2, 3, 16, 61, 64, 1000] {
            assert!(hash(&packet).index(n) < n);
        }
    }
}

fn turned(packet: &Packet) -> Packet {
    let mut packet = packet.clone();
    packet.macs.rotate_left(6);
    match &mut packet.ip {
        Ip::V4 { src, dst, .. } => std::mem::swap(src, dst),
        Ip::V6 { src, dst, label, .. } => {
            std::mem::swap(src, dst);
            *label ^= 0xfffff;
        }
    }
    match &mut packet.l4 {
        L4::Tcp { ports, .. } | L4::Udp { ports } => *ports = (ports.1, ports.0),
    }
    packet
}

proptest! {
    #[test]
    fn both_directions_are_alike(packet in packet(40)) {
        prop_assert_eq!(hash(&packet), hash(&turned(&packet)));
    }

    #[test]
    fn a_flow_never_moves(packet in packet(40), other in packet(80)) {
        let mut later = packet.clone();
        later.payload = other.payload;
        match (&mut later.l4, &other.l4) {
            (L4::Tcp { seq, ack, flags, .. }, L4::Tcp { seq: s, ack: a, flags: f, .. }) => {
                (*seq, *ack, *flags) = (*s, *a, *f);
            }
            (L4::Tcp { .. } | L4::Udp { .. }, _) => {}
        }
        match &mut later.ip {
            Ip::V4 { tos, ttl, id, df, options, .. } => {
                (*tos, *ttl, *id, *df) = (!*tos, !*ttl, !*id, !*df);
                *options = if options.is_empty() { vec![1, 1, 1, 0] } else { vec![] };
            }
            Ip::V6 { class, hops, label, destination_options, .. } => {
                (*class, *hops, *label) = (!*class, !*hops, *label ^ 1);
                *destination_options ^= true;
            }
        }
        later.tags = other.tags;
        prop_assert_eq!(hash(&packet), hash(&later));
    }

    #[test]
    fn a_superframe_and_its_segments_are_alike(packet in packet(5000), size in 100..1500u16) {
        let segments = cut(&packet.bytes(Sum::Partial), &superframe(&packet, size)).unwrap();
        for segment in segments {
            prop_assert_eq!(FlowHash::of(&Inner::parse(&segment).unwrap()), hash(&packet));
        }
    }

    #[test]
    fn fragments_of_a_datagram_are_alike(packet in packet(200), payload in any::<[u8; 30]>()) {
        let mut pieces = [packet.clone(), packet.clone(), packet];
        for (piece, bits) in pieces.iter_mut().zip([0x2000, 0x2010, 0x0020]) {
            if let Ip::V4 { fragment, .. } = &mut piece.ip {
                *fragment = bits;
            }
        }
        prop_assume!(!pieces[0].is_v6());
        // What stands where the ports would be is payload in all but the first.
        let first = hash(&pieces[0]);
        for piece in &pieces[1..] {
            let mut bytes = piece.bytes(Sum::Right);
            let at = piece.l4_offset();
            let len = payload.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&payload[..len]);
            prop_assert_eq!(FlowHash::of(&Inner::parse(&bytes).unwrap()), first);
        }
    }
}

#[test]
fn fragments_of_an_ipv6_datagram_are_alike() {
    let packet = v6(1, 2, (5, 6)).bytes(Sum::Right);
    let piece = |offset: u16, more: u16, body: &[u8]| {
        let mut bytes = packet[..54].to_vec();
        bytes[18..20].copy_from_slice(&(8 + body.len() as u16).to_be_bytes());
        bytes[20] = 44;
        bytes.extend([17, 0]);
        bytes.extend((offset << 3 | more).to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(body);
        FlowHash::of(&Inner::parse(&bytes).unwrap())
    };
    assert_eq!(piece(0, 1, &packet[54..]), piece(1, 0, &[1, 2, 3, 4, 5]));
    assert_eq!(piece(0, 1, &packet[54..]), piece(2, 0, &[]));
}
