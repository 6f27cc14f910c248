//! Frames and tunnel packets, in order and not.

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, MacAddr, Offload, checksum};

use crate::{A, OTHER_POD, POD, STRANGER, vni};

pub(crate) fn ethernet(src: MacAddr, dst: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat()
}

pub(crate) fn udp_to(src: MacAddr, dst: MacAddr, ip: ([u8; 4], [u8; 4]), port: u16, len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv4(ip.0, ip.1, 64).udp(40_000, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0; len]).unwrap();
    frame
}

pub(crate) fn udp(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    udp_to(src, dst, (POD, OTHER_POD), 9, 20)
}

pub(crate) fn udp6(src: MacAddr, dst: MacAddr, source: &str) -> Vec<u8> {
    let source = source.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv6(source, [0xfd; 16], 64).udp(40_000, 9);
    builder.write(&mut frame, &[0; 20]).unwrap();
    frame
}

pub(crate) fn tagged(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let untagged = udp(src, dst);
    [&untagged[..12], &[0x81, 0, 0, 7], &untagged[12..]].concat()
}

/// A neighbour advertisement from and for an address, which names a MAC; or, by its type, another message.
pub(crate) fn discovery(kind: u8, src: MacAddr, source: &str, (target, mac): (&str, MacAddr)) -> Vec<u8> {
    let [source, target] = [source, target].map(|ip| ip.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(src.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(source, [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 255)
        .icmpv6_raw(kind, 0, [0x20, 0, 0, 0])
        .write(&mut frame, &[&target[..], &[2, 1], &mac.0].concat())
        .unwrap();
    frame
}

/// An IPv6 packet without extension headers, behind so many of destination options that say nothing.
pub(crate) fn behind_headers(frame: &[u8], headers: u8) -> Vec<u8> {
    let (mut frame, upper) = (frame.to_vec(), frame[20]);
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8 * u16::from(headers);
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = 60;
    let options = (1..=headers).flat_map(|place| [if place == headers { upper } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    frame.splice(54..54, options);
    frame
}

pub(crate) fn arp(src: MacAddr, sender_mac: MacAddr, sender_ip: [u8; 4]) -> Vec<u8> {
    asks_for(OTHER_POD, (src, sender_mac, sender_ip))
}

pub(crate) fn asks_for(target: [u8; 4], (src, sender_mac, sender_ip): (MacAddr, MacAddr, [u8; 4])) -> Vec<u8> {
    let (operation, hardware) = (ArpOperation::REQUEST, ArpHardwareId::ETHERNET);
    let packet =
        ArpPacket::new(hardware, EtherType::IPV4, operation, &sender_mac.0, &sender_ip, &[0; 6], &target).unwrap();
    ethernet(src, MacAddr::BROADCAST, 0x0806, &packet.to_bytes())
}

pub(crate) fn superframe_offload(size: u16) -> Offload {
    let checksum = Checksum::Needed { start: 34, offset: 6 };
    Offload { checksum, gso: Some(Gso { kind: GsoKind::Udp, size, header_len: 42, ecn: false }) }
}

pub(crate) fn tunnel_packet(encapsulation: Encapsulation, id: u32) -> Vec<u8> {
    [encapsulation.header(vni(id)).as_bytes(), &udp(STRANGER, A)].concat()
}

/// A tunnel packet with a UDP superframe, which has `payload` where the second segment of the whole would begin.
pub(crate) fn superframe_around(payload: &[u8]) -> (Vec<u8>, usize) {
    const SEGMENT: usize = 500;
    let mut frame = udp_to(STRANGER, A, (POD, OTHER_POD), 9, 3 * SEGMENT);
    let len = u16::try_from(frame.len() - 34).unwrap();
    let sum = checksum::pseudo_header_v4(POD.into(), OTHER_POD.into(), 17, len);
    frame[40..42].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    let mut packet = [Encapsulation::Vxlan.header(vni(1)).as_bytes(), &frame].concat();
    packet[SEGMENT..SEGMENT + payload.len()].copy_from_slice(payload);
    (packet, SEGMENT)
}
