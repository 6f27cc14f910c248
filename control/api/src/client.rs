use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::{API_VERSION, Query, Refusal, Reply, Request, Response, TraceBatch, TraceFilter, Versioned};

/// Name of the agent's socket in its run directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// How long the agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to attach or detach pods: they are served one after the other, and the store has to answer.
const POD_TIMEOUT: Duration = Duration::from_secs(90);

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {path}: start one with `weft agent --config FILE`, or name a lab's node with `--node LAB.NODE`"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("{path} may not be opened by this user: the agent answers its own user and root")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The agent speaks another version.
    #[error(
        "the agent at {path} speaks version {agent} of the local API and this program version {own}: use the program that was installed with the agent"
    )]
    Version {
        /// The socket.
        path: PathBuf,
        /// The agent's version.
        agent: u32,
        /// Our version.
        own: u32,
    },
    /// The agent refused the request.
    #[error("the agent refused: {message}")]
    Refused {
        /// What it said.
        message: String,
        /// The same for programs.
        refusal: Option<Refusal>,
    },
    /// The conversation broke.
    #[error("talking to the agent at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A connection to an agent.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent whose run directory this is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(run_dir: &Path) -> Result<Self, ClientError> {
        let path = run_dir.join(SOCKET_NAME);
        let open = || -> io::Result<UnixStream> {
            let stream = UnixStream::connect(&path)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        match open() {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(source) => Err(match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path },
                io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path },
                _ => ClientError::Io { path, source },
            }),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, query: Query) -> Result<Reply, ClientError> {
        self.ask_with(query, None)
    }

    /// The same, with a descriptor that goes along.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask_with(&mut self, query: Query, descriptor: Option<BorrowedFd<'_>>) -> Result<Reply, ClientError> {
        let timeout = match &query {
            Query::Attach(_)
            | Query::Detach(_)
            | Query::Check(_)
            | Query::Retain(_)
            | Query::Unreleased(_)
            | Query::Released(_) => POD_TIMEOUT,
            _ => TIMEOUT,
        };
        let timed = self.stream.get_ref().set_read_timeout(Some(timeout));
        let sent = timed.and_then(|()| self.send(&Request { api: API_VERSION, query }, descriptor));
        sent.map_err(|source| self.broken(source))?;
        self.receive()
    }

    /// Begins a trace. The conversation is about nothing else from then on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trace(mut self, filter: TraceFilter) -> Result<TraceClient, ClientError> {
        match self.ask(Query::Trace(Box::new(filter)))? {
            Reply::Tracing { node } => {
                // Frames come when they come.
                let patient = self.stream.get_ref().set_read_timeout(None);
                patient.map_err(|source| self.broken(source))?;
                Ok(TraceClient { client: self, node })
            }
            _ => Err(self.broken(io::ErrorKind::InvalidData.into())),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), source }
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let path = self.path.clone();
        let broken = |source| ClientError::Io { path: path.clone(), source };
        let mut line = String::new();
        if self.stream.read_line(&mut line).map_err(broken)? == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let garbled = |error: serde_json::Error| broken(error.into());
        let Versioned { api } = serde_json::from_str(&line).map_err(garbled)?;
        if api != API_VERSION {
            return Err(ClientError::Version { path, agent: api, own: API_VERSION });
        }
        match serde_json::from_str::<Response>(&line).map_err(garbled)?.reply {
            Reply::Error { message, refusal } => Err(ClientError::Refused { message, refusal }),
            reply => Ok(reply),
        }
    }

    fn send(&mut self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let sent = match descriptor {
            Some(descriptor) => send_with(self.stream.get_ref(), line.as_bytes(), descriptor)?,
            None => 0,
        };
        self.stream.get_mut().write_all(&line.as_bytes()[sent..])
    }
}

/// A trace that is on until this is dropped.
pub struct TraceClient {
    client: Client,
    node: String,
}

impl TraceClient {
    /// Name of the node that is traced.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Waits for what becomes of the next frames.
    ///
    /// # Errors
    /// [`ClientError`], also where the agent has ended.
    pub fn next_batch(&mut self) -> Result<TraceBatch, ClientError> {
        match self.client.receive()? {
            Reply::Trace(batch) => Ok(batch),
            _ => Err(self.client.broken(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Lets another thread end [`Self::next_batch`], which then fails.
    ///
    /// # Errors
    /// The kernel's, where there are too many descriptors.
    pub fn hang_up(&self) -> io::Result<impl Fn() + Send + 'static> {
        let stream = self.client.stream.get_ref().try_clone()?;
        Ok(move || {
            // One that is closed already has ended too.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })
    }
}

/// Sends the beginning of a request, and a descriptor with it (unix(7), SCM_RIGHTS). Says how many bytes that were.
fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
