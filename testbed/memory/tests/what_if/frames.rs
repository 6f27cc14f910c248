//! Frames that pods send, right ones and wrong ones.

use std::net::{IpAddr, SocketAddr};

use weft_encap::inner::ETHERNET_LEN;
use weft_encap::outer::{self, Addresses, Outer, UdpChecksum};
use weft_encap::{Checksum, Gso, GsoKind, MacAddr, Offload, checksum};

use crate::chance::Chance;
use crate::world::{Pod, World, address_of, gateway_address, mac_of};

/// A bridge's own group (IEEE 802.1Q table 8-1).
const RESERVED: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
const GROUP: MacAddr = MacAddr([0x01, 0, 0x5e, 1, 2, 3]);
const NOBODY: MacAddr = MacAddr([2, 9, 9, 9, 9, 9]);
/// Bytes of an IPv4 and a UDP header.
const UDP_OVER_IPV4: usize = 28;
const SEGMENT: u16 = 400;

/// A frame of a pod, and what its device says of it.
pub(crate) fn frame(chance: &mut Chance, world: &World, from: &Pod) -> (Vec<u8>, Offload) {
    let to = {
        let others: Vec<&Pod> = world.pods().collect();
        others[chance.below(others.len())].number
    };
    let src = if chance.percent(92) { mac_of(from.number) } else { chance.one_of(&[mac_of(to), GROUP, MacAddr::ZERO]) };
    let own = if chance.percent(94) { from.number } else { to };
    let odd = [MacAddr::BROADCAST, GROUP, NOBODY, RESERVED, world.gateway_mac(from.vni)];
    let dst = if chance.percent(75) { mac_of(to) } else { chance.one_of(&odd) };
    let size = UDP_OVER_IPV4 + chance.one_of(&[0, 1, 100, 500, 572, 573, 1172, 1252, 1422, 1423, 1700]);
    match chance.below(20) {
        0 => (vec![7; chance.below(ETHERNET_LEN)], Offload::NONE),
        1 | 2 => {
            let target = if chance.percent(80) { address_of(to) } else { gateway_address() };
            (arp(src, own, target), Offload::NONE)
        }
        3 => (ipv6(src, dst, own, to, size), Offload::NONE),
        4 => {
            let mut frame = udp(src, dst, address_of(own), address_of(to), size, false);
            // Longer than the frame is.
            frame[16] = 0xff;
            (frame, Offload::NONE)
        }
        5 => {
            let mut frame = udp(src, dst, address_of(own), address_of(to), size, true);
            frame.splice(12..12, [0x81, 0, 0, 5]);
            (frame, Offload::NONE)
        }
        6 => {
            let node = world.node_address(from.node);
            let IpAddr::V4(node) = node else { return (arp(src, own, address_of(to)), Offload::NONE) };
            (loops(src, dst, own, SocketAddr::new(node.into(), world.encapsulation.default_port())), Offload::NONE)
        }
        7 | 8 => superframe(chance, src, dst, own, to),
        9 => {
            let frame = udp(src, dst, address_of(own), address_of(to), size, true);
            let (start, offset) = (chance.one_of(&[34, 34, 20, 4000]), 6);
            (frame, Offload { checksum: Checksum::Needed { start, offset }, gso: None })
        }
        10 => ([&dst.0[..], &src.0, &[0x88, 0xb5], &[1; 46]].concat(), Offload::NONE),
        _ => {
            let dont_fragment = chance.percent(50);
            (udp(src, dst, address_of(own), address_of(to), size, dont_fragment), Offload::NONE)
        }
    }
}

fn arp(src: MacAddr, own: u8, target: IpAddr) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    let head = [&MacAddr::BROADCAST.0[..], &src.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&head[..], &src.0, &octets(address_of(own)), &[0; 6], &octets(target)].concat()
}

/// A datagram in an IPv4 packet of so many bytes.
pub(crate) fn udp(src: MacAddr, dst: MacAddr, from: IpAddr, to: IpAddr, size: usize, dont_fragment: bool) -> Vec<u8> {
    let (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) = (from, to) else { return Vec::new() };
    let payload: Vec<u8> = (0..size - UDP_OVER_IPV4).map(|i| (i * 31 % 251) as u8).collect();
    let addresses = Addresses::V4 { src: from_ip, dst: to_ip };
    let header = Outer { addresses, src_port: 4000, dst_port: 5000, tos: 0, ttl: 64, identification: 77 };
    let mut frame = [&dst.0[..], &src.0, &[8, 0], &[0; outer::MAX_LEN]].concat();
    let sum = UdpChecksum::Complete { payload: checksum::sum(&payload) };
    let len = header.write(&mut frame[ETHERNET_LEN..], payload.len(), sum).unwrap();
    frame.truncate(ETHERNET_LEN + len);
    frame[20] = if dont_fragment { 0x40 } else { 0 };
    (frame[24], frame[25]) = (0, 0);
    let sum = checksum::finish(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    [frame, payload].concat()
}

fn ipv6(src: MacAddr, dst: MacAddr, own: u8, to: u8, size: usize) -> Vec<u8> {
    let address = |number: u8| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into());
    let payload = vec![3; size];
    let addresses = Addresses::V6 { src: address(own), dst: address(to) };
    let header = Outer { addresses, src_port: 4000, dst_port: 5000, tos: 0, ttl: 64, identification: 0 };
    let mut frame = [&dst.0[..], &src.0, &[0x86, 0xdd], &[0; outer::MAX_LEN]].concat();
    let sum = UdpChecksum::Complete { payload: checksum::sum(&payload) };
    let len = header.write(&mut frame[ETHERNET_LEN..], payload.len(), sum).unwrap();
    frame.truncate(ETHERNET_LEN + len);
    [frame, payload].concat()
}

/// Our own encapsulation, towards ourselves.
fn loops(src: MacAddr, dst: MacAddr, own: u8, to: SocketAddr) -> Vec<u8> {
    let mut frame = udp(src, dst, address_of(own), to.ip(), 100, true);
    frame[36..38].copy_from_slice(&to.port().to_be_bytes());
    frame
}

/// A UDP superframe, now and then with a segment size that nothing fits.
fn superframe(chance: &mut Chance, src: MacAddr, dst: MacAddr, own: u8, to: u8) -> (Vec<u8>, Offload) {
    let size = UDP_OVER_IPV4 + usize::from(SEGMENT) * (2 + chance.below(30)) + chance.below(200);
    let mut frame = udp(src, dst, address_of(own), address_of(to), size, chance.percent(50));
    let (IpAddr::V4(from), IpAddr::V4(target)) = (address_of(own), address_of(to)) else {
        return (frame, Offload::NONE);
    };
    let pseudo = checksum::pseudo_header_v4(from, target, 17, u16::try_from(frame.len() - 34).unwrap());
    frame[40..42].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    let size = chance.one_of(&[SEGMENT, SEGMENT, SEGMENT, 1400, 60_000]);
    let gso = Some(Gso { kind: GsoKind::Udp, size, header_len: 42, ecn: false });
    (frame, Offload { checksum: Checksum::Needed { start: 34, offset: 6 }, gso })
}
