//! Other nodes, and the store by which they find each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{error, of_agent, quoted, warning};
use crate::doctor::Finding;
use crate::doctor::facts::{Facts, FixedNeighbour};

/// Why a store that refuses or is away matters.
const UNHEARD: &str = "pods that come or move elsewhere meanwhile are not known here; what is known is forwarded";

/// Seconds that an agent may take to hear of its store, or of a peer, before that is worth a word.
const PATIENCE: u64 = 15;

pub(super) fn paths(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let young = agent.status.uptime_seconds < PATIENCE;
        let unrouted = facts.unrouted.iter().map(|address| {
            error(
                "no_route",
                [
                    format!("there is no route to the peer {address}"),
                    "frames to its pods are dropped as underlay_unreachable".to_owned(),
                    format!("ip route get {address}; then add the route that is missing"),
                ],
            )
        });
        let silent = agent.vteps.iter().filter_map(|vtep| {
            let address = &vtep.address;
            if facts.unrouted.iter().any(|unrouted| unrouted.to_string() == *address) {
                return None;
            }
            match (vtep.path.as_str(), vtep.kind.as_str()) {
                ("down", _) => Some(error(
                    "peer_down",
                    [
                        format!("the peer {address} answers no probe any more"),
                        "its agent has ended, or the path to it is broken".to_owned(),
                        format!("there: weft doctor; here: ping {address}, and tcpdump -ni any udp port {}", vtep.port),
                    ],
                )),
                ("black hole", _) => Some(error(
                    "path_black_hole",
                    [
                        format!("short probes to {address} are answered, and long ones are lost without a word"),
                        "something on the path carries less than it says and sends no ICMP".to_owned(),
                        format!("tracepath -n {address}; raise the MTU of the link that is narrower"),
                    ],
                )),
                ("unprobed", "managed") if !young => Some(error(
                    "peer_silent",
                    [
                        format!("the peer {address} has never answered a probe"),
                        "tunnel packets do not get there, or not back: a firewall on the way, as a rule".to_owned(),
                        format!("open UDP port {} between the nodes; there: weft doctor", vtep.port),
                    ],
                )),
                _ => None,
            }
        });
        let is_down =
            |peer: IpAddr| agent.vteps.iter().any(|vtep| vtep.path == "down" && vtep.address == peer.to_string());
        let fixed = facts.fixed_neighbours.iter().filter(|fixed| is_down(fixed.peer)).map(|fixed| {
            let FixedNeighbour { peer, next_hop, mac, interface } = fixed;
            warning(
                "neighbour_fixed",
                [
                    format!("the peer {peer} answers no probe, and somebody has fixed the MAC of {next_hop} as {mac}"),
                    "the kernel never asks for it: if it is wrong, nothing gets there".to_owned(),
                    format!("if it is wrong: ip neigh del {next_hop} dev {}", quoted(interface)),
                ],
            )
        });
        unrouted.chain(silent).chain(fixed).collect()
    })
}

/// Nodes to which this one has no address to send from.
pub(super) fn families(facts: &Facts) -> Vec<Finding> {
    let has = |peer: &IpAddr| facts.listen.iter().any(|own| own.is_ipv4() == peer.is_ipv4());
    of_agent(facts, |agent| {
        let others = agent.nodes.iter().filter(|node| node.name != agent.status.node && !node.addresses.is_empty());
        let related = others.filter(|node| node.vnis.iter().any(|vni| agent.status.vnis.contains(vni)));
        let found = related.filter(|node| !node.addresses.iter().any(has)).map(|node| {
            let (name, address) = (&node.name, node.addresses[0]);
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            error(
                "family_missing",
                [
                    format!("the node {name} has the VTEP address {address}, and this node has none of {family}"),
                    "neither sends anything to the pods of the other".to_owned(),
                    format!(
                        "add an {family} address to `underlay.addresses` here, or give {name} one of this node's family"
                    ),
                ],
            )
        });
        found.collect()
    })
}

pub(super) fn duplicates(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let mut found = Vec::new();
        let mut holders: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for node in &agent.nodes {
            node.addresses.iter().for_each(|address| holders.entry(address).or_default().push(&node.name));
        }
        for (address, nodes) in holders.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
            found.push(error(
                "duplicate_vtep",
                [
                    format!("the nodes {} have the VTEP address {address}", nodes.join(" and ")),
                    "frames for the pods of one go to the other".to_owned(),
                    "give one another address; for one that is gone: weft node --config FILE remove NAME".to_owned(),
                ],
            ));
        }
        let conflicts = agent.status.control.iter().flat_map(|control| &control.conflicts).map(|conflict| {
            error(
                "duplicate_address",
                [
                    conflict.clone(),
                    "several pods claim it, and one of them gets its frames".to_owned(),
                    "give all but one of them another address".to_owned(),
                ],
            )
        });
        found.extend(conflicts);
        found
    })
}

pub(super) fn store(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let Some(control) = &agent.status.control else { return Vec::new() };
        let mut found = Vec::new();
        let reason = control.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let stores = control.stores.join(", ");
        let state = control.state.as_str();
        let long = control.since_seconds >= PATIENCE;
        match state {
            "stale" if control.denied => found.push(error(
                "store_refuses",
                [
                    format!("the store at {stores} refuses this agent for {} s{reason}", control.since_seconds),
                    UNHEARD.to_owned(),
                    "correct `[control]`: certificates and user have to be known to the store".to_owned(),
                ],
            )),
            "stale" => found.push(error(
                "store_away",
                [
                    format!("the store at {stores} is stale for {} s{reason}", control.since_seconds),
                    UNHEARD.to_owned(),
                    format!("see that a store runs and answers: etcdctl --endpoints {stores} endpoint status"),
                ],
            )),
            "refused" => found.push(error(
                "name_taken",
                [
                    format!("this node is not published in the store{reason}"),
                    "others do not know its pods, or send what is for them to the other".to_owned(),
                    "give one of the two another `node`, or end the other agent".to_owned(),
                ],
            )),
            "connecting" | "publishing" if long => found.push(warning(
                "store_slow",
                [
                    format!("the agent is {state} for {} s{reason}", control.since_seconds),
                    "it does not know yet what the other nodes have".to_owned(),
                    format!("etcdctl --endpoints {stores} endpoint status"),
                ],
            )),
            _ => {}
        }
        if !control.suspects.is_empty() {
            found.push(warning(
                "nodes_suspect",
                [
                    format!("these nodes do not reach the store: {}", control.suspects.join(", ")),
                    "what they have is held as it was".to_owned(),
                    "there: weft doctor; for a node that is gone for good: weft node --config FILE remove NAME"
                        .to_owned(),
                ],
            ));
        }
        for row in &control.refused_rows {
            found.push(warning(
                "row_refused",
                [
                    row.clone(),
                    "the row is left out, and whom it is about is not reached".to_owned(),
                    "correct or delete the row; see who wrote it with etcdctl get".to_owned(),
                ],
            ));
        }
        if let Some(reason) = &control.no_ranges {
            found.push(error(
                "no_ranges",
                [
                    format!("this node has no ranges of addresses: {reason}"),
                    "the node itself takes no part in the cluster's network".to_owned(),
                    "give the cluster more ranges, or remove nodes that are gone: weft node --config FILE remove NAME"
                        .to_owned(),
                ],
            ));
        }
        found
    })
}

pub(super) fn counters(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let broken = agent.status.law_broken.iter().map(|law| {
            warning(
                "counters_wrong",
                [
                    format!("the counters do not add up: {law}"),
                    "that is an error of Weft's, and figures may mislead".to_owned(),
                    "report it with the output of weft show counters --json and weft show drops --all --json"
                        .to_owned(),
                ],
            )
        });
        broken.collect()
    })
}
