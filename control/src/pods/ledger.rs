//! Which pods are attached, and what each has: what outlives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_api::{Attached, PodAddress, PodInterface, PodRoute, Refusal};
use weft_encap::{MacAddr, Vni};

/// The version of the ledger's form. Changes with every change that an older agent would misread.
pub(super) const LEDGER_VERSION: u32 = 2;

/// What is asked for and cannot be, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn new(refusal: Refusal, message: impl Into<String>) -> Self {
        Self { refusal, message: message.into() }
    }
}

/// What tells a pod's namespace from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Where the runtime saw it.
    pub(crate) path: String,
    /// Whether the agent saw it there too, so that it is gone when it is there no longer.
    pub(crate) visible: bool,
    /// SO_NETNS_COOKIE; none before Linux 5.14.
    pub(crate) cookie: Option<u64>,
    /// Only as long as the namespace is there: inodes are used again.
    pub(crate) inode: u64,
}

impl Identity {
    /// Whether both are one namespace, given that both were there during one run of the machine.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self.cookie, other.cookie) {
            (Some(one), Some(another)) => one == another,
            _ => self.inode == other.inode,
        }
    }
}

/// An address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
}

/// A route of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
}

/// One interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pod {
    #[serde(flatten)]
    pub(crate) id: PodInterface,
    pub(crate) namespace: Identity,
    /// The name of its port.
    pub(crate) port: String,
    pub(crate) vni: Vni,
    pub(crate) mac: MacAddr,
    /// In bytes; none: what fits.
    pub(crate) mtu: Option<u16>,
    pub(crate) addresses: Vec<Address>,
    /// Whether an IPAM plugin gave the addresses, and has to take them back.
    pub(crate) delegated: bool,
    /// Whether all of it is gone but those addresses. An older agent attaches it again if its namespace is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended: bool,
    pub(crate) routes: Vec<Route>,
}

impl Pod {
    /// What is told of it.
    pub(crate) fn attached(&self, mtu: u16) -> Attached {
        let address = |one: &Address| PodAddress { address: one.address.to_string(), gateway: one.gateway };
        let route = |one: &Route| PodRoute { destination: one.destination.to_string(), gateway: one.gateway };
        Attached {
            mac: self.mac.to_string(),
            mtu,
            addresses: self.addresses.iter().map(address).collect(),
            routes: self.routes.iter().map(route).collect(),
        }
    }
}

/// All that are attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pods: BTreeMap<PodInterface, Pod>,
    /// The addresses that were given last, one of a family.
    pub(super) given_last: Vec<IpAddr>,
}

/// A change of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// This pod is attached, or has ended and stays known.
    Attached(Pod),
    /// That one is no more.
    Detached(PodInterface),
}

/// The ledger as it lies in the file.
#[derive(Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) version: u32,
    /// The run of the machine that it is about: another has none of its namespaces.
    pub(super) boot: String,
    given_last: Vec<IpAddr>,
    pods: Vec<Pod>,
}

impl Ledger {
    pub(crate) fn get(&self, id: &PodInterface) -> Option<&Pod> {
        self.pods.get(id)
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Those that have a device, or are about to.
    pub(crate) fn living(&self) -> impl Iterator<Item = &Pod> {
        self.pods().filter(|pod| !pod.ended)
    }

    /// Every address that a pod has. What an IPAM plugin has to take back is its own matter.
    pub(crate) fn taken(&self) -> BTreeSet<IpAddr> {
        self.living().flat_map(|pod| &pod.addresses).map(|one| one.address.addr()).collect()
    }

    pub(super) fn insert(&mut self, pod: Pod) {
        for given in pod.addresses.iter().filter(|_| !pod.delegated).map(|one| one.address.addr()) {
            self.given_last.retain(|last| last.is_ipv6() != given.is_ipv6());
            self.given_last.push(given);
        }
        self.pods.insert(pod.id.clone(), pod);
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Attached(pod) => self.insert(pod),
            Change::Detached(id) => _ = self.pods.remove(&id),
        }
    }

    pub(super) fn written(&self, boot: &str) -> Written {
        Written {
            version: LEDGER_VERSION,
            boot: boot.to_owned(),
            given_last: self.given_last.clone(),
            pods: self.pods().cloned().collect(),
        }
    }

    pub(super) fn read(written: Written) -> Self {
        let pods = written.pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
        Self { pods, given_last: written.given_last }
    }
}
