//! What leaves: one copy at a time is queued for its port or VTEP, and a flush hands all to the kernel.
//!
//! To ports (`to_ports`), to VTEPs (`to_vteps`), and what the switch says itself (`answering`). What is too long for its
//! port or path is fragmented where its sender allows that, and else answered. The bytes themselves stay where they were
//! read; see docs/adr/0001-gather-instead-of-headroom.md.

mod answering;
mod refusal;
mod to_ports;
mod to_vteps;

use std::ops::Range;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use weft_bridge::{Attachment, BridgeDomain, DropReason, Seconds, Tables};
use weft_encap::fragment;
use weft_encap::mss::{clamp_mss, mss_for};
use weft_encap::{Checksum, FlowHash, GsoKind, Inner, Merger, Network, Offload, checksum};

use crate::answers::Answer;
use crate::counters::WorkerCounters;
use crate::gather::Piece;
use crate::levels::Levels;
use crate::port::{Port, TapOffloads};
use crate::ports::Ports;
use crate::trace::OptionalTracer;
use crate::underlay::{LANES, Lane, MAX_GROUPS, Outcome, Underlay};

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
    levels: Arc<Levels>,
    /// What ports are handed at all in this turn.
    in_use: TapOffloads,
    lanes: Vec<Lane>,
    merger: Merger,
    port_headers: Vec<u8>,
    merge_pieces: Vec<Piece>,
    /// A merged frame that the kernel refused, in one piece.
    refused: Vec<u8>,
    answer: Answer,
    outcomes: Vec<(usize, Outcome)>,
    /// Tells what becomes of frames, as long as somebody wants to know.
    pub(crate) tracer: OptionalTracer,
}

/// Where a copy is, once it was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Handed to the kernel.
    Gone,
    /// In a lane or in the merger, until that is flushed.
    Waiting,
}

impl<P: Port, U: Underlay> Egress<P, U> {
    pub(crate) fn new(counters: Arc<CachePadded<WorkerCounters>>, levels: Arc<Levels>, underlay: U) -> Self {
        Self {
            ports: Ports::new(),
            underlay,
            counters,
            in_use: TapOffloads::of(&levels),
            levels,
            lanes: (0..LANES).map(|_| Lane::new()).collect(),
            merger: Merger::with_capacity(MERGE_FRAMES),
            port_headers: vec![0; PORT_HEADER_BYTES],
            merge_pieces: Vec::with_capacity(MERGE_FRAMES),
            refused: Vec::new(),
            answer: Answer::new(),
            outcomes: Vec::with_capacity(MAX_GROUPS),
            tracer: OptionalTracer::default(),
        }
    }

    /// Looks at what others decided since the last turn.
    pub(crate) fn begin_turn(&mut self) {
        self.in_use = TapOffloads::of(&self.levels);
        self.underlay.begin_turn();
    }

    /// Takes one copy of a frame. What cannot leave is counted here.
    pub(crate) fn queue<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        egress: Attachment,
        copy: &mut Copy,
        arena: &mut [u8],
    ) {
        self.counters.copies.add(1);
        if let Some(tracer) = self.tracer.of_turn::<TRACED>() {
            tracer.begins(tables, egress, copy);
        }
        let outcome = match egress {
            Attachment::Port(id) => match tables.port(id) {
                Some(port) => self.queue_for_port::<TRACED>(tables, id, port, copy, arena),
                None => Err(DropReason::PortDown),
            },
            Attachment::Vtep(id) => match (tables.vtep(id), domain_of(tables, copy.ingress)) {
                (Some(vtep), Some(domain)) => self.queue_for_vtep::<TRACED>(tables, id, vtep, domain, copy, arena),
                _ => Err(DropReason::UnderlayUnreachable),
            },
        };
        if let Some(tracer) = self.tracer.of_turn::<TRACED>() {
            tracer.queued(copy, egress, outcome);
        }
        if let Err(reason) = outcome {
            self.dropped(egress, reason, 1);
        }
    }

    /// Hands everything queued to the kernel.
    pub(crate) fn flush<const TRACED: bool>(&mut self, arena: &[u8]) {
        self.flush_ports::<TRACED>(arena);
        for lane in 0..self.lanes.len() {
            if !self.lanes[lane].is_empty() {
                self.flush_lane::<TRACED>(lane, arena);
            }
        }
        if TRACED {
            self.tracer.end_turn();
        }
    }

    fn dropped(&self, egress: Attachment, reason: DropReason, n: u64) {
        self.counters.dropped(reason, n);
        match egress {
            Attachment::Port(id) => self.counters.port(id).drops.add(n),
            Attachment::Vtep(id) => self.counters.vtep(id).drops.add(n),
        }
    }
}

/// Only ports send to VTEPs, so the domain is the port's.
fn domain_of(tables: &Tables, ingress: Attachment) -> Option<&BridgeDomain> {
    match ingress {
        Attachment::Port(id) => tables.domain(tables.port(id)?.vni),
        Attachment::Vtep(_) => None,
    }
}

/// Finishes a frame that is no superframe where it lies, for this copy and those that follow.
fn fill_checksum(copy: &mut Copy, offload: Offload, arena: &mut [u8]) -> Result<(), DropReason> {
    if offload.gso.is_none() && matches!(offload.checksum, Checksum::Needed { .. }) {
        complete(&mut arena[copy.range.clone()], offload.checksum)?;
        copy.offload = Offload::NONE;
    }
    Ok(())
}

/// Fills the checksum of a frame that is no superframe, if that is to be done.
fn complete(frame: &mut [u8], checksum: Checksum) -> Result<(), DropReason> {
    match checksum {
        Checksum::Needed { start, offset } => {
            checksum::complete(frame, start, offset).map_err(|_| DropReason::BadSuperframe)
        }
        Checksum::Unknown | Checksum::Valid => Ok(()),
    }
}

/// Lowers the maximum segment size of a SYN to what fits packets of `mtu` bytes.
fn clamp(frame: &mut [u8], mtu: u16, offload: &Offload) {
    if let Ok(inner) = Inner::parse(frame) {
        let ipv6 = matches!(inner.network, Network::Ipv6(_));
        clamp_mss(frame, mss_for(mtu, ipv6), offload);
    }
}
