use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_encap::{MacAddr, Vni};

use super::allowed::{HOST_PORT, is_interface};
use super::check::{Wrong, not_allowed, wrong};
use super::file::{self, Control, PortEntry};
use crate::cluster::ClusterRange;
use crate::cluster::ranges::gateway_mac;

/// The addresses of the cluster's pods, and how this node takes part itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The virtual network that has them.
    pub vni: Vni,
    /// The cluster's ranges.
    pub ranges: Vec<ClusterRange>,
    /// The node's own device.
    pub interface: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// What pods get only if it is asked for.
    pub reserved: Vec<IpNet>,
    /// Whether pods leave the node with the node's address.
    pub masquerade: bool,
    /// Where they keep theirs.
    pub masquerade_exceptions: Vec<IpNet>,
}

impl NetworkConfig {
    /// The gateway's addresses, the same on all nodes.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.ranges.iter().map(ClusterRange::gateway).collect()
    }

    /// The node range in which an address is.
    #[must_use]
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<IpNet> {
        let cluster = self.ranges.iter().find(|cluster| cluster.range.contains(&address))?;
        Some(IpNet::new(address, cluster.node_prefix).ok()?.trunc())
    }
}

pub(super) fn check(
    file: Option<file::Network>,
    control: Option<&Control>,
    (ports, vnis, own): (&[PortEntry], &HashSet<Vni>, &[IpAddr]),
    mac: MacAddr,
) -> Result<Option<NetworkConfig>, Wrong> {
    let Some(file::Network {
        vni,
        ranges,
        node_prefix_ipv4,
        node_prefix_ipv6,
        interface,
        reserved,
        masquerade,
        masquerade_exceptions,
    }) = file
    else {
        return Ok(None);
    };
    if control.is_none() {
        return wrong(&vni, "`[network]` needs a `[control]`: nodes agree on ranges in the store it names");
    }
    let id = *vni.as_ref();
    if !vnis.contains(&id) {
        return wrong(&vni, format!("`vni` is {id}, which has no `[[vni]]` entry: add one with `id = {id}`"));
    }
    if !is_interface(interface.as_ref()) {
        return not_allowed(&interface, ("network", "interface"), format!("is `{}`", interface.as_ref()));
    }
    let of_family = |ipv6| ranges.as_ref().iter().filter(|range| range.addr().is_ipv6() == ipv6).count();
    if ranges.as_ref().is_empty() || of_family(false) > 1 || of_family(true) > 1 {
        return not_allowed(&ranges, ("network", "ranges"), format!("has {} ranges", ranges.as_ref().len()));
    }
    let mut cut = Vec::new();
    for range in ranges.as_ref() {
        let prefix = if range.addr().is_ipv6() { &node_prefix_ipv6 } else { &node_prefix_ipv4 };
        let one = ClusterRange { range: *range, node_prefix: *prefix.as_ref() };
        if let Some(what) = one.wrong() {
            return wrong(&ranges, format!("`ranges` {what}"));
        }
        if let Some(inside) = own.iter().find(|address| range.contains(*address)) {
            let message = format!("`ranges` has {range}, in which the underlay address {inside} is: pods need others");
            return wrong(&ranges, message);
        }
        cut.push(one);
    }
    if let Some(outside) = reserved.as_ref().iter().find(|net| !cut.iter().any(|one| one.range.contains(*net))) {
        return not_allowed(
            &reserved,
            ("network", "reserved"),
            format!("has {outside}, which is in none of the `ranges`"),
        );
    }
    for port in ports {
        if port.name.as_ref() == HOST_PORT {
            return wrong(
                &port.name,
                format!("with `[network]`, `{HOST_PORT}` is the node's own port: choose another `name`"),
            );
        }
        if *port.vni.as_ref() == id && port.mac.as_ref().is_some_and(|mac| *mac.as_ref() == gateway_mac(id)) {
            return wrong(&port.name, format!("the port has the MAC of the gateway of VNI {id}: choose another `mac`"));
        }
    }
    // In one order, however they are written: all nodes have to say the same.
    cut.sort_by_key(|one| one.range);
    Ok(Some(NetworkConfig {
        vni: id,
        ranges: cut,
        interface: interface.into_inner(),
        mac,
        reserved: reserved.into_inner(),
        masquerade,
        masquerade_exceptions,
    }))
}
