//! A running agent, and what is asked of it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use weft_api::{
    Client, ClientError, Counters, DropRow, FdbRow, NodeRow, PortRow, Query, Reloaded, Reply, Status, VtepRow,
};
use weft_bridge::DropReason;
use weft_testbed::{READY, READY_FD};

use crate::child::Child;
use crate::host::Host;
use crate::weft::weft;
use crate::{laws, wait};

/// How long an agent may take to be ready.
const READY_WITHIN: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// An agent that is ready.
#[derive(Debug)]
pub struct AgentNode {
    child: Child,
    /// Held so that the agent's word goes somewhere; its end is the agent's.
    _word: File,
    run_dir: PathBuf,
    log: PathBuf,
    /// Drops counted when it became ready: peers' frames that came before its pods were attached.
    early: Vec<DropRow>,
}

/// An agent that ended without being ready.
#[derive(Clone, Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub message: String,
}

impl AgentNode {
    /// Starts `weft agent` on a host.
    pub(crate) fn launch(host: &Host, config: &Path, run_dir: &Path, more: &[&str]) -> Result<Self, Refused> {
        let weft = weft();
        let mut command = host.command(&[weft.to_str().unwrap(), "agent", "--config", config.to_str().unwrap()]);
        command.args(more);
        // Whatever else this process starts at the same time must not hold the pipe: so it travels as the
        // child's standard input, which no other child gets.
        let (mut word, own_end) = pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (File::from(read), write)).unwrap();
        let (log, output) = new_log(run_dir);
        command.stdin(Stdio::from(own_end)).env(READY_FD, "0");
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let mut child = Child::spawn(command);
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            let mut fds = [PollFd::new(&word, PollFlags::IN)];
            assert_eq!(poll(&mut fds, Some(&READY_WITHIN)), Ok(1), "the agent says nothing: {}", text(&log));
            let mut buffer = [0; 64];
            match word.read(&mut buffer).unwrap() {
                0 => return Err(Refused { status: child.wait(), message: text(&log) }),
                length => said.extend_from_slice(&buffer[..length]),
            }
        }
        assert_eq!(String::from_utf8_lossy(&said).trim_end(), READY);
        let mut agent = Self { child, _word: word, run_dir: run_dir.to_owned(), log, early: Vec::new() };
        agent.early = agent.drops();
        Ok(agent)
    }

    /// Its run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What it has logged.
    ///
    /// # Panics
    /// If the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// The agent as a whole.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.ask(Query::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Its ports.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn ports(&self) -> Vec<PortRow> {
        match self.ask(Query::Ports) {
            Reply::Ports(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// One of its ports.
    ///
    /// # Panics
    /// If it has no such port.
    #[must_use]
    pub fn port(&self, name: &str) -> PortRow {
        self.ports().into_iter().find(|row| row.name == name).unwrap()
    }

    /// The nodes it knows, itself included.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeRow> {
        match self.ask(Query::Nodes) {
            Reply::Nodes(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// The VTEPs it knows.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn vteps(&self) -> Vec<VtepRow> {
        match self.ask(Query::Vteps) {
            Reply::Vteps(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until tunnel packets to all its VTEPs travel this way, `uplink` or `socket`.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn wait_for_way(&self, via: &str) {
        wait::eventually("the way to the VTEPs", || {
            let rows = self.vteps();
            if rows.iter().all(|row| row.via == via) { Ok(()) } else { Err(format!("{rows:?}\n{}", self.log())) }
        });
    }

    /// Static and learned MACs.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn fdb(&self) -> Vec<FdbRow> {
        match self.ask(Query::Fdb) {
            Reply::Fdb(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Every drop reason, counted from the agent's start.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn drops(&self) -> Vec<DropRow> {
        match self.ask(Query::Drops) {
            Reply::Drops(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Frames and copies dropped since the agent was ready: each reason that happened, with its count.
    #[must_use]
    pub fn dropped(&self) -> Vec<(String, u64)> {
        let early = |reason: &str| self.early.iter().find(|row| row.reason == reason).map_or(0, |row| row.count);
        let counts = self.drops().into_iter().map(|row| (early(&row.reason), row));
        counts.filter(|(early, row)| row.count > *early).map(|(early, row)| (row.reason, row.count - early)).collect()
    }

    /// How often something was dropped for this reason since the agent was ready.
    #[must_use]
    pub fn dropped_as(&self, reason: DropReason) -> u64 {
        self.dropped().iter().find(|(name, _)| name == reason.name()).map_or(0, |(_, count)| *count)
    }

    /// All other counters.
    ///
    /// # Panics
    /// If the agent does not answer.
    #[must_use]
    pub fn counters(&self) -> Counters {
        match self.ask(Query::Counters) {
            Reply::Counters(counters) => *counters,
            other => panic!("{other:?}"),
        }
    }

    /// One of the counters of forwarding, in frames, copies, packets or system calls as its name says.
    ///
    /// # Panics
    /// If the agent does not know it.
    #[must_use]
    pub fn forwarded(&self, counter: &str) -> u64 {
        self.counters().forwarding[counter]
    }

    /// How often learning came out so.
    ///
    /// # Panics
    /// If the agent does not know it.
    #[must_use]
    pub fn learning(&self, counter: &str) -> u64 {
        self.counters().learning[counter]
    }

    /// Waits until the agent has taken in `frames` in all.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn wait_for_frames(&self, frames: u64) {
        wait::eventually("frames reach the agent", || {
            let seen = self.forwarded("frames_in");
            if seen >= frames { Ok(()) } else { Err(format!("{seen} of {frames} frames")) }
        });
    }

    /// Has it read its configuration again.
    ///
    /// # Errors
    /// What it says of a bad one.
    ///
    /// # Panics
    /// If the agent does not answer.
    pub fn reload(&self) -> Result<Reloaded, ClientError> {
        match Client::connect(&self.run_dir)?.ask(Query::Reload)? {
            Reply::Reloaded(reloaded) => Ok(reloaded),
            other => panic!("{other:?}"),
        }
    }

    /// Sends it a hang-up.
    pub fn hang_up(&self) {
        self.child.signal(Signal::HUP);
    }

    /// Both counting laws, once the agent is at rest.
    ///
    /// # Panics
    /// If one of them does not hold then.
    #[track_caller]
    pub fn assert_laws(&self) {
        laws::check(self);
    }

    /// While `act` runs the agent does not: what arrives meanwhile is one burst to it.
    ///
    /// # Panics
    /// If the agent cannot be stopped.
    pub fn frozen<T>(&self, act: impl FnOnce() -> T) -> T {
        self.child.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid());
        wait::eventually("the agent stands still", || {
            let stat = fs::read_to_string(&stat).unwrap();
            let state = stat.rsplit_once(") ").unwrap().1.chars().next();
            if state == Some('T') { Ok(()) } else { Err(stat) }
        });
        let result = act();
        self.child.signal(Signal::CONT);
        result
    }

    /// Checks the counting laws, ends the agent, and checks that it ended well.
    ///
    /// # Panics
    /// If anything of that is not so.
    #[track_caller]
    pub fn finish(mut self) {
        self.assert_laws();
        assert!(self.child.is_running(), "the agent ended by itself:\n{}", self.log());
        self.child.signal(Signal::TERM);
        let status = self.child.wait();
        assert!(status.success(), "the agent: {status}\n{}", self.log());
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.is_running()
    }

    /// Waits for its end after it has handed everything over.
    ///
    /// # Panics
    /// If it does not end well.
    #[track_caller]
    pub fn handed_over(mut self) {
        let status = self.child.wait();
        assert!(status.success(), "the agent: {status}\n{}", self.log());
    }

    /// Kills the agent as nothing that wants to be kind does.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(mut self) {
        self.child.signal(Signal::KILL);
        self.child.wait();
    }

    fn ask(&self, query: Query) -> Reply {
        let answer = Client::connect(&self.run_dir).and_then(|mut client| client.ask(query));
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }
}

impl Drop for AgentNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the agent in {}\n{}", self.run_dir.display(), self.log());
            if let Ok(Reply::Drops(rows)) = Client::connect(&self.run_dir).and_then(|mut c| c.ask(Query::Drops)) {
                rows.iter()
                    .filter(|row| row.count > 0)
                    .for_each(|row| eprintln!("dropped {}: {}", row.reason, row.count));
            }
        }
    }
}

impl Refused {
    /// The message, checked to have all these words in it.
    ///
    /// # Panics
    /// If one is missing, or the agent did not say that it failed.
    #[track_caller]
    pub fn assert_says(&self, words: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{}", self.message);
        for word in words {
            assert!(self.message.contains(word), "no `{word}` in:\n{}", self.message);
        }
        assert!(!self.message.contains("panicked"), "{}", self.message);
    }
}

/// A log of its own for every start, even in the run directory of another agent.
fn new_log(run_dir: &Path) -> (PathBuf, File) {
    let paths = (1..).map(|number| run_dir.join(format!("agent-{number}.log")));
    let mut fresh = paths.filter_map(|path| File::create_new(&path).ok().map(|file| (path, file)));
    fresh.next().unwrap()
}

fn text(path: &Path) -> String {
    fs::read(path).map_or_else(
        |error| format!("{}: {error}", path.display()),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}
