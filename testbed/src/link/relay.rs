//! The process that carries the frames of an impaired link: two TAPs, a channel each way, and a socket on which it
//! is told what to change and asked what it counted.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use weft_encap::Inner;
use weft_encap::too_big::{self, Source, too_big};

use super::{Channel, ChannelCounters, Impairments, Loss, TooBig};

/// The longest frame that is carried, in bytes.
const FRAME_MAX: usize = 65_536;
/// Frames taken from one side before the other has its turn.
const FRAMES_A_TURN: usize = 64;
/// ICMP answers a second at most.
const ANSWERS_A_SECOND: u32 = 200;
/// The longest request and answer, in bytes.
const MESSAGE_MAX: u64 = 1 << 16;
/// How long the other end of the socket may take for its request, and a relay for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a relay is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RelayPlan {
    /// The TAP towards the node.
    pub(crate) node_side: String,
    /// The TAP towards the other nodes.
    pub(crate) network_side: String,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// How it begins.
    pub(crate) impairments: Impairments,
}

/// What a relay counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Towards the node.
    pub to: DirectionCounters,
    /// From the node.
    pub from: DirectionCounters,
}

/// What a relay counted of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DirectionCounters {
    /// What became of the frames.
    #[serde(flatten)]
    pub channel: ChannelCounters,
    /// Frames that were too big and whose sender was told so.
    pub answered: u64,
    /// Frames delivered that the kernel would not take.
    pub refused: u64,
    /// Frames that came faster than the relay could take them; they are not among [`ChannelCounters::frames`].
    pub overrun: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Set(Box<Impairments>),
    Show,
}

/// Why a relay ended, or did not answer.
#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct RelayError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> RelayError {
    let path = path.into();
    move |source| RelayError { operation, path, source }
}

/// Carries frames until the process is ended; `ready` is called once it could. The file is one that
/// [`crate::Lab`] wrote.
///
/// # Errors
/// [`RelayError`]: a TAP that cannot be made, or a socket.
pub fn run_relay(file: &Path, ready: impl FnOnce()) -> Result<(), RelayError> {
    let text = fs::read(file).map_err(failed("read", file))?;
    let plan: RelayPlan = serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed("understand", file))?;
    let taps = [&plan.node_side, &plan.network_side]
        .map(|name| weft_switch::open_plain_tap(name).map_err(failed("make the TAP", name.as_str())));
    let [node_side, network_side] = taps;
    // What an earlier relay left, which is gone: its TAPs could be made.
    let _ = fs::remove_file(&plan.socket);
    let listener = UnixListener::bind(&plan.socket).map_err(failed("listen on", &plan.socket))?;
    let relay = Arc::new(Relay {
        node_side: node_side?,
        network_side: network_side?,
        begin: Instant::now(),
        state: Mutex::new(State::new(&plan.impairments)),
    });
    // Timers to the nanosecond; where the kernel refuses, they may be 50 microseconds late.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    // It ends with the process: a relay that can no longer carry frames has nothing to answer for.
    let listening = relay.clone();
    let thread = thread::Builder::new().name("listen".to_owned()).spawn(move || listening.listen(&listener));
    thread.map_err(failed("listen on", &plan.socket))?;
    ready();
    relay.carry().map_err(failed("carry frames from and to", plan.node_side))
}

struct Relay {
    node_side: File,
    network_side: File,
    begin: Instant,
    state: Mutex<State>,
}

struct State {
    seed: u64,
    to: OneWay,
    from: OneWay,
}

/// A channel, and what it does not count itself.
struct OneWay {
    channel: Channel,
    counters: DirectionCounters,
    /// The second since the beginning, and the ICMP answers in it.
    answers: (u64, u32),
}

/// Both directions have chances of their own, which one seed decides.
const fn seeds(seed: u64) -> [u64; 2] {
    [seed.wrapping_mul(2), seed.wrapping_mul(2).wrapping_add(1)]
}

impl State {
    fn new(impairments: &Impairments) -> Self {
        let [to, from] = seeds(impairments.seed);
        Self {
            seed: impairments.seed,
            to: OneWay::new(Channel::new(impairments.to.clone(), to)),
            from: OneWay::new(Channel::new(impairments.from.clone(), from)),
        }
    }

    fn set(&mut self, impairments: Impairments) {
        if impairments.seed != self.seed {
            self.seed = impairments.seed;
            let [to, from] = seeds(impairments.seed);
            self.to.channel.seed(to);
            self.from.channel.seed(from);
        }
        self.to.channel.change(impairments.to);
        self.from.channel.change(impairments.from);
    }

    fn next(&self) -> Option<Duration> {
        [self.to.channel.next(), self.from.channel.next()].into_iter().flatten().min()
    }
}

impl Relay {
    fn carry(&self) -> io::Result<()> {
        let mut buffer = vec![0; FRAME_MAX];
        loop {
            let next = {
                let mut state = self.lock();
                let State { to, from, .. } = &mut *state;
                from.turn(&self.node_side, &self.network_side, &mut buffer, self.begin)?;
                to.turn(&self.network_side, &self.node_side, &mut buffer, self.begin)?;
                state.next()
            };
            self.wait(next)?;
        }
    }

    /// Until a frame comes, or the time has.
    fn wait(&self, until: Option<Duration>) -> io::Result<()> {
        let left = until.map(|until| until.saturating_sub(self.begin.elapsed()));
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
        let mut fds = [PollFd::new(&self.node_side, PollFlags::IN), PollFd::new(&self.network_side, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn listen(&self, listener: &UnixListener) {
        for client in listener.incoming().flatten() {
            // Whoever asks badly gets no answer.
            let _ = self.answer(client);
        }
    }

    fn answer(&self, mut client: UnixStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(PATIENCE))?;
        let request = read_line(&client)?;
        let answer = {
            let mut state = self.lock();
            if let Request::Set(impairments) = serde_json::from_slice(&request)? {
                state.set(*impairments);
            }
            RelayCounters { to: state.to.counted(), from: state.from.counted() }
        };
        write_line(&mut client, &answer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OneWay {
    fn new(channel: Channel) -> Self {
        Self { channel, counters: DirectionCounters::default(), answers: (0, 0) }
    }

    fn counted(&self) -> DirectionCounters {
        DirectionCounters { channel: self.channel.counters(), ..self.counters }
    }

    /// Takes in what has come on one side, and hands out on the other what is due.
    fn turn(&mut self, mut input: &File, output: &File, buffer: &mut [u8], begin: Instant) -> io::Result<()> {
        for _ in 0..FRAMES_A_TURN {
            let length = match input.read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (frame, now) = (&buffer[..length], begin.elapsed());
            let fate = self.channel.offer(frame, now);
            if fate == Err(Loss::TooBig) && self.channel.impairment().too_big == TooBig::Icmp {
                self.tell_sender(frame, input, now);
            }
        }
        while let Some(frame) = self.channel.take(begin.elapsed()) {
            self.write(output, &frame);
        }
        Ok(())
    }

    fn write(&mut self, mut output: &File, frame: &[u8]) {
        // A device that is down takes nothing, as an unplugged cable does.
        if output.write(frame).is_err() {
            self.counters.refused += 1;
        }
    }

    fn tell_sender(&mut self, frame: &[u8], mut back: &File, now: Duration) {
        let answers = if self.answers.0 == now.as_secs() { self.answers.1 } else { 0 };
        let (Some(mtu), Ok(frame)) = (self.channel.impairment().mtu, Inner::parse(frame)) else { return };
        let mut answer = [0; too_big::MAX_LEN];
        if answers < ANSWERS_A_SECOND
            && let Ok(length) = too_big(&frame, mtu, Source::Destination, &mut answer)
            && back.write(&answer[..length]).is_ok()
        {
            self.answers = (now.as_secs(), answers + 1);
            self.counters.answered += 1;
        }
    }
}

/// Changes what a relay does from now on. What it has counted until then.
pub(crate) fn change(socket: &Path, impairments: &Impairments) -> Result<RelayCounters, RelayError> {
    ask(socket, &Request::Set(Box::new(impairments.clone())))
}

/// What a relay has counted.
pub(crate) fn counters(socket: &Path) -> Result<RelayCounters, RelayError> {
    ask(socket, &Request::Show)
}

fn ask(socket: &Path, request: &Request) -> Result<RelayCounters, RelayError> {
    let asked = || -> io::Result<RelayCounters> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write_line(&mut stream, request)?;
        Ok(serde_json::from_slice(&read_line(&stream)?)?)
    };
    asked().map_err(failed("ask the relay at", socket))
}

fn read_line(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MESSAGE_MAX)).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn write_line(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}
