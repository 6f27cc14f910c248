//! What a record means, in words: pure.

use std::net::IpAddr;

use weft_api::DropHint;
use weft_bridge::tables::Port;
use weft_bridge::{Attachment, DropReason, FloodCause, How, PortMode, Tables, VtepKind, wire_len};
use weft_encap::{Inner, MacAddr, Offload, Vni};
use weft_switch::trace::{CopyTold, Ingress, Record, Sent, Summary, Told};

use crate::desired::name_of;

/// Bytes in front of the MTU field of "fragmentation needed" (RFC 1191 section 4) and "packet too big" (RFC 4443 section
/// 3.2), both counted from the ICMP header.
const MTU_PLACES: [(u8, u8, usize, usize); 2] = [(3, 4, 6, 2), (2, 0, 4, 4)];

/// What is known besides the tables.
pub(super) struct Known<'a> {
    pub(super) tables: &'a Tables,
    /// The node that published a MAC.
    pub(super) publisher: &'a dyn Fn(Vni, MacAddr, Attachment) -> Option<String>,
    /// Seconds since a MAC was learned.
    pub(super) age: &'a dyn Fn(Vni, MacAddr) -> Option<u32>,
}

/// A reason, and what this frame has to do with it.
pub(super) fn drop_hint(reason: DropReason, detail: Option<String>) -> DropHint {
    DropHint {
        reason: reason.name().to_owned(),
        meaning: reason.meaning().to_owned(),
        hint: reason.hint().to_owned(),
        detail,
    }
}

/// What a port lets through.
pub(super) fn port_text(port: &Port) -> String {
    let Port { name, mac, mtu, mode, .. } = port;
    match mode {
        PortMode::Bound { addresses } if addresses.is_empty() => format!("{name} is bound to {mac}, MTU {mtu}"),
        PortMode::Bound { addresses } => format!("{name} is bound to {mac}, {}, MTU {mtu}", list(addresses)),
        PortMode::Learning { .. } => format!("{name} learns: any MAC may send, MTU {mtu}"),
    }
}

/// By what a tunnel packet was let in.
pub(super) fn admit_text(tables: &Tables, ingress: Ingress, vni: Option<Vni>) -> String {
    let (Ingress::Vtep(id, address), Some(vni)) = (ingress, vni) else { return "a tunnel packet".to_owned() };
    let kind = match tables.vtep(id).map(|vtep| vtep.kind) {
        Some(VtepKind::Managed) => "managed",
        Some(VtepKind::Foreign) | None => "foreign",
    };
    let member = tables.domain(vni).is_some_and(|domain| domain.has_member(id));
    let member = if member { "a member of" } else { "early: not yet known as a member of" };
    format!("from {address}, a {kind} VTEP, {member} VNI {vni}")
}

/// Why the frame goes where it goes.
pub(super) fn verdict_text(known: &Known<'_>, record: &Record, copies: &[CopyTold]) -> String {
    let (Some(summary), Some(vni)) = (&record.summary, record.vni) else { return String::new() };
    let dst = summary.dst;
    let target = copies.first().map(|copy| copy.egress);
    let place = target.map_or_else(String::new, |target| at(known.tables, target));
    match record.decision {
        Told::Unicast(How::Static) => {
            let by = target.and_then(|target| (known.publisher)(vni, dst, target));
            match (target, by) {
                (Some(Attachment::Vtep(_)), Some(node)) => format!("{dst} is {place}: published by {node}"),
                (Some(Attachment::Vtep(_)), None) => format!("{dst} is {place}: published"),
                _ => format!("{dst} is {place}: its own MAC"),
            }
        }
        Told::Unicast(How::Learned) => {
            let age = (known.age)(vni, dst).map_or_else(String::new, |age| format!(", seen {age} s ago"));
            format!("{dst} is {place}: learned{age}")
        }
        Told::Unicast(How::Gateway) => {
            format!("{dst} is the gateway's MAC, for which this node has {place}: the frame gets that port's MAC")
        }
        Told::Unicast(How::Neighbour) => {
            format!("it asks for {}, who is {place}: to nobody else", asked(summary))
        }
        Told::Flood(cause) => {
            let ports = copies.iter().filter(|copy| matches!(copy.egress, Attachment::Port(_))).count();
            let why = match cause {
                FloodCause::Unknown => format!("nobody knows {dst}"),
                FloodCause::Group if dst == MacAddr::BROADCAST => "for all".to_owned(),
                FloodCause::Group => format!("for the group {dst}"),
            };
            let vteps = copies.len() - ports;
            format!("{why}: flooded to {} and {}", count(ports, "port"), count(vteps, "VTEP"))
        }
        Told::Answer(mac) => {
            let domain = known.tables.domain(vni);
            let owner = domain.and_then(|domain| domain.static_mac(mac));
            let place = owner.map_or_else(String::new, |owner| format!(", {}", at(known.tables, owner)));
            let by = owner.and_then(|owner| (known.publisher)(vni, mac, owner));
            let by = by.map_or_else(String::new, |node| format!(" of {node}"));
            format!("{} has {mac}{place}{by}: answered here, not flooded", asked(summary))
        }
        Told::Drop(_) => String::new(),
    }
}

/// What the frame has to do with the reason for which it has no verdict but that.
pub(super) fn verdict_detail(tables: &Tables, record: &Record, reason: DropReason) -> Option<String> {
    let summary = record.summary.as_ref();
    let port = match record.ingress {
        Ingress::Port(id) => tables.port(id),
        Ingress::Vtep(..) | Ingress::Stranger(_) => None,
    };
    let vni = record.vni;
    Some(match (reason, record.ingress) {
        (DropReason::SpoofedMac, _) => format!("it comes from {}, the port's MAC is {}", summary?.src, port?.mac),
        (DropReason::SpoofedIp, _) => {
            let PortMode::Bound { addresses } = &port?.mode else { return None };
            let (from, _, _) = summary?.network?;
            format!("it comes from {from}, the port may send from {}", list(addresses))
        }
        (DropReason::ExceedsIngressMtu, _) => {
            format!("the port's MTU is {}; with that at its device, the pod would cut or refuse it itself", port?.mtu)
        }
        (DropReason::UnknownSource | DropReason::OwnSource, Ingress::Stranger(from)) => format!("it came from {from}"),
        (DropReason::UnknownVni | DropReason::NotMember | DropReason::VlanTagged, _) => format!("VNI {}", vni?),
        (DropReason::NoFloodTarget, _) => format!("VNI {} has nobody else here, and {} is unknown", vni?, summary?.dst),
        (DropReason::Hairpin | DropReason::SplitHorizon, _) => {
            let owner = tables.domain(vni?)?.static_mac(summary?.dst);
            let place = owner.map_or_else(|| "learned there".to_owned(), |owner| at(tables, owner));
            format!("{} is {place}", summary?.dst)
        }
        (DropReason::StaticMacMoved, _) => {
            let owner = tables.domain(vni?)?.static_mac(summary?.src)?;
            format!("{} is {}", summary?.src, at(tables, owner))
        }
        _ => return None,
    })
}

/// What a copy has to do with the reason for which it is dropped.
pub(super) fn copy_detail(tables: &Tables, egress: Attachment, len: usize, reason: DropReason) -> Option<String> {
    let mtu = match egress {
        Attachment::Port(id) => format!("the port's MTU is {}", tables.port(id)?.mtu),
        Attachment::Vtep(id) => format!("{} bytes fit through the tunnel", tables.vtep(id)?.pod_mtu),
    };
    let long = [DropReason::ExceedsPathMtu, DropReason::ExceedsPortMtu, DropReason::BelowIpv6Minimum];
    long.contains(&reason).then(|| format!("a packet of {len} bytes, and {mtu}"))
}

/// In how many pieces a copy left.
pub(super) fn sent_text(sent: Sent) -> String {
    match sent {
        Sent { packets: 1, .. } => "1 packet".to_owned(),
        Sent { packets, .. } => format!("{packets} packets"),
    }
}

/// Bytes of the longest IP packet that a frame stands for; of what is no frame, its own.
pub(super) fn packet_len(frame: &[u8], offload: &Offload) -> usize {
    Inner::parse(frame).map_or(frame.len(), |inner| wire_len(&inner, offload))
}

/// The MTU that a frame tells its receiver, if it is such an ICMP message.
pub(super) fn told_mtu(frame: &[u8]) -> Option<u32> {
    let inner = Inner::parse(frame).ok()?;
    let (l4, v6) = match &inner.network {
        weft_encap::Network::Ipv4(ip) if ip.protocol == 1 => (ip.l4, false),
        weft_encap::Network::Ipv6(ip) if ip.protocol == 58 => (ip.l4, true),
        _ => return None,
    };
    let message = inner.bytes.get(l4..)?;
    let (kind, code, start, len) = MTU_PLACES[usize::from(v6)];
    if message.get(..2)? != [kind, code] {
        return None;
    }
    Some(message.get(start..start + len)?.iter().fold(0, |mtu, byte| mtu << 8 | u32::from(*byte)))
}

/// Where an attachment is.
pub(super) fn at(tables: &Tables, attachment: Attachment) -> String {
    match (attachment, name_of(tables, attachment).1) {
        (Attachment::Port(_), name) => format!("at port {name}"),
        (Attachment::Vtep(_), address) => format!("behind VTEP {address}"),
    }
}

fn asked(summary: &Summary) -> String {
    summary.asks.map_or_else(|| "an address".to_owned(), |address| address.to_string())
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
