//! Questions for neighbours, and answers on their behalf: ARP (RFC 826, RFC 5227) and neighbour discovery
//! (RFC 4861, RFC 4862).
//!
//! Whoever knows which MAC has an address can answer in its owner's stead, and the question need not be flooded. What
//! is no question is forwarded like any other frame; what it says of its sender can be checked before.

use std::net::{IpAddr, Ipv6Addr};

use crate::bytes::{array, len16, put};
use crate::checksum::{finish, fold, pseudo_header_v6, sum};
use crate::inner::{ETHERNET_LEN, IPV6_LEN, MAX_TAGS, TAG_LEN};
use crate::{ArpView, Inner, Ipv6View, MacAddr, Network};

/// Bytes of the longest answer, tags included.
pub const MAX_ANSWER_LEN: usize = ETHERNET_LEN + MAX_TAGS * TAG_LEN + IPV6_LEN + ADVERTISEMENT_LEN;

const ARP_LEN: usize = 28;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

const PROTOCOL_ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Bytes of it without options (RFC 4861 section 4.1).
const ROUTER_SOLICITATION_LEN: usize = 8;
/// Bytes of a solicitation without options (RFC 4861 section 4.3).
const SOLICITATION_LEN: usize = 24;
/// Bytes of an advertisement with the one option for the link-layer address (RFC 4861 section 4.4).
const ADVERTISEMENT_LEN: usize = 32;
/// What no router has lowered, so that it comes from this link (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
/// Solicited-node addresses differ in their last three bytes (RFC 4291 section 2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// Who has this address?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The address asked for.
    pub target: IpAddr,
    /// The asker's own address. None while it only wants to know whether the target is taken, before it takes it
    /// itself: an ARP probe (RFC 5227 section 2.1.1), duplicate address detection (RFC 4862 section 5.4).
    pub asker: Option<IpAddr>,
}

/// The question that a frame asks, if it is one and well formed (RFC 4861 section 7.1.1).
#[must_use]
pub fn question(frame: &Inner<'_>) -> Option<Question> {
    match &frame.network {
        Network::Arp(arp) => {
            let announcement = arp.sender_ip == arp.target_ip;
            if arp.operation != ARP_REQUEST || announcement || arp.sender_mac != frame.src {
                return None;
            }
            let asker = (!arp.sender_ip.is_unspecified()).then_some(arp.sender_ip.into());
            Some(Question { target: arp.target_ip.into(), asker })
        }
        Network::Ipv6(ip) => solicitation(frame, ip),
        Network::Ipv4(_) | Network::Other => None,
    }
}

/// Writes the answer to a [`question`] to the start of `out`: that `mac` has the address. Returns its length, at most
/// [`MAX_ANSWER_LEN`]; none if the frame asks nothing, or `out` is too short.
///
/// It goes back on the same link, with the frame's VLAN tags, as if the owner had sent it.
#[must_use]
pub fn answer(frame: &Inner<'_>, mac: MacAddr, out: &mut [u8]) -> Option<usize> {
    let asked = question(frame)?;
    match (&frame.network, asked.target) {
        (Network::Arp(arp), _) => answer_arp(frame, arp, mac, out),
        (_, IpAddr::V6(target)) => answer_solicitation(frame, target, asked.asker, mac, out),
        (_, IpAddr::V4(_)) => None,
    }
}

fn solicitation(frame: &Inner<'_>, ip: &Ipv6View) -> Option<Question> {
    if ip.protocol != PROTOCOL_ICMPV6 || ip.fragment || ip.hop_limit != HOP_LIMIT {
        return None;
    }
    let message = frame.bytes.get(ip.l4..ip.end)?;
    let fixed = array::<SOLICITATION_LEN>(message, 0)?;
    let &[SOLICITATION, 0, ..] = fixed else { return None };
    let target = Ipv6Addr::from(*array::<16>(fixed, 8)?);
    let len = u16::try_from(message.len()).ok()?;
    let pseudo = pseudo_header_v6(ip.src, ip.dst, PROTOCOL_ICMPV6, len);
    if target.is_multicast() || target.is_unspecified() || fold(pseudo + sum(message)) != u16::MAX {
        return None;
    }
    let names_source = options(message.get(SOLICITATION_LEN..)?)?;
    if ip.src.is_unspecified() {
        let to_group = array::<13>(&ip.dst.octets(), 0) == Some(&SOLICITED_NODE);
        return (to_group && !names_source).then_some(Question { target: target.into(), asker: None });
    }
    let asker = Some(ip.src).filter(|src| !src.is_multicast())?;
    Some(Question { target: target.into(), asker: Some(asker.into()) })
}

/// Whether the options name the source's link-layer address; none where they do not add up.
fn options(bytes: &[u8]) -> Option<bool> {
    let mut names_source = false;
    each_option(bytes, |kind, _| names_source |= kind == SOURCE_LINK_LAYER)?;
    Some(names_source)
}

/// Shows each option's type and its bytes after type and length (RFC 4861 section 4.6); none where they do not add up.
fn each_option<'a>(mut rest: &'a [u8], mut show: impl FnMut(u8, &'a [u8])) -> Option<()> {
    while !rest.is_empty() {
        let &[kind, words] = array(rest, 0)?;
        let len = usize::from(words) * 8;
        show(kind, rest.get(2..len)?);
        rest = rest.get(len..)?;
    }
    Some(())
}

/// What a message of neighbour discovery says of its sender, besides its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// That a MAC is the sender's which is not the one that it sends from.
    AnotherMac,
    /// That it has this address (RFC 4861 section 4.4).
    Address(Ipv6Addr),
    /// That it is a router: an advertisement or a redirect (RFC 4861 sections 4.2 and 4.5).
    Router,
}

/// What a frame claims by neighbour discovery, if anything. What no receiver may heed claims nothing: a hop limit below
/// 255, a message cut short (RFC 4861 section 7.1), a fragment (RFC 6980 section 5). Checksums are not looked at: a pod's
/// kernel may have left them open.
#[inline]
#[must_use]
pub fn claim(frame: &Inner<'_>) -> Option<Claim> {
    let Network::Ipv6(ip) = &frame.network else { return None };
    if ip.protocol == PROTOCOL_ICMPV6 { claim_of_message(frame, ip) } else { None }
}

fn claim_of_message(frame: &Inner<'_>, ip: &Ipv6View) -> Option<Claim> {
    if ip.fragment || ip.hop_limit != HOP_LIMIT {
        return None;
    }
    let message = frame.bytes.get(ip.l4..ip.end)?;
    let fixed_len = match *message.first()? {
        ROUTER_SOLICITATION => ROUTER_SOLICITATION_LEN,
        SOLICITATION | ADVERTISEMENT => SOLICITATION_LEN,
        ROUTER_ADVERTISEMENT | REDIRECT => return Some(Claim::Router),
        _ => return None,
    };
    let mut another_mac = false;
    let link_layer = |kind| [SOURCE_LINK_LAYER, TARGET_LINK_LAYER].contains(&kind);
    each_option(message.get(fixed_len..)?, |kind, value| {
        another_mac |= link_layer(kind) && !value.starts_with(&frame.src.0);
    })?;
    if another_mac {
        return Some(Claim::AnotherMac);
    }
    let target = || array::<16>(message, 8).map(|target| Claim::Address((*target).into()));
    (message.first() == Some(&ADVERTISEMENT)).then(target).flatten()
}

fn answer_arp(frame: &Inner<'_>, arp: &ArpView, mac: MacAddr, out: &mut [u8]) -> Option<usize> {
    let (len, packet) = link(frame, frame.src, mac, ARP_LEN, out)?;
    put(packet, 0, [0, 1, 8, 0, 6, 4]);
    put(packet, 6, ARP_REPLY.to_be_bytes());
    put(packet, 8, mac.0);
    put(packet, 14, arp.target_ip.octets());
    put(packet, 18, arp.sender_mac.0);
    put(packet, 24, arp.sender_ip.octets());
    Some(len)
}

fn answer_solicitation(
    frame: &Inner<'_>,
    target: Ipv6Addr,
    asker: Option<IpAddr>,
    mac: MacAddr,
    out: &mut [u8],
) -> Option<usize> {
    let (to, to_mac, solicited) = match asker {
        Some(IpAddr::V6(asker)) => (asker, frame.src, SOLICITED),
        // Nobody can be told alone who has no address yet (RFC 4861 section 7.2.4).
        _ => (ALL_NODES, ALL_NODES_MAC, 0),
    };
    let (len, packet) = link(frame, to_mac, mac, IPV6_LEN + ADVERTISEMENT_LEN, out)?;
    let (header, message) = packet.split_at_mut_checked(IPV6_LEN)?;
    put(header, 0, [0x60, 0, 0, 0, 0, 0, PROTOCOL_ICMPV6, HOP_LIMIT]);
    put(header, 4, len16(ADVERTISEMENT_LEN).to_be_bytes());
    put(header, 8, target.octets());
    put(header, 24, to.octets());
    put(message, 0, [ADVERTISEMENT, 0, 0, 0, solicited | OVERRIDE, 0, 0, 0]);
    put(message, 8, target.octets());
    put(message, SOLICITATION_LEN, [TARGET_LINK_LAYER, 1]);
    put(message, SOLICITATION_LEN + 2, mac.0);
    let pseudo = pseudo_header_v6(target, to, PROTOCOL_ICMPV6, len16(ADVERTISEMENT_LEN));
    let value = finish(pseudo + sum(message));
    put(message, 2, value.to_be_bytes());
    Some(len)
}

/// Writes the link header; returns the answer's length and its packet of `packet_len` bytes, as yet unwritten.
fn link<'a>(
    frame: &Inner<'_>,
    to: MacAddr,
    from: MacAddr,
    packet_len: usize,
    out: &'a mut [u8],
) -> Option<(usize, &'a mut [u8])> {
    let len = frame.l3 + packet_len;
    let (link, packet) = out.get_mut(..len)?.split_at_mut_checked(frame.l3)?;
    put(link, 0, to.0);
    put(link, 6, from.0);
    link.get_mut(12..)?.copy_from_slice(frame.bytes.get(12..frame.l3)?);
    Some((len, packet))
}
