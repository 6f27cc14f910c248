//! How pods come and go: what a CNI plugin asks the agent to do.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One interface of a pod: what CNI knows an attachment by (CNI specification 1.1.0, section 2, "Attachment Parameters").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub struct PodInterface {
    /// Name of the network configuration.
    pub network: String,
    /// The runtime's identifier of the container.
    pub container: String,
    /// Name of the device in the pod.
    pub interface: String,
}

/// What a pod's interface is to be. Its open network namespace goes along as a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Attach {
    /// Which interface.
    pub pod: PodInterface,
    /// Where the runtime sees the namespace: by that it is found again when the agent has been restarted.
    pub netns: String,
    /// What people call the pod; none: its container.
    #[serde(default)]
    pub label: Option<String>,
    /// Its VNI, 1 to 16,777,215; none: that of the cluster's network.
    #[serde(default)]
    pub vni: Option<u32>,
    /// Its MAC; none: it follows from the addresses.
    #[serde(default)]
    pub mac: Option<String>,
    /// Its MTU in bytes; none: what fits through the tunnels.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Where its addresses come from.
    pub addresses: AddressSource,
    /// Whether it gets default routes over the gateways; none: where the pod has no such route yet.
    #[serde(default)]
    pub default_route: Option<bool>,
    /// Its further routes.
    #[serde(default)]
    pub routes: Vec<PodRoute>,
    /// What the answer waits for.
    #[serde(default)]
    pub wait: Wait,
    /// For how long, in milliseconds, it waits for other nodes with [`Wait::Cluster`]: 1 to [`MAX_WAIT_MS`]; none: 2,000. It
    /// is the same answer afterwards.
    #[serde(default)]
    pub wait_timeout_ms: Option<u32>,
}

/// Where a pod's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The node's own ranges: one address of each family, and these where they are asked for.
    Node {
        /// Addresses, one of a family at most.
        requested: Vec<IpAddr>,
    },
    /// An IPAM plugin gave them.
    Given(Vec<PodAddress>),
}

/// An address of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PodAddress {
    /// The address with its prefix length.
    pub address: String,
    /// The gateway of its network.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// A route of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PodRoute {
    /// Where it leads, with a prefix length.
    pub destination: String,
    /// Over which router; none: the destination is on the link.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// Milliseconds for which an answer waits for other nodes at most.
pub const MAX_WAIT_MS: u32 = 60_000;

/// What the answer to [`Attach`] waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Until the pod's row is in the store, where there is one.
    #[default]
    Store,
    /// Until the node forwards.
    Node,
    /// Until the pod's row is in the store, and all nodes of its network that are up forward by it.
    Cluster,
}

/// What a pod's interface has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Attached {
    /// Its MAC.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: Vec<PodAddress>,
    /// Its routes.
    pub routes: Vec<PodRoute>,
}

/// What a pod's interface is expected to have. What is here and was not given to it is somebody else's, and nothing is
/// expected of what was given to it and is not here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Check {
    /// Which interface.
    pub pod: PodInterface,
    /// Its MAC, where that is known.
    pub mac: Option<String>,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Its routes.
    #[serde(default)]
    pub routes: Vec<PodRoute>,
}

/// The interfaces of a network that are still in use: all others of it go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Retain {
    /// Name of the network configuration.
    pub network: String,
    /// Container and device of each.
    pub used: Vec<(String, String)>,
}

/// Why the agent refused something, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// What was asked for makes no sense.
    Invalid,
    /// It may work in a moment.
    Later,
    /// No address is free.
    Exhausted,
    /// What was asked for is another's.
    Taken,
    /// There is no such interface.
    Unknown,
    /// The interface is not as it was expected to be.
    Differs,
    /// The kernel refused.
    Failed,
}
