//! The place of one test: its namespaces, the underlay between its nodes, and a directory.

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use weft_netns::Netns;
use weft_testbed::Family;

use crate::host::Host;

/// What every name made by these tests begins with.
const PREFIX: &str = "weft-it.";
/// The interface of every node to the underlay.
const UNDERLAY: &str = "eth0";
/// Words for `ethtool` that make one end of a veth pair behave like a NIC without tunnel offloads, so that
/// packets travel as they would on a wire.
pub const WIRE: &str = "-K eth0 tso off gso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off \
                        tx-udp-segmentation off tx-checksum-ip-generic off gro on rx-udp-gro-forwarding on";

/// Everything of one test. Dropping it removes all of it.
#[derive(Debug)]
pub struct Site {
    /// `PREFIX`, the test's name and what tells this site from every other.
    name: String,
    hosts: RefCell<Vec<String>>,
    directory: PathBuf,
}

/// A host with an interface to the underlay, `eth0`.
#[derive(Clone, Debug)]
pub struct Node {
    host: Host,
    /// Its addresses on the underlay, IPv4 and IPv6.
    networks: [IpNet; 2],
}

impl Site {
    /// An empty one.
    ///
    /// # Panics
    /// If its directory cannot be made.
    #[must_use]
    pub fn new(test: &str) -> Self {
        static SITES: AtomicU32 = AtomicU32::new(0);
        remove_abandoned();
        let unique = format!("{}.{}", std::process::id(), SITES.fetch_add(1, Ordering::Relaxed));
        // Sockets lie there, whose paths may be no longer than 107 bytes.
        let directory = std::env::temp_dir().join(format!("{PREFIX}{unique}"));
        fs::create_dir(&directory).unwrap();
        Self { name: format!("{PREFIX}{test}.{unique}"), hosts: RefCell::default(), directory }
    }

    /// A directory for the test's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new host with nothing but a loopback interface.
    ///
    /// # Panics
    /// If its namespace cannot be made.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let netns = format!("{}.{name}", self.name);
        self.hosts.borrow_mut().push(netns.clone());
        Host::new(name, Netns::create(&netns).unwrap())
    }

    /// Two nodes, `n1` and `n2`, with a cable between them.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn pair(&self) -> [Node; 2] {
        let nodes = [1, 2].map(|number| self.node(number, on_link(number)));
        cable(&nodes[0].host, UNDERLAY, &nodes[1].host, UNDERLAY);
        nodes.iter().for_each(Node::set_up);
        nodes
    }

    /// Nodes `n1` and on, and a switch between them.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn nodes<const N: usize>(&self) -> [Node; N] {
        self.switched().1
    }

    /// The same, and the switch, whose link to node 1 is `port1`.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn switched<const N: usize>(&self) -> (Host, [Node; N]) {
        let switch = self.host("switch");
        switch.silence();
        switch.netns().links(|links| links.add_bridge("br0").and_then(|()| links.set_up("br0"))).unwrap();
        let nodes = std::array::from_fn(|index| {
            let number = index as u8 + 1;
            let node = self.node(number, on_link(number));
            let port = format!("port{number}");
            cable(&switch, &port, &node.host, UNDERLAY);
            switch.netns().links(|links| links.set_master(&port, "br0")).unwrap();
            node.set_up();
            node
        });
        (switch, nodes)
    }

    /// Two nodes in networks of their own, and the router between them, whose link to node 1 is `port1`. All links
    /// have this MTU in bytes. The router says nothing of what it drops: no ICMP of its own leaves it but neighbour
    /// discovery.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn routed(&self, mtu: u16) -> (Host, [Node; 2]) {
        let router = self.host("router");
        let nodes = [1, 2].map(|number| {
            let node = self.node(number, routed(number));
            let port = format!("port{number}");
            cable(&router, &port, &node.host, UNDERLAY);
            node.set_up();
            let gateways = node.networks.map(gateway);
            router.netns().links(|links| links.set_addresses(&port, &gateways)).unwrap();
            router.ip(&format!("link set {port} mtu {mtu}"));
            node.ip(&format!("link set {UNDERLAY} mtu {mtu}"));
            gateways.iter().for_each(|gateway| {
                node.ip(&format!("route add default via {}", gateway.addr()));
            });
            node
        });
        router.set("ipv4/ip_forward", "1");
        router.set("ipv6/conf/all/forwarding", "1");
        let rules = [
            "table inet silent {",
            "chain output {",
            "type filter hook output priority 0",
            "ip protocol icmp drop",
            "icmpv6 type { destination-unreachable, packet-too-big } drop",
            "}",
            "}",
        ];
        router.run(&["nft", &rules.join("\n")]);
        (router, nodes)
    }

    fn node(&self, number: u8, networks: [IpNet; 2]) -> Node {
        Node { host: self.host(&format!("n{number}")), networks }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A panic while another is under way would hide the first.
        for name in self.hosts.borrow().iter() {
            if let Err(error) = Netns::delete(name) {
                eprintln!("removing {name}: {error}");
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("removing {}: {error}", self.directory.display());
        }
    }
}

impl Node {
    /// Its address on the underlay.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        self.network(family).addr()
    }

    /// Its address on the underlay, with the prefix length.
    #[must_use]
    pub fn network(&self, family: Family) -> IpNet {
        let [ipv4, ipv6] = self.networks;
        if family == Family::Ipv4 { ipv4 } else { ipv6 }
    }

    /// Makes its underlay interface behave like a NIC without tunnel offloads.
    pub fn like_a_wire(&self) {
        self.ethtool(WIRE);
    }

    fn set_up(&self) {
        self.netns().links(|links| links.set_addresses(UNDERLAY, &self.networks)).unwrap();
    }
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl AsRef<Host> for Node {
    fn as_ref(&self) -> &Host {
        &self.host
    }
}

/// Addresses of a node that all others reach on the link.
fn on_link(number: u8) -> [IpNet; 2] {
    networks(Ipv4Addr::new(192, 0, 2, number), 24, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()))
}

/// Addresses of a node with a network of its own.
fn routed(number: u8) -> [IpNet; 2] {
    networks(
        Ipv4Addr::new(198, 51, 100, number * 4 + 1),
        30,
        Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 1),
    )
}

/// The router's address in such a network: the one after the node's.
fn gateway(network: IpNet) -> IpNet {
    let address = match network.addr() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() + 1).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() + 1).into(),
    };
    IpNet::new(address, network.prefix_len()).unwrap()
}

fn networks(ipv4: Ipv4Addr, ipv4_prefix: u8, ipv6: Ipv6Addr) -> [IpNet; 2] {
    [IpNet::new(ipv4.into(), ipv4_prefix).unwrap(), IpNet::new(ipv6.into(), 64).unwrap()]
}

/// Both ends up.
fn cable(one: &Host, interface: &str, other: &Host, other_interface: &str) {
    one.netns()
        .links(|links| {
            links.add_veth(interface, other_interface, other.netns())?;
            links.set_up(interface)
        })
        .unwrap();
    other.netns().links(|links| links.set_up(other_interface)).unwrap();
}

/// Removes what tests left that were killed: of processes that are no more.
fn remove_abandoned() {
    let gone = |name: &str| {
        let pid = name.strip_prefix(PREFIX)?.split('.').find_map(|part| part.parse::<u32>().ok())?;
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    };
    // Another test may do the same at the same time: what is gone is gone.
    for name in Netns::list().unwrap_or_default() {
        if gone(&name).is_some() {
            let _ = Netns::delete(&name);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(gone).is_some() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
