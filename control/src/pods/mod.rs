//! Pods that a container runtime brings: attached when it asks for that, kept in the run directory, and attached again
//! by the next agent (docs/adr/0019-pods-by-cni.md).
//!
//! `plan` decides what a pod gets, `steps` in which order that is done; both are pure. `world` does it.

mod addresses;
mod answers;
mod evidence;
mod file;
mod inquiry;
mod ledger;
mod plan;
mod steps;
#[cfg(test)]
mod tests;
mod waiting;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_api::PodInterface;
use weft_netns::Netns;

pub use file::LedgerError;

use evidence::Processes;
use file::LedgerFile;
use ledger::{Ledger, Route};
use waiting::Waits;

/// How often it is looked for namespaces that are gone.
const COLLECT: Duration = Duration::from_secs(10);

/// The pods of an agent.
pub(crate) struct Pods {
    /// This node's ranges of addresses.
    pub(crate) ranges: Vec<IpNet>,
    ledger: Ledger,
    file: LedgerFile,
    /// Namespaces that were handed over or found again.
    open: BTreeMap<PodInterface, Arc<Netns>>,
    /// What processes there are, while it is looked at.
    processes: Option<Processes>,
    /// Who waits for the store, or for other nodes.
    pub(crate) waits: Waits,
    collect_at: Instant,
}

/// Where a pod is, and how it gets further than its link.
#[derive(Debug)]
pub(crate) struct PodPlace {
    pub(crate) netns: Arc<Netns>,
    pub(crate) routes: Vec<Route>,
}

/// Each is a pod's own.
impl PartialEq for PodPlace {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for PodPlace {}
