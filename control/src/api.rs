//! The node's local API: a Unix socket, a line of JSON for a line of JSON.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as Listener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use weft_api::{API_VERSION, MAX_REQUEST_BYTES, Query, Refusal, Reply, Request, Response, SOCKET_NAME, Versioned};

use crate::trace::TraceStream;

mod requests;
#[cfg(test)]
mod tests;

use requests::{Received, Requests};

/// Conversations at one time at most; further clients wait for one to end.
const CONVERSATIONS: usize = 64;
/// Pods whose attachment waits for the store or for other nodes at most. Who waits so has no place among the conversations,
/// and keeps nobody else from his.
const WAITING_ATTACHMENTS: usize = 256;
/// Until clients are welcomed again after the kernel refused one, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Questions that wait for their answer at most.
const WAITING_QUESTIONS: usize = 64;
/// How long a client may take to send a request or to fetch a reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the local socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "the agent's socket {}: {source}: remove what is in its place, or choose a `run_dir` that may be written",
    path.display()
)]
pub struct ApiError {
    path: PathBuf,
    source: io::Error,
}

/// What somebody asked, and where the answer goes.
pub(crate) struct Question {
    pub(crate) query: Query,
    /// What came along.
    pub(crate) descriptor: Option<OwnedFd>,
    answer: oneshot::Sender<Answered>,
}

/// Where an answer goes.
pub(crate) struct Answer(oneshot::Sender<Answered>);

enum Answered {
    Reply(Reply),
    Stream(Box<TraceStream>),
}

/// All open conversations.
pub(crate) struct Conversations {
    listener: UnixListener,
    sender: mpsc::Sender<Question>,
    questions: mpsc::Receiver<Question>,
    places: Arc<Semaphore>,
    attachments: Arc<Semaphore>,
    /// Nobody is welcomed until then.
    paused: Option<Instant>,
}

/// Opens the socket, for this user only. The run directory's lock is held: what lies there is stale.
pub(crate) fn listen(run_dir: &Path) -> Result<Listener, ApiError> {
    let path = run_dir.join(SOCKET_NAME);
    let open = || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = Listener::bind(&path)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    open().map_err(|source| ApiError { path: path.clone(), source })
}

impl Conversations {
    /// Welcomes clients of this listener, within the runtime that it is called in.
    pub(crate) fn new(listener: &Listener) -> io::Result<Self> {
        let listener = UnixListener::from_std(listener.try_clone()?)?;
        let (sender, questions) = mpsc::channel(WAITING_QUESTIONS);
        let places = Arc::new(Semaphore::new(CONVERSATIONS));
        let attachments = Arc::new(Semaphore::new(WAITING_ATTACHMENTS));
        Ok(Self { listener, sender, questions, places, attachments, paused: None })
    }

    /// Waits for the next question, welcoming newcomers meanwhile.
    pub(crate) async fn next(&mut self) -> Question {
        loop {
            tokio::select! {
                Some(question) = self.questions.recv() => return question,
                accepted = newcomer(&self.listener, &self.places, self.paused) => match accepted {
                    Ok((stream, place)) => {
                        self.paused = None;
                        let turnstile = Turnstile {
                            place: Some(place),
                            waits: None,
                            places: self.places.clone(),
                            attachments: self.attachments.clone(),
                        };
                        tokio::spawn(converse(stream, self.sender.clone(), turnstile));
                    }
                    Err(error) => {
                        if self.paused.is_none() {
                            tracing::warn!(%error, "the local socket welcomes nobody for now");
                        }
                        self.paused = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                }
            }
        }
    }
}

/// The next client and its place among the conversations. Nothing is lost when it is not waited for any longer.
async fn newcomer(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
    paused: Option<Instant>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    if let Some(end) = paused {
        tokio::time::sleep_until(end).await;
    }
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

impl Question {
    /// Parts what was asked from where the answer goes.
    pub(crate) fn take(self) -> (Query, Option<OwnedFd>, Answer) {
        (self.query, self.descriptor, Answer(self.answer))
    }
}

impl Answer {
    pub(crate) fn give(self, reply: Reply) {
        // Who hung up does not want the answer.
        let _ = self.0.send(Answered::Reply(reply));
    }

    /// Answers again and again, until one side hangs up.
    pub(crate) fn go_on_with(self, stream: TraceStream) {
        let _ = self.0.send(Answered::Stream(Box::new(stream)));
    }
}

/// What a conversation holds, so that there are not too many.
struct Turnstile {
    /// Its place; none while it waits for the store.
    place: Option<OwnedSemaphorePermit>,
    /// That it waits so.
    waits: Option<OwnedSemaphorePermit>,
    places: Arc<Semaphore>,
    attachments: Arc<Semaphore>,
}

impl Turnstile {
    /// Whether there is room for one more who asks this.
    fn admits(&mut self, query: &Query) -> bool {
        if !matches!(query, Query::Attach(_)) {
            return true;
        }
        self.waits = self.attachments.clone().try_acquire_owned().ok();
        self.waits.is_some()
    }

    /// Who waits makes room.
    fn step_aside(&mut self) {
        if self.waits.is_some() {
            self.place = None;
        }
    }

    /// Back for the next request.
    async fn come_back(&mut self) {
        self.waits = None;
        if self.place.is_none() {
            self.place = self.places.clone().acquire_owned().await.ok();
        }
    }
}

/// Talks to one client, which holds its place until the end, but for when it waits.
async fn converse(stream: UnixStream, questions: mpsc::Sender<Question>, mut turnstile: Turnstile) {
    let (read, mut write) = stream.into_split();
    let mut requests = Requests::new(read);
    loop {
        turnstile.come_back().await;
        let next = requests.next(MAX_REQUEST_BYTES as usize);
        let Received { line, descriptor } = match tokio::time::timeout(PATIENCE, next).await {
            Ok(Ok(received)) if !received.line.is_empty() => received,
            _ => return,
        };
        let too_long = line.len() as u64 == MAX_REQUEST_BYTES && !line.ends_with(b"\n");
        let refused = |message| Reply::Error { message, refusal: Some(Refusal::Invalid) };
        let reply = if too_long {
            refused(format!("a request has {MAX_REQUEST_BYTES} bytes at most"))
        } else {
            match understand(&line) {
                Err(message) => refused(message),
                Ok(query) if !turnstile.admits(&query) => Reply::Error {
                    message: format!(
                        "{WAITING_ATTACHMENTS} pods wait for the store or for other nodes already: `weft status` says how it stands"
                    ),
                    refusal: Some(Refusal::Later),
                },
                Ok(query) => {
                    let (answer, answered) = oneshot::channel();
                    if questions.send(Question { query, descriptor, answer }).await.is_err() {
                        return;
                    }
                    turnstile.step_aside();
                    match answered.await {
                        Ok(Answered::Reply(reply)) => reply,
                        Ok(Answered::Stream(stream)) => return tell(*stream, requests, write).await,
                        Err(_) => return,
                    }
                }
            }
        };
        let sent = tokio::time::timeout(PATIENCE, send(&mut write, reply)).await;
        // What follows a request that is too long is no request.
        if too_long || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// Tells of frames until the client hangs up, or says anything more.
async fn tell(mut stream: TraceStream, mut requests: Requests, mut write: OwnedWriteHalf) {
    let mut reply = stream.head();
    loop {
        let sent = tokio::time::timeout(PATIENCE, send(&mut write, reply)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        reply = tokio::select! {
            _ = requests.next(1) => return,
            batch = stream.next() => match batch {
                Ok(batch) => Reply::Trace(batch),
                Err(error) => Reply::Error { message: format!("waiting for frames: {error}"), refusal: None },
            },
        };
    }
}

async fn send(write: &mut OwnedWriteHalf, reply: Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Response { api: API_VERSION, reply })?;
    line.push(b'\n');
    write.write_all(&line).await
}

fn understand(line: &[u8]) -> Result<Query, String> {
    let garbled = |error| format!("this is no request: {error}");
    let Versioned { api } = serde_json::from_slice(line).map_err(garbled)?;
    if api != API_VERSION {
        return Err(format!(
            "this agent speaks version {API_VERSION} of the local API and the request version {api}: \
             use the program that was installed with the agent"
        ));
    }
    serde_json::from_slice::<Request>(line).map(|request| request.query).map_err(garbled)
}
