//! What goes wrong with the store, and with what stands in it.

use crate::fault::{Ask, Deed, Fault, Repair};
use rustix::process::Signal;

/// Two nodes and their store.
pub(crate) const LAB: &str = "
name: store
nodes:
  - {name: n1, pods: [{name: a, vni: 100, addresses: [10.0.0.1/24], mac: '02:00:00:00:00:0a'}]}
  - {name: n2, pods: [{name: c, vni: 100, addresses: [10.0.0.3/24], mac: '02:00:00:00:00:0c'}]}
";

/// Who sends to whom all the time.
pub(crate) const TRAFFIC: &[(&str, &str)] = &[("a", "10.0.0.3")];

/// A node that is nowhere but in the store.
macro_rules! ghost {
    ($name:literal, $address:literal) => {
        concat!(
            "put /weft/v1/nodes/",
            $name,
            " '{\"version\":1,\"name\":\"",
            $name,
            "\",\"instance\":\"ghost\",",
            "\"incarnation\":7,\"standing\":\"joined\",\"addresses\":[\"",
            $address,
            "\"],",
            "\"receives\":[{\"encapsulation\":\"vxlan\",\"udp_port\":4789}],\"underlay_mtu\":1500,\"vnis\":[100]}'"
        )
    };
}
/// One of its pods.
macro_rules! endpoint {
    ($mac:literal, $ip:literal) => {
        concat!(
            "put /weft/v1/endpoints/ghost/100/",
            $mac,
            " '{\"version\":1,\"vni\":100,\"mac\":\"",
            $mac,
            "\",",
            "\"ips\":[\"",
            $ip,
            "\"],\"node\":\"ghost\",\"incarnation\":7,\"port\":\"p\"}'"
        )
    };
}
/// A VTEP that is no node.
macro_rules! foreign {
    ($address:literal) => {
        concat!(
            "put /weft/v1/foreign/",
            $address,
            " '{\"version\":1,\"address\":\"",
            $address,
            "\",",
            "\"encapsulation\":\"vxlan\",\"udp_port\":4789,\"vnis\":[100]}'"
        )
    };
}
/// Edits the store.
macro_rules! edit {
    ($($command:expr),+) => {
        Deed::In("underlay", concat!($("etcdctl --endpoints 127.0.0.1:2379 ", $command, "; "),+))
    };
}

const REMOVED: Repair = Repair::By(&[Deed::In("n1", "$WEFT node --config $DIR/n1/agent.toml remove ghost")]);

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a stale row leads to a node that is gone",
        plant: &[edit!(ghost!("ghost", "10.199.0.77"), endpoint!("02:00:00:00:00:99", "10.0.0.99"))],
        asks: &[Ask::Doctor("n1", "peer_silent"), Ask::Trace(&["--from", "a", "--to", "10.0.0.99"], "10.199.0.77")],
        repair: REMOVED,
    },
    Fault {
        name: "two nodes have one VTEP address",
        plant: &[edit!(ghost!("ghost", "10.199.0.2"))],
        asks: &[Ask::Doctor("n1", "duplicate_vtep")],
        repair: REMOVED,
    },
    Fault {
        name: "two pods have one address",
        plant: &[edit!(ghost!("ghost", "10.199.0.77"), endpoint!("02:00:00:00:00:99", "10.0.0.3"))],
        asks: &[Ask::Doctor("n1", "duplicate_address")],
        repair: REMOVED,
    },
    Fault {
        name: "two pods have one MAC",
        plant: &[edit!(ghost!("ghost", "10.199.0.77"), endpoint!("02:00:00:00:00:0c", "10.0.0.99"))],
        asks: &[Ask::Doctor("n1", "duplicate_address")],
        repair: REMOVED,
    },
    Fault {
        name: "a row is garbled",
        plant: &[edit!("put /weft/v1/nodes/ghost '{\"version\":1,'")],
        asks: &[Ask::Doctor("n1", "row_refused")],
        repair: Repair::By(&[edit!("del /weft/v1/nodes/ghost")]),
    },
    Fault {
        name: "a row is of a newer version",
        plant: &[edit!("put /weft/v1/foreign/10.199.0.9 '{\"version\":99}'")],
        asks: &[Ask::Doctor("n2", "row_refused")],
        repair: Repair::By(&[edit!("del /weft/v1/foreign/10.199.0.9")]),
    },
    Fault {
        name: "a row stands under another's key",
        plant: &[edit!(
            "put /weft/v1/foreign/10.199.0.9 '{\"version\":1,\"address\":\"10.199.0.8\",\"encapsulation\":\"vxlan\",\"udp_port\":4789,\"vnis\":[100]}'"
        )],
        asks: &[Ask::Doctor("n1", "row_refused")],
        repair: Repair::By(&[edit!("del /weft/v1/foreign/10.199.0.9")]),
    },
    Fault {
        name: "a VTEP of the store has no route",
        plant: &[edit!(foreign!("198.51.100.9"))],
        asks: &[Ask::Doctor("n1", "no_route"), Ask::Doctor("n2", "no_route")],
        repair: Repair::By(&[edit!("del /weft/v1/foreign/198.51.100.9")]),
    },
    Fault {
        name: "a node has an address of the other family alone",
        plant: &[edit!(ghost!("ghost", "fd99::77"))],
        asks: &[Ask::Doctor("n1", "family_missing"), Ask::Doctor("n2", "family_missing")],
        repair: REMOVED,
    },
    Fault {
        name: "another agent has the node's name",
        plant: &[edit!(ghost!("n2", "10.199.0.77"))],
        asks: &[Ask::Doctor("n2", "name_taken")],
        repair: Repair::By(&[edit!("del /weft/v1/nodes/n2")]),
    },
    Fault {
        name: "a node does not reach the store, and its lease ends",
        plant: &[Deed::In(
            "n2",
            "nft add table inet s; nft add chain inet s c '{ type filter hook output priority 0; }'; \
                 nft add rule inet s c tcp dport 2379 reject with tcp reset",
        )],
        asks: &[Ask::Doctor("n1", "nodes_suspect"), Ask::Doctor("n2", "store_away")],
        repair: Repair::By(&[Deed::In("n2", "nft delete table inet s")]),
    },
    Fault {
        name: "the store hangs",
        plant: &[Deed::Signals("store", Signal::STOP)],
        asks: &[Ask::Doctor("n1", "store_away")],
        repair: Repair::By(&[Deed::Signals("store", Signal::CONT)]),
    },
];
