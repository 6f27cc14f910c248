//! Frames of one flow into the superframe they could have come from, by the rules of the kernel's own merging
//! (`tcp_gro_receive`, net/ipv4/tcp_offload.c; `udp_gro_receive_segment`, net/ipv4/udp_offload.c), but stricter.
//!
//! Scatter style: frames lie in the caller's arena and stay there; a group is rewritten headers and a list of
//! ranges. Groups come out in the order in which their first frames came in, and within a flow (egress, addresses,
//! protocol, ports) no frame ever passes another: a frame that cannot join its flow's open group closes it.
//!
//! TCP merges when everything but length, IPv4 identification, sequence number, PSH and checksums is equal
//! byte for byte, flags are ACK or ACK and PSH, and sequence numbers adjoin; UDP when the same holds for its headers.
//! Segments have the size of the first (for TCP at least [`MIN_TCP_SEGMENT`], what a superframe may ask for); a shorter
//! one, or PSH, is the last. IPv4 identification goes up by one
//! each time, or stays the same under DF. Every checksum is verified unless the carrier vouches for it
//! ([`Checksum::Valid`]): a frame with a wrong one stays alone and is [damaged](Group::is_damaged), so that nothing is
//! repaired, and nothing handed on, that is known to be wrong. IP options, extension headers, fragments, frames without payload, UDP without a
//! checksum, and frames with an Offload to carry out stay alone.

mod candidate;
mod expected;
mod flows;

use std::fmt;
use std::ops::Range;

use crate::bytes::{len16, put};
use crate::checksum;
use crate::inner::IPV6_LEN;
use crate::split::MIN_TCP_SEGMENT;
use crate::{Checksum, Gso, GsoKind, Offload};
use candidate::{Class, First, Key, Next, classify};
use expected::Expected;
use flows::{Flows, NONE};

/// Frames in one group at most (Linux takes no more from `UDP_GRO`, net/ipv4/udp_offload.c `UDP_GRO_CNT_MAX`, and
/// 64 KiB hold no more at usual sizes).
pub const MAX_SEGMENTS: usize = 64;
/// Bytes of a merged packet at most, IP header included: what its length field holds (RFC 791 section 3.1).
pub const MAX_PACKET_LEN: usize = 65_535;
/// Bytes that [`Group::finish`] writes at most: Ethernet, two tags, IPv6, and TCP with all options.
pub const MAX_HEADER_LEN: usize = 14 + 8 + 40 + 60;

/// The most frames a merger can be made for.
pub const MAX_CAPACITY: usize = 1 << 16;

/// Merges one batch of frames at a time.
#[derive(Debug)]
pub struct Merger {
    frames: Vec<Frame>,
    groups: Vec<State>,
    flows: Flows,
    /// The open group that the last frame belongs to: the next is most likely of the same flow.
    recent: u32,
    /// What the next frame of that group looks like, if it has gone on without another in between.
    expected: Expected,
    capacity: usize,
}

/// One outcome: several frames as one, or a frame by itself.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    merger: &'a Merger,
    state: &'a State,
}

/// The merger holds as many frames as it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergerFull {
    /// How many frames that is.
    pub capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    start: u32,
    end: u32,
    /// The next frame of the group.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct State {
    egress: u32,
    offload: Offload,
    first: u32,
    last: u32,
    count: usize,
    /// Of the first frame, where it may merge.
    first_facts: Option<(Key, First)>,
    /// Payload bytes of all frames.
    payload: usize,
    /// By how much the IPv4 identification grows: known from the second frame on.
    step: Option<u16>,
    push: bool,
    /// A frame by itself whose IPv4, TCP or UDP checksum was looked at and is wrong.
    damaged: bool,
}

impl Merger {
    /// Makes room for that many frames, once and for all.
    #[must_use]
    pub fn with_capacity(frames: usize) -> Self {
        let capacity = frames.min(MAX_CAPACITY);
        Self {
            frames: Vec::with_capacity(capacity),
            groups: Vec::with_capacity(capacity),
            flows: Flows::for_frames(capacity),
            recent: NONE,
            expected: Expected::NOTHING,
            capacity,
        }
    }

    /// Offers one frame, which lies at `arena[range]` and is bound for `egress`, any number that stands for one
    /// way out. The arena must be the same at each call and at [`Group::finish`]. Frames which cannot merge are
    /// kept all the same, as groups of one.
    ///
    /// # Errors
    /// [`MergerFull`]: take the groups, [`Self::clear`], and offer it again.
    pub fn push(&mut self, arena: &[u8], range: Range<usize>, egress: u32, offload: Offload) -> Result<(), MergerFull> {
        if self.frames.len() >= self.capacity {
            return Err(MergerFull { capacity: self.capacity });
        }
        let bytes = arena.get(range.clone()).unwrap_or_default();
        let frame = Frame { start: offset(range.start), end: offset(range.end), next: NONE };
        if !self.append_expected(frame, bytes, egress, &offload) {
            self.push_other(arena, frame, bytes, egress, offload);
        }
        Ok(())
    }

    #[inline(never)]
    fn push_other(&mut self, arena: &[u8], frame: Frame, bytes: &[u8], egress: u32, offload: Offload) {
        if self.append(self.recent, arena, frame, bytes, egress, &offload) {
            self.expect(bytes);
            return;
        }
        self.forget_recent();
        match classify(bytes, egress, &offload) {
            Class::Stranger => self.open(frame, egress, offload, None),
            Class::Hosts { hosts } => {
                self.flows.close_hosts(hosts);
                self.open(frame, egress, offload, None);
            }
            Class::Unwalked { hosts } => {
                hosts.into_iter().for_each(|hosts| self.flows.close_hosts(hosts));
                self.open(frame, egress, offload, None);
            }
            Class::Barrier(key) => {
                self.flows.close(key);
                self.open(frame, egress, offload, None);
            }
            Class::Candidate(key, first) => {
                let group = self.flows.find(key);
                if group == NONE || !self.append(group, arena, frame, bytes, egress, &offload) {
                    self.flows.close(key);
                    self.open(frame, egress, offload, Some((key, first)));
                }
            }
        }
    }

    /// Keeps one frame as a group of its own, whatever came before it: for a way out that takes no superframe of its
    /// kind. If that is so for all frames of a flow, their order stays.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_alone(&mut self, range: Range<usize>, egress: u32, offload: Offload) -> Result<(), MergerFull> {
        if self.frames.len() >= self.capacity {
            return Err(MergerFull { capacity: self.capacity });
        }
        let frame = Frame { start: offset(range.start), end: offset(range.end), next: NONE };
        self.forget_recent();
        self.open(frame, egress, offload, None);
        Ok(())
    }

    /// The outcome so far, in the order in which each group's first frame came in.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.groups.iter().map(|state| Group { merger: self, state })
    }

    /// How many frames were offered since the last [`Self::clear`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether no frame was offered since the last [`Self::clear`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Forgets all frames; the room stays.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.groups.clear();
        self.flows.clear();
        self.forget_recent();
    }

    #[inline]
    fn forget_recent(&mut self) {
        self.recent = NONE;
        self.expected.group = NONE;
    }

    /// Prepares for the frame after this one, which has just joined the recent group as the one before it had.
    fn expect(&mut self, bytes: &[u8]) {
        self.expected.group = NONE;
        if let Some(state) = self.groups.get(self.recent as usize)
            && let (Some((_, first)), Some(step)) = (&state.first_facts, state.step)
        {
            let left = state.full_frames_left(first);
            self.expected.prepare(bytes, first, step, self.recent, state.egress, left);
        }
    }

    /// [`Self::append`] for the one frame that comes next most often: it finds out the same with less. To every other it
    /// says no.
    #[inline]
    fn append_expected(&mut self, frame: Frame, bytes: &[u8], egress: u32, offload: &Offload) -> bool {
        let expected = &mut self.expected;
        if expected.group == NONE || !expected.is(bytes, egress, offload) {
            return false;
        }
        let Some(state) = self.groups.get_mut(expected.group as usize) else { return false };
        let index = offset(self.frames.len());
        if let Some(last) = self.frames.get_mut(state.last as usize) {
            last.next = index;
        }
        state.last = index;
        state.count += 1;
        state.payload += expected.size;
        expected.advance();
        self.frames.push(frame);
        true
    }

    /// Lets the frame join the group, if it may. If not because it is damaged, it is kept by itself. A first frame that
    /// turns out to be damaged is marked, and nothing joins it.
    #[inline]
    fn append(&mut self, group: u32, arena: &[u8], frame: Frame, bytes: &[u8], egress: u32, offload: &Offload) -> bool {
        let Some(state) = self.groups.get_mut(group as usize).filter(|state| !state.damaged) else { return false };
        let Some((key, first)) = &state.first_facts else { return false };
        let first_bytes = self.frames.get(state.first as usize).and_then(|frame| arena.get(frame.range()));
        let Some(first_bytes) = first_bytes.filter(|_| state.egress == egress) else { return false };
        let Some(next) = first.followed_by(first_bytes, bytes, offload) else { return false };
        let Some(step) = state.step_to(first, &next) else { return false };
        let key = *key;
        if state.count == 1 && !first.is_right(first_bytes) {
            state.damaged = true;
            return false;
        }
        if !first.next_is_right(first_bytes, &next, bytes) {
            self.flows.close(key);
            self.recent = NONE;
            self.open(frame, egress, *offload, None);
            if let Some(state) = self.groups.last_mut() {
                state.damaged = true;
            }
            return true;
        }
        let is_last = next.push || next.len < first.l4.payload_len();
        let index = offset(self.frames.len());
        if let Some(last) = self.frames.get_mut(state.last as usize) {
            last.next = index;
        }
        state.step = Some(step);
        state.last = index;
        state.count += 1;
        state.payload += next.len;
        state.push = next.push;
        self.frames.push(frame);
        self.recent = if is_last { NONE } else { group };
        if is_last {
            self.flows.close(key);
        }
        true
    }

    fn open(&mut self, frame: Frame, egress: u32, offload: Offload, first_facts: Option<(Key, First)>) {
        let (index, group) = (offset(self.frames.len()), offset(self.groups.len()));
        if let Some((key, _)) = first_facts.filter(|(_, first)| !first.push) {
            self.flows.set(key, group);
            self.recent = group;
        }
        self.frames.push(frame);
        self.groups.push(State {
            egress,
            offload,
            first: index,
            last: index,
            count: 1,
            payload: first_facts.map_or(0, |(_, first)| first.l4.payload_len()),
            first_facts,
            step: None,
            push: false,
            damaged: false,
        });
    }
}

impl State {
    /// The step of IPv4 identifications if this frame comes next; none if it may not come next.
    #[inline]
    fn step_to(&self, first: &First, next: &Next) -> Option<u16> {
        let size = first.l4.payload_len();
        let packet_len = first.l4.payload - first.l4.l3 + self.payload + next.len;
        if next.len > size || self.count >= MAX_SEGMENTS || packet_len > MAX_PACKET_LEN {
            return None;
        }
        let sequence = first.sequence.wrapping_add(offset(self.payload));
        if first.l4.tcp && (size < usize::from(MIN_TCP_SEGMENT) || next.sequence != sequence) {
            return None;
        }
        let advance = next.identification.wrapping_sub(first.identification);
        match self.step {
            Some(step) => (advance == step.wrapping_mul(len16(self.count))).then_some(step),
            None => (advance == 1 || advance == 0 && first.dont_fragment).then_some(advance),
        }
    }

    /// How many more frames of the first one's size may join.
    fn full_frames_left(&self, first: &First) -> usize {
        let packet_len = first.l4.payload - first.l4.l3 + self.payload;
        let by_len = MAX_PACKET_LEN.saturating_sub(packet_len).checked_div(first.l4.payload_len());
        MAX_SEGMENTS.saturating_sub(self.count).min(by_len.unwrap_or(0))
    }

    /// The first frame's facts, if others joined it.
    fn merged(&self) -> Option<&First> {
        self.first_facts.as_ref().map(|(_, first)| first).filter(|_| self.count > 1)
    }
}

impl Frame {
    #[inline]
    const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl<'a> Group<'a> {
    /// The way out that its frames were offered for.
    #[must_use]
    pub const fn egress(&self) -> u32 {
        self.state.egress
    }

    /// How many frames became one; 1 for a frame by itself.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.state.count
    }

    /// Whether this is a frame whose IPv4, TCP or UDP checksum was verified and found wrong: not to be sent. A frame
    /// that nothing could have joined was not looked at, and goes on as it came.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.state.damaged
    }

    /// Bytes of the frame to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.state.merged() {
            Some(first) => first.l4.payload + self.state.payload,
            None => self.pieces().map(|piece| piece.len()).sum(),
        }
    }

    /// Whether there is not a single byte to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the headers of a merged frame and returns their length, with the Offload to send it with. A frame by
    /// itself needs none: it returns 0 and the Offload it came with.
    ///
    /// # Panics
    /// If `headers` is too short; [`MAX_HEADER_LEN`] bytes always do.
    pub fn finish(&self, arena: &[u8], headers: &mut [u8]) -> (usize, Offload) {
        let first_bytes = self.merger.frames.get(self.state.first as usize).and_then(|frame| arena.get(frame.range()));
        let (Some(First { l4, .. }), Some(bytes)) = (self.state.merged(), first_bytes) else {
            return (0, self.state.offload);
        };
        let headers = &mut headers[..l4.payload];
        headers.copy_from_slice(&bytes[..l4.payload]);
        let l4_len = l4.payload - l4.start + self.state.payload;
        let total = l4.start - l4.l3 + l4_len;
        if l4.ipv6 {
            put(headers, l4.l3 + 4, len16(total - IPV6_LEN).to_be_bytes());
        } else {
            put(headers, l4.l3 + 2, len16(total).to_be_bytes());
            put(headers, l4.l3 + 10, [0, 0]);
            let value = checksum::finish(checksum::sum(&headers[l4.l3..l4.start]));
            put(headers, l4.l3 + 10, value.to_be_bytes());
        }
        if !l4.tcp {
            put(headers, l4.start + 4, len16(l4_len).to_be_bytes());
        } else if self.state.push {
            headers[l4.start + 13] |= candidate::PSH;
        }
        let partial = checksum::fold(l4.pseudo_header(len16(l4_len)));
        put(headers, l4.start + usize::from(l4.checksum_offset()), partial.to_be_bytes());

        let kind = match (l4.tcp, l4.ipv6) {
            (true, false) => GsoKind::Tcp4,
            (true, true) => GsoKind::Tcp6,
            (false, _) => GsoKind::Udp,
        };
        let gso = Gso { kind, size: len16(l4.payload_len()), header_len: len16(l4.payload), ecn: false };
        let checksum = Checksum::Needed { start: len16(l4.start), offset: l4.checksum_offset() };
        (l4.payload, Offload { checksum, gso: Some(gso) })
    }

    /// The arena ranges to send after the headers: payloads, or the whole frame if it is by itself.
    pub fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let frames = &self.merger.frames;
        let merged = self.state.merged().map(|first| (first.l4.payload, first.l4.payload_len()));
        let (mut next, mut left) = (self.state.first, self.state.payload);
        std::iter::from_fn(move || {
            let frame = *frames.get(next as usize)?;
            next = frame.next;
            let Some((header_len, size)) = merged else { return Some(frame.range()) };
            let start = frame.start as usize + header_len;
            let len = size.min(left);
            left -= len;
            Some(start..start + len)
        })
    }
}

/// An arena is far shorter than 4 GiB; a frame beyond that could not be found again, and is kept as empty.
#[inline]
fn offset(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl fmt::Display for MergerFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "merger holds {} frames already", self.capacity)
    }
}

impl std::error::Error for MergerFull {}
