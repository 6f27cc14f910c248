use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_bridge::{Attachment, DropReason, FloodCause, How, PortId, VtepId};
use weft_encap::inner::PROTOCOL_TCP;
use weft_encap::{Encapsulation, Inner, MacAddr, Network, Offload, Vni, neighbour};

use super::Identity;

/// What became of a frame, or of one copy of it, on one node.
#[derive(Clone, Debug)]
pub struct Record {
    /// Index of the frame on its worker, from when that began to tell; its copies share it.
    pub frame: u64,
    /// When it was decided, since 1970.
    pub entered: Duration,
    /// When its fate was known, since 1970.
    pub settled: Duration,
    /// Where it came from.
    pub ingress: Ingress,
    /// Its virtual network, where it could be told.
    pub vni: Option<Vni>,
    /// Bytes of the frame.
    pub len: usize,
    /// What its headers say; none where it has none.
    pub summary: Option<Summary>,
    /// By what it is known again; none where it has no headers or no VNI.
    pub identity: Option<Identity>,
    /// The verdict.
    pub decision: Told,
    /// One copy of it; none where the verdict makes none.
    pub copy: Option<CopyTold>,
    /// Its bytes, where they were asked for.
    pub captured: Option<Captured>,
}

/// Where a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// A port of this node.
    Port(PortId),
    /// A VTEP, and its address.
    Vtep(VtepId, IpAddr),
    /// A sender that is no VTEP, or whose packet was refused before that mattered.
    Stranger(IpAddr),
}

/// A verdict, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// One copy, and why there.
    Unicast(How),
    /// A copy for every other member.
    Flood(FloodCause),
    /// It asks for a neighbour, and was answered that this MAC has it.
    Answer(MacAddr),
    /// None.
    Drop(DropReason),
}

/// What became of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyTold {
    /// Where it was to go.
    pub egress: Attachment,
    /// Handed to the kernel as so many packets, or dropped.
    pub outcome: Result<Sent, DropReason>,
}

/// How a copy left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets that it left as: one; the segments of a superframe, or fragments; to a port, one write.
    pub packets: u32,
    /// Frames that left in one piece with it, itself among them: those that were merged.
    pub merged: u32,
}

/// What is read of a frame's headers for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Source MAC.
    pub src: MacAddr,
    /// Destination MAC.
    pub dst: MacAddr,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// Source, destination and protocol of IP; ARP's addresses, without a protocol.
    pub network: Option<(IpAddr, IpAddr, Option<u8>)>,
    /// Ports of TCP, UDP or SCTP.
    pub ports: Option<(u16, u16)>,
    /// TCP's flags (RFC 9293 section 3.1), or the type of ICMP (RFC 792, RFC 4443).
    pub kind: Option<u8>,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// The address that it asks for (ARP, neighbour discovery).
    pub asks: Option<IpAddr>,
}

/// A frame's bytes, inside and outside of the tunnel.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The frame as it entered, and what its device said of it.
    pub inner: Arc<Bytes>,
    /// What came with it.
    pub offload: Offload,
    /// The tunnel packet that it came in.
    pub outer_in: Option<TunnelBytes>,
    /// The tunnel packets that this copy left as.
    pub outer_out: Vec<TunnelBytes>,
}

/// A tunnel packet's bytes, and what its outer headers say.
#[derive(Clone, Debug)]
pub struct TunnelBytes {
    /// Address of the other node.
    pub peer: IpAddr,
    /// UDP source port of a packet that came; the lane, by which the port is known, of one that left.
    pub source_port: SourcePort,
    /// UDP destination port of a packet that left.
    pub destination_port: Option<u16>,
    /// How the frame is carried.
    pub encapsulation: Encapsulation,
    /// DSCP and ECN, as the byte that holds both.
    pub tos: u8,
    /// TTL, or hop limit, of a packet that left, in hops.
    pub ttl: Option<u8>,
    /// UDP payload.
    pub payload: Arc<Bytes>,
}

/// What is known of an outer source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// The UDP port that it came from.
    Port(u16),
    /// Index of the lane that it left by.
    Lane(usize),
}

/// Captured bytes, which count as long as somebody has them.
#[derive(Debug)]
pub struct Bytes {
    bytes: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl Bytes {
    /// A copy of some bytes; none where more than `limit` would be held.
    pub(crate) fn copy(pieces: &[&[u8]], held: &Arc<AtomicUsize>, limit: usize) -> Option<Arc<Self>> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if held.fetch_add(len, Ordering::Relaxed) + len > limit {
            held.fetch_sub(len, Ordering::Relaxed);
            return None;
        }
        Some(Arc::new(Self { bytes: pieces.concat(), held: held.clone() }))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Record {
    /// Why the frame, or this copy, went nowhere.
    #[must_use]
    pub fn dropped(&self) -> Option<DropReason> {
        match (self.decision, self.copy) {
            (Told::Drop(reason), _) => Some(reason),
            (_, Some(CopyTold { outcome: Err(reason), .. })) => Some(reason),
            _ => None,
        }
    }
}

impl Summary {
    /// That of a frame.
    #[must_use]
    pub fn of(inner: &Inner<'_>) -> Self {
        let (network, l4, fragment) = match &inner.network {
            Network::Ipv4(ip) => (Some((ip.src.into(), ip.dst.into(), Some(ip.protocol))), ip.l4, ip.fragment),
            Network::Ipv6(ip) => (Some((ip.src.into(), ip.dst.into(), Some(ip.protocol))), ip.l4, ip.fragment),
            Network::Arp(arp) => (Some((arp.sender_ip.into(), arp.target_ip.into(), None)), inner.l3, false),
            Network::Other => (None, inner.l3, false),
        };
        let is_tcp = inner.network.protocol() == Some(PROTOCOL_TCP);
        let kind = inner.bytes.get(if is_tcp { l4 + 13 } else { l4 }).copied();
        Self {
            src: inner.src,
            dst: inner.dst,
            ethertype: inner.ethertype,
            network,
            ports: inner.ports(),
            kind: kind.filter(|_| inner.network.protocol().is_some() && !fragment),
            fragment,
            asks: neighbour::question(inner).map(|question| question.target),
        }
    }
}
