//! Removing a lab, however much of it there is.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_netns::{Links, Netns};

use crate::error::io_error;
use crate::journal::{AgentEntry, Claim, Journal};
use crate::process::{self, Process, ProcessId};
use crate::{Lab, LabError, LabName, Progress};

/// How long all agents together may take to end after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may take to end after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Searches for processes in the lab's namespaces at most: those killed last may have made new ones.
const SEARCHES_MAX: usize = 16;

impl Lab {
    /// Removes a lab: its agents, everything else that runs in its namespaces, its links, its namespaces and
    /// its files. Waits for one that is being made at this moment.
    ///
    /// # Errors
    /// [`LabError::NoSuchLab`], or what could not be removed; it can be tried again then.
    pub fn down(name: &LabName, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        remove(Claim::wait(name)?, name, progress)
    }
}

pub(crate) fn remove(claim: Claim, name: &LabName, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
    let (members, agents, others) = match Journal::read(name) {
        Ok(Some(journal)) => {
            let wanted: Vec<String> = journal.spec.members().map(|member| name.namespace_of(member)).collect();
            let relays = journal.links.iter().filter_map(|entry| entry.relay);
            let others: Vec<ProcessId> = relays.chain(journal.store).collect();
            (existing(|namespace| wanted.contains(namespace))?, journal.agents, others)
        }
        // The journal is written before anything is made.
        Ok(None) => (Vec::new(), Vec::new(), Vec::new()),
        // The names say whose the namespaces are, and the agents live in them.
        Err(LabError::Journal { .. }) => {
            (existing(|namespace| namespace.starts_with(&name.namespace_of("")))?, Vec::new(), Vec::new())
        }
        Err(error) => return Err(error),
    };
    stop_agents(name, &agents, progress)?;
    // Nothing that they have is kept.
    others.iter().try_for_each(|process| end(name, *process))?;
    // Open descriptors keep the inodes from being used again while they are compared.
    let namespaces: Vec<Netns> = members.iter().filter_map(|namespace| Netns::open(namespace).ok()).collect();
    kill_inside(name, &namespaces, progress)?;
    for namespace in &namespaces {
        namespace.links(remove_links)?;
    }
    for namespace in &members {
        Netns::delete(namespace)?;
        progress(Progress::Removed { name: namespace });
    }
    claim.remove(name)
}

fn existing(belongs: impl Fn(&String) -> bool) -> Result<Vec<String>, LabError> {
    let mut namespaces = Netns::list()?;
    namespaces.retain(belongs);
    Ok(namespaces)
}

fn stop_agents(name: &LabName, entries: &[AgentEntry], progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
    let agents: Vec<(&str, Process)> =
        entries.iter().filter_map(|entry| Some((entry.node.as_str(), entry.process.open()?))).collect();
    for (_, process) in &agents {
        signal(process, Signal::TERM)?;
    }
    let deadline = Instant::now() + TERM_TIMEOUT;
    for (node, process) in &agents {
        let left = deadline.saturating_duration_since(Instant::now());
        if !process.ended_within(left).map_err(io_error("wait for", process.path()))? {
            kill(name, process)?;
        }
        process.reap();
        progress(Progress::AgentEnded { node, pid: process.pid });
    }
    Ok(())
}

fn kill_inside(name: &LabName, namespaces: &[Netns], progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
    let inodes: Vec<u64> = namespaces.iter().map(Netns::inode).collect();
    for _ in 0..SEARCHES_MAX {
        let found = process::in_namespaces(&inodes).map_err(io_error("list", "/proc"))?;
        if found.is_empty() {
            break;
        }
        for process in &found {
            kill(name, process)?;
            progress(Progress::Killed { pid: process.pid });
        }
    }
    Ok(())
}

/// Ends a process that has nothing to finish.
pub(crate) fn end(name: &LabName, process: ProcessId) -> Result<(), LabError> {
    let Some(process) = process.open() else { return Ok(()) };
    kill(name, &process)?;
    process.reap();
    Ok(())
}

fn kill(name: &LabName, process: &Process) -> Result<(), LabError> {
    signal(process, Signal::KILL)?;
    let ended = process.ended_within(KILL_TIMEOUT).map_err(io_error("wait for", process.path()))?;
    if ended { Ok(()) } else { Err(LabError::Unkillable { name: name.clone(), pid: process.pid }) }
}

fn signal(process: &Process, signal: Signal) -> Result<(), LabError> {
    process.signal(signal).map_err(io_error("signal", process.path()))
}

/// Removes what the kernel would remove with the namespace too, but only some time later.
fn remove_links(links: &mut Links) -> Result<(), weft_netns::LinkError> {
    for link in links.list()?.iter().filter(|link| link.kind.is_some()) {
        // Some links come with the namespace and cannot go before it.
        let _ = links.delete(&link.name);
    }
    Ok(())
}
