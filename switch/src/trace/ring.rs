//! The way of records from workers to whoever reads them: a bounded ring for each worker.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use rustix::io::write;
use rustix::pipe::{PipeFlags, pipe_with};
use weft_bridge::Tables;

use super::{Filter, Record};

/// Records that wait to be read at most, from each worker: some milliseconds of a busy one.
pub const RING_RECORDS: usize = 4096;
/// Bytes that captured frames of one worker hold at most, until they are read.
pub const CAPTURE_BYTES: usize = 32 << 20;

/// Whether bytes are wanted besides what became of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What became of them alone.
    Fates,
    /// Their bytes too.
    Bytes,
}

/// A worker's end of one ring.
pub(crate) struct Listener {
    pub(crate) filter: Filter,
    pub(crate) depth: Depth,
    sender: Sender<Record>,
    lost: Arc<AtomicU64>,
    wake: Arc<OwnedFd>,
    /// Lives as long as the reader.
    reader: Weak<()>,
    /// Whether there is something to wake for.
    news: bool,
}

impl Listener {
    /// Tells of a frame, or counts that it could not.
    pub(crate) fn tell(&mut self, record: Record) {
        match self.sender.try_send(record) {
            Ok(()) => self.news = true,
            // Nobody misses what is told to a reader that is gone.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lose(),
        }
    }

    /// Counts a record that was not told.
    pub(crate) fn lose(&mut self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.news = true;
    }

    /// Whether somebody still reads.
    pub(crate) fn is_heard(&self) -> bool {
        self.reader.strong_count() > 0
    }

    /// Wakes the reader, once a turn.
    pub(crate) fn wake(&mut self) {
        if std::mem::take(&mut self.news) {
            let _ = write(&self.wake, &[0]);
        }
    }
}

/// A trace that is on until this is dropped: what became of every frame that matches.
pub struct Trace {
    rings: Vec<Receiver<Record>>,
    lost: Arc<AtomicU64>,
    wake: Arc<OwnedFd>,
    woken: OwnedFd,
    tables: Arc<ArcSwap<Tables>>,
    alive: Arc<()>,
}

impl Trace {
    /// A ring for each of so many workers, and their ends.
    pub(crate) fn new(
        filter: &Filter,
        depth: Depth,
        workers: usize,
        tables: Arc<ArcSwap<Tables>>,
    ) -> io::Result<(Self, Vec<Listener>)> {
        let (woken, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let wake = Arc::new(wake);
        let (lost, alive) = (Arc::new(AtomicU64::new(0)), Arc::new(()));
        let pairs = (0..workers).map(|_| {
            let (sender, ring) = bounded(RING_RECORDS);
            let listener = Listener {
                filter: filter.clone(),
                depth,
                sender,
                lost: lost.clone(),
                wake: wake.clone(),
                reader: Arc::downgrade(&alive),
                news: false,
            };
            (ring, listener)
        });
        let (rings, listeners) = pairs.unzip();
        Ok((Self { rings, lost, wake, woken, tables, alive }, listeners))
    }

    /// Takes what waits, up to so many records, with the number of the worker that tells. Empty the pipe first, so that
    /// nothing is missed; it is readable again at once where more may wait.
    pub fn take(&self, records: usize) -> Vec<(usize, Record)> {
        let mut taken = Vec::new();
        for (worker, ring) in self.rings.iter().enumerate() {
            while taken.len() < records {
                match ring.try_recv() {
                    Ok(record) => taken.push((worker, record)),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
        }
        if taken.len() == records {
            let _ = write(&self.wake, &[0]);
        }
        taken
    }

    /// Records that found their ring full, or no room for their bytes, since the trace began.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Says as long as there is a reader that there is one.
    pub(crate) fn reader(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// The tables in force.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Another handle on the pipe that is readable when something waits.
    ///
    /// # Errors
    /// The kernel's, where there are too many descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.woken.try_clone()
    }
}
