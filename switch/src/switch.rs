//! The data plane as its owner holds it: starts the workers, publishes tables, reads counters.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet, sched_setaffinity, set_capabilities};
use weft_bridge::tables::MAX_PORTS;
use weft_bridge::{Attachment, Fdb, PortId, Seconds, Tables, VtepId};
use weft_encap::mtu::overhead;
use weft_encap::probe::Probe;

use crate::counters::{LinkTotals, Totals, WorkerCounters, WorkerTotals};
use crate::levels::Levels;
use crate::polling::Polling;
use crate::port::Tap;
use crate::runtime::{Command, Mailbox, Pause, PortGone, Runtime, now};
use crate::trace::{Depth, Filter, MAX_LISTENERS, Trace};
use crate::underlay::{
    HandedSockets, LANES, Listen, NodeSockets, NodeUnderlay, SocketError, SocketOptions, SocketUnderlay, Uplink,
};
use crate::worker::{ECHOES, ProbeEcho, RevisionReply, Shared};

/// Reports of lost ports that wait to be read at most: all may be lost at once, and one that is not told of stays lost.
const GONE_REPORTS: usize = MAX_PORTS;

/// The nice value of workers, sched(7). The kernel's own forwarding goes before all programs; a worker competes with the
/// pods' for a processor, and frames that wait meanwhile leave the caches.
const WORKER_NICE: i32 = -10;

/// What a switch is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where tunnel packets arrive.
    pub listen: Vec<Listen>,
    /// How its sockets are set up.
    pub socket: SocketOptions,
    /// What the kernel may do for it; ports bring their own.
    pub levels: Arc<Levels>,
    /// Learned MACs at most, 64 to 1,048,576.
    pub fdb_capacity: u32,
    /// What workers do that have nothing to do.
    pub polling: Polling,
    /// Threads that forward, 1 at least. With several, each flow keeps to one.
    pub workers: NonZero<usize>,
    /// Processors that they run on, by the kernel's index from 0, in turn and from the start again; none: any.
    pub cpus: Vec<usize>,
}

/// Why a switch did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The underlay.
    #[error(transparent)]
    Underlay(#[from] SocketError),
    /// The worker's thread or its descriptors.
    #[error("starting a worker: {0}")]
    Worker(#[from] io::Error),
    /// A processor that workers are to run on.
    #[error("a worker cannot run on CPU {cpu}: {source}: choose others of `workers.cpus`, or none")]
    Cpu {
        /// Index of the processor, as the kernel numbers them from 0.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

struct WorkerHandle {
    counters: Arc<CachePadded<WorkerCounters>>,
    mailbox: Mailbox,
    thread: Option<JoinHandle<()>>,
}

/// A running data plane. Dropping it stops the workers; persistent TAPs stay.
pub struct Switch {
    tables: Arc<ArcSwap<Tables>>,
    fdb: Arc<Fdb>,
    workers: Vec<WorkerHandle>,
    sockets: Option<NodeSockets>,
    /// Dropped when a pause is over.
    pause: Option<Sender<()>>,
    levels: Arc<Levels>,
    gone: Receiver<PortGone>,
    echoes: Receiver<ProbeEcho>,
    revisions: Receiver<RevisionReply>,
    /// Of each lane, over IPv4 and over IPv6.
    source_ports: [[Option<u16>; 2]; LANES],
    /// Of the traces that are on; workers know nothing of this lock.
    readers: Mutex<Vec<Weak<()>>>,
}

impl Switch {
    /// Opens the sockets in the calling thread's network namespace and starts the workers. What the uplink reaches,
    /// if there is one, goes through it; the sockets carry the rest.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: &Options, tables: Tables, uplink: Option<Uplink>) -> Result<Self, StartError> {
        let sockets = SocketUnderlay::open(&options.listen, &options.socket, &options.levels, options.workers.get())?;
        let mut switch = Self::over(sockets, options, tables, uplink)?;
        switch.resume();
        Ok(switch)
    }

    /// Goes on with the sockets of another switch. It reads nothing before it is told to [`Self::resume`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn take_over(
        options: &Options,
        tables: Tables,
        uplink: Option<Uplink>,
        handed: HandedSockets,
    ) -> Result<Self, StartError> {
        let sockets = SocketUnderlay::adopt(&options.listen, &options.levels, options.workers.get(), handed)?;
        Self::over(sockets, options, tables, uplink)
    }

    /// One whose workers pause.
    fn over(
        opened: Vec<SocketUnderlay>,
        options: &Options,
        tables: Tables,
        uplink: Option<Uplink>,
    ) -> Result<Self, StartError> {
        let (sender, gone) = crossbeam_channel::bounded(GONE_REPORTS);
        let (echo_sender, echoes) = crossbeam_channel::bounded(ECHOES);
        let (revision_sender, revisions) = crossbeam_channel::bounded(ECHOES);
        let (resume, over) = crossbeam_channel::bounded(0);
        let (begun, _) = crossbeam_channel::bounded(options.workers.get());
        // If a worker cannot be started, those before it end without having read anything.
        let mut switch = Self {
            tables: Arc::new(ArcSwap::from_pointee(tables)),
            fdb: Arc::new(Fdb::new(options.fdb_capacity)),
            workers: Vec::with_capacity(options.workers.get()),
            sockets: SocketUnderlay::sockets(&opened),
            pause: Some(resume),
            levels: options.levels.clone(),
            gone,
            echoes,
            revisions,
            source_ports: [[None; 2]; LANES],
            readers: Mutex::default(),
        };
        let mut uplink = uplink;
        for socket in opened {
            switch.source_ports = std::array::from_fn(|lane| [false, true].map(|ipv6| socket.source_port(lane, ipv6)));
            // An uplink's one queue belongs to the first worker.
            let underlay = NodeUnderlay::new(socket, uplink.take(), &options.listen, &options.socket);
            let counters = Arc::new(WorkerCounters::new());
            let shared = Shared {
                tables: switch.tables.clone(),
                fdb: switch.fdb.clone(),
                counters: counters.clone(),
                levels: switch.levels.clone(),
                echoes: echo_sender.clone(),
                revisions: revision_sender.clone(),
            };
            let (runtime, mailbox) = Runtime::new(shared, underlay, options.polling, sender.clone())?;
            mailbox.send(Command::Pause(Pause { begun: begun.clone(), over: over.clone() }));
            let number = switch.workers.len();
            let cpu = options.cpus.get(number % options.cpus.len().max(1)).copied();
            let thread = spawn(runtime, number, cpu)?;
            switch.workers.push(WorkerHandle { counters, mailbox, thread: Some(thread) });
        }
        Ok(switch)
    }

    /// Has all workers stop between two turns, and waits until they have: a turn's time. What comes then waits in the
    /// kernel, in order.
    pub fn pause(&mut self) {
        let (resume, over) = crossbeam_channel::bounded(0);
        let (begun, paused) = crossbeam_channel::bounded(self.workers.len());
        for worker in &self.workers {
            worker.mailbox.send(Command::Pause(Pause { begun: begun.clone(), over: over.clone() }));
        }
        drop(begun);
        self.pause = Some(resume);
        // A worker that has ended says nothing, and hangs up.
        for _ in &self.workers {
            let _ = paused.recv();
        }
    }

    /// Lets them go on.
    pub fn resume(&mut self) {
        self.pause = None;
    }

    /// Its sockets, to be handed on.
    #[must_use]
    pub fn sockets(&self) -> Option<&NodeSockets> {
        self.sockets.as_ref()
    }

    /// The tables in force.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Puts other tables in force, for the next turn of every worker.
    pub fn publish(&self, tables: Tables) {
        self.tables.store(Arc::new(tables));
    }

    /// Gives a port's device to the workers, a queue to each of them. Publish the tables that name the port first.
    pub fn add_port(&self, id: PortId, queues: Vec<Tap>) {
        debug_assert_eq!(queues.len(), self.workers.len(), "a queue for each worker");
        for (worker, queue) in self.workers.iter().zip(queues) {
            worker.mailbox.send(Command::AddPort(id, queue));
        }
    }

    /// Takes a port's device away and forgets what was learned behind it.
    pub fn remove_port(&self, id: PortId) {
        for worker in &self.workers {
            worker.mailbox.send(Command::RemovePort(id));
        }
        self.fdb.purge(Attachment::Port(id));
    }

    /// The learned table.
    #[must_use]
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// The time that the FDB's ages count in.
    #[must_use]
    pub fn now(&self) -> Seconds {
        now()
    }

    /// Ports that were lost since the last call.
    pub fn lost_ports(&self) -> impl Iterator<Item = PortGone> {
        self.gone.try_iter()
    }

    /// Sends a path probe to a VTEP.
    pub fn probe(&self, vtep: VtepId, probe: Probe) {
        self.workers[0].mailbox.send(Command::Probe(vtep, probe));
    }

    /// Sends two path probes of one length to a VTEP, as one group of tunnel packets: by whatever way groups to it leave.
    pub fn probe_group(&self, vtep: VtepId, probes: [Probe; 2]) {
        self.workers[0].mailbox.send(Command::ProbeGroup(vtep, probes));
    }

    /// Echoes of path probes that came since the last call.
    pub fn probe_echoes(&self) -> impl Iterator<Item = ProbeEcho> {
        self.echoes.try_iter()
    }

    /// Asks a VTEP up to which revision of the store it forwards by its rows.
    pub fn ask_revision(&self, vtep: VtepId, nonce: u64) {
        let Some(row) = self.tables().vtep(vtep).map(|row| (row.encapsulation, row.address.is_ipv6())) else { return };
        self.probe(vtep, Probe::revision_request(nonce, overhead(row.0, row.1, 0)));
    }

    /// Revision replies that came since the last call.
    pub fn revision_replies(&self) -> impl Iterator<Item = RevisionReply> {
        self.revisions.try_iter()
    }

    /// Begins to tell what becomes of the frames that match. It ends when the trace is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`] where there are [`MAX_LISTENERS`] already; the kernel's, where there are too many
    /// descriptors.
    pub fn trace(&self, filter: &Filter, depth: Depth) -> io::Result<Trace> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| reader.strong_count() > 0);
        if readers.len() >= MAX_LISTENERS {
            let told = format!("{MAX_LISTENERS} traces and captures are on: end one of them first");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, told));
        }
        let (trace, listeners) = Trace::new(filter, depth, self.workers.len(), self.tables.clone())?;
        readers.push(trace.reader());
        for (worker, listener) in self.workers.iter().zip(listeners) {
            worker.mailbox.send(Command::Trace(listener));
        }
        Ok(trace)
    }

    /// The UDP source port of a lane to VTEPs of an address family, where there is one.
    #[must_use]
    pub fn source_port(&self, lane: usize, ipv6: bool) -> Option<u16> {
        self.source_ports.get(lane).and_then(|ports| ports[usize::from(ipv6)])
    }

    /// What the kernel does for it, and why not more.
    #[must_use]
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// All counters, summed.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::sum(self.counters())
    }

    /// One port's or VTEP's counters, summed.
    #[must_use]
    pub fn link_totals(&self, attachment: Attachment) -> LinkTotals {
        LinkTotals::sum(self.counters().filter_map(|counters| counters.link(attachment)))
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> NonZero<usize> {
        NonZero::new(self.workers.len()).unwrap_or(NonZero::<usize>::MIN)
    }

    /// What each worker did.
    pub fn worker_totals(&self) -> impl Iterator<Item = WorkerTotals> {
        self.counters().map(WorkerTotals::of)
    }

    fn counters(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.workers.iter().map(|worker| &**worker.counters)
    }
}

/// Starts a worker's thread, on one processor if one is given.
fn spawn(runtime: Runtime, number: usize, cpu: Option<usize>) -> Result<JoinHandle<()>, StartError> {
    let (pinned, answer) = crossbeam_channel::bounded(1);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let result = cpu.map_or(Ok(()), run_on);
        if let Err(error) = come_first() {
            tracing::warn!(%error, "frames wait for pods' programs: give the agent CAP_SYS_NICE for more throughput");
        }
        // It reads what strangers send, and needs nothing but the descriptors that it has.
        if let Err(error) = give_up_capabilities() {
            tracing::debug!(%error, "a worker keeps the capabilities of its agent");
        }
        let stays = result.is_ok();
        let _ = pinned.send(result);
        if stays && let Err(error) = runtime.run() {
            tracing::error!(%error, "a worker ended: its frames are not forwarded any more");
            std::process::abort();
        }
    })?;
    match (answer.recv(), cpu) {
        (Ok(Err(source)), Some(cpu)) => Err(StartError::Cpu { cpu, source }),
        _ => Ok(thread),
    }
}

/// Lets the calling thread have a processor before programs without such a wish.
fn come_first() -> io::Result<()> {
    if getpriority_process(None)? > WORKER_NICE {
        setpriority_process(None, WORKER_NICE)?;
    }
    Ok(())
}

/// Gives up all that the calling thread may do as root.
fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Keeps the calling thread on one processor.
fn run_on(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

impl Drop for Switch {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.mailbox.send(Command::Stop);
        }
        // Those that pause find that they are to end before they read anything.
        self.pause = None;
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A panicked worker has said so already.
                let _ = thread.join();
            }
        }
    }
}
