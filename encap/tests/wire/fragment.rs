//! `Fragmenter` against etherparse's reassembly, and a reference that cuts plainly.

use etherparse::defrag::IpDefragPool;
use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;
use weft_encap::fragment::{MAX_FRAGMENTS, MAX_HEADER_LEN};
use weft_encap::{Checksum, FragmentError, Fragmenter, Gso, GsoKind, InnerError, Offload, SplitError};

use crate::packet::{Ip, L4, Packet, Sum};
use crate::strategies::{ipv4, payload, superframe, tags, tcp, udp};

const MORE: u16 = 0x2000;

/// All fragments as frames of their own.
pub(crate) fn cut(frame: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, FragmentError> {
    cut_as(frame, &Offload::NONE, mtu)
}

fn cut_as(frame: &[u8], offload: &Offload, mtu: u16) -> Result<Vec<Vec<u8>>, FragmentError> {
    let mut fragmenter = Fragmenter::new(frame, offload, mtu)?;
    let count = fragmenter.fragments();
    let mut headers = [0xee; MAX_HEADER_LEN];
    let mut out = Vec::new();
    while let Some(fragment) = fragmenter.next_fragment(&mut headers) {
        out.push([&headers[..fragment.header_len], &frame[fragment.payload]].concat());
    }
    assert_eq!(out.len(), count);
    Ok(out)
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1]),
        Just(vec![0x94, 4, 0, 0]),          // router alert, copied
        Just(vec![0x07, 7, 4, 0, 0, 0, 0]), // record route, not copied
        Just(vec![0x82, 3, 9]),             // security, copied
        Just(vec![0x44, 5, 5, 0, 0]),       // timestamp, not copied
    ];
    prop::collection::vec(option, 0..7).prop_map(|options| {
        let mut out = Vec::new();
        for option in options {
            if out.len() + option.len() <= 40 {
                out.extend(option);
            }
        }
        out.resize(out.len().next_multiple_of(4), 0);
        out
    })
}

fn packet(max: usize) -> impl Strategy<Value = Packet> {
    (any::<[u8; 12]>(), tags(), ipv4(), options(), prop_oneof![udp(), tcp()], payload(max)).prop_map(
        |(macs, tags, mut ip, with, l4, payload)| {
            if let Ip::V4 { df, options, .. } = &mut ip {
                (*df, *options) = (false, with);
            }
            Packet { macs, tags, ip, l4, payload }
        },
    )
}

/// What RFC 791 keeps in fragments after the first.
fn copied(options: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), options);
    while let Some(kind) = rest.first().filter(|kind| **kind != 0) {
        let len = if *kind == 1 { 1 } else { usize::from(rest[1]) };
        if *kind >= 0x80 {
            out.extend(&rest[..len]);
        }
        rest = &rest[len..];
    }
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn reassemble(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut whole = None;
    for frame in frames {
        assert!(whole.is_none(), "a fragment after the last");
        whole = pool.process_sliced_packet(&SlicedPacket::from_ethernet(frame).unwrap(), (), ()).unwrap();
    }
    whole.unwrap().payload
}

fn check(packet: &Packet, frames: &[Vec<u8>], mtu: u16) {
    let Ip::V4 { tos, ttl, id, options, .. } = &packet.ip else { panic!("IPv4") };
    let whole = packet.bytes(Sum::Right);
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame[..packet.l3_offset()], whole[..packet.l3_offset()]);
        let parsed = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        assert!(header.total_len <= mtu && usize::from(header.total_len) + packet.l3_offset() == frame.len());
        assert_eq!((header.identification, header.time_to_live, header.dont_fragment), (*id, *ttl, false));
        assert_eq!(header.dscp.value() << 2 | header.ecn.value(), *tos);
        assert_eq!(header.options.as_slice(), if index == 0 { options.clone() } else { copied(options) });
        assert_eq!(header.more_fragments, index + 1 < frames.len());
        // None is shorter than it has to be.
        assert!(index + 1 == frames.len() || mtu - header.total_len < 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn fragments_become_the_packet_again(packet in packet(5000), mtu in 68..3000u16, padding in 0..20usize) {
        let whole = packet.bytes(Sum::Right);
        let have = whole.len() - packet.l3_offset();
        let padded = [&whole[..], &vec![0xaa; padding]].concat();
        match cut(&padded, mtu) {
            Ok(frames) => {
                prop_assert!(frames.len() > 1);
                check(&packet, &frames, mtu);
                prop_assert_eq!(&reassemble(&frames), &whole[packet.l4_offset()..]);
            }
            Err(FragmentError::Fits { .. }) => prop_assert!(have <= usize::from(mtu)),
            Err(FragmentError::TooManyFragments { seen, .. }) => prop_assert!(seen > 128 && have / seen < mtu.into()),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn fragments_of_fragments_too(packet in packet(5000), large in 1000..3000u16, small in 200..900u16) {
        let whole = packet.bytes(Sum::Right);
        if whole.len() - packet.l3_offset() <= usize::from(large) {
            return Ok(());
        }
        let mut frames = Vec::new();
        for frame in cut(&whole, large).unwrap() {
            match cut(&frame, small) {
                Ok(pieces) => frames.extend(pieces),
                Err(error) => {
                    let fits = matches!(error, FragmentError::Fits { .. });
                    prop_assert!(fits);
                    frames.push(frame);
                }
            }
        }
        prop_assert_eq!(reassemble(&frames), &whole[packet.l4_offset()..]);
    }

    /// What a superframe becomes is what its segments would, each cut by itself; and reassembled they are the bytes of
    /// the split.
    #[test]
    fn fragments_of_segments_become_the_segments_again(
        packet in packet(20_000), size in 500..3000u16, mtu in 200..1600u16,
    ) {
        let segments = packet.split(size.into());
        prop_assume!(packet.is_tcp() || segments.len() <= 128);
        let ip_len = |segment: &[u8]| segment.len() - packet.l3_offset();
        let whole: Vec<_> = segments.iter().map(|segment| segment.bytes(Sum::Right)).collect();
        let longest = whole.iter().map(|segment| ip_len(segment)).max().unwrap();
        let cut = cut_as(&packet.bytes(Sum::Partial), &superframe(&packet, size), mtu);
        if longest <= usize::from(mtu) {
            prop_assert_eq!(cut, Err(FragmentError::Fits { have: longest, mtu }));
            return Ok(());
        }
        let mut rest = &cut.unwrap()[..];
        for (segment, whole) in segments.iter().zip(&whole) {
            let wanted = if ip_len(whole) <= usize::from(mtu) {
                vec![whole.clone()]
            } else {
                let alone = cut_as(whole, &Offload::NONE, mtu).unwrap();
                check(segment, &alone, mtu);
                prop_assert_eq!(&reassemble(&alone), &whole[packet.l4_offset()..]);
                alone
            };
            let (own, others) = rest.split_at(wanted.len().min(rest.len()));
            prop_assert_eq!(own, wanted);
            rest = others;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn no_superframe_makes_it_panic(packet in packet(2000), damage in prop::collection::vec((12..90usize, any::<u8>()), 0..4),
                                    size in any::<u16>(), small in 1..200u16, mtu in 0..600u16) {
        let mut frame = packet.bytes(Sum::Partial);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        for size in [size, small] {
            if let Ok(frames) = cut_as(&frame, &superframe(&packet, size), mtu) {
                prop_assert!(frames.len() > 1 && frames.iter().all(|cut| cut.len() <= packet.l3_offset() + 8 + usize::from(mtu)));
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(packet in packet(400), damage in prop::collection::vec((12..60usize, any::<u8>()), 0..6),
                              right in any::<bool>(), mtu in 0..600u16) {
        let mut frame = packet.bytes(Sum::Right);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if right {
            fix_header(&mut frame, packet.l3_offset());
        }
        let _ = cut(&frame, mtu);
    }
}

fn fix_header(frame: &mut [u8], l3: usize) {
    let len = usize::from(frame[l3] & 15) * 4;
    if let Some(header) = frame.get_mut(l3..l3 + len).filter(|header| header.len() >= 12) {
        header[10..12].fill(0);
        let value = !crate::packet::ones_sum(header);
        header[10..12].copy_from_slice(&value.to_be_bytes());
    }
}

/// A TCP header is not cut: with 40 bytes of options it needs 20 + 64 bytes.
#[test]
fn the_first_fragment_holds_the_tcp_header() {
    let tcp = L4::Tcp { ports: (1, 2), seq: 1, ack: 2, flags: 16, window: 9, urgent: 0, options: vec![1; 40] };
    let packet = Packet { l4: tcp, ..sample(0, vec![], 1000) };
    let cut = |mtu| cut_as(&packet.bytes(Sum::Partial), &superframe(&packet, 200), mtu);
    assert_eq!(cut(83), Err(FragmentError::MtuTooSmall { mtu: 83, min: 84 }));
    let frames = cut(84).unwrap();
    // 60 + 200 bytes five times, 64 in each.
    assert_eq!(frames.len(), 5 * 5);
    assert!(frames.iter().all(|frame| frame.len() <= 14 + 84));
}

fn sample(fragment: u16, options: Vec<u8>, len: usize) -> Packet {
    let ip = Ip::V4 { src: [10; 4], dst: [11; 4], tos: 0, ttl: 64, id: 7, df: false, fragment, options };
    Packet { macs: [2; 12], tags: vec![], ip, l4: L4::Udp { ports: (1, 2) }, payload: vec![5; len] }
}

#[test]
fn more_and_offset_are_carried_on() {
    let offsets = |frames: &[Vec<u8>]| -> Vec<u16> {
        frames.iter().map(|frame| u16::from_be_bytes([frame[20], frame[21]])).collect()
    };
    // The reserved bit, which has no meaning, stays too.
    let packet = sample(0x8000 | MORE | 100, vec![], 1000 - 8);
    let frames = cut(&packet.bytes(Sum::Right), 420).unwrap();
    assert_eq!(offsets(&frames), [0xa000 | 100, 0xa000 | 150, 0xa000 | 200]);
    let frames = cut(&sample(100, vec![], 1000 - 8).bytes(Sum::Right), 420).unwrap();
    assert_eq!(offsets(&frames), [MORE | 100, MORE | 150, 200]);
}

#[test]
fn refuses_by_name() {
    let packet = sample(0, vec![], 1000);
    let frame = packet.bytes(Sum::Right);
    let refused = |frame: &[u8], offload: Offload, mtu| Fragmenter::new(frame, &offload, mtu).unwrap_err();
    let plain = |frame: &[u8], mtu| refused(frame, Offload::NONE, mtu);
    assert_eq!(plain(&[0; 13], 500), FragmentError::Frame(InnerError::Runt { have: 13, need: 14 }));
    assert_eq!(plain(&[0; 60], 500), FragmentError::NotIpv4 { ethertype: 0 });
    let checksum = Checksum::Needed { start: 34, offset: 6 };
    assert_eq!(refused(&frame, Offload { checksum, gso: None }, 500), FragmentError::PartialChecksum);
    let gso = |kind| Offload { checksum, gso: Some(Gso { kind, size: 100, header_len: 42, ecn: false }) };
    let error = SplitError::KindMismatch { claimed: GsoKind::Tcp4, seen: GsoKind::Udp };
    assert_eq!(refused(&frame, gso(GsoKind::Tcp4), 100), FragmentError::Split(error));
    assert_eq!(refused(&frame, gso(GsoKind::Udp), 128), FragmentError::Fits { have: 128, mtu: 128 });
    assert_eq!(refused(&frame, gso(GsoKind::Udp), 27), FragmentError::MtuTooSmall { mtu: 27, min: 28 });
    assert_eq!(plain(&frame, 1028), FragmentError::Fits { have: 1028, mtu: 1028 });
    assert_eq!(plain(&frame, 27), FragmentError::MtuTooSmall { mtu: 27, min: 28 });
    assert_eq!(
        plain(&sample(0, vec![], 1100).bytes(Sum::Right), 28),
        FragmentError::TooManyFragments { seen: 139, max: MAX_FRAGMENTS }
    );
    let mut damaged = frame.clone();
    damaged[25] ^= 1;
    assert_eq!(plain(&damaged, 500), FragmentError::HeaderChecksum);
    let mut whole = packet.clone();
    if let Ip::V4 { df, .. } = &mut whole.ip {
        *df = true;
    }
    assert_eq!(plain(&whole.bytes(Sum::Right), 500), FragmentError::DontFragment);
    assert_eq!(refused(&whole.bytes(Sum::Right), gso(GsoKind::Udp), 100), FragmentError::DontFragment);
    for options in [vec![0x94, 1, 0, 0], vec![0x94, 5, 0, 0], vec![1, 1, 1, 0x94]] {
        assert_eq!(plain(&sample(0, options, 1000).bytes(Sum::Right), 500), FragmentError::Options);
    }
    assert_eq!(plain(&sample(0x1fff, vec![], 1000).bytes(Sum::Right), 500), FragmentError::OffsetOverflow);
}
