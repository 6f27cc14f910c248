//! The port by which a node itself takes part in the cluster's network: a TAP in the node's own namespace with the
//! node's overlay addresses, through which all pods are on-link. It is served, kept and published as pods' ports are.

use std::io::{self, Write};
use std::path::Path;

use ipnet::IpNet;
use weft_bridge::Tables;
use weft_netns::Netns;

use crate::agent::{Agent, AgentError, AttachedPort};
use crate::attach::AttachError;
use crate::cluster::ranges::overlay_address;
use crate::config::{HOST_PORT, NetworkConfig, PortConfig};
use crate::desired::{add_port, port_mtu};
use crate::outside;

/// The namespace that the agent runs in.
const OWN_NETNS: &str = "/proc/self/ns/net";
/// Where the node's ranges are kept, in its run directory: so that it needs no store to start.
const FILE: &str = "ranges";

/// The port of a node that has these ranges.
pub(crate) fn host_port(network: &NetworkConfig, ranges: &[IpNet]) -> PortConfig {
    PortConfig {
        name: HOST_PORT.to_owned(),
        netns: OWN_NETNS.to_owned(),
        interface: network.interface.clone(),
        vni: network.vni,
        mac: network.mac,
        addresses: addresses(network, ranges),
        mtu: None,
        learn_limit: None,
        routes: true,
        pod: None,
    }
}

/// The node's addresses, with the prefix lengths of the cluster's ranges.
fn addresses(network: &NetworkConfig, ranges: &[IpNet]) -> Vec<IpNet> {
    let address = |range: &IpNet| {
        let cluster = network.ranges.iter().find(|cluster| cluster.has(range))?;
        IpNet::new(overlay_address(*range), cluster.range.prefix_len()).ok()
    };
    ranges.iter().filter_map(address).collect()
}

/// The ranges that the node had when it last ran, as far as they are of this network.
pub(crate) fn load(run_dir: &Path, network: &NetworkConfig) -> io::Result<Vec<IpNet>> {
    let text = match std::fs::read_to_string(run_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let of_network = |range: &IpNet| network.ranges.iter().any(|cluster| cluster.has(range));
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(of_network).collect())
}

/// Replaces the file as a whole: who dies meanwhile leaves the old one.
fn save(run_dir: &Path, ranges: &[IpNet]) -> io::Result<()> {
    let (new, place) = (run_dir.join(format!("{FILE}.new")), run_dir.join(FILE));
    let mut file = std::fs::File::create(&new)?;
    ranges.iter().try_for_each(|range| writeln!(file, "{range}"))?;
    std::fs::rename(new, place)
}

impl Agent {
    /// Lets pods reach the outside by this node, as far as it can be done, once it has ranges; without a network it takes back
    /// what was done for one.
    pub(crate) fn open_outside(&mut self) {
        let network = self.config.network.as_ref();
        if network.is_some() && self.pods.ranges.is_empty() {
            return;
        }
        self.not_masqueraded = outside::masquerade(&self.config.run_dir, network);
        let not_forwarding = network.into_iter().flat_map(outside::not_forwarding);
        for missing in self.not_masqueraded.iter().cloned().chain(not_forwarding) {
            tracing::warn!("{missing}");
        }
    }

    /// Takes part with these ranges from now on; without any the node has no address among the pods.
    ///
    /// # Errors
    /// [`AgentError`] where the device cannot be had; it is tried again then.
    pub(crate) fn take_ranges(&mut self, ranges: &[IpNet]) -> Result<(), AgentError> {
        let Some(network) = self.config.network.clone() else { return Ok(()) };
        self.pods.ranges = ranges.to_vec();
        if let Err(error) = save(&self.config.run_dir, ranges) {
            tracing::warn!(%error, "the node's ranges are not kept: it needs the store when it starts again");
        }
        let wanted = host_port(&network, ranges);
        if let Some(port) = self.ports.iter_mut().find(|port| port.config.routes) {
            if port.config.addresses == wanted.addresses {
                return Ok(());
            }
            port.config.addresses.clone_from(&wanted.addresses);
            tracing::warn!(?ranges, "the node's own addresses change with its ranges");
            // One that is lost gets them when it is made again.
            return if port.lost.is_some() { Ok(()) } else { readdress(&wanted) };
        }
        if ranges.is_empty() {
            return Ok(());
        }
        self.open_outside();
        tracing::info!(?ranges, interface = network.interface, "the node has ranges of addresses");
        let mtu = port_mtu(&self.config, &wanted, self.underlay_mtu);
        let mut tables = Tables::clone(&self.switch.tables());
        let id = add_port(&mut tables, &self.config, &wanted, mtu)?;
        self.switch.publish(tables);
        let mut port = AttachedPort::without_device(wanted, id, mtu);
        let attached = port.try_again(&self.switch, self.keeper.claim(HOST_PORT));
        if let Err(error) = &attached {
            port.lost = Some(error.to_string());
        }
        self.ports.push(port);
        attached.map_err(|source| AgentError::Attach { port: HOST_PORT.to_owned(), source })
    }
}

fn readdress(port: &PortConfig) -> Result<(), AgentError> {
    let netns = Netns::current().map_err(AgentError::Node)?;
    let set = netns.links(|links| links.set_addresses(&port.interface, &port.addresses));
    set.map_err(|error| AgentError::Attach { port: port.name.clone(), source: AttachError::Netns(error) })
}
