//! The second seam: how tunnel packets leave and arrive.

mod lane;
mod node;
mod sender;
mod socket;
mod uplink;

use std::io;
use std::net::IpAddr;
use std::ops::Range;

use weft_bridge::VtepId;
use weft_encap::{Encapsulation, Offload};

pub use lane::{Group, Lane, MAX_GROUP_BYTES, MAX_GROUP_SEGMENTS, Outcome};
pub(crate) use lane::{MAX_GROUPS, Outer};
pub(crate) use node::NodeUnderlay;
pub use socket::{HandedSockets, Listen, NodeSockets, SocketError, SocketOptions, SocketUnderlay};
pub(crate) use uplink::{Accepted, Preamble};
pub use uplink::{NextHop, NextHops, Uplink, UplinkDevice, UplinkState};

/// UDP source ports, and so ways, among which flows are spread. One flow keeps to one.
pub const LANES: usize = 16;

/// What came from a VTEP: one tunnel packet, or a group of equally long ones behind each other.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Where it lies, UDP payloads alone, in bytes from the start of the arena.
    pub range: Range<usize>,
    /// Bytes in each packet of the group; the last may be shorter.
    pub segment: usize,
    /// The sender's address; of a malformed packet that has none the unspecified one.
    pub source: IpAddr,
    /// The UDP port that it came from: entropy.
    pub source_port: u16,
    /// What the port it arrived on is for.
    pub encapsulation: Encapsulation,
    /// DSCP and ECN of the outer headers, as the byte that holds both.
    pub tos: u8,
    /// What more than one segment of bytes means.
    pub form: Form,
}

/// Whether a datagram that is longer than its segment size is several tunnel packets or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A socket does not tell; [`weft_bridge::group`] finds out.
    Untold,
    /// Tunnel packets behind each other.
    Packets,
    /// One tunnel packet, with what the kernel said of the frame in it. Offsets count from the frame's start.
    Packet(Offload),
    /// Outer headers or outer checksum are wrong: what could be read is for a trace alone, and no tunnel packet.
    Malformed,
}

/// What one receive brought besides datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReceiveCounts {
    /// System calls made.
    pub receives: u64,
    /// Tunnel packets that the kernel dropped since the last call.
    pub overflow: u64,
}

/// Carries tunnel packets between VTEPs.
pub trait Underlay {
    /// Receives what is there from one of its sources into the arena, up to a batch.
    ///
    /// # Errors
    /// The kernel's, where it concerns the source and not one packet.
    fn recv(
        &mut self,
        source: usize,
        arena: &mut [u8],
        datagrams: &mut Vec<Datagram>,
        counts: &mut ReceiveCounts,
    ) -> io::Result<()>;

    /// A turn begins: until the next one, what this says of VTEPs stays the same.
    fn begin_turn(&mut self) {}

    /// Whether superframes to a VTEP may be queued whole in this turn.
    fn carries_superframes(&self, _vtep: VtepId) -> bool {
        false
    }

    /// Sends a lane's groups in order; tells `report` of each group in that order, by its place, what became of it.
    /// Returns the number of system calls.
    fn send(&mut self, lane: usize, queued: &Lane, arena: &[u8], report: &mut dyn FnMut(usize, Outcome)) -> u64;
}
