use weft_testbed::Family;

use crate::host::Host;
use crate::site::{Node, Site};

/// A node whose pods are joined by the kernel's own VXLAN: a bridge with the VXLAN device and the pods' links.
#[derive(Debug)]
pub struct KernelNode {
    node: Node,
    mtu: u32,
}

/// What the kernel's VXLAN device is told.
#[derive(Clone, Debug)]
pub struct KernelTunnel<'a> {
    /// The VNI, 1 to 16,777,215.
    pub vni: u32,
    /// Family of the underlay.
    pub family: Family,
    /// The other nodes, to which what is unknown is flooded.
    pub remotes: &'a [&'a Node],
    /// Further words for `ip link add ... type vxlan`.
    pub words: &'a str,
}

impl KernelNode {
    /// Makes device and bridge on a node.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn new(node: &Node, tunnel: &KernelTunnel<'_>) -> Self {
        let KernelTunnel { vni, family, remotes, words } = tunnel;
        let local = node.address(*family);
        node.ip(&format!("link add vx0 type vxlan id {vni} local {local} dstport 4789 dev eth0 {words}"));
        node.ip("link add br0 type bridge");
        node.ip("link set vx0 master br0 up");
        node.ip("link set br0 up");
        for remote in *remotes {
            node.bridge(&format!("fdb append 00:00:00:00:00:00 dev vx0 dst {}", remote.address(*family)));
        }
        Self { node: node.clone(), mtu: node.link("vx0").mtu }
    }

    /// Longest packet of its pods, as the kernel found it out.
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Adds a pod with these addresses.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn pod(&self, site: &Site, name: &str, addresses: &[&str]) -> Host {
        let pod = site.host(name);
        let (mtu, port) = (self.mtu, format!("to-{name}"));
        self.node.netns().links(|links| links.add_veth(&port, "eth0", pod.netns())).unwrap();
        self.node.ip(&format!("link set {port} mtu {mtu} master br0 up"));
        pod.ip(&format!("link set eth0 mtu {mtu} up"));
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        pod.netns().links(|links| links.set_addresses("eth0", &addresses)).unwrap();
        pod
    }
}
