//! Records as rows: pure.

use std::net::IpAddr;

use weft_api::{CapturedRow, FlowKey, HexBytes, IdentityRow, TraceRow};
use weft_bridge::{Attachment, FloodCause, How, Tables};
use weft_encap::inner::{ETHERTYPE_ARP, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use weft_encap::outer::{self, Addresses, Outer, UdpChecksum};
use weft_encap::{Checksum, Offload, checksum};
use weft_switch::trace::{
    Captured, CopyTold, Identity, Ingress, Place, Record, Sent, SourcePort, Summary, Told, TunnelBytes,
};
use weft_switch::underlay::{LANES, Listen};

use super::explain::{copy_detail, drop_hint, packet_len, verdict_detail};
use crate::desired::name_of;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
/// Names of TCP's flags, lowest first (RFC 9293 section 3.1).
const FLAGS: [&str; 5] = ["FIN", "SYN", "RST", "PSH", "ACK"];

/// What does not change while a trace is on.
pub(super) struct Here {
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) listen: Vec<Listen>,
    /// Of each lane, over IPv4 and over IPv6.
    pub(super) source_ports: [[Option<u16>; 2]; LANES],
}

/// What became of a frame, or of a copy of it, as it is shown.
pub(super) fn row(here: &Here, tables: &Tables, worker: usize, record: &Record) -> TraceRow {
    let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (from_kind, from) = match record.ingress {
        Ingress::Port(id) => name_of(tables, Attachment::Port(id)),
        Ingress::Vtep(_, address) => ("vtep", address.to_string()),
        Ingress::Stranger(address) => ("stranger", address.to_string()),
    };
    let (verdict, why) = verdict(record.decision);
    let to = record.copy.map(|copy| name_of(tables, copy.egress));
    let sent = record.copy.and_then(|copy| copy.outcome.ok()).unwrap_or_default();
    let Sent { packets, merged } = sent;
    TraceRow {
        node: here.node.clone(),
        worker,
        frame: record.frame,
        entered_ns: ns(record.entered),
        settled_ns: ns(record.settled),
        from_kind: from_kind.to_owned(),
        from,
        vni: record.vni.map(weft_encap::Vni::get),
        bytes: record.len,
        packets_in: record.identity.as_ref().map_or(1, |identity| identity.packets),
        packet: match (&record.summary, record.ingress) {
            (Some(summary), _) => packet_text(summary),
            (None, Ingress::Port(_)) => "no frame".to_owned(),
            (None, Ingress::Vtep(..) | Ingress::Stranger(_)) => "tunnel packet without a frame".to_owned(),
        },
        flow: record.summary.as_ref().and_then(flow),
        verdict: verdict.to_owned(),
        why,
        to_kind: to.as_ref().map(|(kind, _)| (*kind).to_owned()),
        to: to.map(|(_, name)| name),
        packets_out: packets,
        merged,
        dropped: record.dropped().map(|reason| {
            let detail = match record.copy {
                Some(CopyTold { egress, .. }) => {
                    let len = record.captured.as_ref().map(|captured| packet_len(&captured.inner, &captured.offload));
                    len.and_then(|len| copy_detail(tables, egress, len, reason))
                }
                None => verdict_detail(tables, record, reason),
            };
            drop_hint(reason, detail)
        }),
        identity: record.identity.as_ref().map(identity),
        captured: record.captured.as_ref().map(|bytes| captured(here, bytes)),
    }
}

fn verdict(told: Told) -> (&'static str, Option<String>) {
    let named = |name: &str| Some(name.to_owned());
    match told {
        Told::Unicast(How::Static) => ("unicast", named("static")),
        Told::Unicast(How::Learned) => ("unicast", named("learned")),
        Told::Unicast(How::Gateway) => ("unicast", named("gateway")),
        Told::Unicast(How::Neighbour) => ("unicast", named("neighbour")),
        Told::Flood(FloodCause::Unknown) => ("flood", named("unknown")),
        Told::Flood(FloodCause::Group) => ("flood", named("group")),
        Told::Answer(mac) => ("answer", Some(mac.to_string())),
        Told::Drop(_) => ("drop", None),
    }
}

fn packet_text(summary: &Summary) -> String {
    let Summary { src, dst, ethertype, network, ports, kind, fragment, asks } = summary;
    let Some((from, to, protocol)) = network else { return format!("{src} > {dst} type {ethertype:#06x}") };
    if let Some(target) = asks {
        return format!("who has {target}? asks {from}");
    }
    let Some(protocol) = protocol else {
        return if *ethertype == ETHERTYPE_ARP { format!("ARP: {from} is at {src}") } else { format!("{from} > {to}") };
    };
    let name = match *protocol {
        PROTOCOL_TCP => "TCP".to_owned(),
        PROTOCOL_UDP => "UDP".to_owned(),
        PROTOCOL_SCTP => "SCTP".to_owned(),
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => "ICMP".to_owned(),
        other => format!("protocol {other}"),
    };
    let more = match (*protocol, kind) {
        _ if *fragment => " fragment".to_owned(),
        (PROTOCOL_TCP, Some(flags)) => {
            let set = FLAGS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
            set.map(|(_, name)| format!(" {name}")).collect()
        }
        (PROTOCOL_ICMP | PROTOCOL_ICMPV6, Some(kind)) => format!(" {}", icmp(*protocol, *kind)),
        _ => String::new(),
    };
    match ports {
        Some((from_port, to_port)) => {
            format!("{} > {} {name}{more}", at_port(*from, *from_port), at_port(*to, *to_port))
        }
        None => format!("{from} > {to} {name}{more}"),
    }
}

fn flow(summary: &Summary) -> Option<FlowKey> {
    let (source, destination, protocol) = summary.network?;
    let (source_port, destination_port) = summary.ports.unzip();
    Some(FlowKey { source, destination, protocol, source_port, destination_port })
}

fn at_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn icmp(protocol: u8, kind: u8) -> String {
    match (protocol, kind) {
        (PROTOCOL_ICMP, 8) | (PROTOCOL_ICMPV6, 128) => "echo request".to_owned(),
        (PROTOCOL_ICMP, 0) | (PROTOCOL_ICMPV6, 129) => "echo reply".to_owned(),
        (PROTOCOL_ICMP, 3) | (PROTOCOL_ICMPV6, 1) => "unreachable".to_owned(),
        (PROTOCOL_ICMPV6, 2) => "packet too big".to_owned(),
        (PROTOCOL_ICMP, 11) | (PROTOCOL_ICMPV6, 3) => "time exceeded".to_owned(),
        (PROTOCOL_ICMPV6, 133) => "router solicitation".to_owned(),
        (PROTOCOL_ICMPV6, 134) => "router advertisement".to_owned(),
        (PROTOCOL_ICMPV6, 135) => "neighbour solicitation".to_owned(),
        (PROTOCOL_ICMPV6, 136) => "neighbour advertisement".to_owned(),
        (PROTOCOL_ICMPV6, 143) => "multicast listener report".to_owned(),
        (_, other) => format!("type {other}"),
    }
}

fn identity(identity: &Identity) -> IdentityRow {
    let Identity { hosts, flow, ip_id, fragment, packets, place } = identity;
    let (bytes, marks) = match place {
        Place::Bytes { from, len, flags } => (Some((*from, *len, *flags)), Vec::new()),
        Place::Marks { first, others } => (None, std::iter::once(*first).chain(others.iter().copied()).collect()),
    };
    let (hosts, flow) = (format!("{hosts:016x}"), format!("{flow:016x}"));
    IdentityRow { hosts, flow, ip_id: *ip_id, fragment: *fragment, packets: *packets, bytes, marks }
}

fn captured(here: &Here, captured: &Captured) -> CapturedRow {
    let outer = |packet: &TunnelBytes| outer_packet(here, packet).map(HexBytes);
    CapturedRow {
        inner: HexBytes(captured.inner.to_vec()),
        offload: offload_text(&captured.offload),
        outer_in: captured.outer_in.as_ref().and_then(outer),
        outer_out: captured.outer_out.iter().filter_map(outer).collect(),
    }
}

fn offload_text(offload: &Offload) -> Option<String> {
    let checksum = match offload.checksum {
        Checksum::Needed { .. } => Some("its checksum is to be filled".to_owned()),
        Checksum::Unknown | Checksum::Valid => None,
    };
    let segments = offload.gso.map(|gso| format!("it stands for packets of {} bytes of payload", gso.size));
    let told: Vec<String> = checksum.into_iter().chain(segments).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// A tunnel packet from its IP header on: as the kernel writes or wrote it, but for the identification, and the TTL of one
/// that came, which nobody told.
fn outer_packet(here: &Here, packet: &TunnelBytes) -> Option<Vec<u8>> {
    let own = here.addresses.iter().copied().find(|own| own.is_ipv4() == packet.peer.is_ipv4())?;
    let leaves = packet.destination_port.is_some();
    let (src, dst) = if leaves { (own, packet.peer) } else { (packet.peer, own) };
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4 { src, dst },
        (IpAddr::V6(src), IpAddr::V6(dst)) => Addresses::V6 { src, dst },
        _ => return None,
    };
    let listens =
        |listen: &&Listen| listen.encapsulation == packet.encapsulation && listen.at.is_ipv4() == own.is_ipv4();
    let listen = || here.listen.iter().find(listens).map(|listen| listen.at.port());
    let src_port = match packet.source_port {
        SourcePort::Port(port) => port,
        SourcePort::Lane(lane) => here.source_ports.get(lane)?[usize::from(own.is_ipv6())]?,
    };
    let dst_port = packet.destination_port.or_else(listen)?;
    let ttl = packet.ttl.unwrap_or(outer::DEFAULT_TTL);
    let header = Outer { addresses, src_port, dst_port, tos: packet.tos, ttl, identification: 0 };
    let mut bytes = vec![0; outer::MAX_LEN];
    let udp = UdpChecksum::Complete { payload: checksum::sum(&packet.payload) };
    let len = header.write(&mut bytes, packet.payload.len(), udp).ok()?;
    bytes.truncate(len);
    bytes.extend_from_slice(&packet.payload);
    Some(bytes)
}
