//! What keeps pods from the outside, and nodes from having addresses for them.

use crate::fault::{Ask, Deed, Fault, Repair};

/// Two nodes that come to take part in a network of the cluster's own by an edit of their configurations.
pub(crate) const LAB: &str = "
name: outside
nodes:
  - {name: n1, pods: [{name: a, vni: 100, addresses: [10.0.0.1/24]}]}
  - {name: n2, pods: [{name: c, vni: 100, addresses: [10.0.0.3/24]}]}
";

/// Adds the network to a configuration: its addresses are enough for one node.
macro_rules! joins {
    ($node:literal) => {
        Deed::In(
            $node,
            concat!(
                "printf '\\n[network]\\nvni = 100\\nranges = [\"10.244.0.0/25\"]\\nnode_prefix_ipv4 = 26\\n' >>$DIR/",
                $node,
                "/agent.toml"
            ),
        )
    };
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a node does not forward for its pods",
        plant: &[joins!("n1"), Deed::Testbed("node", &["n1", "restart"])],
        asks: &[Ask::Doctor("n1", "ip_forward_off")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "iptables drop what a node forwards for its pods",
        plant: &[Deed::In("n1", "iptables -P FORWARD DROP")],
        asks: &[Ask::Doctor("n1", "forward_drops")],
        repair: Repair::AsTold(&[Deed::In("n1", "iptables -P FORWARD ACCEPT; iptables -F FORWARD")]),
    },
    Fault {
        name: "nftables drop what a node forwards for its pods",
        plant: &[Deed::In(
            "n1",
            "nft add table inet t; nft add chain inet t c '{ type filter hook forward priority 0; policy drop; }'",
        )],
        asks: &[Ask::Doctor("n1", "forward_drops")],
        repair: Repair::AsTold(&[Deed::In("n1", "nft delete table inet t")]),
    },
    Fault {
        name: "all ranges of addresses are given away",
        plant: &[joins!("n2"), Deed::Testbed("node", &["n2", "restart"])],
        asks: &[Ask::Doctor("n2", "no_ranges")],
        repair: Repair::By(&[
            Deed::In("n2", "sed -i '/^\\[network\\]/,$d' $DIR/n2/agent.toml"),
            Deed::Testbed("node", &["n2", "restart"]),
        ]),
    },
];
