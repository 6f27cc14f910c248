//! What the node's firewall does to tunnel packets.

use std::net::IpAddr;

use super::{error, warning};
use crate::doctor::Finding;
use crate::doctor::facts::Facts;
use crate::doctor::firewall::{Chain, Packet, Rule, Ruleset, Verdict, Way};

pub(super) fn firewall(facts: &Facts) -> Vec<Finding> {
    let Some(ruleset) = &facts.firewall else { return Vec::new() };
    let uplink = facts.agent.as_ref().is_some_and(|agent| agent.status.underlay.level == "uplink");
    let ports = facts.udp_ports();
    let mut found = Vec::new();
    for (place, rule) in ruleset.rules.iter().enumerate() {
        let Some(port) = ports.iter().find(|port| rule.names(**port)) else { continue };
        let named = format!("rule in {} {} names UDP port {port}", rule.table, rule.chain);
        if uplink {
            found.push(warning(
                "rule_sees_no_uplink",
                [
                    format!("a {named}, and tunnel packets go through the uplink"),
                    "what the uplink carries meets no rule of this host: neither counted nor dropped by it".to_owned(),
                    format!("filter before this host, or set `underlay.kind = \"socket\"`; the rule: {}", rule.place),
                ],
            ));
        } else if rule.verdict == Verdict::Drop {
            let before: Vec<&Rule> =
                ruleset.rules[..place].iter().filter(|other| lets_in(other, rule, *port)).collect();
            found.extend(dropped(rule, &before, &packets(facts, ruleset, rule), &named));
        }
    }
    found.extend(ports.iter().flat_map(|port| unopened(ruleset, *port, uplink)));
    found
}

/// Whether a rule lets packets to a port through before they come to another of its chain.
fn lets_in(before: &Rule, rule: &Rule, port: u16) -> bool {
    let same_chain = (&before.table, &before.chain) == (&rule.table, &rule.chain);
    same_chain && before.verdict == Verdict::Accept && (before.names(port) || before.is_wide)
}

/// The tunnel packets that come to a rule's chain: one of each pair of VTEPs. A chain to which others jump is taken to
/// be one of packets that arrive.
fn packets(facts: &Facts, ruleset: &Ruleset, rule: &Rule) -> Vec<Packet> {
    let hook = ruleset.chains.iter().find(|chain| (&chain.table, &chain.name) == (&rule.table, &rule.chain));
    let way = match hook.map(|chain| chain.hook.as_str()) {
        Some("output" | "postrouting") => Way::Out,
        _ => Way::In,
    };
    let rows = facts.agent.iter().flat_map(|agent| &agent.vteps);
    let peers = rows.filter_map(|row| row.address.parse::<IpAddr>().ok());
    let pairs = peers.flat_map(|peer| {
        let mut own: Vec<IpAddr> = facts.listen.iter().map(std::net::SocketAddr::ip).collect();
        own.retain(|own| own.is_ipv4() == peer.is_ipv4());
        own.sort_unstable();
        own.dedup();
        own.into_iter().map(move |own| (peer, own))
    });
    let interface = |peer| facts.routed.iter().find(|(to, _)| *to == peer).map(|(_, interface)| interface.clone());
    pairs.map(|(peer, own)| Packet { way, peer, own, interface: interface(peer) }).collect()
}

/// A rule that drops tunnel packets: all of them, or perhaps some.
fn dropped(rule: &Rule, before: &[&Rule], packets: &[Packet], named: &str) -> Option<Finding> {
    let passes = |packet: &Packet| before.iter().any(|before| before.meets(packet) == Some(true));
    let met: Vec<&Packet> =
        packets.iter().filter(|packet| rule.meets(packet) != Some(false) && !passes(packet)).collect();
    if met.is_empty() && !packets.is_empty() {
        return None;
    }
    if met.len() == packets.len() && rule.conditions.is_empty() && before.is_empty() {
        let drops = error(
            "rule_drops_tunnel",
            [
                format!("a {named} and drops"),
                "tunnel packets do not reach the agent, or others".to_owned(),
                rule.place.clone(),
            ],
        );
        return Some(drops.by_command());
    }
    // Without an agent nobody is known.
    let whose = met.first().map_or_else(
        || "and drops some".to_owned(),
        |packet| match packet.way {
            Way::In => format!("and may drop what comes from {}", packet.peer),
            Way::Out => format!("and may drop what goes to {}", packet.peer),
        },
    );
    Some(warning(
        "rule_may_drop_tunnel",
        [
            format!("a {named} {whose}"),
            "a rule that keeps strangers out is good, as long as it lets every node of the cluster in".to_owned(),
            format!("look at it with {}, and let the nodes' addresses through before it", rule.shown_by()),
        ],
    ))
}

/// Chains that drop what no rule lets in: by their policy, or by a rule that drops all.
fn unopened(ruleset: &Ruleset, port: u16, uplink: bool) -> impl Iterator<Item = Finding> {
    let drops_rest = |chain: &&Chain| {
        let own = |rule: &&Rule| (&rule.table, &rule.chain) == (&chain.table, &chain.name);
        chain.drops_rest || ruleset.rules.iter().filter(own).any(Rule::drops_rest)
    };
    let chains = ruleset.chains.iter().filter(|chain| chain.hook == "input").filter(drops_rest);
    chains.filter_map(move |chain| {
        let lets_in = |rule: &Rule| rule.verdict == Verdict::Accept && (rule.names(port) || rule.is_wide);
        let may_jump = |rule: &Rule| rule.table == chain.table && lets_in(rule);
        if ruleset.rules.iter().any(may_jump) {
            return None;
        }
        let fix = match chain.table.split_once(' ') {
            Some((program @ ("iptables" | "ip6tables"), _)) => {
                format!("{program} -I {} -p udp --dport {port} -j ACCEPT", chain.name)
            }
            _ => format!("nft insert rule {} {} udp dport {port} accept", chain.table, chain.name),
        };
        let what = format!("{} {} drops what no rule accepts, and none accepts UDP port {port}", chain.table, chain.name);
        let closed = if uplink {
            warning(
                "closed_beside_uplink",
                [
                    what,
                    "what the uplink does not carry, fragments for one, does not reach the agent, nor anything without it"
                        .to_owned(),
                    fix,
                ],
            )
        } else {
            error("tunnel_port_closed", [what, "tunnel packets do not reach the agent".to_owned(), fix])
        };
        Some(closed.by_command())
    })
}
