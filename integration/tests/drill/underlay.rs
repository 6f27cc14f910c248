//! What goes wrong between the nodes: interfaces, routes, firewalls, UDP ports.

use crate::fault::{Ask, Deed, Fault, Repair};

/// Tunnel packets that meet all of the host: firewall, routes.
pub(crate) const LAB: &str = "
name: underlay
nodes:
  - {name: n1, underlay: {kind: socket}, pods: [{name: a, vni: 100, addresses: [10.0.0.1/24]}]}
  - {name: n2, underlay: {kind: socket}, pods: [{name: c, vni: 100, addresses: [10.0.0.3/24]}]}
";

/// Who sends to whom all the time.
pub(crate) const TRAFFIC: &[(&str, &str)] = &[("a", "10.0.0.3"), ("c", "10.0.0.1")];

const N2_STARTS: Repair = Repair::By(&[Deed::Testbed("node", &["n2", "start"])]);

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a path carries less than its ends",
        plant: &[Deed::Testbed("link", &["n2", "set", "mtu=1400"])],
        asks: &[
            Ask::Doctor("n1", "path_too_narrow"),
            Ask::Trace(&["--from", "a", "--to", "c", "--size", "1450", "--df"], "exceeds_path_mtu"),
        ],
        // By itself the path is tried for more every 20 s.
        repair: Repair::By(&[
            Deed::Testbed("link", &["n2", "clear"]),
            Deed::Testbed("node", &["n1", "restart"]),
            Deed::Testbed("node", &["n2", "restart"]),
        ]),
    },
    Fault {
        name: "the underlay's interface is down",
        plant: &[Deed::In("n1", "ip link set eth0 down")],
        asks: &[Ask::Doctor("n1", "underlay_down"), Ask::Doctor("n2", "peer_down")],
        repair: Repair::By(&[Deed::In("n1", "ip link set eth0 up")]),
    },
    Fault {
        name: "the node has lost its VTEP address",
        plant: &[Deed::In("n1", "ip address del 10.199.0.1/24 dev eth0")],
        asks: &[Ask::Doctor("n1", "vtep_address_missing")],
        repair: Repair::By(&[Deed::In("n1", "ip address add 10.199.0.1/24 dev eth0")]),
    },
    Fault {
        name: "the underlay's interface has a smaller MTU",
        plant: &[Deed::In("n1", "ip link set eth0 mtu 1300")],
        asks: &[Ask::Doctor("n1", "underlay_mtu")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "there is no route to a peer",
        plant: &[Deed::In("n1", "ip route add unreachable 10.199.0.2")],
        asks: &[
            Ask::Doctor("n1", "no_route"),
            Ask::Live("n1", "underlay_unreachable"),
            Ask::Trace(&["--from", "a", "--to", "c"], "underlay_unreachable"),
        ],
        repair: Repair::By(&[Deed::In("n1", "ip route del unreachable 10.199.0.2")]),
    },
    Fault {
        name: "a route forbids to send to a peer",
        plant: &[Deed::In("n1", "ip route add prohibit 10.199.0.2")],
        asks: &[Ask::Doctor("n1", "no_route"), Ask::Live("n1", "underlay_refused")],
        repair: Repair::By(&[Deed::In("n1", "ip route del prohibit 10.199.0.2")]),
    },
    Fault {
        name: "a route swallows what is for a peer",
        plant: &[Deed::In("n1", "ip route add blackhole 10.199.0.2")],
        asks: &[Ask::Doctor("n1", "no_route")],
        repair: Repair::By(&[Deed::In("n1", "ip route del blackhole 10.199.0.2")]),
    },
    Fault {
        name: "an entry of the neighbour table is wrong",
        plant: &[Deed::In("n1", "ip neigh replace 10.199.0.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent")],
        asks: &[Ask::Doctor("n1", "neighbour_fixed")],
        repair: Repair::By(&[Deed::In("n1", "ip neigh del 10.199.0.2 dev eth0")]),
    },
    Fault {
        name: "nftables drop tunnel packets that arrive",
        plant: &[Deed::In(
            "n1",
            "nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; \
             nft add rule inet t c udp dport 4789 drop",
        )],
        asks: &[Ask::Doctor("n1", "rule_drops_tunnel"), Ask::Doctor("n2", "peer_down")],
        repair: Repair::By(&[Deed::In("n1", "nft delete table inet t")]),
    },
    Fault {
        name: "nftables drop tunnel packets that leave",
        plant: &[Deed::In(
            "n1",
            "nft add table inet t; nft add chain inet t c '{ type filter hook output priority 0; }'; \
             nft add rule inet t c udp dport 4780-4790 drop",
        )],
        asks: &[Ask::Doctor("n1", "rule_drops_tunnel"), Ask::Live("n1", "underlay_refused")],
        repair: Repair::AsTold(&[Deed::In("n1", "nft delete table inet t")]),
    },
    Fault {
        name: "nftables let in what is listed, and not the tunnel",
        plant: &[Deed::In(
            "n2",
            "nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; policy drop; }'; \
             nft add rule inet t c ct state established,related accept; nft add rule inet t c tcp dport 1-65535 accept",
        )],
        asks: &[Ask::Doctor("n2", "tunnel_port_closed")],
        repair: Repair::AsTold(&[Deed::In("n2", "nft delete table inet t")]),
    },
    Fault {
        name: "a firewall keeps an agent from trying out its offloads",
        plant: &[
            Deed::In(
                "n2",
                "nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; \
                 nft add rule inet t c iif lo udp dport 1-65535 drop",
            ),
            Deed::Testbed("node", &["n2", "restart"]),
        ],
        asks: &[Ask::Doctor("n2", "offload_off")],
        repair: Repair::By(&[Deed::In("n2", "nft delete table inet t"), Deed::Testbed("node", &["n2", "restart"])]),
    },
    Fault {
        name: "iptables drop tunnel packets",
        plant: &[Deed::In("n1", "iptables -A INPUT -p udp --dport 4789 -j DROP")],
        asks: &[Ask::Doctor("n1", "rule_drops_tunnel")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "iptables let in what is listed, and not the tunnel",
        plant: &[Deed::In("n1", "iptables -A INPUT -p tcp -j ACCEPT; iptables -P INPUT DROP")],
        asks: &[Ask::Doctor("n1", "tunnel_port_closed")],
        repair: Repair::AsTold(&[Deed::In("n1", "iptables -P INPUT ACCEPT; iptables -F INPUT")]),
    },
    Fault {
        name: "a firewall between the nodes drops the tunnel",
        plant: &[Deed::In(
            "underlay",
            "nft add table bridge t; nft add chain bridge t c '{ type filter hook forward priority 0; }'; \
             nft add rule bridge t c udp dport 4789 drop",
        )],
        asks: &[Ask::Doctor("n1", "peer_down"), Ask::Doctor("n2", "peer_down")],
        repair: Repair::By(&[Deed::In("underlay", "nft delete table bridge t")]),
    },
    Fault {
        name: "a node is cut off",
        plant: &[Deed::Testbed("node", &["n2", "partition"])],
        asks: &[Ask::Doctor("n1", "peer_down"), Ask::Doctor("n2", "peer_down")],
        repair: Repair::By(&[Deed::Testbed("node", &["n2", "heal"])]),
    },
    Fault {
        name: "the kernel has a VXLAN device on our port",
        plant: &[Deed::In("n1", "ip link add vx0 type vxlan id 1 dstport 4789 dev eth0")],
        asks: &[Ask::Doctor("n1", "kernel_tunnel_on_port")],
        repair: Repair::By(&[Deed::In("n1", "ip link delete vx0")]),
    },
    Fault {
        name: "the peer's agent is killed",
        plant: &[Deed::Testbed("node", &["n2", "kill"])],
        asks: &[Ask::Doctor("n1", "peer_down"), Ask::Doctor("n2", "agent_not_running")],
        repair: N2_STARTS,
    },
    Fault {
        name: "another program has the tunnel's port",
        plant: &[Deed::Testbed("node", &["n2", "kill"]), Deed::Listens("n2", 4789)],
        asks: &[Ask::Doctor("n2", "port_taken")],
        repair: N2_STARTS,
    },
];
