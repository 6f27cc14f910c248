//! How pods reach what is outside of the cluster: by their node, which has to forward, and lends them its address.

use weft_netns::{Masquerade, Netns};

use crate::config::NetworkConfig;

/// Masquerades, or stops to. What keeps that from being done, and what to do.
pub(crate) fn masquerade(network: &NetworkConfig) -> Option<String> {
    let sources = network.ranges.iter().map(|cluster| cluster.range);
    let wanted = Masquerade {
        table: format!("weft-{}", network.interface),
        sources: sources.filter(|_| network.masquerade).collect(),
        exceptions: network.masquerade_exceptions.clone(),
        device: network.interface.clone(),
    };
    match Netns::current().and_then(|netns| netns.masquerade(&wanted)) {
        Err(error) if network.masquerade => Some(format!(
            "pods are not masqueraded: {error}: load nf_tables and nft_masq, or set `network.masquerade = false`"
        )),
        // A kernel without nftables has no rules of ours either.
        Ok(()) | Err(_) => None,
    }
}

/// The families for which the node forwards nothing now, and what to do.
pub(crate) fn not_forwarding(network: &NetworkConfig) -> impl Iterator<Item = String> {
    let switches = [(false, "net.ipv4.ip_forward"), (true, "net.ipv6.conf.all.forwarding")];
    switches.into_iter().filter_map(|(ipv6, name)| {
        let has_family = network.ranges.iter().any(|cluster| cluster.range.addr().is_ipv6() == ipv6);
        let value = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
        let is_off = has_family && value.trim() == "0";
        is_off.then(|| {
            format!("this node forwards nothing for pods: `sysctl -w {name}=1` if they are to reach the outside")
        })
    })
}
