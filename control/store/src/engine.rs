//! The one thread that owns the state and the disk. Requests queue up while it writes; all that wait are applied one
//! after another and written together, then answered, then told to watchers. So nobody sees what could still be lost.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::disk::{Disk, DiskError, Durability, Identity};
use crate::mvcc::{Change, State};
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;
use crate::watchers::Watchers;

/// Requests that are written together, at most.
const MAX_GROUP: usize = 1024;
/// Requests that may wait; more are refused, as etcd refuses them.
const MAX_WAITING: usize = 16 * MAX_GROUP;
/// The history that is compacted at a time is this part of what is kept.
const COMPACTION_STEP: i64 = 8;

/// What to do once the state's changes are on disk.
type Deliver = Box<dyn FnOnce(&State, &mut Watchers) + Send>;
type Job = Box<dyn FnOnce(&mut State, Duration) -> Deliver + Send>;

enum Message {
    Job(Job),
    Stop,
}

/// Hands requests to the engine's thread.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: Sender<Message>,
}

impl Handle {
    /// Runs `work` on the state; the answer comes when what it changed is on disk.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State, Duration) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        if self.messages.len() > MAX_WAITING {
            return Err(Refusal::TooManyRequests);
        }
        let (answer, answered) = oneshot::channel();
        self.send(Box::new(move |state, now| {
            let done = work(state, now);
            Box::new(move |_, _| {
                // Who asked may have gone.
                let _ = answer.send(done);
            })
        }));
        answered.await.map_err(|_| Refusal::Stopped)
    }

    /// Does something with the watchers, after all requests before it.
    pub(crate) fn watchers(&self, work: impl FnOnce(&State, &mut Watchers) + Send + 'static) {
        self.send(Box::new(move |_, _| Box::new(work)));
    }

    fn send(&self, job: Job) {
        // After the engine's end nobody waits for an answer.
        let _ = self.messages.send(Message::Job(job));
    }
}

/// The running thread; it ends when this is dropped.
pub(crate) struct Engine {
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
    /// What ended it, if not this value's end.
    pub(crate) failed: oneshot::Receiver<DiskError>,
    pub(crate) identity: Identity,
    pub(crate) file: PathBuf,
}

impl Engine {
    /// Opens the directory; `keep` is how many revisions of history are kept. Has to be called inside a runtime.
    pub(crate) fn start(directory: &Path, durability: Durability, keep: i64) -> Result<Self, DiskError> {
        let (disk, identity, state) = Disk::open(directory, durability)?;
        let (messages, waiting) = unbounded();
        let (failure, failed) = oneshot::channel();
        let file = disk.path().to_owned();
        let watchers = Watchers::new(Handle { messages: messages.clone() }, runtime::Handle::current());
        let owner = Owner { disk, state, watchers, keep, began: Instant::now() };
        let thread = std::thread::spawn(move || {
            if let Err(error) = owner.run(&waiting) {
                let _ = failure.send(error);
            }
        });
        Ok(Self { messages, thread: Some(thread), failed, identity, file })
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { messages: self.messages.clone() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Owner {
    disk: Disk,
    state: State,
    watchers: Watchers,
    keep: i64,
    began: Instant,
}

impl Owner {
    fn run(mut self, waiting: &Receiver<Message>) -> Result<(), DiskError> {
        loop {
            let first = match self.state.next_end() {
                Some(end) => waiting.recv_deadline(self.began + end),
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut deliveries = Vec::new();
            let mut stop = false;
            match first {
                Ok(first) => {
                    for message in std::iter::once(first).chain(waiting.try_iter()).take(MAX_GROUP) {
                        match message {
                            Message::Job(job) => deliveries.push(job(&mut self.state, self.began.elapsed())),
                            Message::Stop => stop = true,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            // After the requests: a keep-alive that has waited here came in time.
            self.state.expire(self.began.elapsed());
            self.shorten_history();
            let changes = self.state.take_changes();
            if !changes.is_empty() {
                self.disk.write(&changes)?;
                self.watchers.tell(&self.state, &changes);
            }
            for deliver in deliveries {
                deliver(&self.state, &mut self.watchers);
            }
            if stop {
                return Ok(());
            }
        }
    }

    fn shorten_history(&mut self) {
        let history = self.state.history();
        let revision = history.revision() - self.keep;
        if revision - history.compacted() > self.keep / COMPACTION_STEP {
            // Always a revision that is there and was not compacted.
            let compacted = self.state.compact(&CompactionRequest { revision, physical: false });
            debug_assert!(compacted.is_ok(), "revision {revision}");
        }
    }
}

/// The versions among changes, write by write.
pub(crate) fn writes(changes: &[Change]) -> impl Iterator<Item = Vec<&KeyValue>> {
    let mut versions = changes.iter().filter_map(|change| match change {
        Change::Version(revision, version) => Some((revision.main, version)),
        _ => None,
    });
    let mut next = versions.next();
    std::iter::from_fn(move || {
        let (main, first) = next.take()?;
        let mut write = vec![first];
        for (revision, version) in versions.by_ref() {
            if revision != main {
                next = Some((revision, version));
                break;
            }
            write.push(version);
        }
        Some(write)
    })
}
