//! The run-to-completion loop of one worker.
//!
//! Theory of operation. A turn drains one source, a port or an underlay socket, into the arena; decides
//! every frame with `forward`; lets [`Egress`] queue the copies; and flushes all queues before the arena is
//! used again. So nothing waits for a timer, one bad frame costs only itself, and no frame outlives its turn.
//!
//! What is shared: the published tables, loaded once a turn; the FDB; the counters, written by this worker
//! alone. What is bounded: frames in a turn, bytes in the arena, what a queue holds. No lock is taken, and
//! nothing is allocated, for a frame.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use crossbeam_utils::CachePadded;
use weft_bridge::{
    Admitted, Arrival, Attachment, Decision, DropReason, Fdb, Group, Ingress, PortId, Seconds, Tables, TunnelPacket,
    Verdict, VtepId, admit, forward, group, wire_len,
};
use weft_encap::ecn::{apply_ecn, outer_tos};
use weft_encap::inner::{ETHERNET_LEN, PROTOCOL_TCP, PROTOCOL_UDP};
use weft_encap::outer::outer_ttl;
use weft_encap::probe::{Kind, Probe};
use weft_encap::{FlowHash, GsoKind, Inner, MacAddr, Network, Offload};

use crate::budget::Budget;
use crate::counters::WorkerCounters;
use crate::egress::{Copy, Egress};
use crate::levels::Levels;
use crate::port::{Port, PortFrame};
use crate::trace::{Arrived, Listener};
use crate::underlay::{Datagram, Form, ReceiveCounts, Underlay};

/// Bytes of the arena: sixteen receive slots of 64 KiB.
const ARENA_BYTES: usize = 1 << 20;

/// Frames in one second at most that come from managed VTEPs before their membership of the VNI does: what a new pod
/// says first, and not what somebody can flood.
const EARLY_PER_SECOND: u32 = 1000;

/// What a worker shares with others.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) tables: Arc<ArcSwap<Tables>>,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) counters: Arc<CachePadded<WorkerCounters>>,
    pub(crate) levels: Arc<Levels>,
    /// Where echoes of path probes go; one that finds it full is lost, as on the way.
    pub(crate) echoes: Sender<ProbeEcho>,
    /// Where revision replies go, in the same way.
    pub(crate) revisions: Sender<RevisionReply>,
}

/// The answer to a path probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeEcho {
    /// Who answered.
    pub vtep: VtepId,
    /// Of which request.
    pub nonce: u64,
    /// Bytes of the outer IP packet that arrived there.
    pub size: u16,
    /// When the worker took it in, however long it waits to be read after that.
    pub at: Instant,
}

/// By which of the store's rows a VTEP forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionReply {
    /// Who answered.
    pub vtep: VtepId,
    /// Which request.
    pub nonce: u64,
    /// The store's revision up to which its tables have all rows; 0 if they have none.
    pub revision: i64,
}

/// Echoes that wait to be read at most; revision replies too.
pub(crate) const ECHOES: usize = 4096;

/// How a frame entered.
struct Entry<'a> {
    ingress: Ingress<'a>,
    attachment: Attachment,
    /// The tunnel packet that it came in.
    arrived: Option<Arrived<'a>>,
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The source was served.
    Done,
    /// The source cannot be read any more.
    Gone(std::io::Error),
}

/// One worker, over any kind of port and underlay.
pub(crate) struct Worker<P, U> {
    shared: Shared,
    arena: Box<[u8]>,
    frames: Vec<PortFrame>,
    datagrams: Vec<Datagram>,
    egress: Egress<P, U>,
    early: Budget,
}

impl<P: Port, U: Underlay> Worker<P, U> {
    pub(crate) fn new(shared: Shared, underlay: U) -> Self {
        let egress = Egress::new(shared.counters.clone(), shared.levels.clone(), underlay);
        Self {
            shared,
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            frames: Vec::with_capacity(crate::port::BATCH_FRAMES),
            datagrams: Vec::with_capacity(crate::port::BATCH_FRAMES),
            egress,
            early: Budget::new(),
        }
    }

    pub(crate) fn add_port(&mut self, id: PortId, port: P) {
        self.egress.ports.insert(id, port);
    }

    /// Tells from the next turn on what becomes of frames.
    pub(crate) fn trace(&mut self, listener: Listener) {
        self.egress.tracer.add(listener);
    }

    pub(crate) fn remove_port(&mut self, id: PortId) -> Option<P> {
        self.egress.ports.remove(id)
    }

    /// Sends path probes of one length at once, as one group.
    pub(crate) fn probe(&mut self, vtep: VtepId, probes: &[Probe]) {
        self.shared.counters.begin_turn();
        let tables = self.shared.tables.load();
        self.egress.begin_turn();
        // A trace tells of frames, and these are none.
        self.egress.queue_probes::<false>(&tables, vtep, probes, &self.arena);
        self.egress.flush::<false>(&self.arena);
        self.shared.counters.end_turn();
    }

    /// Drains one port.
    pub(crate) fn turn_port(&mut self, id: PortId, now: Seconds) -> Turn {
        if self.egress.tracer.is_on() { self.drain_port::<true>(id, now) } else { self.drain_port::<false>(id, now) }
    }

    /// Drains one of the underlay's sources.
    pub(crate) fn turn_underlay(&mut self, source: usize, now: Seconds) -> Turn {
        if self.egress.tracer.is_on() {
            self.drain_underlay::<true>(source, now)
        } else {
            self.drain_underlay::<false>(source, now)
        }
    }

    /// A turn of a port, with or without what a trace takes.
    pub(crate) fn drain_port<const TRACED: bool>(&mut self, id: PortId, now: Seconds) -> Turn {
        let Some(port) = self.egress.ports.get_mut(id) else { return Turn::Done };
        self.shared.counters.begin_turn();
        self.frames.clear();
        let mut reads = 0;
        let result = port.recv(&mut self.arena, &mut self.frames, &mut reads);
        self.shared.counters.port_reads.add(reads);
        let tables = self.shared.tables.load();
        self.egress.begin_turn();
        for index in 0..self.frames.len() {
            let PortFrame { range, offload } = self.frames[index].clone();
            let link = self.shared.counters.port(id);
            link.rx_frames.add(1);
            link.rx_bytes.add(range.len() as u64);
            let entry = Entry { ingress: Ingress::Port(id), attachment: Attachment::Port(id), arrived: None };
            self.process::<TRACED>(&tables, entry, range, offload, now);
        }
        self.egress.flush::<TRACED>(&self.arena);
        self.shared.counters.end_turn();
        result.map_or_else(Turn::Gone, |()| Turn::Done)
    }

    /// A turn of one of the underlay's sources, with or without what a trace takes.
    pub(crate) fn drain_underlay<const TRACED: bool>(&mut self, source: usize, now: Seconds) -> Turn {
        self.shared.counters.begin_turn();
        self.datagrams.clear();
        let mut counts = ReceiveCounts::default();
        let result = self.egress.underlay.recv(source, &mut self.arena, &mut self.datagrams, &mut counts);
        self.shared.counters.underlay_receives.add(counts.receives);
        self.shared.counters.underlay_overflow.add(counts.overflow);
        let tables = self.shared.tables.load();
        self.egress.begin_turn();
        for index in 0..self.datagrams.len() {
            let datagram = self.datagrams[index].clone();
            let Datagram { range, segment, source, encapsulation, tos, form, .. } = &datagram;
            if let Form::Packet(offload) = form {
                self.tunnel_packet::<TRACED>(&tables, &datagram, range.clone(), *offload, now);
                continue;
            }
            if *form == Form::Malformed {
                self.shared.counters.underlay_datagrams_in.add(1);
                self.refuse_packet::<TRACED>(&tables, &datagram, range.clone(), DropReason::BadOuter);
                continue;
            }
            if *form == Form::Untold && *segment < range.len() {
                let payload = &self.arena[range.clone()];
                let packet = TunnelPacket { source: *source, encapsulation: *encapsulation, tos: *tos, payload };
                match group(&tables, &packet, *segment) {
                    Ok(Group::Packets) => {}
                    Ok(Group::Superframe(offload)) => {
                        self.tunnel_packet::<TRACED>(&tables, &datagram, range.clone(), offload, now);
                        continue;
                    }
                    Err(reason) => {
                        self.shared.counters.underlay_datagrams_in.add(1);
                        self.refuse_packet::<TRACED>(&tables, &datagram, range.clone(), reason);
                        continue;
                    }
                }
            }
            let mut start = range.start;
            // An empty datagram is a tunnel packet too, and gets its verdict.
            while start < range.end || start == range.start {
                let end = range.end.min(start + (*segment).max(1));
                self.tunnel_packet::<TRACED>(&tables, &datagram, start..end, Offload::NONE, now);
                start = end.max(start + 1);
            }
        }
        self.egress.flush::<TRACED>(&self.arena);
        self.shared.counters.end_turn();
        result.map_or_else(Turn::Gone, |()| Turn::Done)
    }

    fn tunnel_packet<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        datagram: &Datagram,
        packet: Range<usize>,
        offload: Offload,
        now: Seconds,
    ) {
        let counters = &self.shared.counters;
        counters.underlay_datagrams_in.add(1);
        let Datagram { source, encapsulation, tos, .. } = *datagram;
        let payload = &self.arena[packet.clone()];
        match admit(tables, &TunnelPacket { source, encapsulation, tos, payload }) {
            Ok(Arrival::Probe { vtep, probe }) => {
                counters.probes_received.add(1);
                if let Some(answer) = probe.answer(tables.revision()) {
                    self.egress.queue_probes::<TRACED>(tables, vtep, &[answer], &self.arena);
                    return;
                }
                let Probe { kind, nonce, size } = probe;
                if let Kind::RevisionReply { revision } = kind {
                    let _ = self.shared.revisions.try_send(RevisionReply { vtep, nonce, revision });
                } else {
                    let _ = self.shared.echoes.try_send(ProbeEcho { vtep, nonce, size, at: Instant::now() });
                }
            }
            Ok(Arrival::Frame(Admitted { vtep, domain, frame, early, ecn })) => {
                if early {
                    if !self.early.take(EARLY_PER_SECOND, now) {
                        self.refuse_packet::<TRACED>(tables, datagram, packet, DropReason::NotMember);
                        return;
                    }
                    counters.early.add(1);
                }
                let range = packet.end - frame.len()..packet.end;
                let link = counters.vtep(vtep);
                link.rx_frames.add(1);
                link.rx_bytes.add(range.len() as u64);
                if let Some(ecn) = ecn {
                    apply_ecn(&mut self.arena[range.clone()], ecn);
                }
                let arrived = Some(Arrived { datagram, start: packet.start });
                let ingress = Ingress::Vtep(vtep, domain);
                let entry = Entry { ingress, attachment: Attachment::Vtep(vtep), arrived };
                self.process::<TRACED>(tables, entry, range, Ok(offload), now);
            }
            Err(reason) => self.refuse_packet::<TRACED>(tables, datagram, packet, reason),
        }
    }

    /// A tunnel packet that may not enter.
    fn refuse_packet<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        datagram: &Datagram,
        packet: Range<usize>,
        reason: DropReason,
    ) {
        if let Some(tracer) = self.egress.tracer.of_turn::<TRACED>() {
            tracer.refused(tables, datagram, &self.arena[packet], reason);
        }
        self.shared.counters.frames_in.add(1);
        self.shared.counters.dropped(reason, 1);
    }

    fn process<const TRACED: bool>(
        &mut self,
        tables: &Tables,
        Entry { ingress, attachment, arrived }: Entry<'_>,
        range: Range<usize>,
        offload: Result<Offload, weft_encap::OffloadError>,
        now: Seconds,
    ) {
        let Shared { fdb, counters, .. } = &self.shared;
        counters.frames_in.add(1);
        let inner = Inner::parse(&self.arena[range.clone()]);
        let decision = forward(tables, fdb, now, ingress, &inner, offload);
        if let Some(tracer) = self.egress.tracer.of_turn::<TRACED>() {
            let vni = match ingress {
                Ingress::Port(id) => tables.port(id).map(|port| port.vni),
                Ingress::Vtep(_, domain) => Some(domain.vni()),
            };
            tracer.decided(tables, (attachment, vni), arrived, &inner, offload, (&self.arena, &range), &decision);
        }
        let Decision { verdict, learn, rewrite } = decision;
        if let Some(learn) = learn {
            counters.learned(fdb.learn(&learn, now));
        }
        let (Ok(inner), Ok(offload)) = (inner, offload) else {
            if let Verdict::Drop(reason) = verdict {
                self.drop_at(attachment, reason);
            }
            return;
        };
        let wire_len = wire_len(&inner, &offload);
        let tag_len = inner.l3 - ETHERNET_LEN;
        let flow = FlowHash::of(&inner);
        let (tos, ttl) = (outer_tos(&inner, tables.outer_dscp()), outer_ttl(&inner, tables.outer_ttl()));
        let kind = kind_of(&inner);
        let mut copy = Copy { range, offload, wire_len, tag_len, flow, kind, tos, ttl, ingress: attachment, now };
        match verdict {
            Verdict::Drop(reason) => {
                if let (DropReason::ExceedsIngressMtu, Attachment::Port(id)) = (reason, attachment)
                    && let Some(port) = tables.port(id)
                {
                    self.egress.too_long(reason, port.mtu, &copy, &self.arena);
                }
                self.drop_at(attachment, reason);
            }
            Verdict::Unicast(egress) => {
                counters.unicast.add(1);
                if let Some(MacAddr(mac)) = rewrite {
                    // The destination is what a frame begins with; no checksum covers it.
                    self.arena[copy.range.start..][..mac.len()].copy_from_slice(&mac);
                }
                self.egress.queue::<TRACED>(tables, egress, &mut copy, &mut self.arena);
            }
            Verdict::Answer(mac) => {
                counters.answered.add(1);
                self.egress.answer_neighbour(mac, &copy, &self.arena);
            }
            Verdict::Flood(flood) => {
                if let Attachment::Port(id) = attachment
                    && let Err(reason) = self.egress.ports.may_flood(id, &flood, now)
                {
                    self.drop_at(attachment, reason);
                    if let Some(tracer) = self.egress.tracer.of_turn::<TRACED>() {
                        tracer.flood_refused(reason);
                    }
                    return;
                }
                counters.flood.add(1);
                for egress in flood.targets() {
                    self.egress.queue::<TRACED>(tables, egress, &mut copy, &mut self.arena);
                }
            }
        }
    }

    fn drop_at(&self, attachment: Attachment, reason: DropReason) {
        let counters = &self.shared.counters;
        counters.dropped(reason, 1);
        match attachment {
            Attachment::Port(id) => counters.port(id).drops.add(1),
            Attachment::Vtep(id) => counters.vtep(id).drops.add(1),
        }
    }
}

/// The superframes that a frame could be part of.
fn kind_of(inner: &Inner<'_>) -> Option<GsoKind> {
    match (inner.network.protocol()?, &inner.network) {
        (PROTOCOL_UDP, _) => Some(GsoKind::Udp),
        (PROTOCOL_TCP, Network::Ipv4(_)) => Some(GsoKind::Tcp4),
        (PROTOCOL_TCP, Network::Ipv6(_)) => Some(GsoKind::Tcp6),
        _ => None,
    }
}
