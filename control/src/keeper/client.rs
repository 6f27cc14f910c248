//! The agent's end of the conversation with the keeper.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_switch::{device_of, keep_descriptors_from_children};

use super::{Answer, Request, SOCKET, VERSION};
use crate::passing;

/// How long the keeper may take for an answer. It does nothing that waits for others.
const PATIENCE: Duration = Duration::from_secs(1);
/// The program that this process runs, even when its file was replaced since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What was held for ports when this agent came: by the ports' names.
type Kept = BTreeMap<String, Vec<OwnedFd>>;

/// Why the keeper cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The conversation.
    #[error("the keeper at {}: {source}", path.display())]
    Io {
        /// Its socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It speaks another version.
    #[error("the keeper at {} speaks version {theirs}, and this program version {VERSION}", path.display())]
    Version {
        /// Its socket.
        path: PathBuf,
        /// Its version.
        theirs: u32,
    },
    /// It refuses.
    #[error("the keeper refuses: {why}")]
    Refused {
        /// What it says.
        why: String,
    },
}

/// Ends the keeper of a run directory, with all that it holds. Says whether there was one.
///
/// # Errors
/// [`KeeperError`].
pub fn end(run_dir: &Path) -> Result<bool, KeeperError> {
    let path = run_dir.join(SOCKET);
    let failed = |source| KeeperError::Io { path: path.clone(), source };
    let socket = match passing::connect_to(&path, PATIENCE) {
        Err(error) if is_nobody(&error) => return Ok(false),
        other => other.map_err(failed)?,
    };
    passing::send(&socket, &Request::End, &[]).map_err(failed)?;
    passing::receive::<Answer>(&socket).map_err(failed)?;
    Ok(true)
}

/// A conversation with the keeper, or the place where one will be.
#[derive(Debug)]
pub(crate) struct Keeper {
    run_dir: PathBuf,
    socket: Option<OwnedFd>,
    /// The process, if it is a child of this one.
    process: Option<Child>,
    /// What an earlier agent deposited, and nobody claimed yet.
    kept: Kept,
    /// The first queue of what it holds for a port.
    holds: BTreeMap<String, Weak<OwnedFd>>,
    /// What failed last, so that it is said once.
    complaint: Option<String>,
}

impl Keeper {
    /// Fetches what an earlier agent deposited in this run directory. No keeper is started.
    pub(crate) fn find(run_dir: &Path) -> Self {
        let mut keeper = Self {
            run_dir: run_dir.to_owned(),
            socket: None,
            process: None,
            kept: Kept::new(),
            holds: BTreeMap::new(),
            complaint: None,
        };
        if let Err(error) = keeper.fetch() {
            tracing::warn!(%error, "what was kept of devices is not to be had: pods see their links go down for a moment");
            // One that is not understood would hold the devices against us.
            let _ = end(run_dir);
            keeper.lose();
            keeper.kept.clear();
        }
        keeper
    }

    /// What was kept for a port.
    pub(crate) fn kept(&self, port: &str) -> &[OwnedFd] {
        self.kept.get(port).map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes what was kept for a port.
    pub(crate) fn claim(&mut self, port: &str) -> Vec<OwnedFd> {
        self.kept.remove(port).unwrap_or_default()
    }

    /// Takes what another agent has of devices for what was kept.
    pub(crate) fn inherit(&mut self, queues: BTreeMap<String, Vec<OwnedFd>>) {
        self.kept = queues;
    }

    /// Ends it, with all that it holds.
    pub(crate) fn end(&mut self) {
        if self.socket.is_some() {
            match self.ask(&Request::End, &[]) {
                Ok(_) => tracing::info!("the keeper is not wanted any more, and has ended"),
                Err(error) => tracing::warn!(%error, "the keeper may still run: `weft keeper end` ends it"),
            }
            self.lose();
        }
        self.kept.clear();
    }

    /// Has it hold exactly this, the queues of each port that has a device; what was kept and not claimed goes. It is
    /// started if there is something to hold.
    pub(crate) fn follow<'a>(&mut self, ports: impl Iterator<Item = (&'a str, &'a [Arc<OwnedFd>])>) {
        if self.socket.as_ref().is_some_and(has_hung_up) {
            tracing::warn!("the keeper is gone: another takes its place");
            self.lose();
        }
        let ports: BTreeMap<&str, &[Arc<OwnedFd>]> = ports.filter(|(_, queues)| !queues.is_empty()).collect();
        self.kept.clear();
        match self.hold_exactly(&ports) {
            Ok(()) => self.complaint = None,
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(%error, "pods would see their links go down if this agent were killed");
                    self.complaint = Some(complaint);
                }
                if !matches!(error, KeeperError::Refused { .. }) {
                    self.lose();
                }
            }
        }
    }

    fn hold_exactly(&mut self, ports: &BTreeMap<&str, &[Arc<OwnedFd>]>) -> Result<(), KeeperError> {
        let is_held = |held: &Weak<OwnedFd>, queues: &[Arc<OwnedFd>]| {
            queues.first().is_some_and(|first| Weak::ptr_eq(held, &Arc::downgrade(first)))
        };
        let stays = |port: &str| ports.contains_key(port);
        let gone: Vec<String> = self.holds.keys().filter(|port| !stays(port)).cloned().collect();
        for port in gone {
            self.ask(&Request::Release { port: port.clone() }, &[])?;
            self.holds.remove(&port);
        }
        for (port, queues) in ports {
            if self.holds.get(*port).is_some_and(|held| is_held(held, queues)) {
                continue;
            }
            if self.socket.is_none() {
                self.start()?;
            }
            let descriptors: Vec<_> = queues.iter().map(|queue| queue.as_fd()).collect();
            self.holds.remove(*port);
            self.ask(&Request::Hold { port: (*port).to_owned() }, &descriptors)?;
            self.holds.extend(queues.first().map(|first| ((*port).to_owned(), Arc::downgrade(first))));
        }
        Ok(())
    }

    /// Starts a keeper. It finds its socket open as its standard input, so that nobody has to wait for it.
    fn start(&mut self) -> Result<(), KeeperError> {
        if let Err(error) = keep_descriptors_from_children() {
            tracing::debug!(%error, "what this agent was started with, the keeper has too");
        }
        let start = || {
            let path = self.run_dir.join(SOCKET);
            let listener = passing::listen_at(&path)?;
            let mut command = Command::new(OWN_PROGRAM);
            command.arg0("weft").args(["keeper", "serve", "--run-dir"]).arg(&self.run_dir).env_clear();
            command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
            let process = command.spawn()?;
            Ok((process, passing::connect_to(&path, PATIENCE)?))
        };
        let (process, socket) = start().map_err(|source| self.failed(source))?;
        tracing::info!(process = process.id(), "a keeper holds the pods' devices from now on");
        (self.process, self.socket) = (Some(process), Some(socket));
        self.agree()
    }

    fn fetch(&mut self) -> Result<(), KeeperError> {
        match passing::connect_to(&self.path(), PATIENCE) {
            Err(error) if is_nobody(&error) => return Ok(()),
            other => self.socket = Some(other.map_err(|source| self.failed(source))?),
        }
        self.agree()?;
        let mut after = None;
        loop {
            let (answer, queues) = self.ask(&Request::Next { after }, &[])?;
            let Answer::Held { port } = answer else { return Ok(()) };
            after = Some(port.clone());
            // Before Linux 5.2 nobody can tell what they are.
            let told = queues.iter().map(device_of).find_map(Result::err);
            if let Some(error) = told.filter(|error| error.kind() == io::ErrorKind::InvalidInput) {
                return Err(self.failed(error));
            }
            // Nothing that this holds is what a port has now.
            self.holds.insert(port.clone(), Weak::new());
            self.kept.insert(port, queues);
        }
    }

    fn agree(&mut self) -> Result<(), KeeperError> {
        match self.ask(&Request::Version, &[])? {
            (Answer::Version(VERSION), _) => Ok(()),
            (Answer::Version(theirs), _) => Err(KeeperError::Version { path: self.path(), theirs }),
            _ => Err(self.failed(io::ErrorKind::InvalidData.into())),
        }
    }

    fn ask(&self, request: &Request, with: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>), KeeperError> {
        let exchange = || {
            let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            passing::send(socket, request, with)?;
            passing::receive(socket)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        match exchange().map_err(|source| self.failed(source))? {
            (Answer::Refused { why }, _) => Err(KeeperError::Refused { why }),
            answer => Ok(answer),
        }
    }

    /// Ends the conversation: whoever was at the other end holds nothing that counts.
    fn lose(&mut self) {
        self.socket = None;
        self.holds.clear();
        if let Some(process) = &mut self.process
            && let Ok(None) = process.try_wait()
        {
            // It does not answer, or is ending by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
        self.process = None;
    }

    fn path(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    fn failed(&self, source: io::Error) -> KeeperError {
        KeeperError::Io { path: self.path(), source }
    }
}

/// Whether an error says that nobody listens.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn has_hung_up(socket: &OwnedFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&at_once)), Ok(1))
}
