//! How pods reach what is outside of the cluster: by their node, which has to forward, and lends them its address.

use std::io;
use std::path::Path;

use weft_netns::{Masquerade, Netns, NetnsError};

use crate::config::NetworkConfig;

/// Where the name of its tables is kept, in the run directory, so that they go when there is no network any more.
const FILE: &str = "masquerade";
/// How that name begins.
const PREFIX: &str = "weft-";

/// Masquerades for a network, or stops to, and for any other that the agents of this run directory had. What keeps that from
/// being done, and what to do.
pub(crate) fn masquerade(run_dir: &Path, network: Option<&NetworkConfig>) -> Option<String> {
    let wanted = network.map(rules);
    let kept = run_dir.join(FILE);
    let before = std::fs::read_to_string(&kept).ok().filter(|name| name.starts_with(PREFIX));
    let others = before.filter(|before| wanted.as_ref().is_none_or(|wanted| wanted.table != *before));
    if let Some(table) = others {
        let nothing = Masquerade { table, sources: Vec::new(), exceptions: Vec::new(), device: String::new() };
        let table = &nothing.table;
        match put(&nothing) {
            Ok(()) => tracing::info!(table, "what was masqueraded by this table is not any more"),
            Err(error) => tracing::warn!(table, %error, "rules stay: `nft delete table ip` and `ip6` by this name"),
        }
    }
    let noted = match &wanted {
        Some(wanted) => std::fs::write(&kept, &wanted.table),
        None => std::fs::remove_file(&kept),
    };
    if let Err(error) = noted
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %kept.display(), %error, "which rules are this node's is not kept");
    }
    match wanted.as_ref().map(put) {
        Some(Err(error)) if network.is_some_and(|network| network.masquerade) => Some(format!(
            "pods are not masqueraded: {error}: load nf_tables and nft_masq, or set `network.masquerade = false`"
        )),
        // A kernel without nftables has no rules of ours either.
        Some(Ok(()) | Err(_)) | None => None,
    }
}

fn rules(network: &NetworkConfig) -> Masquerade {
    let sources = network.ranges.iter().map(|cluster| cluster.range);
    Masquerade {
        table: format!("{PREFIX}{}", network.interface),
        sources: sources.filter(|_| network.masquerade).collect(),
        exceptions: network.masquerade_exceptions.clone(),
        device: network.interface.clone(),
    }
}

fn put(rules: &Masquerade) -> Result<(), NetnsError> {
    Netns::current()?.masquerade(rules)
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
