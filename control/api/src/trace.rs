//! Traces: what becomes of frames, and what would become of one.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What would become of something that nobody has sent. It changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhatIf {
    /// A pod asks for the neighbour to which it sends what is for an address: that address, or its gateway's.
    Resolve {
        /// The port's name.
        pod: String,
        /// The address.
        to: IpAddr,
    },
    /// A pod sends a packet.
    Send {
        /// The port's name.
        pod: String,
        /// The destination MAC.
        mac: String,
        /// The packet.
        packet: PacketSpec,
    },
    /// Tunnel packets come from another node.
    Arrive {
        /// The sender's VTEP address.
        source: IpAddr,
        /// `vxlan` or `geneve`.
        encapsulation: String,
        /// DSCP and ECN of the outer header, as the byte that holds both.
        tos: u8,
        /// UDP payloads.
        packets: Vec<HexBytes>,
        /// Tells which port has this address, if it gets a copy.
        seeks: Option<IpAddr>,
    },
}

/// A packet that a pod would send.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PacketSpec {
    /// To which address; none where it is known by its MAC alone.
    pub to: Option<IpAddr>,
    /// What it is.
    pub protocol: Protocol,
    /// Source port of TCP and UDP.
    pub source_port: u16,
    /// Destination port of TCP and UDP.
    pub destination_port: u16,
    /// Bytes of the IP packet; none for the shortest.
    pub size: Option<u16>,
    /// Whether DF is set.
    pub dont_fragment: bool,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// The beginning of a connection (SYN).
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Icmp,
}

/// What would become of it on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Foretold {
    /// The node.
    pub node: String,
    /// What happens to the frame, in order.
    pub steps: Vec<Step>,
    /// What happens to each of its copies.
    pub copies: Vec<CopyForetold>,
    /// Why there are none, if it is dropped.
    pub dropped: Option<DropHint>,
    /// Of a question for a neighbour: the MAC with which it is answered on this node.
    pub answer: Option<String>,
    /// Of a question for a neighbour: the address asked for.
    pub next_hop: Option<IpAddr>,
}

/// What would become of one copy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CopyForetold {
    /// The port's name, or the VTEP's address.
    pub to: String,
    /// What happens to it, in order.
    pub steps: Vec<Step>,
    /// Where it ends on this node.
    pub end: CopyEnd,
}

/// Where a copy ends on a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyEnd {
    /// At a port: it is delivered.
    Port {
        /// Its name.
        name: String,
    },
    /// On its way to another node.
    Vtep {
        /// That node's VTEP address.
        address: IpAddr,
        /// This node's.
        source: IpAddr,
        /// The UDP port there.
        udp_port: u16,
        /// `vxlan` or `geneve`.
        encapsulation: String,
        /// DSCP and ECN of the outer header, as the byte that holds both.
        tos: u8,
        /// UDP payloads.
        packets: Vec<HexBytes>,
    },
    /// Nowhere.
    Dropped(DropHint),
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Step {
    /// What happens: `ask`, `port`, `admit`, `forward`, `answer`, `encapsulate`, `underlay` or `deliver`.
    pub stage: String,
    /// How, and why.
    pub text: String,
}

/// Why something is dropped, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DropHint {
    /// The reason's name.
    pub reason: String,
    /// What it means.
    pub meaning: String,
    /// What to look at or change.
    pub hint: String,
    /// What this frame has to do with it.
    pub detail: Option<String>,
}

/// Which frames are told of; all of it has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TraceFilter {
    /// By which port they enter or leave.
    pub pod: Option<String>,
    /// Their VNI, 1 to 16,777,215.
    pub vni: Option<u32>,
    /// From or to the VTEP with this address.
    pub peer: Option<IpAddr>,
    /// From or to this MAC.
    pub mac: Option<String>,
    /// From or to this address.
    pub ip: Option<IpAddr>,
    /// One of these protocol numbers of IP; none: any.
    pub protocols: Vec<u8>,
    /// Port of TCP, UDP or SCTP, at either end.
    pub port: Option<u16>,
    /// What is dropped alone.
    pub drops: bool,
    /// Tell their bytes, too.
    pub bytes: bool,
}

/// Some of what became of frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TraceBatch {
    /// Frames and copies.
    pub rows: Vec<TraceRow>,
    /// How many frames and copies could not be told since the trace began.
    pub lost: u64,
}

/// What became of a frame, or of one copy of it, on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TraceRow {
    /// The node.
    pub node: String,
    /// Index of the worker, from 0.
    pub worker: usize,
    /// Index of the frame on that worker; its copies share it.
    pub frame: u64,
    /// When it was decided, in nanoseconds since 1970.
    pub entered_ns: u64,
    /// When its fate was known, in nanoseconds since 1970.
    pub settled_ns: u64,
    /// `port`, `vtep` or `stranger`.
    pub from_kind: String,
    /// The port's name, or the sender's address.
    pub from: String,
    /// Its VNI, where it could be told.
    pub vni: Option<u32>,
    /// Bytes of the frame.
    pub bytes: usize,
    /// Packets that it stands for.
    pub packets_in: u16,
    /// What it is.
    pub packet: String,
    /// The flow that it belongs to; none of what is not IP.
    #[serde(default)]
    pub flow: Option<FlowKey>,
    /// The verdict: `unicast`, `flood`, `answer` or `drop`.
    pub verdict: String,
    /// Why: `static`, `learned`, `gateway`, `neighbour`; `unknown`, `group`; or the MAC answered with.
    pub why: Option<String>,
    /// `port` or `vtep`, of a copy.
    pub to_kind: Option<String>,
    /// The port's name, or the VTEP's address, of a copy.
    pub to: Option<String>,
    /// Packets that the copy left as.
    pub packets_out: u32,
    /// Frames that left in one piece with it, itself among them.
    pub merged: u32,
    /// Why it was dropped, if it was.
    pub dropped: Option<DropHint>,
    /// By what it is known again on other nodes.
    pub identity: Option<IdentityRow>,
    /// Its bytes, where they were asked for.
    pub captured: Option<CapturedRow>,
}

/// What all packets of one direction of a flow have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct FlowKey {
    /// From this address.
    pub source: IpAddr,
    /// To this one.
    pub destination: IpAddr,
    /// Protocol number of IP; none for ARP, whose addresses are those that it speaks of.
    pub protocol: Option<u8>,
    /// Source port of TCP, UDP and SCTP; none in a later fragment.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
}

/// By what a frame is known again; docs/trace.md defines it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct IdentityRow {
    /// Digest of VNI, MACs, type, IP addresses and protocol: 16 hex digits.
    pub hosts: String,
    /// Digest of these, ports and acknowledgment number: 16 hex digits.
    pub flow: String,
    /// Identification of IPv4, 16 bits (RFC 791 section 3.1).
    pub ip_id: Option<u16>,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// Packets that it stands for.
    pub packets: u16,
    /// TCP: first sequence number, payload bytes, flags (RFC 9293 section 3.1).
    pub bytes: Option<(u32, u32, u8)>,
    /// All else: a hash of each of its packets' payloads, 32 bits.
    pub marks: Vec<u32>,
}

/// A frame's bytes, inside and outside of the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct CapturedRow {
    /// The frame, as it entered.
    pub inner: HexBytes,
    /// What its device said of it, if that is not nothing: checksums to fill, packets that it stands for.
    pub offload: Option<String>,
    /// The tunnel packet that it came in: IP header and all behind it.
    pub outer_in: Option<HexBytes>,
    /// The tunnel packets that this copy left as.
    pub outer_out: Vec<HexBytes>,
}

/// Bytes that travel as hex digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        serializer.serialize_str(&digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("bytes are pairs of hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_digits() {
        let bytes = HexBytes(vec![0, 0x0f, 0xf0, 0xff]);
        let text = serde_json::to_string(&bytes);
        assert_eq!(text.as_deref().ok(), Some("\"000ff0ff\""));
        assert_eq!(text.and_then(|text| serde_json::from_str(&text)).ok(), Some(bytes));
        assert!(["\"0\"", "\"zz\"", "\"é\""].iter().all(|text| serde_json::from_str::<HexBytes>(text).is_err()));
    }
}
