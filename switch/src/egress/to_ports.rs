//! Copies for ports.
//!
//! Those from a port of this node are written at once, with their Offload as it came. Those from VTEPs pass the merger,
//! which joins neighbours of one flow to superframes again, and drops what it finds damaged. What a port does not take
//! as it is, is finished; whatever leaves beside the merger leaves after what waits in it.

use std::ops::Range;

use weft_bridge::{Attachment, DropReason, Port as PortRow, PortId, Tables, VtepId};
use weft_encap::checksum::{self, Verified};
use weft_encap::fragment::{Fragment, Fragmenter};
use weft_encap::{Inner, MergerFull, Offload, RecoverError, Splitter, recover};

use super::refusal::refused_level;
use super::{Copy, Egress, Left, clamp, complete, fill_checksum};
use crate::counters::WorkerCounters;
use crate::gather::{Buffer, Buffers, Piece};
use crate::levels::{Level, Levels};
use crate::port::{Port, TapOffloads, Unsent};
use crate::underlay::Underlay;

impl<P: Port, U: Underlay> Egress<P, U> {
    pub(super) fn queue_for_port<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        id: PortId,
        port: &PortRow,
        copy: &mut Copy,
        arena: &mut [u8],
    ) -> Result<Left, DropReason> {
        match copy.ingress {
            Attachment::Port(_) => self.hand_over(id, port, copy, arena),
            Attachment::Vtep(vtep) => self.queue_for_merging::<TRACED>(tables, vtep, id, port, copy, arena),
        }
    }

    /// From a port of this node.
    fn hand_over(&mut self, id: PortId, port: &PortRow, copy: &mut Copy, arena: &mut [u8]) -> Result<Left, DropReason> {
        if copy.wire_len > usize::from(port.mtu) {
            fill_checksum(copy, copy.offload, arena)?;
            return self.write_fragments(id, port.mtu, copy, arena);
        }
        let device = self.ports.get_mut(id).ok_or(DropReason::PortDown)?;
        if !device.offloads().and(self.in_use).carry(&copy.offload) {
            return self.write_finished(id, copy, copy.offload, arena);
        }
        let piece = Piece::new(Buffer::Arena, copy.range.clone());
        let buffers = Buffers { arena, headers: &[] };
        let outcome = device.send(copy.offload, &[piece], &buffers);
        self.counters.port_writes.add(1);
        if outcome == Err(Unsent::Offload) {
            let level = refused_level(&arena[copy.range.clone()], &copy.offload);
            let left = self.write_finished(id, copy, copy.offload, arena)?;
            self.in_use = leave(&self.levels, level);
            return Ok(left);
        }
        outcome?;
        self.sent_to_port(id, copy.range.len());
        Ok(Left::Gone)
    }

    /// From a VTEP.
    fn queue_for_merging<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        vtep: VtepId,
        id: PortId,
        port: &PortRow,
        copy: &mut Copy,
        arena: &mut [u8],
    ) -> Result<Left, DropReason> {
        let frame = &mut arena[copy.range.clone()];
        let offload = if copy.offload.gso.is_none() {
            match recover::recover(frame, port.mtu) {
                Err(RecoverError::TooLong { .. }) if checksum_is_complete(frame) => {
                    self.flush_ports::<TRACED>(arena);
                    return self.write_fragments(id, port.mtu, copy, arena);
                }
                recovered => recovered.map_err(recover_drop)?,
            }
        } else if copy.wire_len <= usize::from(port.mtu) {
            recover::complete_partial_checksum(frame);
            copy.offload
        } else {
            self.flush_ports::<TRACED>(arena);
            return self.write_fragments(id, port.mtu, copy, arena);
        };
        if let (Some(vtep), Some(domain)) = (tables.vtep(vtep), tables.domain(port.vni))
            && domain.clamp_mss()
        {
            clamp(frame, vtep.pod_mtu.saturating_sub(copy.tag_len as u16), &offload);
        }
        let (key, device) = self.ports.key(id).ok_or(DropReason::PortDown)?;
        let takes = device.offloads().and(self.in_use);
        if !takes.carry(&offload) {
            self.flush_ports::<TRACED>(arena);
            return self.write_finished(id, copy, offload, arena);
        }
        let alone = copy.kind.is_some_and(|kind| !takes.takes(kind));
        if self.merge(arena, key, copy, offload, alone).is_err() {
            self.flush_ports::<TRACED>(arena);
            // An emptied merger has room for one frame.
            let _ = self.merge(arena, key, copy, offload, alone);
        }
        Ok(Left::Waiting)
    }

    /// Writes a frame to a port that may not be left what `offload` says: with its checksum filled, cut if it is a
    /// superframe.
    fn write_finished(
        &mut self,
        id: PortId,
        copy: &mut Copy,
        offload: Offload,
        arena: &mut [u8],
    ) -> Result<Left, DropReason> {
        fill_checksum(copy, offload, arena)?;
        let Self { ports, counters, port_headers, .. } = self;
        let device = ports.get_mut(id).ok_or(DropReason::PortDown)?;
        send_finished(device, counters, port_headers, (arena, copy.range.clone()), &offload)?;
        self.sent_to_port(id, copy.range.len());
        Ok(Left::Gone)
    }

    fn merge(&mut self, arena: &[u8], key: u32, copy: &Copy, offload: Offload, alone: bool) -> Result<(), MergerFull> {
        if alone {
            self.merger.push_alone(copy.range.clone(), key, offload)
        } else {
            self.merger.push(arena, copy.range.clone(), key, offload)
        }
    }

    /// Cuts what is too long for a port into fragments, where its sender allows that, and writes them.
    fn write_fragments(&mut self, id: PortId, mtu: u16, copy: &Copy, arena: &[u8]) -> Result<Left, DropReason> {
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
        self.sent_to_port(id, copy.range.len());
        Ok(Left::Gone)
    }

    pub(super) fn flush_ports<const TRACED: bool>(&mut self, arena: &[u8]) {
        let Self { ports, counters, levels, in_use, merger, port_headers, merge_pieces, refused, tracer, .. } = self;
        for group in merger.groups() {
            let frames = group.frames() as u64;
            let mut told = |port, outcome: Result<(), DropReason>| {
                if let Some(tracer) = tracer.of_turn::<TRACED>() {
                    tracer.merged(port, group.pieces(), outcome.map(|()| group.frames()));
                }
            };
            let Some((id, device)) = ports.by_key(group.egress()) else {
                counters.dropped(DropReason::PortDown, frames);
                told(None, Err(DropReason::PortDown));
                continue;
            };
            let link = counters.port(id);
            if group.is_damaged() {
                counters.dropped(DropReason::BadInnerChecksum, frames);
                link.drops.add(frames);
                told(Some(id), Err(DropReason::BadInnerChecksum));
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
            let outcome = match device.send(offload, merge_pieces, &Buffers { arena, headers: port_headers }) {
                Err(Unsent::Offload) => {
                    let buffers = Buffers { arena, headers: port_headers };
                    refused.clear();
                    merge_pieces.iter().for_each(|piece| refused.extend_from_slice(piece.bytes(&buffers)));
                    send_refused(device, counters, port_headers, refused, &offload)
                        .map(|level| *in_use = leave(levels, level))
                }
                outcome => outcome.map_err(DropReason::from),
            };
            told(Some(id), outcome);
            match outcome {
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
        if let Some(tracer) = tracer.of_turn::<TRACED>() {
            tracer.merger_cleared();
        }
    }

    fn sent_to_port(&self, id: PortId, bytes: usize) {
        self.counters.sent.add(1);
        let link = self.counters.port(id);
        link.tx_frames.add(1);
        link.tx_bytes.add(bytes as u64);
    }
}

/// Writes a frame of a buffer so that nothing is left to the port: cut if it is a superframe; if not, its checksum is
/// filled already.
fn send_finished<P: Port>(
    device: &mut P,
    counters: &WorkerCounters,
    headers: &mut [u8],
    (arena, range): (&[u8], Range<usize>),
    offload: &Offload,
) -> Result<(), DropReason> {
    let mut send = |headers: &[u8], pieces: &[Piece]| {
        counters.port_writes.add(1);
        device.send(Offload::NONE, pieces, &Buffers { arena, headers })
    };
    if offload.gso.is_none() {
        return Ok(send(&[], &[Piece::new(Buffer::Arena, range)])?);
    }
    let base = range.start;
    let mut splitter = Splitter::new(&arena[range], offload).map_err(|_| DropReason::BadSuperframe)?;
    let header = Piece::new(Buffer::Headers, 0..splitter.header_len());
    let mut outcome = Ok(());
    while let Some(payload) = splitter.next_segment(headers) {
        let payload = Piece::new(Buffer::Arena, base + payload.start..base + payload.end);
        outcome = outcome.and(send(headers, &[header, payload]));
    }
    Ok(outcome?)
}

/// Finishes and writes a frame that the kernel refused as it was. Says of which level it does not, if it takes it now.
fn send_refused<P: Port>(
    device: &mut P,
    counters: &WorkerCounters,
    headers: &mut [u8],
    frame: &mut [u8],
    offload: &Offload,
) -> Result<Option<Level>, DropReason> {
    let level = refused_level(frame, offload);
    if offload.gso.is_none() {
        complete(frame, offload.checksum)?;
    }
    send_finished(device, counters, headers, (frame, 0..frame.len()), offload)?;
    Ok(level)
}

/// Leaves a level that turned out not to be there, and returns what is still in use.
fn leave(levels: &Levels, level: Option<Level>) -> TapOffloads {
    let why = || "the kernel refused a pod's frame as it was and took it finished: EINVAL".to_owned();
    if let Some(level) = level
        && levels.demote(level, why())
    {
        tracing::warn!(%level, "the kernel refuses an offload of pods' devices; it is off from now on");
    }
    TapOffloads::of(levels)
}

/// Whether the checksum is not known to be unfilled or wrong. That of a fragment cannot be known.
fn checksum_is_complete(frame: &[u8]) -> bool {
    Inner::parse(frame).is_ok_and(|inner| checksum::verify(&inner) != Ok(Verified::Wrong))
}

fn recover_drop(error: RecoverError) -> DropReason {
    match error {
        RecoverError::Frame(_) => DropReason::BadSuperframe,
        RecoverError::SegmentSizeUnknown { .. } => DropReason::SegmentSizeUnknown,
        RecoverError::TooLong { .. } => DropReason::ExceedsPortMtu,
    }
}
