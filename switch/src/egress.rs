//! What leaves: one copy at a time is queued for its port or VTEP, and a flush hands all to the kernel.
//!
//! Copies between ports of this node are written at once, with their Offload as it came. Copies to VTEPs are
//! cut to tunnel packets, given their headers and queued in the flow's lane. Copies from VTEPs to ports pass
//! the merger, which joins neighbours of one flow to superframes again, and drops what it finds damaged. What is too
//! long for its port or path is fragmented where its sender allows that, and else answered. The bytes themselves stay
//! where they were read; see docs/adr/0001-gather-instead-of-headroom.md.

mod answering;

use std::ops::Range;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use weft_bridge::{Attachment, BridgeDomain, DropReason, Port as PortRow, PortId, Seconds, Tables, Vtep, VtepId};
use weft_encap::checksum::Verified;
use weft_encap::fragment::{self, Fragment, Fragmenter};
use weft_encap::mss::{clamp_mss, mss_for};
use weft_encap::mtu::overhead;
use weft_encap::outer::{DEFAULT_TTL, Ttl};
use weft_encap::probe::{self, Probe};
use weft_encap::{
    Checksum, FlowHash, FragmentError, GsoKind, Inner, Merger, MergerFull, Network, Offload, RecoverError, Splitter,
    checksum, recover,
};

use crate::answers::Answer;
use crate::counters::WorkerCounters;
use crate::gather::{Buffer, Buffers, Piece};
use crate::port::Port;
use crate::ports::Ports;
use crate::underlay::{LANES, Lane, MAX_GROUP_BYTES, MAX_GROUPS, Outcome, Outer, Underlay};

/// Frames that the merger holds before it is flushed.
const MERGE_FRAMES: usize = 1024;
/// Bytes of rewritten headers in one frame to a port at most, merged or cut.
const PORT_HEADER_BYTES: usize = fragment::MAX_HEADER_LEN;
const _: () = assert!(PORT_HEADER_BYTES >= weft_encap::merge::MAX_HEADER_LEN);

/// One frame on its way out.
pub(crate) struct Copy {
    /// Where it lies in the arena.
    pub(crate) range: Range<usize>,
    pub(crate) offload: Offload,
    /// Bytes of the longest IP packet that it stands for.
    pub(crate) wire_len: usize,
    /// Bytes of its VLAN tags, which the tunnel carries besides.
    pub(crate) tag_len: usize,
    pub(crate) flow: FlowHash,
    /// The superframes that it could be part of, or is.
    pub(crate) kind: Option<GsoKind>,
    /// DSCP and ECN for the outer headers.
    pub(crate) tos: u8,
    /// TTL, or hop limit, for the outer headers.
    pub(crate) ttl: u8,
    pub(crate) ingress: Attachment,
    pub(crate) now: Seconds,
}

/// The queues and what they lead to.
pub(crate) struct Egress<P, U> {
    pub(crate) ports: Ports<P>,
    pub(crate) underlay: U,
    counters: Arc<CachePadded<WorkerCounters>>,
    lanes: Vec<Lane>,
    merger: Merger,
    port_headers: Vec<u8>,
    merge_pieces: Vec<Piece>,
    answer: Answer,
    outcomes: Vec<(usize, Outcome)>,
}

impl<P: Port, U: Underlay> Egress<P, U> {
    pub(crate) fn new(counters: Arc<CachePadded<WorkerCounters>>, underlay: U) -> Self {
        Self {
            ports: Ports::new(),
            underlay,
            counters,
            lanes: (0..LANES).map(|_| Lane::new()).collect(),
            merger: Merger::with_capacity(MERGE_FRAMES),
            port_headers: vec![0; PORT_HEADER_BYTES],
            merge_pieces: Vec::with_capacity(MERGE_FRAMES),
            answer: Answer::new(),
            outcomes: Vec::with_capacity(MAX_GROUPS),
        }
    }

    /// Takes one copy of a frame. What cannot leave is counted here.
    pub(crate) fn queue(&mut self, tables: &Tables, egress: Attachment, copy: &mut Copy, arena: &mut [u8]) {
        self.counters.copies.add(1);
        let outcome = match egress {
            Attachment::Port(id) => match tables.port(id) {
                Some(port) => self.queue_for_port(tables, id, port, copy, arena),
                None => Err(DropReason::PortDown),
            },
            Attachment::Vtep(id) => match (tables.vtep(id), domain_of(tables, copy.ingress)) {
                (Some(vtep), Some(domain)) => self.queue_for_vtep(id, vtep, domain, copy, arena),
                _ => Err(DropReason::UnderlayUnreachable),
            },
        };
        if let Err(reason) = outcome {
            self.dropped(egress, reason, 1);
        }
    }

    /// Queues a path probe, or the echo of one, to a VTEP. Which source port it takes follows from its nonce, so
    /// that probes of one path meet all the ways that its flows take.
    pub(crate) fn queue_probe(&mut self, tables: &Tables, id: VtepId, probe: &Probe, arena: &[u8]) {
        let Some(vtep) = tables.vtep(id) else { return };
        let overhead = overhead(vtep.encapsulation, vtep.address.is_ipv6(), 0);
        let Ok(len) = probe.frame_len(overhead) else { return };
        let index = (probe.nonce % LANES as u64) as usize;
        let tunnel = vtep.encapsulation.header(probe::VNI);
        if !self.lanes[index].has_room(1, tunnel.as_bytes().len() + len) {
            self.flush_lane(index, arena);
        }
        let ttl = match tables.outer_ttl() {
            Ttl::Fixed(hops) => hops,
            Ttl::Inherit => DEFAULT_TTL,
        };
        let outer = Outer { vtep: id, to: vtep.destination(), tos: 0, ttl };
        self.lanes[index].push_alone(outer, tunnel.as_bytes(), len, |frame| {
            // The room is what `frame_len` asked for.
            let _ = probe.write(overhead, frame);
        });
        self.counters.probes_sent.add(1);
    }

    /// Hands everything queued to the kernel.
    pub(crate) fn flush(&mut self, arena: &[u8]) {
        self.flush_ports(arena);
        for lane in 0..self.lanes.len() {
            if !self.lanes[lane].is_empty() {
                self.flush_lane(lane, arena);
            }
        }
    }

    fn queue_for_port(
        &mut self,
        tables: &Tables,
        id: PortId,
        port: &PortRow,
        copy: &mut Copy,
        arena: &mut [u8],
    ) -> Result<(), DropReason> {
        match copy.ingress {
            Attachment::Port(_) => {
                if copy.wire_len > usize::from(port.mtu) {
                    fill_checksum(copy, copy.offload, arena)?;
                    return self.write_fragments(id, port.mtu, copy, arena);
                }
                let device = self.ports.get_mut(id).ok_or(DropReason::PortDown)?;
                if !device.offloads().carry(&copy.offload) {
                    return self.send_finished(id, copy, copy.offload, arena);
                }
                let piece = Piece::new(Buffer::Arena, copy.range.clone());
                let buffers = Buffers { arena, headers: &[] };
                let outcome = device.send(copy.offload, &[piece], &buffers);
                self.counters.port_writes.add(1);
                outcome?;
                self.sent_to_port(id, 1, copy.range.len());
                Ok(())
            }
            Attachment::Vtep(vtep) => {
                let frame = &mut arena[copy.range.clone()];
                let offload = if copy.offload.gso.is_none() {
                    match recover::recover(frame, port.mtu) {
                        Err(RecoverError::TooLong { .. }) if checksum_is_complete(frame) => {
                            self.flush_ports(arena);
                            return self.write_fragments(id, port.mtu, copy, arena);
                        }
                        recovered => recovered.map_err(recover_drop)?,
                    }
                } else if copy.wire_len <= usize::from(port.mtu) {
                    recover::complete_partial_checksum(frame);
                    copy.offload
                } else {
                    self.flush_ports(arena);
                    return self.write_fragments(id, port.mtu, copy, arena);
                };
                if let (Some(vtep), Some(domain)) = (tables.vtep(vtep), tables.domain(port.vni))
                    && domain.clamp_mss()
                {
                    clamp(frame, vtep.pod_mtu.saturating_sub(copy.tag_len as u16), &offload);
                }
                let (key, device) = self.ports.key(id).ok_or(DropReason::PortDown)?;
                let takes = device.offloads();
                if !takes.carry(&offload) {
                    // What waits of its flow came before it.
                    self.flush_ports(arena);
                    return self.send_finished(id, copy, offload, arena);
                }
                let alone = copy.kind.is_some_and(|kind| !takes.takes(kind));
                if self.merge(arena, key, copy, offload, alone).is_err() {
                    self.flush_ports(arena);
                    // An emptied merger has room for one frame.
                    let _ = self.merge(arena, key, copy, offload, alone);
                }
                Ok(())
            }
        }
    }

    /// Writes a frame to a port that may not be left what `offload` says: with its checksum filled, cut if it is a
    /// superframe.
    fn send_finished(
        &mut self,
        id: PortId,
        copy: &mut Copy,
        offload: Offload,
        arena: &mut [u8],
    ) -> Result<(), DropReason> {
        let Self { ports, counters, port_headers, .. } = self;
        let device = ports.get_mut(id).ok_or(DropReason::PortDown)?;
        let mut send = |headers: &[u8], pieces: &[Piece], arena: &[u8]| {
            counters.port_writes.add(1);
            device.send(Offload::NONE, pieces, &Buffers { arena, headers })
        };
        if offload.gso.is_none() {
            fill_checksum(copy, offload, arena)?;
            send(&[], &[Piece::new(Buffer::Arena, copy.range.clone())], arena)?;
        } else {
            let base = copy.range.start;
            let frame = &arena[copy.range.clone()];
            let mut splitter = Splitter::new(frame, &offload).map_err(|_| DropReason::BadSuperframe)?;
            let header = Piece::new(Buffer::Headers, 0..splitter.header_len());
            let mut outcome = Ok(());
            while let Some(payload) = splitter.next_segment(port_headers) {
                let payload = Piece::new(Buffer::Arena, base + payload.start..base + payload.end);
                outcome = outcome.and(send(port_headers, &[header, payload], arena));
            }
            outcome?;
        }
        self.sent_to_port(id, 1, copy.range.len());
        Ok(())
    }

    fn merge(&mut self, arena: &[u8], key: u32, copy: &Copy, offload: Offload, alone: bool) -> Result<(), MergerFull> {
        if alone {
            self.merger.push_alone(copy.range.clone(), key, offload)
        } else {
            self.merger.push(arena, copy.range.clone(), key, offload)
        }
    }

    fn queue_for_vtep(
        &mut self,
        id: VtepId,
        vtep: &Vtep,
        domain: &BridgeDomain,
        copy: &mut Copy,
        arena: &mut [u8],
    ) -> Result<(), DropReason> {
        let mtu = vtep.pod_mtu.saturating_sub(copy.tag_len as u16);
        let index = copy.flow.index(LANES);
        let outer = Outer { vtep: id, to: vtep.destination(), tos: copy.tos, ttl: copy.ttl };
        let tunnel = vtep.encapsulation.header(domain.vni());
        let tunnel = tunnel.as_bytes();
        let too_long = copy.wire_len > usize::from(mtu);
        if copy.offload.gso.is_some() && !too_long {
            return self.queue_superframe(index, outer, tunnel, copy, arena);
        }
        if domain.clamp_mss() {
            clamp(&mut arena[copy.range.clone()], mtu, &copy.offload);
        }
        fill_checksum(copy, copy.offload, arena)?;
        if too_long {
            return self.queue_fragments(index, outer, tunnel, copy, mtu, arena);
        }
        if !self.lanes[index].has_room(1, tunnel.len()) {
            self.flush_lane(index, arena);
        }
        self.lanes[index].push_frame(outer, tunnel, copy.range.clone(), arena);
        Ok(())
    }

    fn queue_superframe(
        &mut self,
        index: usize,
        outer: Outer,
        tunnel: &[u8],
        copy: &Copy,
        arena: &[u8],
    ) -> Result<(), DropReason> {
        let base = copy.range.start;
        let frame = &arena[copy.range.clone()];
        let mut splitter = Splitter::new(frame, &copy.offload).map_err(|_| DropReason::BadSuperframe)?;
        let (header_len, segments) = (splitter.header_len(), splitter.segments());
        let fits = tunnel.len() + frame.len() <= MAX_GROUP_BYTES;
        if segments > 1 && fits && copy.tag_len == 0 && self.underlay.carries_superframes(outer.vtep) {
            let offload = splitter.offload();
            let segment = tunnel.len() + header_len + offload.gso.map_or(0, |gso| usize::from(gso.size));
            if !self.lanes[index].has_room(1, tunnel.len()) {
                self.flush_lane(index, arena);
            }
            self.lanes[index].push_superframe(outer, tunnel, copy.range.clone(), offload, segment);
            return Ok(());
        }
        for segment in 1..=segments {
            if !self.lanes[index].has_room(1, tunnel.len() + header_len) {
                self.flush_lane(index, arena);
            }
            let last = (segment == segments).then_some(frame.len());
            self.lanes[index].push_segment(outer, tunnel, header_len, (segment == 1, last), |headers| {
                let payload = splitter.next_segment(headers)?;
                Some((header_len, base + payload.start..base + payload.end))
            });
        }
        Ok(())
    }

    /// Cuts what is too long for its path into fragments, where its sender allows that.
    fn queue_fragments(
        &mut self,
        index: usize,
        outer: Outer,
        tunnel: &[u8],
        copy: &Copy,
        mtu: u16,
        arena: &[u8],
    ) -> Result<(), DropReason> {
        let base = copy.range.start;
        let frame = &arena[copy.range.clone()];
        let mut fragmenter = Fragmenter::new(frame, &copy.offload, mtu)
            .map_err(|error| self.not_cut(error, DropReason::ExceedsPathMtu, mtu, copy, arena))?;
        let fragments = fragmenter.fragments();
        for number in 1..=fragments {
            if !self.lanes[index].has_room(1, tunnel.len() + fragment::MAX_HEADER_LEN) {
                self.flush_lane(index, arena);
            }
            let last = (number == fragments).then_some(frame.len());
            self.lanes[index].push_segment(outer, tunnel, fragment::MAX_HEADER_LEN, (number == 1, last), |headers| {
                let Fragment { header_len, payload } = fragmenter.next_fragment(headers)?;
                Some((header_len, base + payload.start..base + payload.end))
            });
        }
        Ok(())
    }

    /// The same for a port. What waits in the merger for it must have been written before.
    fn write_fragments(&mut self, id: PortId, mtu: u16, copy: &Copy, arena: &[u8]) -> Result<(), DropReason> {
        let base = copy.range.start;
        let mut fragmenter = Fragmenter::new(&arena[copy.range.clone()], &copy.offload, mtu)
            .map_err(|error| self.not_cut(error, DropReason::ExceedsPortMtu, mtu, copy, arena))?;
        let Self { ports, counters, port_headers, .. } = self;
        let device = ports.get_mut(id).ok_or(DropReason::PortDown)?;
        while let Some(Fragment { header_len, payload }) = fragmenter.next_fragment(port_headers) {
            let payload = base + payload.start..base + payload.end;
            let pieces = [Piece::new(Buffer::Headers, 0..header_len), Piece::new(Buffer::Arena, payload)];
            counters.port_writes.add(1);
            device.send(Offload::NONE, &pieces, &Buffers { arena, headers: port_headers })?;
        }
        self.sent_to_port(id, 1, copy.range.len());
        Ok(())
    }

    /// What is counted of a frame that cannot be cut; its sender is told where that helps.
    fn not_cut(&mut self, why: FragmentError, reason: DropReason, mtu: u16, copy: &Copy, arena: &[u8]) -> DropReason {
        match why {
            FragmentError::Split(_) => DropReason::BadSuperframe,
            _ => self.too_long(reason, mtu, copy, arena),
        }
    }

    fn flush_ports(&mut self, arena: &[u8]) {
        let Self { ports, counters, merger, port_headers, merge_pieces, .. } = self;
        for group in merger.groups() {
            let frames = group.frames() as u64;
            let Some((id, device)) = ports.by_key(group.egress()) else {
                counters.dropped(DropReason::PortDown, frames);
                continue;
            };
            let link = counters.port(id);
            if group.is_damaged() {
                counters.dropped(DropReason::BadInnerChecksum, frames);
                link.drops.add(frames);
                continue;
            }
            let (header_len, offload) = group.finish(arena, port_headers);
            merge_pieces.clear();
            if header_len > 0 {
                merge_pieces.push(Piece::new(Buffer::Headers, 0..header_len));
            }
            merge_pieces.extend(group.pieces().map(|range| Piece::new(Buffer::Arena, range)));
            let bytes = merge_pieces.iter().map(|piece| piece.len as usize).sum::<usize>();
            counters.port_writes.add(1);
            match device.send(offload, merge_pieces, &Buffers { arena, headers: port_headers }) {
                Ok(()) => {
                    counters.sent.add(frames);
                    link.tx_frames.add(frames);
                    link.tx_bytes.add(bytes as u64);
                }
                Err(reason) => {
                    counters.dropped(reason, frames);
                    link.drops.add(frames);
                }
            }
        }
        merger.clear();
    }

    fn flush_lane(&mut self, index: usize, arena: &[u8]) {
        let Self { underlay, counters, lanes, outcomes, .. } = self;
        outcomes.clear();
        let calls = underlay.send(index, &lanes[index], arena, &mut |place, outcome| outcomes.push((place, outcome)));
        counters.underlay_sends.add(calls);
        let lane = &mut lanes[index];
        for (place, outcome) in outcomes.drain(..) {
            let tally = lane.tally(place, outcome);
            let group = &lane.groups()[place];
            let link = counters.vtep(group.vtep);
            counters.sent.add(tally.sent);
            counters.underlay_datagrams_out.add(group.segments as u64 - outcome.lost(group.segments));
            link.tx_frames.add(tally.sent);
            if let Some(reason) = tally.carried {
                counters.dropped(reason, 1);
                link.drops.add(1);
            }
            match outcome {
                Outcome::Sent => link.tx_bytes.add(group.frame_bytes),
                Outcome::Lost { reason, .. } => {
                    counters.dropped(reason, tally.dropped);
                    link.drops.add(tally.dropped);
                }
            }
        }
        lane.clear();
    }

    fn sent_to_port(&self, id: PortId, frames: u64, bytes: usize) {
        self.counters.sent.add(frames);
        let link = self.counters.port(id);
        link.tx_frames.add(frames);
        link.tx_bytes.add(bytes as u64);
    }

    fn dropped(&self, egress: Attachment, reason: DropReason, n: u64) {
        self.counters.dropped(reason, n);
        match egress {
            Attachment::Port(id) => self.counters.port(id).drops.add(n),
            Attachment::Vtep(id) => self.counters.vtep(id).drops.add(n),
        }
    }
}

/// Finishes a frame that is no superframe where it lies, for this copy and those that follow.
fn fill_checksum(copy: &mut Copy, offload: Offload, arena: &mut [u8]) -> Result<(), DropReason> {
    if offload.gso.is_none()
        && let Checksum::Needed { start, offset } = offload.checksum
    {
        let frame = &mut arena[copy.range.clone()];
        checksum::complete(frame, start, offset).map_err(|_| DropReason::BadSuperframe)?;
        copy.offload = Offload::NONE;
    }
    Ok(())
}

/// Only ports send to VTEPs, so the domain is the port's.
fn domain_of(tables: &Tables, ingress: Attachment) -> Option<&BridgeDomain> {
    match ingress {
        Attachment::Port(id) => tables.domain(tables.port(id)?.vni),
        Attachment::Vtep(_) => None,
    }
}

/// Whether the checksum is not known to be unfilled or wrong. That of a fragment cannot be known.
fn checksum_is_complete(frame: &[u8]) -> bool {
    Inner::parse(frame).is_ok_and(|inner| checksum::verify(&inner) != Ok(Verified::Wrong))
}

fn clamp(frame: &mut [u8], mtu: u16, offload: &Offload) {
    if let Ok(inner) = Inner::parse(frame) {
        let ipv6 = matches!(inner.network, Network::Ipv6(_));
        clamp_mss(frame, mss_for(mtu, ipv6), offload);
    }
}

fn recover_drop(error: RecoverError) -> DropReason {
    match error {
        RecoverError::Frame(_) => DropReason::BadSuperframe,
        RecoverError::SegmentSizeUnknown { .. } => DropReason::SegmentSizeUnknown,
        RecoverError::TooLong { .. } => DropReason::ExceedsPortMtu,
    }
}
