use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use weft_encap::Vni;

use super::unspanned;

/// `[network]`: the addresses of the cluster's pods, of which each node gets ranges of its own. All nodes have to say
/// the same.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The virtual network that has them; must have a `[[vni]]`.
    pub vni: Spanned<Vni>,
    /// The cluster's ranges: at most one of IPv4 and one of IPv6, at least one of them.
    pub ranges: Spanned<Vec<IpNet>>,
    /// Prefix length, in bits, of a node's IPv4 range, up to 30. Default: 24.
    #[serde(default = "default_node_prefix_ipv4")]
    pub node_prefix_ipv4: Spanned<u8>,
    /// Prefix length, in bits, of a node's IPv6 range, up to 126. Default: 64.
    #[serde(default = "default_node_prefix_ipv6")]
    pub node_prefix_ipv6: Spanned<u8>,
    /// Name of the device by which the node itself takes part, 1 to 15 characters. Default: `weft0`.
    #[serde(default = "default_device")]
    pub interface: Spanned<String>,
    /// Addresses, and ranges of them, that pods get only if they are asked for. Default: none.
    #[serde(default = "default_reserved", skip_serializing_if = "super::is_empty")]
    pub reserved: Spanned<Vec<IpNet>>,
    /// Masquerade what pods send to the outside through this node. Default: true.
    #[serde(default = "default_masquerade")]
    pub masquerade: bool,
    /// Where pods are seen with their own addresses all the same. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masquerade_exceptions: Vec<IpNet>,
}

impl Network {
    /// These ranges, and every default.
    #[must_use]
    pub fn new(vni: Vni, ranges: Vec<IpNet>) -> Self {
        Self {
            vni: unspanned(vni),
            ranges: unspanned(ranges),
            node_prefix_ipv4: default_node_prefix_ipv4(),
            node_prefix_ipv6: default_node_prefix_ipv6(),
            interface: default_device(),
            reserved: default_reserved(),
            masquerade: default_masquerade(),
            masquerade_exceptions: Vec::new(),
        }
    }
}

fn default_node_prefix_ipv4() -> Spanned<u8> {
    unspanned(24)
}

fn default_node_prefix_ipv6() -> Spanned<u8> {
    unspanned(64)
}

fn default_reserved() -> Spanned<Vec<IpNet>> {
    unspanned(Vec::new())
}

fn default_masquerade() -> bool {
    true
}

fn default_device() -> Spanned<String> {
    unspanned("weft0".to_owned())
}
