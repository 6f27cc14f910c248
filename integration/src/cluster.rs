//! Nodes with a store on the first, whose agents have ranges of addresses.

use std::path::PathBuf;
use std::process::Stdio;

use weft_control::config::file::{self, Control};
use weft_encap::Vni;
use weft_testbed::Family;

use crate::agent::AgentNode;
use crate::child::Child;
use crate::config::AgentConfig;
use crate::site::{Node, Site};
use crate::wait::eventually;
use crate::weft::weft;

const PORT: u16 = 2379;
const VNI: u32 = 7;
/// The ranges of the cluster.
const RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:244::/48"];

/// Nodes and their store; the agents are the test's.
#[derive(Debug)]
pub struct Cluster<const N: usize> {
    /// The nodes.
    pub nodes: [Node; N],
    store: Child,
    site: Site,
}

impl<const N: usize> Cluster<N> {
    /// Starts the store.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn new(site: Site) -> Self {
        let nodes = site.nodes::<N>();
        let store = store(&nodes[0], &site);
        Self { nodes, store, site }
    }

    /// The place of the test.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The run directory of a node's agent.
    #[must_use]
    pub fn run_dir(&self, own: usize) -> PathBuf {
        self.site.directory().join(self.nodes[own].name())
    }

    /// The configuration of a node's agent.
    ///
    /// # Panics
    /// If its directory cannot be made.
    #[must_use]
    pub fn config(&self, own: usize) -> AgentConfig {
        let mut config = AgentConfig::new(&self.site, &self.nodes[own], &[Family::Ipv4]).vni(VNI);
        config.file.control =
            Some(Control::new(vec![format!("http://{}:{PORT}", self.nodes[0].address(Family::Ipv4))]));
        let ranges = RANGES.map(|range| range.parse().unwrap());
        config.file.network = Some(file::Network::new(Vni::new(VNI).unwrap(), ranges.to_vec()));
        config
    }

    /// All agents, when each has its ranges and knows all nodes.
    ///
    /// # Panics
    /// If that does not come to be.
    #[must_use]
    pub fn start(&self) -> [AgentNode; N] {
        let agents = std::array::from_fn(|own| self.config(own).start());
        agents.iter().for_each(|agent| wait_for_endpoints(agent, N));
        agents
    }

    /// Ends the store as `kill -9` does.
    pub fn kill_store(&mut self) {
        self.store.signal(rustix::process::Signal::KILL);
        self.store.wait();
    }

    /// Starts the store again, on what it had.
    pub fn start_store(&mut self) {
        self.store = store(&self.nodes[0], &self.site);
    }
}

/// Waits until an agent is in touch with the store, and knows so many endpoints, nodes' own included.
///
/// # Panics
/// If that does not come to be.
#[track_caller]
pub(crate) fn wait_for_endpoints(agent: &AgentNode, count: usize) {
    eventually("all endpoints are known", || {
        let known = agent.status().control.unwrap();
        let is_so = known.endpoints == count && known.state == "connected";
        if is_so { Ok(()) } else { Err(format!("{known:?}")) }
    });
}

impl AgentNode {
    /// Waits until the agent is in touch with the store, and knows so many endpoints, nodes' own included.
    ///
    /// # Panics
    /// If that does not come to be.
    #[track_caller]
    pub fn wait_for_endpoints(&self, count: usize) {
        wait_for_endpoints(self, count);
    }
}

/// `weft store` on a node's underlay address.
fn store(node: &Node, site: &Site) -> Child {
    let listen = format!("{}:{PORT}", node.address(Family::Ipv4));
    let (program, data) = (weft(), site.directory().join("store"));
    let words =
        [program.to_str().unwrap(), "store", "--relaxed", "--listen", &listen, "--data", data.to_str().unwrap()];
    let mut command = node.command(&words);
    let log = std::fs::File::options().create(true).append(true).open(site.directory().join("store.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Child::spawn(command)
}
