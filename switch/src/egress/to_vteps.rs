//! Copies for VTEPs, and path probes: cut to tunnel packets, given their headers and queued in the flow's lane.

use weft_bridge::{BridgeDomain, DropReason, Tables, Vtep, VtepId};
use weft_encap::Splitter;
use weft_encap::fragment::{self, Fragment, Fragmenter};
use weft_encap::mtu::overhead;
use weft_encap::outer::{DEFAULT_TTL, Ttl};
use weft_encap::probe::{self, Probe};

use super::{Copy, Egress, Left, clamp, fill_checksum};
use crate::port::Port;
use crate::underlay::{LANES, MAX_GROUP_BYTES, Outcome, Outer, Underlay};

impl<P: Port, U: Underlay> Egress<P, U> {
    /// Queues path probes, or the echo of one, to a VTEP: those of one length, as one group. Which source port they take
    /// follows from the first one's nonce, so that probes of one path meet all the ways that its flows take.
    pub(crate) fn queue_probes<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        id: VtepId,
        probes: &[Probe],
        arena: &[u8],
    ) {
        let (Some(vtep), Some(first)) = (tables.vtep(id), probes.first()) else { return };
        let overhead = overhead(vtep.encapsulation, vtep.address.is_ipv6(), 0);
        let Ok(len) = first.frame_len(overhead) else { return };
        let index = (first.nonce % LANES as u64) as usize;
        let tunnel = vtep.encapsulation.header(probe::VNI);
        if !self.lanes[index].has_room(probes.len(), tunnel.as_bytes().len() + len) {
            self.flush_lane::<TRACED>(index, arena);
        }
        let ttl = match tables.outer_ttl() {
            Ttl::Fixed(hops) => hops,
            Ttl::Inherit => DEFAULT_TTL,
        };
        let outer = Outer { vtep: id, to: vtep.destination(), tos: 0, ttl, alone: false };
        self.lanes[index].push_probes(outer, tunnel.as_bytes(), (probes.len(), len), |place, frame| {
            // The room is what `frame_len` asked for.
            let _ = probes[place].write(overhead, frame);
        });
        self.counters.probes_sent.add(probes.len() as u64);
    }

    pub(super) fn queue_for_vtep<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        id: VtepId,
        vtep: &Vtep,
        domain: &BridgeDomain,
        copy: &mut Copy,
        arena: &mut [u8],
    ) -> Result<Left, DropReason> {
        let mtu = vtep.pod_mtu.saturating_sub(copy.tag_len as u16);
        let index = copy.flow.index(LANES);
        let alone = tables.is_ungrouped(id);
        let outer = Outer { vtep: id, to: vtep.destination(), tos: copy.tos, ttl: copy.ttl, alone };
        let tunnel = vtep.encapsulation.header(domain.vni());
        let tunnel = tunnel.as_bytes();
        let too_long = copy.wire_len > usize::from(mtu);
        if copy.offload.gso.is_some() && !too_long {
            return self.queue_superframe::<TRACED>(index, outer, tunnel, copy, arena);
        }
        if domain.clamp_mss() {
            clamp(&mut arena[copy.range.clone()], mtu, &copy.offload);
        }
        fill_checksum(copy, copy.offload, arena)?;
        if too_long {
            return self.queue_fragments::<TRACED>(index, outer, tunnel, copy, mtu, arena);
        }
        if !self.lanes[index].has_room(1, tunnel.len()) {
            self.flush_lane::<TRACED>(index, arena);
        }
        self.lanes[index].push_frame(outer, tunnel, copy.range.clone(), arena);
        Ok(Left::Waiting)
    }

    fn queue_superframe<const TRACED: bool>(
        &mut self,
        index: usize,
        outer: Outer,
        tunnel: &[u8],
        copy: &Copy,
        arena: &[u8],
    ) -> Result<Left, DropReason> {
        let base = copy.range.start;
        let frame = &arena[copy.range.clone()];
        let mut splitter = Splitter::new(frame, &copy.offload).map_err(|_| DropReason::BadSuperframe)?;
        let (header_len, segments) = (splitter.header_len(), splitter.segments());
        let fits = tunnel.len() + frame.len() <= MAX_GROUP_BYTES;
        let whole = fits && copy.tag_len == 0 && !outer.alone;
        if segments > 1 && whole && self.underlay.carries_superframes(outer.vtep) {
            let offload = splitter.offload();
            let segment = tunnel.len() + header_len + offload.gso.map_or(0, |gso| usize::from(gso.size));
            if !self.lanes[index].has_room(1, tunnel.len()) {
                self.flush_lane::<TRACED>(index, arena);
            }
            self.lanes[index].push_superframe(outer, tunnel, copy.range.clone(), offload, segment);
            return Ok(Left::Waiting);
        }
        for segment in 1..=segments {
            if !self.lanes[index].has_room(1, tunnel.len() + header_len) {
                self.flush_lane::<TRACED>(index, arena);
            }
            let last = (segment == segments).then_some(frame.len());
            self.lanes[index].push_segment(outer, tunnel, header_len, (segment == 1, last), |headers| {
                let payload = splitter.next_segment(headers)?;
                Some((header_len, base + payload.start..base + payload.end))
            });
        }
        Ok(Left::Waiting)
    }

    /// Cuts what is too long for its path into fragments, where its sender allows that.
    fn queue_fragments<const TRACED: bool>(
        &mut self,
        index: usize,
        outer: Outer,
        tunnel: &[u8],
        copy: &Copy,
        mtu: u16,
        arena: &[u8],
    ) -> Result<Left, DropReason> {
        let base = copy.range.start;
        let frame = &arena[copy.range.clone()];
        let mut fragmenter = Fragmenter::new(frame, &copy.offload, mtu)
            .map_err(|error| self.not_cut(error, DropReason::ExceedsPathMtu, mtu, copy, arena))?;
        let fragments = fragmenter.fragments();
        for number in 1..=fragments {
            if !self.lanes[index].has_room(1, tunnel.len() + fragment::MAX_HEADER_LEN) {
                self.flush_lane::<TRACED>(index, arena);
            }
            let last = (number == fragments).then_some(frame.len());
            self.lanes[index].push_segment(outer, tunnel, fragment::MAX_HEADER_LEN, (number == 1, last), |headers| {
                let Fragment { header_len, payload } = fragmenter.next_fragment(headers)?;
                Some((header_len, base + payload.start..base + payload.end))
            });
        }
        Ok(Left::Waiting)
    }

    pub(super) fn flush_lane<const TRACED: bool>(&mut self, index: usize, arena: &[u8]) {
        let Self { underlay, counters, lanes, outcomes, tracer, .. } = self;
        outcomes.clear();
        let calls = underlay.send(index, &lanes[index], arena, &mut |place, outcome| outcomes.push((place, outcome)));
        counters.underlay_sends.add(calls);
        let lane = &mut lanes[index];
        for (place, outcome) in outcomes.drain(..) {
            let tally = lane.tally(place, outcome);
            if let Some(tracer) = tracer.of_turn::<TRACED>() {
                tracer.left(index, lane, place, outcome, arena);
            }
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
}
