//! Agents, relays and stores: started in a namespace of the lab, waited for until they
//! are ready.
//!
//! They outlive whoever started them: each has a session of its own, and its output goes to a file. It says that
//! it is ready by one line on a pipe, whose number it finds in [`READY_FD`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::setsid;
use weft_netns::Netns;

use crate::error::io_error;
use crate::process::{Process, ProcessId, poll_until};
use crate::{LabError, Progress, store};

/// Name of the environment variable which holds the number of the descriptor for the word [`READY`].
pub const READY_FD: &str = "WEFT_READY_FD";
/// What an agent or a relay says once it is ready, as a line.
pub const READY: &str = "ready";

/// What it may say at most, in bytes.
const WORD_MAX: usize = 256;
/// How long a process that closed its pipe may take to end.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// What an error shows of a log, in bytes.
const LOG_TAIL: u64 = 4096;

/// A process of the lab, as errors name it.
#[derive(Clone, Debug)]
pub(crate) enum Service {
    /// The agent of this node.
    Agent(String),
    /// The relay of this link.
    Relay(String),
    /// The lab's own store.
    Store,
    /// What leads to an etcd.
    Forwarder,
}

impl Service {
    const fn ready(&self) -> Progress<'_> {
        match self {
            Self::Agent(node) => Progress::AgentReady { node: node.as_str() },
            Self::Relay(link) => Progress::LinkReady { link: link.as_str() },
            Self::Store | Self::Forwarder => Progress::StoreReady,
        }
    }

    pub(crate) const fn started(&self, pid: i32) -> Progress<'_> {
        match self {
            Self::Agent(node) => Progress::AgentStarted { node: node.as_str(), pid },
            Self::Relay(link) => Progress::RelayStarted { link: link.as_str(), pid },
            Self::Store | Self::Forwarder => Progress::StoreStarted { pid },
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(node) => write!(f, "agent of node `{node}`"),
            Self::Relay(link) => write!(f, "relay of link `{link}`"),
            Self::Store => write!(f, "store"),
            Self::Forwarder => write!(f, "forwarder to etcd"),
        }
    }
}

/// One that has not said anything yet.
pub(crate) struct Starting {
    pub(crate) service: Service,
    pub(crate) id: ProcessId,
    process: Process,
    child: Child,
    pipe: File,
    said: Vec<u8>,
    log: PathBuf,
}

/// Starts one in a namespace, with the file that it reads, or the directory that it writes.
pub(crate) fn start(
    service: Service,
    netns: &Netns,
    executable: &Path,
    file: &Path,
    log: &Path,
) -> Result<Starting, LabError> {
    let output = OpenOptions::new().append(true).create(true).open(log).map_err(io_error("open", log))?;
    let errors = output.try_clone().map_err(io_error("open", log))?;
    let (pipe, word) = pipe_with(PipeFlags::CLOEXEC).map_err(io_error("make a pipe for", executable))?;
    let mut command = Command::new(executable);
    match service {
        Service::Agent(_) => command.args(["agent", "--config"]),
        Service::Relay(_) => command.args(["testbed", "relay"]),
        Service::Store => command.args(["store", "--relaxed", "--listen", &store::LISTEN.to_string(), "--data"]),
        Service::Forwarder => command.args(["testbed", "forward"]),
    };
    command.arg(file).current_dir("/");
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    detach(&mut command, word);
    let no_agent = |error: &io::Error| LabError::NoAgent { path: executable.to_owned(), reason: error.to_string() };
    // A child is born into the namespace of the thread that makes it.
    let child = netns.run(|| command.spawn())?.map_err(|error| no_agent(&error))?;
    let gone =
        || LabError::NotReady { who: service.to_string(), reason: "it was gone at once".to_owned(), log: tail(log) };
    let id = ProcessId::of(child.id()).ok_or_else(gone)?;
    let process = id.open().ok_or_else(gone)?;
    Ok(Starting { service, id, process, child, pipe: pipe.into(), said: Vec::new(), log: log.to_owned() })
}

/// Gives the process a session of its own, and `word` under the number it is told.
#[expect(unsafe_code, reason = "std offers no safe way to act between fork and exec")]
fn detach(command: &mut Command, word: OwnedFd) {
    command.env(READY_FD, word.as_raw_fd().to_string());
    let act = move || {
        setsid()?;
        fcntl_setfd(&word, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, one of them on a descriptor it owns;
    // it neither allocates nor takes a lock.
    unsafe { command.pre_exec(act) };
}

/// Waits until all are ready.
pub(crate) fn wait_ready(
    mut starting: Vec<Starting>,
    bound: Duration,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), LabError> {
    let deadline = Instant::now() + bound;
    while let Some(first) = starting.first() {
        let mut fds: Vec<PollFd<'_>> = starting
            .iter()
            .flat_map(|agent| {
                [PollFd::new(&agent.pipe, PollFlags::IN), PollFd::new(agent.process.as_pollable(), PollFlags::IN)]
            })
            .collect();
        if !poll_until(&mut fds, deadline).map_err(io_error("wait for", &first.log))? {
            return Err(first.failure(format!("it said nothing for {} s", bound.as_secs())));
        }
        let events: Vec<bool> = fds.chunks(2).map(|pair| pair.iter().any(|fd| !fd.revents().is_empty())).collect();
        let mut still = Vec::new();
        for (mut agent, event) in starting.into_iter().zip(events) {
            if event && agent.listen()? {
                progress(agent.service.ready());
            } else {
                still.push(agent);
            }
        }
        starting = still;
    }
    Ok(())
}

impl Starting {
    /// Takes in what the agent says, or its end. Whether it is ready.
    fn listen(&mut self) -> Result<bool, LabError> {
        let mut readable = [PollFd::new(&self.pipe, PollFlags::IN)];
        if !poll_until(&mut readable, Instant::now()).map_err(io_error("wait for", &self.log))? {
            return Err(self.ended());
        }
        let mut buffer = [0; WORD_MAX];
        let length = self.pipe.read(&mut buffer).map_err(io_error("listen to the writer of", &self.log))?;
        if length == 0 {
            return Err(self.ended());
        }
        self.said.extend_from_slice(&buffer[..length]);
        let line = self.said.iter().position(|byte| *byte == b'\n').map(|end| &self.said[..end]);
        match line {
            Some(line) if line == READY.as_bytes() => Ok(true),
            None if self.said.len() < WORD_MAX => Ok(false),
            _ => Err(self.failure(format!("it said `{}`", String::from_utf8_lossy(&self.said).trim_end()))),
        }
    }

    fn ended(&mut self) -> LabError {
        let mut fds = [PollFd::new(self.process.as_pollable(), PollFlags::IN)];
        let ended = poll_until(&mut fds, Instant::now() + EXIT_GRACE).unwrap_or(false);
        match self.child.try_wait() {
            Ok(Some(status)) if ended => self.failure(format!("it ended with {status}")),
            _ => self.failure(format!("it closed {READY_FD} without a word")),
        }
    }

    fn failure(&self, reason: String) -> LabError {
        LabError::NotReady { who: self.service.to_string(), reason, log: tail(&self.log) }
    }
}

/// The whole lines at the end of a log.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let skipped = file.metadata()?.len().saturating_sub(LOG_TAIL);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let cut = if bytes.len() as u64 == LOG_TAIL {
        bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1)
    } else {
        0
    };
    String::from_utf8_lossy(&bytes[cut..]).trim_end().to_owned()
}

/// The path by which the executable is found from anywhere.
pub(crate) fn find(executable: &Path) -> Result<PathBuf, LabError> {
    let no_agent = |reason: String| LabError::NoAgent { path: executable.to_owned(), reason };
    let path = fs::canonicalize(executable).map_err(|error| no_agent(error.to_string()))?;
    match rustix::fs::access(&path, rustix::fs::Access::EXEC_OK) {
        Ok(()) if path.is_file() => Ok(path),
        Ok(()) => Err(no_agent("it is not a file".to_owned())),
        Err(error) => Err(no_agent(io::Error::from(error).to_string())),
    }
}
