//! A worker's thread: waits for descriptors and commands, and gives each ready source a turn.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use rustix::time::{ClockId, Timespec, clock_gettime};
use weft_bridge::{PortId, Seconds, VtepId};
use weft_encap::probe::Probe;

use crate::complaints::Complaint;
use crate::counters::WorkerCounters;
use crate::polling::{Poller, Polling};
use crate::port::Tap;
use crate::trace::Listener;
use crate::underlay::NodeUnderlay;
use crate::worker::{Shared, Turn, Worker};

/// Ready descriptors taken from the kernel in one call at most.
const EVENTS: usize = 64;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

const WAKE: u64 = u64::MAX;
const UNDERLAY: u64 = 1 << 32;

/// What a worker is told.
pub(crate) enum Command {
    /// Serve this port from now on.
    AddPort(PortId, Tap),
    /// Close this port.
    RemovePort(PortId),
    /// Send this path probe.
    Probe(VtepId, Probe),
    /// Send these path probes as one group.
    ProbeGroup(VtepId, [Probe; 2]),
    /// Tell what becomes of frames.
    Trace(Listener),
    /// Do nothing until the pause is over.
    Pause(Pause),
    /// End.
    Stop,
}

/// Between two turns: everything that was read is dealt with, everything else waits in the kernel.
pub(crate) struct Pause {
    /// Told when it begins.
    pub(crate) begun: Sender<()>,
    /// Its other end is dropped when it is over.
    pub(crate) over: Receiver<()>,
}

/// What a worker has to say, rarely.
#[derive(Debug)]
pub struct PortGone {
    /// The port whose device cannot be read any more.
    pub id: PortId,
    /// The kernel's answer.
    pub error: io::Error,
}

/// How a worker is reached.
pub(crate) struct Mailbox {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

/// A worker's own end.
pub(crate) struct Runtime {
    worker: Worker<Tap, NodeUnderlay>,
    poller: Poller,
    counters: Arc<CachePadded<WorkerCounters>>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    gone: Sender<PortGone>,
    served: Vec<Option<PortId>>,
    /// For each source of the underlay.
    complaints: Vec<Complaint>,
}

/// Whole seconds of the monotonic clock, as coarse as the kernel likes.
#[expect(clippy::disallowed_methods, reason = "monotonic")]
pub(crate) fn now() -> Seconds {
    Seconds(clock_gettime(ClockId::MonotonicCoarse).tv_sec as u32)
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "monotonic")]
fn clock() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Whether a device will never be read again; any other error is that of one read.
fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::BADFD | Errno::IO))
}

impl Mailbox {
    pub(crate) fn send(&self, command: Command) {
        // A worker that has ended has no use for commands.
        if self.commands.send(command).is_ok() {
            let _ = write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Runtime {
    pub(crate) fn new(
        shared: Shared,
        underlay: NodeUnderlay,
        polling: Polling,
        gone: Sender<PortGone>,
    ) -> io::Result<(Self, Mailbox)> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &*wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        for (index, socket) in underlay.descriptors().enumerate() {
            epoll::add(&epoll, socket, EventData::new_u64(UNDERLAY | index as u64), EventFlags::IN)?;
        }
        let (sender, commands) = crossbeam_channel::unbounded();
        let mailbox = Mailbox { commands: sender, wake: wake.clone() };
        let complaints = vec![Complaint::default(); underlay.descriptors().count()];
        let (poller, counters) = (Poller::new(polling), shared.counters.clone());
        let worker = Worker::new(shared, underlay);
        let served = Vec::new();
        Ok((Self { worker, poller, counters, epoll, wake, commands, gone, served, complaints }, mailbox))
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        // One that is told to pause from the start reads nothing before.
        if !self.obey() {
            return Ok(());
        }
        loop {
            events.clear();
            let looks = self.poller.looks(clock());
            let waits = if looks { &self.counters.looks } else { &self.counters.sleeps };
            waits.add(1);
            let timeout = looks.then_some(&AT_ONCE);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(0) => {
                    std::thread::yield_now();
                    continue;
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let frames = events.iter().any(|event| event.data.u64() != WAKE);
            if frames {
                self.poller.came(clock());
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        if !self.obey() {
                            return Ok(());
                        }
                    }
                    data if data & UNDERLAY != 0 => self.serve_underlay((data & !UNDERLAY) as usize),
                    data => self.serve_port(data as usize),
                }
            }
            if frames {
                self.poller.served(clock());
            }
        }
    }

    fn serve_underlay(&mut self, source: usize) {
        let now = now();
        if let Turn::Gone(error) = self.worker.turn_underlay(source, now)
            && let Some(untold) = self.complaints.get_mut(source).and_then(|complaint| complaint.note(now))
        {
            tracing::error!(%error, untold, "a tunnel socket cannot be read");
        }
    }

    fn serve_port(&mut self, index: usize) {
        let Some(Some(id)) = self.served.get(index).copied() else { return };
        if let Turn::Gone(error) = self.worker.turn_port(id, now())
            && is_gone(&error)
        {
            self.close(id);
            let _ = self.gone.try_send(PortGone { id, error });
        }
    }

    /// Carries out what was sent. False when told to stop.
    fn obey(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = read(&self.wake, &mut count);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::AddPort(id, tap) => {
                    let data = EventData::new_u64(id.index() as u64);
                    if let Err(error) = epoll::add(&self.epoll, tap.as_fd(), data, EventFlags::IN) {
                        let _ = self.gone.try_send(PortGone { id, error: error.into() });
                        continue;
                    }
                    if self.served.len() <= id.index() {
                        self.served.resize(id.index() + 1, None);
                    }
                    self.served[id.index()] = Some(id);
                    self.worker.add_port(id, tap);
                }
                Command::RemovePort(id) => self.close(id),
                Command::Probe(vtep, probe) => self.worker.probe(vtep, &[probe]),
                Command::ProbeGroup(vtep, probes) => self.worker.probe(vtep, &probes),
                Command::Trace(listener) => self.worker.trace(listener),
                Command::Pause(Pause { begun, over }) => {
                    let _ = begun.send(());
                    let _ = over.recv();
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn close(&mut self, id: PortId) {
        if let Some(tap) = self.worker.remove_port(id) {
            // Closing the last descriptor removes it from the set as well; this is for a copy held elsewhere.
            let _ = epoll::delete(&self.epoll, &tap);
            self.served[id.index()] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_is_gone_closes_its_port() {
        for gone in [Errno::BADFD, Errno::IO] {
            assert!(is_gone(&gone.into()), "{gone}");
        }
        for passing in [Errno::INTR, Errno::NOMEM, Errno::INVAL, Errno::AGAIN] {
            assert!(!is_gone(&passing.into()), "{passing}");
        }
    }
}
