use weft_control::config::file::UnderlayKind;
use weft_encap::Encapsulation;
use weft_testbed::Family;

use crate::agent::AgentNode;
use crate::config::{AgentConfig, default_kind};
use crate::host::Host;
use crate::site::{Node, Site};

/// Two nodes with an agent and a pod each, in one virtual network.
#[derive(Debug)]
pub struct Overlay {
    /// The nodes.
    pub nodes: [Node; 2],
    /// The pods, `a` on the first node and `b` on the second.
    pub pods: [Host; 2],
    /// The agents.
    pub agents: [AgentNode; 2],
}

impl Overlay {
    /// The VNI of its virtual network.
    pub const VNI: u32 = 5000;
    /// The pods' addresses with prefix lengths.
    pub const NETWORKS: [[&'static str; 2]; 2] = [["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]];
    /// The pods' IPv4 addresses.
    pub const IPV4: [&'static str; 2] = ["10.0.0.1", "10.0.0.2"];
    /// The pods' IPv6 addresses.
    pub const IPV6: [&'static str; 2] = ["fd00::1", "fd00::2"];

    /// Makes and starts all of it, on two nodes with a cable between them.
    ///
    /// # Panics
    /// If an agent does not start.
    #[must_use]
    #[track_caller]
    pub fn pair(site: &Site, encapsulation: Encapsulation, family: Family) -> Self {
        let nodes = site.pair();
        let pods = ["a", "b"].map(|name| site.host(name));
        Self::start(site, nodes, pods, encapsulation, family)
    }

    /// The same on nodes and with pods that are there already.
    ///
    /// # Panics
    /// If an agent does not start.
    #[must_use]
    #[track_caller]
    pub fn start(site: &Site, nodes: [Node; 2], pods: [Host; 2], encapsulation: Encapsulation, family: Family) -> Self {
        Self::start_over(site, nodes, pods, (encapsulation, family), [default_kind(); 2])
    }

    /// The same with these kinds of underlay.
    ///
    /// # Panics
    /// If an agent does not start.
    #[must_use]
    #[track_caller]
    pub fn start_over(
        site: &Site,
        nodes: [Node; 2],
        pods: [Host; 2],
        (encapsulation, family): (Encapsulation, Family),
        kinds: [UnderlayKind; 2],
    ) -> Self {
        let agents = [0, 1].map(|own| {
            AgentConfig::new(site, &nodes[own], &[family])
                .vni(Self::VNI)
                .peer(nodes[1 - own].address(family), encapsulation, &[Self::VNI])
                .port(&pods[own], Self::VNI, &Self::NETWORKS[own])
                .underlay(kinds[own])
                .start()
        });
        Self { nodes, pods, agents }
    }

    /// Checks the counting laws and ends both agents.
    ///
    /// # Panics
    /// If something is wrong with one.
    #[track_caller]
    pub fn finish(self) {
        self.agents.into_iter().for_each(AgentNode::finish);
    }
}
