use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use weft_netns::Netns;

use crate::journal::{self, Journal, directory};
use crate::process::ProcessId;
use crate::spec::STORE;
use crate::{LabError, LabName, LabSpec, NodeKind};

/// A lab that exists.
#[derive(Clone, Debug)]
pub struct Lab {
    pub(crate) name: LabName,
    pub(crate) journal: Journal,
}

/// A log of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabLog {
    /// What writes it: `store`, `agent`, `relay` or `command`.
    pub kind: &'static str,
    /// The node, link or pod; `store` for the store.
    pub of: String,
    /// The file.
    pub path: PathBuf,
}

/// What [`Lab::list`] tells of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabStatus {
    /// Its name.
    pub name: LabName,
    /// How far it got.
    pub state: LabState,
    /// Its store, or what leads to it.
    pub store: AgentState,
    /// Its nodes; none where the journal cannot be read.
    pub nodes: Vec<NodeStatus>,
}

/// How far a lab got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabState {
    /// It was made.
    Complete,
    /// It is being made, or its making was cut off.
    HalfMade,
    /// Its journal cannot be read.
    Unreadable {
        /// Why not.
        reason: String,
    },
}

/// What [`Lab::list`] tells of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its agent.
    pub agent: AgentState,
    /// Its pods.
    pub pods: Vec<String>,
}

/// What has become of an agent, or a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentState {
    /// It runs.
    Running {
        /// Its process id.
        pid: i32,
    },
    /// It ran and ended.
    Ended,
    /// It was never started.
    NotStarted,
    /// The node is of a kind that has none; the lab needs none.
    NotNeeded,
}

impl Lab {
    /// An existing lab, half-made ones included.
    ///
    /// # Errors
    /// [`LabError::NoSuchLab`], or a journal that cannot be used.
    pub fn open(name: &LabName) -> Result<Self, LabError> {
        if !directory(name).is_dir() {
            return Err(journal::no_such_lab(name));
        }
        let journal = Journal::read(name)?;
        let missing = || LabError::Journal { name: name.clone(), reason: "it was not written yet".to_owned() };
        Ok(Self { name: name.clone(), journal: journal.ok_or_else(missing)? })
    }

    /// All labs of this machine, by name.
    ///
    /// # Errors
    /// [`LabError::Io`] where the directory of labs cannot be read.
    pub fn list() -> Result<Vec<LabStatus>, LabError> {
        Ok(journal::names()?.iter().map(status_of).collect())
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &LabName {
        &self.name
    }

    /// What it is made of.
    #[must_use]
    pub const fn spec(&self) -> &LabSpec {
        &self.journal.spec
    }

    /// How it is now.
    #[must_use]
    pub fn status(&self) -> LabStatus {
        let state = if self.journal.complete { LabState::Complete } else { LabState::HalfMade };
        let nodes = self.spec().nodes.iter().map(|node| NodeStatus {
            name: node.name.clone(),
            agent: self.agent_of(&node.name),
            pods: node.pods.iter().map(|pod| pod.name.clone()).collect(),
        });
        LabStatus { name: self.name.clone(), state, store: self.store(), nodes: nodes.collect() }
    }

    /// The network namespace of a node, a pod or `underlay`.
    ///
    /// # Errors
    /// [`LabError::NoSuchMember`], or a namespace that is gone.
    pub fn netns(&self, member: &str) -> Result<Netns, LabError> {
        if self.spec().members().all(|known| known != member) {
            return Err(self.no_such_member(member));
        }
        Ok(Netns::open(&self.name.namespace_of(member))?)
    }

    /// A command that will run in the network namespace of a node, a pod or `underlay`. Mounts, and so
    /// `/sys` and `/etc/resolv.conf`, stay those of the caller.
    ///
    /// # Errors
    /// [`LabError::NoSuchMember`], [`LabError::NoCommand`], or a namespace that is gone.
    pub fn command(&self, member: &str, argv: &[impl AsRef<OsStr>]) -> Result<Command, LabError> {
        let netns = self.netns(member)?;
        let [program, arguments @ ..] = argv else { return Err(LabError::NoCommand) };
        let mut command = Command::new(program);
        weft_netns::enter_in_child(command.args(arguments), netns);
        Ok(command)
    }

    /// The directory of a node's agent: its configuration, its log and what it makes there itself.
    #[must_use]
    pub fn run_dir_of(&self, node: &str) -> PathBuf {
        directory(&self.name).join(node)
    }

    /// The configuration of a node's agent.
    #[must_use]
    pub fn config_of(&self, node: &str) -> PathBuf {
        self.run_dir_of(node).join("agent.toml")
    }

    /// The log of a node's agent.
    #[must_use]
    pub fn log_of(&self, node: &str) -> PathBuf {
        self.run_dir_of(node).join("agent.log")
    }

    /// The logs that were begun: that of the store, then those of agents, then of relays, then of pods' commands.
    #[must_use]
    pub fn logs(&self) -> Vec<LabLog> {
        let log = |kind, of: &str, path| LabLog { kind, of: of.to_owned(), path };
        let agents = self.spec().nodes.iter().map(|node| log("agent", &node.name, self.log_of(&node.name)));
        let relays = self.spec().links().map(|link| log("relay", &link, self.relay_log_of(&link)));
        let commands = self.spec().pods().map(|(_, pod)| log("command", &pod.name, self.pod_log_of(&pod.name)));
        let store = std::iter::once(log("store", STORE, self.store_log()));
        store.chain(agents).chain(relays).chain(commands).filter(|log| log.path.exists()).collect()
    }

    pub(crate) fn no_such_member(&self, name: &str) -> LabError {
        let known = self.spec().members().map(str::to_owned).collect();
        LabError::NoSuchMember { lab: self.name.clone(), name: name.to_owned(), known }
    }

    fn store(&self) -> AgentState {
        match self.journal.store {
            Some(process) => state_of(process),
            None if self.spec().has_store() => AgentState::NotStarted,
            None => AgentState::NotNeeded,
        }
    }

    fn agent_of(&self, node: &str) -> AgentState {
        match self.journal.agents.iter().find(|entry| entry.node == node) {
            Some(entry) => state_of(entry.process),
            None if self.spec().nodes.iter().any(|other| other.name == node && other.kind != NodeKind::Weft) => {
                AgentState::NotNeeded
            }
            None => AgentState::NotStarted,
        }
    }
}

fn state_of(process: ProcessId) -> AgentState {
    if process.is_running() { AgentState::Running { pid: process.pid } } else { AgentState::Ended }
}

fn status_of(name: &LabName) -> LabStatus {
    match Lab::open(name) {
        Ok(lab) => lab.status(),
        Err(error) => {
            let state = LabState::Unreadable { reason: error.to_string() };
            LabStatus { name: name.clone(), state, store: AgentState::NotNeeded, nodes: Vec::new() }
        }
    }
}
