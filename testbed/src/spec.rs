//! What a lab is made of, checked.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;
pub use weft_control::config::file::{Encapsulation, PortMode};
use weft_encap::{MacAddr, Vni};

use crate::LabFileError;
use crate::link::Impairments;

/// Longest name of a lab, in bytes.
pub const LAB_NAME_MAX: usize = 32;
/// Longest name of a node, in bytes: its port on the underlay switch has the same name.
pub const NODE_NAME_MAX: usize = 15;
/// Longest name of a router, in bytes: its ports have five more.
pub const ROUTER_NAME_MAX: usize = 9;
/// Longest name of a pod, in bytes.
pub const POD_NAME_MAX: usize = 32;
/// Nodes in a lab at most.
pub const NODES_MAX: usize = 200;
/// Pods in a lab at most, over all nodes.
pub const PODS_MAX: usize = 1000;
/// Segments of a lab, and routers between them, at most.
pub const SEGMENTS_MAX: usize = 50;
/// Addresses of one pod at most.
pub const POD_ADDRESSES_MAX: usize = 16;

/// Name of the underlay switch among the namespaces of a lab.
pub(crate) const UNDERLAY: &str = "underlay";
/// Name of the store among logs and directories of a lab.
pub(crate) const STORE: &str = "store";
/// A node's interface on the underlay.
pub(crate) const NODE_INTERFACE: &str = "eth0";
/// The interface of a pod.
pub(crate) const POD_INTERFACE: &str = "eth0";
/// Names a node cannot have, because its port on the underlay switch could not; nor can it have those of bridges.
pub(crate) const RESERVED: [&str; 5] = [UNDERLAY, STORE, "lo", "all", "default"];

/// A lab: nodes, their pods, and the network between the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LabSpec {
    /// The name it has unless another one is asked for.
    pub name: Option<LabName>,
    /// How frames travel between nodes.
    pub encapsulation: Encapsulation,
    /// The network between the nodes.
    pub underlay: UnderlaySpec,
    /// How agents find each other.
    pub control: ControlSpec,
    /// Its parts; the only one where there is one switch.
    pub segments: Vec<SegmentSpec>,
    /// What joins them.
    pub routers: Vec<RouterSpec>,
    /// The virtual networks.
    pub vnis: Vec<VniSpec>,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// How the agents of a lab find each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlSpec {
    /// By a store of the lab's own.
    #[default]
    Embedded,
    /// By their configurations, which name every peer.
    None,
    /// By etcd: endpoints as `HOST:PORT`, reached from where the lab is made.
    Etcd(Vec<String>),
}

/// One switch of the underlay, with a cable to each of its nodes and routers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SegmentSpec {
    /// Its name.
    pub name: String,
    /// Nodes, and then routers, take their IPv4 addresses from it in order, from the first host on.
    pub ipv4: Ipv4Net,
    /// The same for IPv6, from the address after the network's own on.
    pub ipv6: Ipv6Net,
    /// MTU of its cables in bytes, where they say nothing else.
    pub mtu: u16,
}

/// A router between segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouterSpec {
    /// Its name.
    pub name: String,
    /// The segments it is in, each its index in [`LabSpec::segments`]: `eth0` is in the first.
    pub segments: Vec<usize>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// An agent of ours with its pods.
    #[default]
    Weft,
    /// Pods behind the kernel's own bridge and VXLAN.
    KernelVxlan,
    /// A machine on the underlay, without pods.
    Host,
}

/// The network between the nodes of a lab, as long as it is one switch with a cable to each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnderlaySpec {
    /// Nodes take their IPv4 addresses from it in order, from the first host on.
    pub ipv4: Ipv4Net,
    /// Nodes take their IPv6 addresses from it in order, from the address after the network's own on.
    pub ipv6: Ipv6Net,
    /// MTU of the nodes' interfaces, in bytes.
    pub mtu: u16,
    /// What the tunnels run on.
    pub family: Family,
}

/// An IP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One virtual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VniSpec {
    /// Its identifier.
    pub id: Vni,
    /// Whether frames with VLAN tags are carried.
    pub vlan_transparent: bool,
}

/// A node with its pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// The segment it is in: its index in [`LabSpec::segments`].
    pub segment: usize,
    /// MTU of its link in bytes, if not that of its segment.
    pub mtu: Option<u16>,
    /// How frames travel to it, if not as in the rest of the lab.
    pub encapsulation: Option<Encapsulation>,
    /// What is wrong with its link.
    pub link: Impairments,
    /// Fields of `[underlay]` in its agent's configuration.
    pub underlay: serde_json::Map<String, serde_json::Value>,
    /// Its pods.
    pub pods: Vec<PodSpec>,
}

/// A pod: a network namespace with one interface, `eth0`, made by the node's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PodSpec {
    /// Its name, unique in the lab.
    pub name: String,
    /// The virtual network it belongs to.
    pub vni: Vni,
    /// Its addresses, with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Its MAC; the agent chooses one if there is none here.
    pub mac: Option<MacAddr>,
    /// What it may send.
    pub mode: PortMode,
    /// MTU of its interface in bytes; the agent chooses what fits if there is none here.
    pub mtu: Option<u16>,
    /// A command for the shell that runs in it until the lab is taken down.
    pub cmd: Option<String>,
}

impl LabSpec {
    /// Reads a lab file.
    ///
    /// # Errors
    /// [`LabFileError`] with every problem found and where it stands.
    pub fn read(path: &Path) -> Result<Self, LabFileError> {
        let text = crate::problem::read(path)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses the text of a lab file; `file` is its name in error messages.
    ///
    /// # Errors
    /// [`LabFileError`] with every problem found and where it stands.
    pub fn parse(text: &str, file: &str) -> Result<Self, LabFileError> {
        crate::check::parse(text, file)
    }

    /// All pods with the index of their node.
    pub fn pods(&self) -> impl Iterator<Item = (usize, &PodSpec)> {
        self.nodes.iter().enumerate().flat_map(|(index, node)| node.pods.iter().map(move |pod| (index, pod)))
    }

    /// The pod of that name.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&PodSpec> {
        self.pods().map(|(_, pod)| pod).find(|pod| pod.name == name)
    }

    /// How frames travel to a node.
    #[must_use]
    pub fn encapsulation_of(&self, node: &NodeSpec) -> Encapsulation {
        node.encapsulation.unwrap_or(self.encapsulation)
    }

    /// Whether agents find each other by a store.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.control != ControlSpec::None && self.nodes.iter().any(|node| node.kind == NodeKind::Weft)
    }

    /// Names of everything in the lab that has a namespace: nodes, routers, pods and `underlay`.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().map(|node| node.name.as_str());
        let nodes = nodes.chain(self.routers.iter().map(|router| router.name.as_str()));
        nodes.chain(self.pods().map(|(_, pod)| pod.name.as_str())).chain([UNDERLAY])
    }
}

impl NodeSpec {
    /// The virtual networks its pods are in, sorted.
    #[must_use]
    pub fn vnis(&self) -> Vec<Vni> {
        let mut vnis: Vec<Vni> = self.pods.iter().map(|pod| pod.vni).collect();
        vnis.sort_unstable();
        vnis.dedup();
        vnis
    }
}

impl Default for UnderlaySpec {
    fn default() -> Self {
        Self {
            ipv4: Ipv4Net::new_assert([10, 199, 0, 0].into(), 24),
            ipv6: Ipv6Net::new_assert([0xfd99, 0, 0, 0, 0, 0, 0, 0].into(), 64),
            mtu: 1500,
            family: Family::Ipv4,
        }
    }
}

/// The name of a lab: 1 to 32 of `a-z`, `0-9` and `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// A text that cannot name a lab.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{seen}` cannot name a lab: allowed are 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit")]
pub struct LabNameError {
    /// The text seen.
    pub seen: String,
}

impl LabName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the network namespace of a node, a pod or the underlay.
    #[must_use]
    pub fn namespace_of(&self, member: &str) -> String {
        // A lab's name has no dot, so no other lab's namespaces can begin like this.
        format!("{}.{member}", self.0)
    }
}

impl FromStr for LabName {
    type Err = LabNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_name(text, LAB_NAME_MAX) {
            Ok(Self(text.to_owned()))
        } else {
            Err(LabNameError { seen: text.to_owned() })
        }
    }
}

impl TryFrom<String> for LabName {
    type Error = LabNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(crate) fn is_name(text: &str, max: usize) -> bool {
    let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= max
        && text.bytes().next().is_some_and(letter_or_digit)
        && text.bytes().all(|byte| letter_or_digit(byte) || byte == b'-')
}
