//! What waits to be sent from one UDP source port: groups of equally long tunnel packets to one VTEP.

use std::net::SocketAddr;
use std::ops::Range;

use weft_bridge::{DropReason, VtepId};
use weft_encap::Offload;

use crate::gather::{Buffer, Buffers, Piece, append};

/// Tunnel packets in one group at most: what every kernel with UDP_SEGMENT takes (UDP_MAX_SEGMENTS).
pub const MAX_GROUP_SEGMENTS: usize = 64;
/// Bytes in one group at most: the longest UDP payload in IPv4.
pub const MAX_GROUP_BYTES: usize = 65_507;
/// Frames up to this length, in bytes, are copied behind their header, so that a group of them is one piece.
const COPY_LEN: usize = 256;

/// Groups in one lane at most.
pub(crate) const MAX_GROUPS: usize = 128;
const MAX_PIECES: usize = 4096;
const HEADER_BYTES: usize = 128 * 1024;

/// A group of tunnel packets that one system call sends as one.
#[derive(Clone, Debug)]
pub struct Group {
    /// The receiver.
    pub vtep: VtepId,
    /// Its address and port.
    pub to: SocketAddr,
    /// DSCP and ECN of its outer headers, as the byte that holds both.
    pub tos: u8,
    /// TTL, or hop limit, of its outer headers, 1 to 255 hops.
    pub ttl: u8,
    /// Bytes in each tunnel packet; the last may be shorter.
    pub segment: usize,
    /// Tunnel packets in it.
    pub segments: usize,
    /// Bytes in it.
    pub bytes: usize,
    /// Bytes of the frames whose last packet is in it, before encapsulation.
    pub frame_bytes: u64,
    /// The Offload of the frame, if this is one packet with a superframe inside; `segment` is then what each of the
    /// packets has that it stands for.
    pub superframe: Option<Offload>,
    /// Whether its packets are path probes, and no frames.
    probes: bool,
    /// A bit for each packet that ends a frame, the first packet's lowest.
    frame_ends: u64,
    /// Whether its first packet goes on with a frame that an earlier group began.
    continues: bool,
    pieces: Range<usize>,
    open: bool,
}

const _: () = assert!(MAX_GROUP_SEGMENTS <= u64::BITS as usize);

/// The queue. Allocates once.
#[derive(Debug)]
pub struct Lane {
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    groups: Vec<Group>,
    /// Why a packet of the frame that the next group goes on with was lost, if one was.
    carried: Option<DropReason>,
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was handed to the kernel.
    Sent,
    /// Some packets were not.
    Lost {
        /// Why not.
        reason: DropReason,
        /// A bit for each of them, the first packet's lowest.
        packets: u64,
    },
}

/// What became of the frames that end in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Frames of which at least one packet of this group was lost.
    pub(crate) dropped: u64,
    /// The frame that began in an earlier group and lost a packet there, if it ends here.
    pub(crate) carried: Option<DropReason>,
}

impl Outcome {
    /// Packets lost, of a group of so many.
    pub(crate) fn lost(self, segments: usize) -> u64 {
        match self {
            Self::Sent => 0,
            Self::Lost { packets, .. } => {
                u64::from((packets & u64::MAX >> (MAX_GROUP_SEGMENTS - segments)).count_ones())
            }
        }
    }

    /// None of a group's packets was sent.
    #[must_use]
    pub fn all_lost(reason: DropReason) -> Self {
        Self::Lost { reason, packets: u64::MAX }
    }
}

/// What the outer headers of a tunnel packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) vtep: VtepId,
    pub(crate) to: SocketAddr,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// TTL, or hop limit, 1 to 255.
    pub(crate) ttl: u8,
    /// Whether the packet shares no group.
    pub(crate) alone: bool,
}

impl Group {
    /// Whether it is of path probes, and no frames.
    pub(crate) fn holds_probes(&self) -> bool {
        self.probes
    }

    /// Whether a frame ends with this packet.
    pub(crate) fn ends_frame(&self, packet: usize) -> bool {
        self.frame_ends >> packet & 1 == 1
    }
}

impl Lane {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            headers: Vec::with_capacity(HEADER_BYTES),
            pieces: Vec::with_capacity(MAX_PIECES),
            groups: Vec::with_capacity(MAX_GROUPS),
            carried: None,
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

    pub(crate) fn buffers<'a>(&'a self, arena: &'a [u8]) -> Buffers<'a> {
        Buffers { arena, headers: &self.headers }
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

    /// Counts what became of a group's frames. Groups are told in the order in which they were queued: a frame is
    /// lost with any of its packets, wherever it went.
    pub(crate) fn tally(&mut self, place: usize, outcome: Outcome) -> Tally {
        let group = &self.groups[place];
        let (reason, lost) = match outcome {
            Outcome::Sent => (None, 0),
            Outcome::Lost { reason, packets } => (Some(reason), packets),
        };
        let mut carried = self.carried.take().filter(|_| group.continues);
        let mut tally = Tally { sent: 0, dropped: 0, carried: None };
        let mut broken = false;
        for packet in 0..group.segments {
            broken |= lost >> packet & 1 == 1;
            if group.frame_ends >> packet & 1 == 0 {
                continue;
            }
            match carried.take() {
                Some(earlier) => tally.carried = Some(earlier),
                None if broken => tally.dropped += 1,
                None => tally.sent += 1,
            }
            broken = false;
        }
        self.carried = carried.or(reason.filter(|_| broken));
        tally
    }

    pub(crate) fn clear(&mut self) {
        self.headers.clear();
        self.pieces.clear();
        self.groups.clear();
    }

    /// Queues one frame behind its tunnel header.
    pub(crate) fn push_frame(&mut self, outer: Outer, tunnel: &[u8], frame: Range<usize>, arena: &[u8]) {
        let frame_len = frame.len();
        self.push_packet(outer, tunnel.len() + frame_len, true, Some(frame_len));
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
    /// payload; `write` returns the headers' length and the payload's place. The pair says whether it is the
    /// frame's first piece, and with its last one the frame's length.
    pub(crate) fn push_segment(
        &mut self,
        outer: Outer,
        tunnel: &[u8],
        room: usize,
        (first, last): (bool, Option<usize>),
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
        self.push_packet(outer, tunnel.len() + header_len + payload.len(), first, last);
        self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
        self.append(Piece::new(Buffer::Arena, payload));
    }

    /// Queues a superframe whole behind its tunnel header; each of the packets it stands for has `segment` bytes.
    pub(crate) fn push_superframe(
        &mut self,
        outer: Outer,
        tunnel: &[u8],
        frame: Range<usize>,
        offload: Offload,
        segment: usize,
    ) {
        self.close();
        self.push_packet(outer, tunnel.len() + frame.len(), true, Some(frame.len()));
        let start = self.headers.len();
        self.headers.extend_from_slice(tunnel);
        self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
        self.append(Piece::new(Buffer::Arena, frame));
        if let Some(group) = self.groups.last_mut() {
            (group.superframe, group.segment) = (Some(offload), segment);
        }
        self.close();
    }

    /// Queues packets that share no group with others, because they may be longer than the path: each a tunnel header
    /// and `len` bytes that `write` fills, being told which packet it is. They carry no frames, so nothing counts them as
    /// copies.
    pub(crate) fn push_probes(
        &mut self,
        outer: Outer,
        tunnel: &[u8],
        (count, len): (usize, usize),
        write: impl Fn(usize, &mut [u8]),
    ) {
        self.close();
        for place in 0..count {
            let start = self.headers.len();
            self.headers.extend_from_slice(tunnel);
            let frame = self.headers.len();
            self.headers.resize(frame + len, 0);
            write(place, &mut self.headers[frame..]);
            self.push_packet(outer, tunnel.len() + len, true, None);
            self.append(Piece::new(Buffer::Headers, start..self.headers.len()));
            if let Some(group) = self.groups.last_mut() {
                group.probes = true;
            }
        }
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
    fn push_packet(&mut self, outer: Outer, len: usize, begins_frame: bool, ends_frame: Option<usize>) {
        let joins = |group: &Group| {
            group.open
                && !outer.alone
                && (group.vtep, group.tos, group.ttl) == (outer.vtep, outer.tos, outer.ttl)
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
                ttl: outer.ttl,
                segment: len,
                segments: 0,
                bytes: 0,
                frame_bytes: 0,
                superframe: None,
                probes: false,
                frame_ends: 0,
                continues: !begins_frame,
                pieces: start..start,
                open: true,
            });
        }
        if let Some(group) = self.groups.last_mut() {
            let place = group.segments;
            group.segments += 1;
            group.bytes += len;
            group.open = len == group.segment && !outer.alone;
            if let Some(frame_len) = ends_frame {
                group.frame_ends |= 1 << place;
                group.frame_bytes += frame_len as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_bridge::tables::{DomainOptions, Vtep, VtepKind};
    use weft_bridge::{Tables, VtepId};
    use weft_encap::{Encapsulation, Vni};

    use super::*;

    const REASON: DropReason = DropReason::UnderlayBusy;

    fn outer() -> Outer {
        let mut tables = Tables::new(Vec::new(), Vec::new());
        let vni = Vni::MAX;
        let domain = tables.add_domain(vni, DomainOptions::default());
        let address = [192, 0, 2, 1].into();
        let (kind, encapsulation) = (VtepKind::Foreign, Encapsulation::Vxlan);
        let vtep = Vtep { address, udp_port: 4789, encapsulation, kind, pod_mtu: 1450 };
        let vtep: Result<VtepId, _> = tables.add_vtep(vtep, &[vni]);
        assert!(domain.is_ok());
        Outer { vtep: vtep.unwrap(), to: SocketAddr::new(address, 4789), tos: 0, ttl: 64, alone: false }
    }

    /// A lane with frames of so many packets each.
    fn lane(frames: &[usize]) -> Lane {
        let mut lane = Lane::new();
        for packets in frames {
            for packet in 1..=*packets {
                let last = (packet == *packets).then_some(100);
                lane.push_segment(outer(), &[0; 8], 54, (packet == 1, last), |_| Some((54, 0..100)));
            }
        }
        lane
    }

    fn lost(packets: u64) -> Outcome {
        Outcome::Lost { reason: REASON, packets }
    }

    fn tally(sent: u64, dropped: u64, carried: Option<DropReason>) -> Tally {
        Tally { sent, dropped, carried }
    }

    #[test]
    fn a_frame_is_lost_with_any_of_its_packets() {
        let mut lane = lane(&[1, 3, 1, 2]);
        assert_eq!(lane.groups().len(), 1);
        assert_eq!(lane.tally(0, Outcome::Sent), tally(4, 0, None));
        assert_eq!(lane.tally(0, lost(0b000_0100)), tally(3, 1, None));
        assert_eq!(lane.tally(0, lost(0b100_0001)), tally(2, 2, None));
        assert_eq!(lane.tally(0, Outcome::all_lost(REASON)), tally(0, 4, None));
        assert_eq!(lost(u64::MAX).lost(7), 7);
    }

    #[test]
    fn a_frame_that_goes_on_in_the_next_group_is_counted_once() {
        let mut lane = lane(&[44, 44]);
        assert_eq!(lane.groups().iter().map(|group| group.segments).collect::<Vec<_>>(), [64, 24]);
        assert_eq!([lane.tally(0, Outcome::Sent), lane.tally(1, Outcome::Sent)], [tally(1, 0, None); 2]);
        let first_lost = [lane.tally(0, Outcome::all_lost(REASON)), lane.tally(1, Outcome::Sent)];
        assert_eq!(first_lost, [tally(0, 1, None), tally(0, 0, Some(REASON))]);
        let tail_lost = [lane.tally(0, lost(1 << 63)), lane.tally(1, lost(1))];
        assert_eq!(tail_lost, [tally(1, 0, None), tally(0, 0, Some(REASON))]);
    }

    #[test]
    fn only_packets_with_the_same_outer_headers_share_a_group() {
        let mut lane = Lane::new();
        for (tos, ttl) in [(0, 64), (0, 64), (0, 63), (4, 63), (4, 63)] {
            lane.push_frame(Outer { tos, ttl, ..outer() }, &[0; 8], 0..50, &[0; 50]);
        }
        let groups: Vec<_> = lane.groups().iter().map(|group| (group.tos, group.ttl, group.segments)).collect();
        assert_eq!(groups, [(0, 64, 2), (0, 63, 1), (4, 63, 2)]);
    }

    #[test]
    fn what_has_to_leave_alone_does() {
        let mut lane = Lane::new();
        for alone in [false, false, true, true, false] {
            lane.push_frame(Outer { alone, ..outer() }, &[0; 8], 0..50, &[0; 50]);
        }
        let segments: Vec<_> = lane.groups().iter().map(|group| group.segments).collect();
        assert_eq!(segments, [2, 1, 1, 1]);
    }

    #[test]
    fn probes_on_trial_are_a_group_of_their_own() {
        let mut lane = Lane::new();
        lane.push_probes(outer(), &[7; 8], (1, 1400), |_, _| {});
        lane.push_probes(outer(), &[7; 8], (2, 1400), |place, frame| frame.fill(place as u8));
        let segments: Vec<_> = lane.groups().iter().map(|group| (group.segments, group.bytes)).collect();
        assert_eq!(segments, [(1, 1408), (2, 2816)]);
        let buffers = lane.buffers(&[]);
        assert_eq!(buffers.headers[1408 + 8..][..1400], [0; 1400]);
        assert_eq!(buffers.headers[2 * 1408 + 8..], [1; 1400]);
    }

    #[test]
    fn a_superframe_is_one_packet_of_its_own() {
        let mut lane = Lane::new();
        lane.push_frame(outer(), &[0; 8], 0..50, &[0; 50]);
        lane.push_superframe(outer(), &[0; 8], 0..3000, Offload::NONE, 1458);
        lane.push_frame(outer(), &[0; 8], 0..50, &[0; 50]);
        let whole = &lane.groups()[1];
        assert_eq!((lane.groups().len(), whole.bytes, whole.segment, whole.segments), (3, 3008, 1458, 1));
        assert_eq!(lane.tally(1, Outcome::all_lost(REASON)), tally(0, 1, None));
    }

    #[test]
    fn a_lost_probe_is_no_frame() {
        let mut lane = Lane::new();
        lane.push_probes(outer(), &[0; 8], (1, 1400), |_, _| {});
        lane.push_frame(outer(), &[0; 8], 0..50, &[0; 50]);
        assert_eq!(lane.groups().len(), 2, "nothing shares a group with a probe");
        assert_eq!(lane.tally(0, Outcome::all_lost(REASON)), tally(0, 0, None));
        assert_eq!(lane.tally(1, Outcome::Sent), tally(1, 0, None));
    }
}
