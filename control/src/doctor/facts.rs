//! What is known of a node before it is judged.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use weft_api::{DropRow, NodeRow, PortRow, Status, VtepRow};
use weft_encap::MacAddr;
use weft_netns::Link;
use weft_switch::ClockState;

use super::Unseen;
use super::firewall::Ruleset;

/// Everything that the checks look at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the agent says; none where none answers.
    pub agent: Option<AgentFacts>,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Why no agent answers, where there is a sign that one should.
    pub agent_ended: Option<String>,
    /// Whether one is there that takes questions and does not answer.
    pub agent_hangs: bool,
    /// Where the node's configuration wants tunnel packets to arrive: of the running agent, or of a file.
    pub listen: Vec<SocketAddr>,
    /// The kernel.
    pub kernel: KernelFacts,
    /// The machine's clock; none where all nodes have the same one, and where it cannot be seen.
    pub clock: Option<ClockState>,
    /// Interfaces of the node's namespace.
    pub interfaces: Vec<Interface>,
    /// VTEPs of the agent to which there is no route.
    pub unrouted: Vec<IpAddr>,
    /// VTEPs of the agent to which there is one, with the name of the interface by which packets leave.
    pub routed: Vec<(IpAddr, String)>,
    /// VTEPs of the agent to which packets go by a MAC that somebody has fixed.
    pub fixed_neighbours: Vec<FixedNeighbour>,
    /// The node's firewall; none where it cannot be seen.
    pub firewall: Option<Ruleset>,
    /// UDP sockets of the node.
    pub sockets: Vec<UdpSocket>,
    /// Redirects whose target is gone.
    pub stale_redirects: Vec<StaleRedirect>,
    /// The devices of the agent's ports, as their namespaces have them.
    pub devices: Vec<PortDevice>,
    /// Devices that an agent made and nobody holds open, outside of the agent's ports.
    pub stale_devices: Vec<StaleDevice>,
    /// Whether NetworkManager runs here, and minds our devices.
    pub network_manager: bool,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

/// What an agent says.
#[derive(Clone, Debug, Default)]
pub struct AgentFacts {
    /// The whole.
    pub status: Status,
    /// Ports.
    pub ports: Vec<PortRow>,
    /// VTEPs.
    pub vteps: Vec<VtepRow>,
    /// Nodes of the cluster.
    pub nodes: Vec<NodeRow>,
    /// Drops.
    pub drops: Vec<DropRow>,
    /// The node's own device in the network that all pods share; none where it takes part in none.
    pub network_interface: Option<String>,
}

/// The kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelFacts {
    /// Its release, as `uname -r` shows it.
    pub release: String,
    /// What opening /dev/net/tun came to, where it failed.
    pub no_tun: Option<String>,
    /// Whether it forwards IPv4 packets; none where it does not say.
    pub forwards_ipv4: Option<bool>,
}

impl KernelFacts {
    /// Its version: the first two numbers of its release.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// One interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// What the kernel says of it.
    pub link: Link,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A peer to which packets go by an entry of the neighbour table that the kernel never confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedNeighbour {
    /// The peer's VTEP address.
    pub peer: IpAddr,
    /// The address whose MAC is fixed: the peer's own, or that of the router to it.
    pub next_hop: IpAddr,
    /// The MAC.
    pub mac: MacAddr,
    /// The interface.
    pub interface: String,
}

/// One UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// Where it receives.
    pub at: SocketAddr,
    /// Who holds it; none for the kernel's own, and where it cannot be seen.
    pub holder: Option<Process>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A port's device.
#[derive(Clone, Debug)]
pub struct PortDevice {
    /// The port.
    pub port: String,
    /// How it is; none where it is gone.
    pub found: Option<Device>,
}

/// A device as its namespace has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whether it is switched on.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its MAC.
    pub mac: Option<MacAddr>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Filters of one priority, of which one at least redirects to a device that is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaleRedirect {
    /// The interface they are on.
    pub interface: String,
    /// Their priority, as `pref` of tc.
    pub priority: u16,
}

/// A device that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleDevice {
    /// Its namespace; none for the node's own.
    pub netns: Option<String>,
    /// Its name.
    pub name: String,
}

impl Facts {
    /// Name of the node, where that is known.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.agent.as_ref().map(|agent| agent.status.node.as_str())
    }

    /// UDP ports at which tunnel packets arrive, each once.
    #[must_use]
    pub fn udp_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.listen.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The interface that has this address.
    #[must_use]
    pub fn interface_of(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.addresses.contains(&address))
    }
}
