//! What happens to nodes while a lab runs. Their links and pods stay as they are.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::Signal;
use thiserror::Error;

use crate::agent::{self, Service};
use crate::error::io_error;
use crate::journal::{AgentEntry, Claim};
use crate::process::ProcessId;
use crate::{Lab, LabError, LabName, NodeKind, Progress, down};

/// How long an agent may take to become ready again.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an agent may take to end before it is killed.
const TERM_TIMEOUT: Duration = Duration::from_secs(5);

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Its agent ends as it is asked to (SIGTERM).
    Stop,
    /// Its agent is gone (SIGKILL).
    Kill,
    /// Its agent begins again, if it does not run.
    Start,
    /// Stop, and start.
    Restart,
    /// Nothing passes its link any more; its interface keeps carrier.
    Partition,
    /// The end of a partition.
    Heal,
}

/// A text that is no event.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{seen}` is nothing that happens to a node: allowed are stop, kill, start, restart, partition and heal")]
pub struct NodeEventError {
    /// The text seen.
    pub seen: String,
}

impl FromStr for NodeEvent {
    type Err = NodeEventError;

    fn from_str(text: &str) -> Result<Self, NodeEventError> {
        match text {
            "stop" => Ok(Self::Stop),
            "kill" => Ok(Self::Kill),
            "start" => Ok(Self::Start),
            "restart" => Ok(Self::Restart),
            "partition" => Ok(Self::Partition),
            "heal" => Ok(Self::Heal),
            _ => Err(NodeEventError { seen: text.to_owned() }),
        }
    }
}

impl Lab {
    /// Lets something happen to a node, and waits until it has: an agent that starts is ready then, and has published itself
    /// and heard of the others where its link lets it.
    ///
    /// `weft` is the agent's executable.
    ///
    /// # Errors
    /// [`LabError`]: no such lab or node, a node without an agent, or an agent that does not become ready.
    pub fn node_event(
        name: &LabName,
        node: &str,
        event: NodeEvent,
        weft: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), LabError> {
        let cut = |partitioned| move |link: &mut crate::link::LinkSettings| link.partitioned = partitioned;
        match event {
            NodeEvent::Partition => return Self::change_link(name, node, weft, cut(true), progress),
            NodeEvent::Heal => return Self::change_link(name, node, weft, cut(false), progress),
            NodeEvent::Stop | NodeEvent::Kill | NodeEvent::Start | NodeEvent::Restart => {}
        }
        let _claim = Claim::wait(name)?;
        let mut lab = Self::open(name)?;
        let known = lab.spec().nodes.iter().find(|known| known.name == node);
        match known.map(|node| node.kind) {
            None => return Err(lab.no_such_member(node)),
            Some(NodeKind::Weft) => {}
            Some(_) => return Err(LabError::NoAgentThere { node: node.to_owned() }),
        }
        let running = lab.journal.agents.iter().find(|entry| entry.node == node).map(|entry| entry.process);
        let running = running.filter(|process| process.is_running());
        match (event, running) {
            (NodeEvent::Kill, Some(process)) => end_agent(name, node, process, progress, down::end),
            (NodeEvent::Stop, Some(process)) => end_agent(name, node, process, progress, ask_to_end),
            (NodeEvent::Restart, running) => {
                running.map_or(Ok(()), |process| end_agent(name, node, process, progress, ask_to_end))?;
                lab.start_agent(node, weft, progress)
            }
            (NodeEvent::Start, None) => lab.start_agent(node, weft, progress),
            _ => Ok(()),
        }
    }

    fn start_agent(&mut self, node: &str, weft: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        let (service, netns) = (Service::Agent(node.to_owned()), self.netns(node)?);
        let starting = agent::start(service, &netns, &agent::find(weft)?, &self.config_of(node), &self.log_of(node))?;
        self.journal.agents.retain(|entry| entry.node != node);
        self.journal.agents.push(AgentEntry { node: node.to_owned(), process: starting.id });
        self.journal.write(&self.name)?;
        progress(starting.service.started(starting.id.pid));
        agent::wait_ready(vec![starting], READY_TIMEOUT, progress)?;
        self.wait_published(node, READY_TIMEOUT)
    }
}

fn end_agent(
    name: &LabName,
    node: &str,
    process: ProcessId,
    progress: &mut dyn FnMut(Progress<'_>),
    end: impl FnOnce(&LabName, ProcessId) -> Result<(), LabError>,
) -> Result<(), LabError> {
    end(name, process)?;
    progress(Progress::AgentEnded { node, pid: process.pid });
    Ok(())
}

fn ask_to_end(name: &LabName, id: ProcessId) -> Result<(), LabError> {
    let Some(process) = id.open() else { return Ok(()) };
    process.signal(Signal::TERM).map_err(io_error("signal", process.path()))?;
    if process.ended_within(TERM_TIMEOUT).map_err(io_error("wait for", process.path()))? {
        process.reap();
        return Ok(());
    }
    down::end(name, id)
}
