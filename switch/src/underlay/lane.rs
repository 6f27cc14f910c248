//! What waits to be sent from one UDP source port: groups of equally long tunnel packets to one VTEP.

use std::net::SocketAddr;
use std::ops::Range;

use weft_bridge::VtepId;

use crate::gather::{Buffer, Piece, append};

/// Tunnel packets in one group at most: what every kernel with UDP_SEGMENT takes (UDP_MAX_SEGMENTS).
pub const MAX_GROUP_SEGMENTS: usize = 64;
/// Bytes in one group at most: the longest UDP payload in IPv4.
pub const MAX_GROUP_BYTES: usize = 65_507;
/// Frames up to this length, in bytes, are copied behind their header, so that a group of them is one piece.
const COPY_LEN: usize = 256;

const MAX_GROUPS: usize = 128;
const MAX_PIECES: usize = 4096;
const HEADER_BYTES: usize = 128 * 1024;

/// A group of tunnel packets that one system call sends as one.
#[derive(Clone, Debug)]
pub struct Group {
    /// The receiver.
    pub vtep: VtepId,
    /// Its address and port.
    pub to: SocketAddr,
    /// DSCP and ECN of its outer headers.
    pub tos: u8,
    /// Bytes in each tunnel packet; the last may be shorter.
    pub segment: usize,
    /// Tunnel packets in it.
    pub segments: usize,
    /// Bytes in it.
    pub bytes: usize,
    /// Frames whose last packet is in it: a superframe counts where it ends.
    pub copies: u64,
    /// Bytes of those frames, before encapsulation.
    pub frame_bytes: u64,
    pieces: Range<usize>,
    open: bool,
}

/// The queue. Allocates once.
#[derive(Debug)]
pub struct Lane {
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    groups: Vec<Group>,
}

/// What the outer headers of a tunnel packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) vtep: VtepId,
    pub(crate) to: SocketAddr,
    /// DSCP and ECN.
    pub(crate) tos: u8,
}

impl Lane {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            headers: Vec::with_capacity(HEADER_BYTES),
            pieces: Vec::with_capacity(MAX_PIECES),
            groups: Vec::with_capacity(MAX_GROUPS),
        }
    }

    /// What is queued, in order.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The pieces of one group.
    #[must_use]
    pub fn pieces(&self, group: &Group) -> &[Piece] {
        &self.pieces[group.pieces.clone()]
    }

    pub(crate) fn headers(&self) -> &[u8] {
        &self.headers
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether `packets` more fit, with `header_len` bytes of headers each.
    pub(crate) fn has_room(&self, packets: usize, header_len: usize) -> bool {
        self.groups.len() + packets <= MAX_GROUPS
            && self.pieces.len() + 2 * packets <= MAX_PIECES
            && self.headers.len() + packets * (header_len + COPY_LEN) <= HEADER_BYTES
    }

    pub(crate) fn clear(&mut self) {
        self.headers.clear();
        self.pieces.clear();
        self.groups.clear();
    }

    /// Queues one frame behind its tunnel header.
    pub(crate) fn push_frame(&mut self, outer: Outer, tunnel: &[u8], frame: Range<usize>, arena: &[u8]) {
        let frame_len = frame.len();
        self.push_packet(outer, tunnel.len() + frame_len, Some(frame_len));
        let start = self.headers.len();
        self.headers.extend_from_slice(tunnel);
        if frame_len <= COPY_LEN {
            self.headers.extend_from_slice(&arena[frame]);
            self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
        } else {
            self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
            self.append(Piece::new(Buffer::Arena, frame));
        }
    }

    /// Queues one piece of a frame: a tunnel header, headers that `write` puts into at most `room` bytes and the
    /// payload; `write` returns the headers' length and the payload's place. `last` carries the frame's length
    /// with its last piece.
    pub(crate) fn push_segment(
        &mut self,
        outer: Outer,
        tunnel: &[u8],
        room: usize,
        last: Option<usize>,
        write: impl FnOnce(&mut [u8]) -> Option<(usize, Range<usize>)>,
    ) {
        let start = self.headers.len();
        self.headers.extend_from_slice(tunnel);
        let inner = self.headers.len();
        self.headers.resize(inner + room, 0);
        let Some((header_len, payload)) = write(&mut self.headers[inner..]) else {
            self.headers.truncate(start);
            return;
        };
        self.headers.truncate(inner + header_len);
        self.push_packet(outer, tunnel.len() + header_len + payload.len(), last);
        self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
        self.append(Piece::new(Buffer::Arena, payload));
    }

    /// Queues one packet that no group may share, because it may be longer than the path: a tunnel header and
    /// `len` bytes that `write` fills. It carries no frame, so nothing counts it as a copy.
    pub(crate) fn push_alone(&mut self, outer: Outer, tunnel: &[u8], len: usize, write: impl FnOnce(&mut [u8])) {
        self.close();
        let start = self.headers.len();
        self.headers.extend_from_slice(tunnel);
        let frame = self.headers.len();
        self.headers.resize(frame + len, 0);
        write(&mut self.headers[frame..]);
        self.push_packet(outer, tunnel.len() + len, None);
        self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
        self.close();
    }

    fn close(&mut self) {
        if let Some(group) = self.groups.last_mut() {
            group.open = false;
        }
    }

    fn append(&mut self, piece: Piece) {
        let Some(group) = self.groups.last_mut() else { return };
        append(&mut self.pieces, group.pieces.start, piece);
        group.pieces.end = self.pieces.len();
    }

    /// Makes room for a packet in the last group, or opens another. Equal lengths join; a shorter one joins and
    /// closes.
    fn push_packet(&mut self, outer: Outer, len: usize, ends_frame: Option<usize>) {
        let joins = |group: &Group| {
            group.open
                && (group.vtep, group.tos) == (outer.vtep, outer.tos)
                && len <= group.segment
                && group.segments < MAX_GROUP_SEGMENTS
                && group.bytes + len <= MAX_GROUP_BYTES
        };
        if !self.groups.last().is_some_and(joins) {
            let start = self.pieces.len();
            self.groups.push(Group {
                vtep: outer.vtep,
                to: outer.to,
                tos: outer.tos,
                segment: len,
                segments: 0,
                bytes: 0,
                copies: 0,
                frame_bytes: 0,
                pieces: start..start,
                open: true,
            });
        }
        if let Some(group) = self.groups.last_mut() {
            group.segments += 1;
            group.bytes += len;
            group.open = len == group.segment;
            if let Some(frame_len) = ends_frame {
                group.copies += 1;
                group.frame_bytes += frame_len as u64;
            }
        }
    }
}
