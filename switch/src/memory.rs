//! Ports and underlays without a kernel, for tests and simulation: what is written can be looked at.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use weft_bridge::{DropReason, Fdb, PortId, Seconds, Tables, VtepId};
use weft_encap::probe::Probe;
use weft_encap::{Encapsulation, Offload, OffloadError};

use crate::counters::{Totals, WorkerCounters};
use crate::gather::{Buffers, Piece};
use crate::levels::Levels;
use crate::port::{BATCH_FRAMES, MAX_FRAME_LEN, Port, PortFrame, TapOffloads, Unsent};
use crate::trace::{Depth, Filter, Trace};
use crate::underlay::{Datagram, Form, Group, Lane, Outcome, ReceiveCounts, Underlay};
use crate::worker::{ECHOES, ProbeEcho, RevisionReply, Shared, Turn, Worker};

/// The UDP port from which tunnel packets in memory come: the first dynamic one (RFC 6335 section 6).
const MEMORY_SOURCE_PORT: u16 = 49_152;

/// A frame with what travels besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFrame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub offload: Offload,
}

/// Both ends of a port in memory; clones are the same port.
#[derive(Clone, Debug, Default)]
pub struct MemoryPort {
    queues: Rc<RefCell<PortQueues>>,
}

#[derive(Debug, Default)]
struct PortQueues {
    from_pod: VecDeque<(Vec<u8>, Result<Offload, OffloadError>)>,
    to_pod: Vec<MemoryFrame>,
    refuse: Option<DropReason>,
    offloads: Option<TapOffloads>,
    kernel: Option<TapOffloads>,
}

impl MemoryPort {
    /// From now on it takes nothing but these; before, all of them.
    pub fn take_only(&self, offloads: TapOffloads) {
        self.queues.borrow_mut().offloads = Some(offloads);
    }

    /// From now on its kernel refuses what else is left to it, though the port says that it takes that.
    pub fn kernel_takes_only(&self, offloads: TapOffloads) {
        self.queues.borrow_mut().kernel = Some(offloads);
    }

    /// Lets the pod send a frame.
    pub fn pod_sends(&self, bytes: Vec<u8>, offload: Result<Offload, OffloadError>) {
        self.queues.borrow_mut().from_pod.push_back((bytes, offload));
    }

    /// Takes what the pod received.
    #[must_use]
    pub fn pod_received(&self) -> Vec<MemoryFrame> {
        std::mem::take(&mut self.queues.borrow_mut().to_pod)
    }

    /// From now on every frame to the pod is refused for this reason, or none is.
    pub fn refuse(&self, reason: Option<DropReason>) {
        self.queues.borrow_mut().refuse = reason;
    }
}

impl Port for MemoryPort {
    fn recv(&mut self, arena: &mut [u8], frames: &mut Vec<PortFrame>, reads: &mut u64) -> io::Result<()> {
        let mut queues = self.queues.borrow_mut();
        let mut start = 0;
        while frames.len() < BATCH_FRAMES && arena.len() - start >= MAX_FRAME_LEN {
            *reads += 1;
            let Some((bytes, offload)) = queues.from_pod.pop_front() else { break };
            let end = start + bytes.len();
            arena[start..end].copy_from_slice(&bytes);
            frames.push(PortFrame { range: start..end, offload });
            start = end;
        }
        Ok(())
    }

    fn offloads(&self) -> TapOffloads {
        self.queues.borrow().offloads.unwrap_or(TapOffloads::ALL)
    }

    fn send(&mut self, offload: Offload, pieces: &[Piece], buffers: &Buffers<'_>) -> Result<(), Unsent> {
        let mut queues = self.queues.borrow_mut();
        if let Some(reason) = queues.refuse {
            return Err(Unsent::Lost(reason));
        }
        if queues.kernel.is_some_and(|kernel| !kernel.carry(&offload)) {
            return Err(Unsent::Offload);
        }
        queues.to_pod.push(MemoryFrame { bytes: joined(pieces, buffers), offload });
        Ok(())
    }
}

/// A tunnel packet, or a group of equally long ones, as the wire would carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryDatagram {
    /// The other end: the receiver when sent, the sender when received.
    pub peer: SocketAddr,
    /// Index of the sender's lane, and so of the UDP source port, that it left from.
    pub lane: usize,
    /// Bytes in each packet of the group.
    pub segment: usize,
    /// DSCP and ECN of the outer headers, as the byte that holds both.
    pub tos: u8,
    /// TTL, or hop limit, of the outer headers, 1 to 255 hops.
    pub ttl: u8,
    /// UDP payloads.
    pub bytes: Vec<u8>,
}

/// Both ends of an underlay in memory; clones are the same underlay.
#[derive(Clone, Debug, Default)]
pub struct MemoryUnderlay {
    queues: Rc<RefCell<UnderlayQueues>>,
}

#[derive(Debug, Default)]
struct UnderlayQueues {
    arrived: VecDeque<(IpAddr, Encapsulation, usize, u8, Vec<u8>)>,
    sent: Vec<MemoryDatagram>,
    refuse: Option<DropReason>,
}

impl MemoryUnderlay {
    /// Lets a tunnel packet, or a group of packets of `segment` bytes, arrive; `tos` is the outer DSCP and ECN.
    pub fn arrives(&self, source: IpAddr, encapsulation: Encapsulation, segment: usize, tos: u8, bytes: Vec<u8>) {
        self.queues.borrow_mut().arrived.push_back((source, encapsulation, segment, tos, bytes));
    }

    /// Takes what was sent.
    #[must_use]
    pub fn sent(&self) -> Vec<MemoryDatagram> {
        std::mem::take(&mut self.queues.borrow_mut().sent)
    }

    /// From now on every group is refused for this reason, or none is.
    pub fn refuse(&self, reason: Option<DropReason>) {
        self.queues.borrow_mut().refuse = reason;
    }
}

impl Underlay for MemoryUnderlay {
    fn recv(
        &mut self,
        _source: usize,
        arena: &mut [u8],
        datagrams: &mut Vec<Datagram>,
        counts: &mut ReceiveCounts,
    ) -> io::Result<()> {
        counts.receives += 1;
        let mut queues = self.queues.borrow_mut();
        let mut start = 0;
        while let Some((.., bytes)) = queues.arrived.front() {
            let end = start + bytes.len();
            if end > arena.len() {
                break;
            }
            arena[start..end].copy_from_slice(bytes);
            let source_port = MEMORY_SOURCE_PORT;
            if let Some((source, encapsulation, segment, tos, _)) = queues.arrived.pop_front() {
                let form = Form::Untold;
                datagrams.push(Datagram { range: start..end, segment, source, source_port, encapsulation, tos, form });
            }
            start = end;
        }
        Ok(())
    }

    fn send(&mut self, lane: usize, queued: &Lane, arena: &[u8], report: &mut dyn FnMut(usize, Outcome)) -> u64 {
        let mut queues = self.queues.borrow_mut();
        let buffers = queued.buffers(arena);
        for (place, group) in queued.groups().iter().enumerate() {
            if let Some(reason) = queues.refuse {
                report(place, Outcome::all_lost(reason));
                continue;
            }
            let bytes = joined(queued.pieces(group), &buffers);
            let Group { to, segment, tos, ttl, .. } = *group;
            queues.sent.push(MemoryDatagram { peer: to, lane, segment, tos, ttl, bytes });
            report(place, Outcome::Sent);
        }
        1
    }
}

fn joined(pieces: &[Piece], buffers: &Buffers<'_>) -> Vec<u8> {
    pieces.iter().flat_map(|piece| piece.bytes(buffers)).copied().collect()
}

type MemoryWorker = Worker<MemoryPort, MemoryUnderlay>;
/// A turn of a source of this kind.
type TurnOf<Source> = fn(&mut MemoryWorker, Source, Seconds) -> Turn;

/// A whole switch of one worker in memory, on a clock that the caller moves: same input, same output.
pub struct MemorySwitch {
    shared: Shared,
    worker: MemoryWorker,
    ports: Vec<(PortId, MemoryPort)>,
    underlay: MemoryUnderlay,
    echoes: Receiver<ProbeEcho>,
    revisions: Receiver<RevisionReply>,
}

impl MemorySwitch {
    /// A switch with these tables, for `fdb_capacity` learned MACs, without ports.
    #[must_use]
    pub fn new(tables: Tables, fdb_capacity: u32) -> Self {
        let (sender, echoes) = crossbeam_channel::bounded(ECHOES);
        let (revision_sender, revisions) = crossbeam_channel::bounded(ECHOES);
        let shared = Shared {
            tables: Arc::new(ArcSwap::from_pointee(tables)),
            fdb: Arc::new(Fdb::new(fdb_capacity)),
            counters: Arc::new(WorkerCounters::new()),
            levels: Arc::default(),
            echoes: sender,
            revisions: revision_sender,
        };
        let underlay = MemoryUnderlay::default();
        let worker = Worker::new(shared.clone(), underlay.clone());
        Self { worker, shared, ports: Vec::new(), underlay, echoes, revisions }
    }

    /// Gives a port of the tables its device, and returns the pod's end of it.
    pub fn attach(&mut self, id: PortId) -> MemoryPort {
        let port = MemoryPort::default();
        self.worker.add_port(id, port.clone());
        self.ports.push((id, port.clone()));
        port
    }

    /// Begins to tell what becomes of the frames that match.
    ///
    /// # Errors
    /// The kernel's, where there are too many descriptors.
    pub fn trace(&mut self, filter: &Filter, depth: Depth) -> io::Result<Trace> {
        let (trace, listeners) = Trace::new(filter, depth, 1, self.shared.tables.clone())?;
        listeners.into_iter().for_each(|listener| self.worker.trace(listener));
        Ok(trace)
    }

    /// Takes a port's device away.
    pub fn detach(&mut self, id: PortId) {
        self.worker.remove_port(id);
        self.ports.retain(|(own, _)| *own != id);
    }

    /// The other end of its underlay.
    #[must_use]
    pub fn underlay(&self) -> &MemoryUnderlay {
        &self.underlay
    }

    /// Sends a path probe to a VTEP.
    pub fn probe(&mut self, vtep: VtepId, probe: &Probe) {
        self.worker.probe(vtep, std::slice::from_ref(probe));
    }

    /// Echoes of path probes that came since the last call.
    pub fn probe_echoes(&self) -> impl Iterator<Item = ProbeEcho> {
        self.echoes.try_iter()
    }

    /// Revision replies that came since the last call.
    pub fn revision_replies(&self) -> impl Iterator<Item = RevisionReply> {
        self.revisions.try_iter()
    }

    /// The tables in force.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.shared.tables.load_full()
    }

    /// Puts other tables in force.
    pub fn publish(&self, tables: Tables) {
        self.shared.tables.store(Arc::new(tables));
    }

    /// What its kernel may do for it.
    #[must_use]
    pub fn levels(&self) -> &Levels {
        &self.shared.levels
    }

    /// The learned table.
    #[must_use]
    pub fn fdb(&self) -> &Fdb {
        &self.shared.fdb
    }

    /// Serves all that waits, ports in the order of their attachment and then the underlay.
    pub fn run(&mut self, now: Seconds) {
        self.serve(MemoryWorker::turn_port, MemoryWorker::turn_underlay, now);
    }

    /// The same by code that was compiled without traces, and does not look whether one is on: what [`Self::run`] takes
    /// besides is what they cost while none is.
    pub fn run_without_traces(&mut self, now: Seconds) {
        self.serve(MemoryWorker::drain_port::<false>, MemoryWorker::drain_underlay::<false>, now);
    }

    fn serve(&mut self, port_turn: TurnOf<PortId>, underlay_turn: TurnOf<usize>, now: Seconds) {
        for (id, port) in &self.ports {
            while !port.queues.borrow().from_pod.is_empty() {
                port_turn(&mut self.worker, *id, now);
            }
        }
        while !self.underlay.queues.borrow().arrived.is_empty() {
            underlay_turn(&mut self.worker, 0, now);
        }
    }

    /// All counters.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::sum(std::iter::once(&**self.shared.counters))
    }
}
