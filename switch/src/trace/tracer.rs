use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use weft_bridge::{Attachment, Decision, DropReason, PortId, Tables, Verdict};
use weft_encap::{Encapsulation, Inner, InnerError, Offload, OffloadError, Vni};

use super::filter::{End, Touched};
use super::ring::CAPTURE_BYTES;
use super::{
    Bytes, Captured, CopyTold, Depth, Filter, Identity, Ingress, Listener, Record, Sent, SourcePort, Summary, Told,
    TunnelBytes,
};
use crate::egress::{Copy, Left};
use crate::underlay::{Datagram, Form, LANES, Lane, Outcome};

/// How often frames may be traced at one time: listeners at most.
pub const MAX_LISTENERS: usize = 8;

/// A worker's tracer, as long as somebody listens.
///
/// Nothing but [`Self::of_turn`] leads to it while frames are dealt with: so a turn that begins without one has no
/// instruction for it.
#[derive(Default)]
pub(crate) struct OptionalTracer(Option<Box<Tracer>>);

impl OptionalTracer {
    /// Whether the turn that begins is one to tell of.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells one more, between two turns.
    pub(crate) fn add(&mut self, listener: Listener) {
        self.0.get_or_insert_with(|| Box::new(Tracer::new())).add(listener);
    }

    /// The tracer in the code of turns with one; nothing in that of turns without.
    #[inline]
    pub(crate) fn of_turn<const TRACED: bool>(&mut self) -> Option<&mut Tracer> {
        if TRACED { self.0.as_deref_mut() } else { None }
    }

    /// A turn that was told of ends; with the last listener the tracer goes.
    #[cold]
    pub(crate) fn end_turn(&mut self) {
        self.0.take_if(|tracer| !tracer.end_turn());
    }
}

/// What a worker knows of the frames of a turn while it tells of them.
pub(crate) struct Tracer {
    listeners: Vec<Listener>,
    frames: u64,
    held: Arc<AtomicUsize>,
    /// The frame whose copies are being made.
    current: Option<Copied>,
    /// The copy that is being queued, unless it waits in a lane already.
    queuing: Option<Copied>,
    /// For each lane the copies that wait in it, in order; none for one that nobody wants to know of.
    lanes: Vec<VecDeque<Option<Copied>>>,
    /// Copies that wait to be merged.
    merging: Vec<(Range<usize>, PortId, Option<Copied>)>,
}

/// How a copy leaves.
#[derive(Clone, Debug)]
enum Way {
    /// By one of the lanes to VTEPs.
    Lane(usize),
    /// Through the merger to a port; it lies there in the arena.
    Merger(Range<usize>, PortId),
    /// At once, to a port.
    Port,
}

/// A tunnel packet that a frame came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<'a> {
    pub(crate) datagram: &'a Datagram,
    /// Where the packet begins in the arena.
    pub(crate) start: usize,
}

/// A frame, or a copy of it, with what is known so far.
#[derive(Clone)]
struct Copied {
    record: Record,
    /// For each listener what was met, none where the frame is not its business.
    wanted: [Option<Touched>; MAX_LISTENERS],
    sent: Sent,
    lost: Option<DropReason>,
    /// How it is carried, if it goes to a VTEP.
    encapsulation: Encapsulation,
}

#[expect(clippy::disallowed_methods, reason = "records of several nodes are put side by side by the time of day")]
fn clock() -> Duration {
    let now = clock_gettime(ClockId::Realtime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Way {
    fn of(copy: &Copy, egress: Attachment) -> Self {
        match (egress, copy.ingress) {
            (Attachment::Vtep(_), _) => Self::Lane(copy.flow.index(LANES)),
            (Attachment::Port(id), Attachment::Vtep(_)) => Self::Merger(copy.range.clone(), id),
            (Attachment::Port(_), Attachment::Port(_)) => Self::Port,
        }
    }
}

impl Tracer {
    fn new() -> Self {
        Self {
            listeners: Vec::new(),
            frames: 0,
            held: Arc::new(AtomicUsize::new(0)),
            current: None,
            queuing: None,
            lanes: (0..LANES).map(|_| VecDeque::new()).collect(),
            merging: Vec::new(),
        }
    }

    /// Tells one more, between two turns. Those that nobody reads any more make room; whoever begins traces sees to it that
    /// there are no more than [`MAX_LISTENERS`].
    fn add(&mut self, listener: Listener) {
        self.listeners.retain(Listener::is_heard);
        if self.listeners.len() < MAX_LISTENERS {
            self.listeners.push(listener);
        }
    }

    /// A turn ends. False once nobody listens any more.
    fn end_turn(&mut self) -> bool {
        self.current = None;
        self.listeners.iter_mut().for_each(Listener::wake);
        self.listeners.retain(Listener::is_heard);
        !self.listeners.is_empty()
    }

    fn wants_bytes(&self) -> bool {
        self.listeners.iter().any(|listener| listener.depth == Depth::Bytes)
    }

    /// A tunnel packet that was refused before its frame was looked at.
    #[cold]
    pub(crate) fn refused(&mut self, tables: &Tables, datagram: &Datagram, payload: &[u8], reason: DropReason) {
        let (vni, frame) = match datagram.encapsulation.decap(payload) {
            Ok((vni, frame)) => (Some(vni), frame),
            Err(_) => (None, &[][..]),
        };
        let ingress = match tables.vtep_by_address(datagram.source) {
            Some(id) => Ingress::Vtep(id, datagram.source),
            None => Ingress::Stranger(datagram.source),
        };
        let record = self.record(ingress, vni, frame, &Inner::parse(frame), Ok(Offload::NONE), Told::Drop(reason));
        let Some(mut refused) = self.wanted(tables, record) else { return };
        if self.wants_bytes() {
            // Headers made anew would be right ones.
            let outer = if datagram.form == Form::Malformed { None } else { self.tunnel_in(datagram, payload) };
            self.capture(&mut refused, frame, Offload::NONE, outer);
        }
        self.tell(refused);
    }

    /// A frame and its verdict. What makes no copies is told at once.
    #[expect(clippy::too_many_arguments, reason = "everything that decided")]
    #[cold]
    pub(crate) fn decided(
        &mut self,
        tables: &Tables,
        (attachment, vni): (Attachment, Option<Vni>),
        arrived: Option<Arrived<'_>>,
        inner: &Result<Inner<'_>, InnerError>,
        offload: Result<Offload, OffloadError>,
        (arena, range): (&[u8], &Range<usize>),
        decision: &Decision<'_>,
    ) {
        self.current = None;
        let ingress = match (attachment, arrived) {
            (Attachment::Port(id), _) => Ingress::Port(id),
            (Attachment::Vtep(id), Some(arrived)) => Ingress::Vtep(id, arrived.datagram.source),
            (Attachment::Vtep(_), None) => return,
        };
        let domain = vni.and_then(|vni| tables.domain(vni));
        let how = || decision.how(domain?, inner.as_ref().ok()?);
        let told = match decision.verdict {
            Verdict::Unicast(_) => Told::Unicast(how().unwrap_or(weft_bridge::How::Learned)),
            Verdict::Flood(flood) => Told::Flood(flood.cause()),
            Verdict::Answer(mac) => Told::Answer(mac),
            Verdict::Drop(reason) => Told::Drop(reason),
        };
        let frame = &arena[range.clone()];
        let record = self.record(ingress, vni, frame, inner, offload, told);
        let Some(mut copied) = self.wanted(tables, record) else { return };
        if self.wants_bytes() {
            let payload = arrived.map(|arrived| (arrived.datagram, &arena[arrived.start..range.end]));
            let outer = payload.and_then(|(datagram, payload)| self.tunnel_in(datagram, payload));
            self.capture(&mut copied, frame, offload.unwrap_or(Offload::NONE), outer);
        }
        match told {
            Told::Answer(_) | Told::Drop(_) => self.tell(copied),
            Told::Unicast(_) | Told::Flood(_) => self.current = Some(copied),
        }
    }

    /// The frame is not flooded after all.
    #[cold]
    pub(crate) fn flood_refused(&mut self, reason: DropReason) {
        if let Some(mut copied) = self.current.take() {
            copied.record.decision = Told::Drop(reason);
            self.tell(copied);
        }
    }

    /// A copy of the frame is about to be queued.
    #[cold]
    pub(crate) fn begins(&mut self, tables: &Tables, egress: Attachment, copy: &Copy) {
        let copied = self.current.clone().map(|mut copied| {
            copied.record.copy = Some(CopyTold { egress, outcome: Ok(Sent::default()) });
            if let Attachment::Vtep(id) = egress
                && let Some(vtep) = tables.vtep(id)
            {
                copied.encapsulation = vtep.encapsulation;
            }
            for (listener, met) in self.listeners.iter().zip(&mut copied.wanted) {
                let Some(touched) = met else { continue };
                let out = listener.filter.takes_end(tables, End::Out(egress));
                *met = touched.and_at(out).then_some(Touched { pod: true, peer: true });
            }
            copied
        });
        match Way::of(copy, egress) {
            Way::Lane(lane) => self.lanes[lane].push_back(copied),
            Way::Merger(..) | Way::Port => self.queuing = copied,
        }
    }

    /// It was queued, which may have sent it already, or could not be.
    #[cold]
    pub(crate) fn queued(&mut self, copy: &Copy, egress: Attachment, left: Result<Left, DropReason>) {
        match (Way::of(copy, egress), left) {
            (Way::Lane(_), Ok(Left::Waiting)) => {}
            (Way::Lane(lane), outcome) => {
                let copied = self.lanes[lane].pop_back().flatten();
                self.settle(copied, outcome.map(|_| Sent { packets: 1, merged: 1 }));
            }
            (Way::Merger(range, id), Ok(Left::Waiting)) => {
                let copied = self.queuing.take();
                self.merging.push((range, id, copied));
            }
            (Way::Merger(..) | Way::Port, outcome) => {
                let copied = self.queuing.take();
                self.settle(copied, outcome.map(|_| Sent { packets: 1, merged: 1 }));
            }
        }
    }

    /// What became of one group of a lane.
    #[cold]
    pub(crate) fn left(&mut self, index: usize, lane: &Lane, place: usize, outcome: Outcome, arena: &[u8]) {
        let group = &lane.groups()[place];
        if group.holds_probes() {
            return;
        }
        let bytes = self.wants_bytes().then(|| {
            let buffers = lane.buffers(arena);
            lane.pieces(group).iter().flat_map(|piece| piece.bytes(&buffers)).copied().collect::<Vec<u8>>()
        });
        let reason_of = |packet: usize| match outcome {
            Outcome::Lost { reason, packets } if packets >> packet & 1 == 1 => Some(reason),
            Outcome::Sent | Outcome::Lost { .. } => None,
        };
        let len = if group.superframe.is_some() { group.bytes } else { group.segment };
        for packet in 0..group.segments {
            let ends = group.ends_frame(packet);
            let Some(waiting) = self.lanes[index].front_mut() else { return };
            if let Some(copied) = waiting {
                copied.sent.packets += 1;
                copied.lost = copied.lost.or(reason_of(packet));
                if let Some((bytes, captured)) = bytes.as_ref().zip(copied.record.captured.as_mut()) {
                    let payload = bytes.chunks(len.max(1)).nth(packet).unwrap_or_default();
                    match Bytes::copy(&[payload], &self.held, CAPTURE_BYTES) {
                        Some(payload) => captured.outer_out.push(TunnelBytes {
                            peer: group.to.ip(),
                            source_port: SourcePort::Lane(index),
                            destination_port: Some(group.to.port()),
                            encapsulation: copied.encapsulation,
                            tos: group.tos,
                            ttl: Some(group.ttl),
                            payload,
                        }),
                        // Half a frame is none: it counts as lost.
                        None => copied.record.captured = None,
                    }
                }
            }
            if ends {
                let copied = self.lanes[index].pop_front().flatten();
                let outcome = copied.as_ref().and_then(|copied| copied.lost);
                let sent = copied.as_ref().map_or(Sent::default(), |copied| Sent { merged: 1, ..copied.sent });
                self.settle(copied, outcome.map_or(Ok(sent), Err));
            }
        }
    }

    /// What became of frames that left the merger as one.
    #[cold]
    pub(crate) fn merged(
        &mut self,
        port: Option<PortId>,
        pieces: impl Iterator<Item = Range<usize>>,
        outcome: Result<usize, DropReason>,
    ) {
        for piece in pieces {
            let end = self.merging.partition_point(|(range, ..)| range.start <= piece.start);
            let mut found = self.merging[..end].iter_mut().rev().take_while(|(range, ..)| piece.end <= range.end);
            let copied =
                found.find(|(_, id, _)| port.is_none_or(|port| port == *id)).and_then(|(.., copied)| copied.take());
            self.settle(copied, outcome.map(|frames| Sent { packets: 1, merged: frames as u32 }));
        }
    }

    /// The merger is empty again.
    #[cold]
    pub(crate) fn merger_cleared(&mut self) {
        self.merging.clear();
    }

    fn settle(&mut self, copied: Option<Copied>, outcome: Result<Sent, DropReason>) {
        let Some(mut copied) = copied else { return };
        if let Some(copy) = &mut copied.record.copy {
            copy.outcome = outcome;
        }
        self.tell(copied);
    }

    fn tell(&mut self, mut copied: Copied) {
        copied.record.settled = clock();
        for (listener, met) in self.listeners.iter_mut().zip(copied.wanted) {
            let complete = met.is_some_and(|touched| touched.pod && touched.peer);
            if !complete || !listener.filter.takes_outcome(&copied.record) {
                continue;
            }
            let mut record = copied.record.clone();
            match listener.depth {
                Depth::Fates => record.captured = None,
                Depth::Bytes if record.captured.is_none() => {
                    listener.lose();
                    continue;
                }
                Depth::Bytes => {}
            }
            listener.tell(record);
        }
    }

    fn record(
        &mut self,
        ingress: Ingress,
        vni: Option<Vni>,
        frame: &[u8],
        inner: &Result<Inner<'_>, InnerError>,
        offload: Result<Offload, OffloadError>,
        decision: Told,
    ) -> Record {
        self.frames += 1;
        let (entered, inner) = (clock(), inner.as_ref().ok());
        let offload = offload.unwrap_or(Offload::NONE);
        Record {
            frame: self.frames,
            entered,
            settled: entered,
            ingress,
            vni,
            len: frame.len(),
            summary: inner.map(Summary::of),
            identity: inner.zip(vni).map(|(inner, vni)| Identity::of(vni, inner, &offload)),
            decision,
            copy: None,
            captured: None,
        }
    }

    /// The frame, if anybody may want to know of it.
    fn wanted(&self, tables: &Tables, record: Record) -> Option<Copied> {
        let mut wanted = [None; MAX_LISTENERS];
        let takes = |filter: &Filter| {
            let frame = filter.takes_frame(record.vni, record.summary.as_ref());
            frame.then(|| filter.takes_end(tables, End::In(record.ingress)))
        };
        for (listener, met) in self.listeners.iter().zip(&mut wanted) {
            *met = takes(&listener.filter);
        }
        wanted.iter().any(Option::is_some).then_some(Copied {
            record,
            wanted,
            sent: Sent::default(),
            lost: None,
            encapsulation: Encapsulation::default(),
        })
    }

    fn tunnel_in(&self, datagram: &Datagram, payload: &[u8]) -> Option<TunnelBytes> {
        Some(TunnelBytes {
            peer: datagram.source,
            source_port: SourcePort::Port(datagram.source_port),
            destination_port: None,
            encapsulation: datagram.encapsulation,
            tos: datagram.tos,
            ttl: None,
            payload: Bytes::copy(&[payload], &self.held, CAPTURE_BYTES)?,
        })
    }

    fn capture(&self, copied: &mut Copied, frame: &[u8], offload: Offload, outer_in: Option<TunnelBytes>) {
        let inner = Bytes::copy(&[frame], &self.held, CAPTURE_BYTES);
        copied.record.captured = inner.map(|inner| Captured { inner, offload, outer_in, outer_out: Vec::new() });
    }
}
