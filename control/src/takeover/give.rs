//! The running agent's end of a takeover.

use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::socket_peercred;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{Ask, Ground, Hurry, OLDEST_STATE, SOCKET, STATE_VERSION, Say, State};
use crate::agent::Agent;
use crate::{passing, supervisor};

/// How long a successor may take to say what it wants, and to fetch a message.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take to make itself ready. The agent forwards meanwhile, and does nothing else.
const PREPARATION: Duration = Duration::from_secs(10);
/// How long nobody may read frames: what comes meanwhile has to find room in the devices' queues.
const PAUSE: Duration = Duration::from_millis(200);

/// Where successors come. tokio has no type for sockets that keep messages apart; of its streams only their readiness is
/// used.
pub(crate) struct Successors(UnixListener);

impl Successors {
    /// Opens the socket, for this user only.
    pub(crate) fn listen(run_dir: &Path) -> io::Result<OwnedFd> {
        passing::listen_at(&run_dir.join(SOCKET))
    }

    /// Waits at this socket, within the runtime that it is called in.
    pub(crate) fn at(listener: &OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener.try_clone()?);
        listener.set_nonblocking(true)?;
        Ok(Self(UnixListener::from_std(listener)?))
    }

    /// The next one.
    pub(crate) async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.0.accept().await?.0)
    }
}

impl Agent {
    /// Hands everything over to a successor; this process ends then. Returns when it goes on instead, and why.
    pub(crate) async fn hand_over(&mut self, successor: io::Result<UnixStream>) -> io::Result<()> {
        let successor = successor?;
        passing::check_user(&successor)?;
        let process = socket_peercred(&successor)?.pid;
        let (state, version, supervised) = match hear(&successor, PATIENCE).await? {
            Ask::Hello { state, version, supervised } => (state, version, supervised),
            other => return Err(unexpected(&other)),
        };
        if !(OLDEST_STATE..=STATE_VERSION).contains(&state) {
            let own = env!("CARGO_PKG_VERSION");
            let why = format!(
                "it speaks state version {STATE_VERSION} and the one before (weft {own}), and the new process asks for state \
                 version {state} (weft {version}): stop the one and start the other; pods keep their links meanwhile"
            );
            tracing::warn!(why, "a takeover is refused");
            return say(&successor, &Say::Refused { why }, &[]).await;
        }
        tracing::info!(version, state, "another process takes over");
        self.offer(&successor).await?;
        match hear(&successor, PREPARATION).await? {
            Ask::Quiesce => {}
            other => return Err(unexpected(&other)),
        }
        let _hurry = Hurry::begin();
        let begun = Instant::now();
        self.switch.pause();
        match self.let_go(&successor).await {
            Ok(()) => {
                if supervised {
                    supervisor::succeeded_by(process);
                } else if supervisor::listens() {
                    tracing::warn!("the service ends for systemd: what takes over was not started by its reload");
                }
                tracing::info!(microseconds = begun.elapsed().as_micros() as u64, "handed over; this process ends");
                // All that ends with this process has another owner now: nothing of it is to be undone.
                std::process::exit(0);
            }
            Err(error) => {
                self.switch.resume();
                Err(error)
            }
        }
    }

    async fn let_go(&self, successor: &UnixStream) -> io::Result<()> {
        say(successor, &Say::Quiesced, &[]).await?;
        match hear(successor, PAUSE).await? {
            Ask::Commit => say(successor, &Say::Committed, &[]).await,
            other => Err(unexpected(&other)),
        }
    }

    async fn offer(&self, successor: &UnixStream) -> io::Result<()> {
        say(successor, &Say::Ground(Ground::of(&self.config)), &[]).await?;
        for port in self.ports.iter().filter(|port| !port.queues.is_empty()) {
            let queues: Vec<_> = port.queues.iter().map(|queue| queue.as_fd()).collect();
            say(successor, &Say::Port { name: port.config.name.clone() }, &queues).await?;
        }
        if let Some(sockets) = self.switch.sockets() {
            for receivers in sockets.receivers() {
                say(successor, &Say::Receivers, &receivers).await?;
            }
            say(successor, &Say::Senders, &sockets.senders()).await?;
        }
        let uplink = self.uplink.as_ref().filter(|uplink| !uplink.state.is_given_up());
        if let Some(descriptor) = uplink.and_then(|uplink| uplink.descriptor.upgrade()) {
            say(successor, &Say::Uplink, &[descriptor.as_fd()]).await?;
        }
        if let Some(metrics) = &self.metrics {
            say(successor, &Say::Metrics, &[metrics.as_fd()]).await?;
        }
        say(successor, &Say::Run, &[self.lock.as_fd(), self.listener.as_fd(), self.successors.as_fd()]).await?;
        let mut file = std::fs::File::from(memfd_create("weft-state", MemfdFlags::CLOEXEC)?);
        serde_json::to_writer(io::BufWriter::new(&file), &State::of(self))?;
        file.rewind()?;
        say(successor, &Say::State, &[file.as_fd()]).await?;
        say(successor, &Say::All, &[]).await
    }
}

async fn hear(successor: &UnixStream, bound: Duration) -> io::Result<Ask> {
    let receive = successor.async_io(Interest::READABLE, || passing::receive(successor));
    let heard = timeout(bound, receive).await??;
    heard.map(|(ask, _)| ask).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it is gone"))
}

async fn say(successor: &UnixStream, say: &Say, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let send = successor.async_io(Interest::WRITABLE, || passing::send(successor, say, descriptors));
    timeout(PATIENCE, send).await?
}

fn unexpected(ask: &Ask) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it says {ask:?} out of turn"))
}
