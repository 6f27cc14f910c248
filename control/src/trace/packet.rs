//! Frames that a pod would send: pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::err::packet::BuildWriteError;
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpHeaders, IpNumber, Ipv4Header, Ipv6Header};
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, PacketBuilderStep};
use weft_api::{PacketSpec, Protocol};
use weft_encap::MacAddr;
use weft_encap::inner::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN};

/// TTL, or hop limit, with which pods send (`net.ipv4.ip_default_ttl`).
const TTL: u8 = 64;
/// What no router has lowered (RFC 4861 section 7.1).
const LINK_HOP_LIMIT: u8 = 255;
/// Window of a SYN, in bytes.
const WINDOW: u16 = 64_240;
/// Bytes of the payload that a frame without IP has: the least that Ethernet carries.
const SHORTEST: usize = 46;
/// For local experiments (IEEE 802 section 9.2): nobody takes it for anything else.
const EXPERIMENTAL: u16 = 0x88b5;
const SOLICITATION: u8 = 135;
const SOURCE_LINK_LAYER: u8 = 1;

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) mac: MacAddr,
    pub(super) address: IpAddr,
}

/// The question for the MAC of an address: ARP, or a neighbour solicitation (RFC 4861 section 4.3). None if the sender's
/// address is of the other family.
pub(super) fn question(sender: Sender, target: IpAddr) -> Option<Vec<u8>> {
    let Sender { mac, address } = sender;
    let mut frame = Vec::new();
    match (address, target) {
        (IpAddr::V4(address), IpAddr::V4(target)) => {
            let packet = ArpPacket::new(
                ArpHardwareId::ETHERNET,
                EtherType::IPV4,
                ArpOperation::REQUEST,
                &mac.0,
                &address.octets(),
                &[0; 6],
                &target.octets(),
            );
            PacketBuilder::ethernet2(mac.0, MacAddr::BROADCAST.0).arp(packet.ok()?).write(&mut frame).ok()?;
        }
        (IpAddr::V6(address), IpAddr::V6(target)) => {
            let [.., a, b, c] = target.octets();
            let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            let builder = PacketBuilder::ethernet2(mac.0, [0x33, 0x33, 0xff, a, b, c]);
            let builder = builder.ipv6(address.octets(), group.octets(), LINK_HOP_LIMIT);
            let message = [&target.octets()[..], &[SOURCE_LINK_LAYER, 1], &mac.0].concat();
            builder.icmpv6_raw(SOLICITATION, 0, [0; 4]).write(&mut frame, &message).ok()?;
        }
        _ => return None,
    }
    Some(frame)
}

/// A packet, or why there is none like it.
pub(super) fn packet(sender: Option<Sender>, mac: MacAddr, to: MacAddr, spec: &PacketSpec) -> Result<Vec<u8>, String> {
    let (Some(sender), Some(target)) = (sender, spec.to) else { return Ok(without_ip(mac, to)) };
    let (headers, ip_len, echo) = match (sender.address, target) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (IpHeaders::Ipv4(ipv4(from, to, spec)?, Default::default()), IPV4_LEN, Echo::V4)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => (IpHeaders::Ipv6(ipv6(from, to), Default::default()), IPV6_LEN, Echo::V6),
        (from, to) => return Err(format!("{from} cannot send to {to}: they are of two families")),
    };
    let least = ip_len + if spec.protocol == Protocol::Tcp { 20 } else { 8 };
    let size = spec.size.map_or(least, usize::from);
    let payload_len = size.checked_sub(least);
    let payload_len = payload_len.ok_or_else(|| format!("such a packet has {least} bytes at least, not {size}"))?;
    let payload = vec![0; payload_len];
    let builder = PacketBuilder::ethernet2(sender.mac.0, to.0).ip(headers);
    let (from_port, to_port) = (spec.source_port, spec.destination_port);
    let mut frame = Vec::with_capacity(ETHERNET_LEN + size);
    let written = match (spec.protocol, echo) {
        (Protocol::Tcp, _) => builder.tcp(from_port, to_port, 0, WINDOW).syn().write(&mut frame, &payload),
        (Protocol::Udp, _) => builder.udp(from_port, to_port).write(&mut frame, &payload),
        (Protocol::Icmp, Echo::V4) => echo_v4(builder).write(&mut frame, &payload),
        (Protocol::Icmp, Echo::V6) => echo_v6(builder).write(&mut frame, &payload),
    };
    written.map_err(|error: BuildWriteError| format!("a packet of {size} bytes: {error}"))?;
    Ok(frame)
}

enum Echo {
    V4,
    V6,
}

const ECHO: IcmpEchoHeader = IcmpEchoHeader { id: 1, seq: 1 };

fn echo_v4(builder: PacketBuilderStep<IpHeaders>) -> PacketBuilderStep<etherparse::Icmpv4Header> {
    builder.icmpv4(Icmpv4Type::EchoRequest(ECHO))
}

fn echo_v6(builder: PacketBuilderStep<IpHeaders>) -> PacketBuilderStep<etherparse::Icmpv6Header> {
    builder.icmpv6(Icmpv6Type::EchoRequest(ECHO))
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, spec: &PacketSpec) -> Result<Ipv4Header, String> {
    let header = Ipv4Header::new(0, TTL, IpNumber(0), from.octets(), to.octets());
    let mut header = header.map_err(|error| error.to_string())?;
    header.dont_fragment = spec.dont_fragment;
    Ok(header)
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr) -> Ipv6Header {
    Ipv6Header { source: from.octets(), destination: to.octets(), hop_limit: TTL, ..Ipv6Header::default() }
}

fn without_ip(mac: MacAddr, to: MacAddr) -> Vec<u8> {
    [&to.0[..], &mac.0, &EXPERIMENTAL.to_be_bytes(), &[0; SHORTEST]].concat()
}

#[cfg(test)]
mod tests {
    use weft_encap::{Inner, checksum, neighbour};

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn sender(address: &str) -> Sender {
        Sender { mac: MAC, address: address.parse().unwrap() }
    }

    #[test]
    fn questions_are_understood() {
        for (address, target) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let target: IpAddr = target.parse().unwrap();
            let frame = question(sender(address), target).unwrap();
            let asked = neighbour::question(&Inner::parse(&frame).unwrap()).unwrap();
            assert_eq!((asked.target, asked.asker), (target, Some(address.parse().unwrap())));
        }
        assert_eq!(question(sender("10.0.0.1"), "fd00::2".parse().unwrap()), None);
    }

    #[test]
    fn packets_have_the_size_asked_for_and_right_checksums() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
                for size in [None, Some(1500), Some(u16::MAX)] {
                    let to = Some(to.parse().unwrap());
                    let (source_port, destination_port) = (40_000, 80);
                    let spec = PacketSpec { to, protocol, source_port, destination_port, size, dont_fragment: true };
                    let frame = packet(Some(sender(from)), MAC, TO, &spec).unwrap();
                    let inner = Inner::parse(&frame).unwrap();
                    assert!(inner.network.protocol().is_some(), "{spec:?}");
                    assert_eq!(frame.len() - inner.l3, size.map_or(frame.len() - inner.l3, usize::from));
                    if protocol != Protocol::Icmp {
                        assert_eq!(checksum::verify(&inner), Ok(checksum::Verified::Right), "{spec:?}");
                    }
                }
            }
        }
    }
}
