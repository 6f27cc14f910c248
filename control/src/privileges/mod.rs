//! What the agent gives up by itself: what it needs to start first, then what it needs to run
//! (docs/operations.md has the reasons, docs/adr/0020-privileges.md the decision).
//!
//! Privileges are each thread's own. Those of a thread that is started later are those of the one that starts it.

mod calls;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::config::Config;

/// What an agent that runs needs, with every configuration.
const RUNNING: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_NICE);
/// What only its start needs: frames of its own making, and giving up the rest.
const STARTING: CapabilitySet = CapabilitySet::NET_RAW.union(CapabilitySet::SETPCAP);

/// Why privileges were not given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// Capabilities, or the promise to gain none.
    #[error("capabilities: {0}")]
    Kernel(#[from] Errno),
    /// The filter of system calls.
    #[error("system calls: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// What is given up, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confinement {
    wanted: bool,
    /// What is kept for good.
    kept: CapabilitySet,
}

impl Confinement {
    pub(crate) fn of(config: &Config) -> Self {
        // With several workers each pod's device gets a program that keeps a flow to one queue.
        let steering = if config.workers.get() > 1 { CapabilitySet::BPF } else { CapabilitySet::empty() };
        Self { wanted: config.confinement, kept: RUNNING.union(steering) }
    }

    /// Gives up what not even the start needs. Called before there are other threads.
    pub(crate) fn prepare(self) {
        if self.wanted
            && let Err(error) = set_no_new_privs(true).and_then(|()| keep(self.kept.union(STARTING)))
        {
            tracing::warn!(%error, "this agent goes on with more privileges than it needs");
        }
    }

    /// Gives up what only the start needed, and the system calls that an agent never makes: for the calling thread and
    /// all that it starts. Workers, which were started before, have no filter, which would cost each frame, and no
    /// capability either.
    pub(crate) fn confine(self) {
        let given_up = match self.wanted {
            true => keep(self.kept).map_err(PrivilegeError::from).and_then(|()| Ok(calls::filter()?)),
            false => return,
        };
        match given_up {
            Ok(true) => tracing::debug!("capabilities and system calls are those that an agent needs"),
            Ok(false) => tracing::info!("system calls are not filtered: no filter is known for this processor"),
            Err(error) => tracing::warn!(%error, "this agent goes on with more privileges than it needs"),
        }
    }
}

/// Gives up all capabilities but these, of the calling thread and what it starts, for good.
fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    let have = capabilities(None)?;
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if kept.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                // The kernel knows no more of them.
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
    }
    let [effective, permitted] = [have.effective, have.permitted].map(|set| set.intersection(kept));
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
}
