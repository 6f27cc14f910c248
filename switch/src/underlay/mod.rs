//! The second seam: how tunnel packets leave and arrive.

mod lane;
mod sender;
mod socket;

use std::io;
use std::net::IpAddr;
use std::ops::Range;

use weft_encap::Encapsulation;

pub use lane::{Group, Lane, MAX_GROUP_BYTES, MAX_GROUP_SEGMENTS, Outcome};
pub(crate) use lane::{MAX_GROUPS, Outer};
pub use socket::{Listen, SocketError, SocketOptions, SocketUnderlay};

/// Ways with a UDP source port of their own, among which flows are spread. One flow keeps to one.
pub const LANES: usize = 16;

/// What came from a VTEP: one tunnel packet, or a group of equally long ones behind each other.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Where it lies in the arena: UDP payloads.
    pub range: Range<usize>,
    /// Bytes in each packet of the group; the last may be shorter.
    pub segment: usize,
    /// The sender's address.
    pub source: IpAddr,
    /// What the port it arrived on is for.
    pub encapsulation: Encapsulation,
    /// DSCP and ECN of the outer headers.
    pub tos: u8,
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

    /// Sends a lane's groups in order; tells `report` of each group in that order, by its place, what became of it.
    /// Returns the number of system calls.
    fn send(&mut self, lane: usize, queued: &Lane, arena: &[u8], report: &mut dyn FnMut(usize, Outcome)) -> u64;
}
