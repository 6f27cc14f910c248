//! One superframe through split and merge, and the tunnel around a frame.

use crate::packet::{ACK, Ip, L4, PSH, Packet, Sum};
use weft_encap::{Checksum, Encapsulation, FlowHash, Gso, GsoKind, Inner, Merger, Network, Offload, Splitter, Vni};

fn superframe() -> Packet {
    Packet {
        macs: [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1],
        tags: vec![],
        ip: Ip::V4 {
            src: [10, 0, 0, 1],
            dst: [10, 0, 0, 2],
            tos: 0,
            ttl: 64,
            id: 0xfffe,
            df: true,
            fragment: 0,
            options: vec![],
        },
        l4: L4::Tcp {
            ports: (40_000, 80),
            seq: 0xffff_fff0,
            ack: 7,
            flags: ACK | PSH,
            window: 501,
            urgent: 0,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        },
        payload: (0..50_000u32).map(|byte| byte as u8).collect(),
    }
}

#[test]
fn a_superframe_is_cut_and_put_together_again() {
    let packet = superframe();
    let frame = packet.bytes(Sum::Partial);
    let gso = Gso { kind: GsoKind::Tcp4, size: 1398, header_len: 66, ecn: false };
    let offload = Offload { checksum: Checksum::Needed { start: 34, offset: 16 }, gso: Some(gso) };
    let mut splitter = Splitter::new(&frame, &offload).unwrap();
    let mut headers = [0; weft_encap::split::MAX_HEADER_LEN];
    let (mut arena, mut ranges) = (Vec::new(), Vec::new());
    while let Some(payload) = splitter.next_segment(&mut headers) {
        let start = arena.len();
        arena.extend_from_slice(&headers[..splitter.header_len()]);
        arena.extend_from_slice(&frame[payload]);
        ranges.push(start..arena.len());
    }
    assert_eq!(ranges.len(), splitter.segments());
    let wanted: Vec<_> = packet.split(1398).iter().map(|segment| segment.bytes(Sum::Right)).collect();
    let got: Vec<_> = ranges.iter().map(|range| arena[range.clone()].to_vec()).collect();
    assert_eq!(got, wanted);

    let mut merger = Merger::with_capacity(64);
    for range in ranges {
        merger.push(&arena, range, 3, Offload::NONE).unwrap();
    }
    let groups: Vec<_> = merger.groups().collect();
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].egress(), groups[0].frames()), (3, 36));
    let (len, seen) = groups[0].finish(&arena, &mut headers);
    let mut bytes = headers[..len].to_vec();
    groups[0].pieces().for_each(|piece| bytes.extend_from_slice(&arena[piece]));
    assert_eq!(bytes, frame);
    assert_eq!(seen, offload);
}

#[test]
fn a_frame_goes_through_the_tunnel() {
    let frame = superframe().bytes(Sum::Right);
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let packet = [&encapsulation.header(Vni::MAX)[..], &frame].concat();
        assert_eq!(encapsulation.decap(&packet), Ok((Vni::MAX, &frame[..])));
    }
    let inner = Inner::parse(&frame).unwrap();
    assert!(matches!(inner.network, Network::Ipv4(ip) if ip.end == frame.len() && ip.l4 == 34));
    assert_eq!(inner.ports(), Some((40_000, 80)));
    assert!(FlowHash::of(&inner).index(3) < 3);
}
