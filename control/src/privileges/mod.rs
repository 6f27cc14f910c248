//! What the agent gives up by itself: what it needs to start first, then what it needs to run
//! (docs/operations.md has the reasons, docs/adr/0020-privileges.md the decision).
//!
//! Privileges are each thread's own. Those of a thread that is started later are those of the one that starts it.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod calls;
/// Of other processors nobody compiles a filter.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod calls {
    pub(super) type FilterError = std::convert::Infallible;

    pub(super) fn filter() -> Result<bool, FilterError> {
        Ok(false)
    }
}

use std::fmt::Display;

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
    Filter(#[from] calls::FilterError),
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
        if self.wanted {
            told(set_no_new_privs(true).and(keep(self.kept.union(STARTING))));
        }
    }

    /// Gives up what only the start needed, and the system calls that an agent never makes: for the calling thread and
    /// all that it starts. Workers, which were started before, have no filter, which would cost each frame, and no
    /// capability either.
    pub(crate) fn confine(self) {
        if !self.wanted {
            return;
        }
        match told(self.give_up()) {
            Some(true) => tracing::debug!("capabilities and system calls are those that an agent needs"),
            Some(false) => tracing::info!("system calls are not filtered: no filter is known for this processor"),
            None => {}
        }
    }

    /// Says whether there is a filter for this processor.
    fn give_up(self) -> Result<bool, PrivilegeError> {
        let (kept, filtered) = (keep(self.kept), calls::filter());
        kept?;
        Ok(filtered?)
    }
}

/// Gives up all capabilities of the calling thread, which needs none for what it still has to do.
pub(crate) fn give_up_all() {
    told(keep(CapabilitySet::empty()));
}

/// What came of it, if nothing was refused.
fn told<T, E: Display>(given_up: Result<T, E>) -> Option<T> {
    given_up.inspect_err(|error| tracing::warn!(%error, "this agent goes on with more privileges than it needs")).ok()
}

/// Gives up all capabilities but these, of the calling thread and what it starts, for good. What is refused keeps nothing
/// else from being given up.
fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    let have = capabilities(None)?;
    let bounded = if have.effective.contains(CapabilitySet::SETPCAP) { bound(kept) } else { Ok(()) };
    let [effective, permitted] = [have.effective, have.permitted].map(|set| set.intersection(kept));
    let set = set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() });
    bounded.and(set)
}

/// Takes all capabilities but these from the bounding set.
fn bound(kept: CapabilitySet) -> Result<(), Errno> {
    let mut bounded = Ok(());
    for one in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            removed => bounded = bounded.and(removed),
        }
    }
    bounded
}
