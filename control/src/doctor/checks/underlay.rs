//! The way of tunnel packets: addresses, offloads, MTU, forwarding, UDP ports.

use std::net::IpAddr;

use super::{error, note, of_agent, quoted, warning};
use crate::doctor::Finding;
use crate::doctor::facts::Facts;
use crate::doctor::firewall::{Chain, Rule, Verdict};

/// Since when the kernel has each level of offload; older ones have it never.
const SINCE: [(&str, (u32, u32)); 5] =
    [("segment", (4, 18)), ("gro", (5, 0)), ("udp4", (6, 2)), ("udp6", (6, 2)), ("uplink", (6, 17))];
/// How reasons begin by which a level is off because somebody wants that.
const WANTED: [&str; 3] = ["switched off", "cannot be had without", "it has one queue"];

pub(super) fn addresses(facts: &Facts) -> Vec<Finding> {
    let mut missing: Vec<IpAddr> = facts.listen.iter().map(|at| at.ip()).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.retain(|address| facts.interface_of(*address).is_none());
    let gone = missing.into_iter().map(|address| {
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        error(
            "vtep_address_missing",
            [
                format!("no interface has this node's VTEP address {address}"),
                "the kernel sends no tunnel packet from it, and others' go nowhere".to_owned(),
                format!("ip address add {address}/{prefix} dev INTERFACE, or correct `underlay.addresses`"),
            ],
        )
    });
    let down = facts.listen.iter().filter_map(|at| facts.interface_of(at.ip())).filter(|interface| !interface.link.up);
    let mut down: Vec<&str> = down.map(|interface| interface.link.name.as_str()).collect();
    down.dedup();
    let down = down.into_iter().map(|name| {
        error(
            "underlay_down",
            [
                format!("the underlay's interface {name} is down"),
                "no tunnel packet leaves or arrives".to_owned(),
                format!("ip link set dev {} up", quoted(name)),
            ],
        )
        .by_command()
    });
    gone.chain(down).collect()
}

pub(super) fn offloads(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let found = agent.status.offloads.iter().filter_map(|row| {
            let (level, reason) = (&row.level, &row.reason);
            if row.used {
                return reason.starts_with("not towards ").then(|| {
                    warning(
                        "groups_given_up",
                        [
                            format!("{level} is {reason}"),
                            "packets to them leave one by one, which costs much of the throughput".to_owned(),
                            "ethtool -k the NICs on the path, and update their drivers; the agent tries again when it starts"
                                .to_owned(),
                        ],
                    )
                });
            }
            if WANTED.iter().any(|start| reason.starts_with(start)) {
                return None;
            }
            let since = SINCE.iter().find(|(name, _)| name == level).map(|(_, since)| *since);
            if let (Some(since), Some(have)) = (since, facts.kernel.version())
                && have < since
            {
                let (major, minor) = since;
                return Some(note(
                    "kernel_too_old",
                    [
                        format!("{level} needs Linux {major}.{minor}, and this is {}", facts.kernel.release),
                        "it is done in userspace, or not at all".to_owned(),
                        format!("Linux {major}.{minor} or later, where its throughput is needed"),
                    ],
                ));
            }
            Some(warning(
                "offload_off",
                [
                    format!("{level} is off: {reason}"),
                    "the agent does by itself what the kernel would do faster".to_owned(),
                    format!("see the agent's log; `offloads.{level} = \"off\"` says that it is meant to be so"),
                ],
            ))
        });
        found.collect()
    })
}

pub(super) fn mtu(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let configured = agent.status.underlay.mtu;
        let mut found = Vec::new();
        for interface in facts.listen.iter().filter_map(|at| facts.interface_of(at.ip())) {
            let (name, mtu) = (&interface.link.name, interface.link.mtu);
            if mtu < u32::from(configured) {
                let narrow = error(
                    "underlay_mtu",
                    [
                        format!("{name} has MTU {mtu}, and the agent counts on {configured}"),
                        "tunnel packets that are longer do not leave this node".to_owned(),
                        format!("ip link set dev {} mtu {configured}", quoted(name)),
                    ],
                );
                let other = format!("set `underlay.mtu = {mtu}` and start the agent again");
                found.push(narrow.by_command().or(&other));
            }
        }
        found.dedup();
        for vtep in &agent.vteps {
            let widest = agent.ports.iter().filter(|port| vtep.vnis.contains(&port.vni)).max_by_key(|port| port.mtu);
            if let Some(port) = widest.filter(|port| port.mtu > vtep.pod_mtu) {
                found.push(warning(
                    "path_too_narrow",
                    [
                        format!(
                            "port `{}` has MTU {}, and {} fit through the tunnel to {}",
                            port.name, port.mtu, vtep.pod_mtu, vtep.address
                        ),
                        "its pod is told by ICMP, and what does not heed that is dropped as exceeds_path_mtu"
                            .to_owned(),
                        format!(
                            "raise the MTU on the path to {}, or set `underlay.mtu = {}`",
                            vtep.address,
                            vtep.path_mtu.unwrap_or(configured)
                        ),
                    ],
                ));
            }
        }
        found
    })
}

pub(super) fn forwarding(facts: &Facts) -> Vec<Finding> {
    let Some(agent) = &facts.agent else { return Vec::new() };
    let Some(interface) = &agent.network_interface else { return Vec::new() };
    let mut found = Vec::new();
    if facts.kernel.forwards_ipv4 == Some(false) {
        let off = warning(
            "ip_forward_off",
            [
                "net.ipv4.ip_forward is 0".to_owned(),
                format!("pods of {} do not get out of the cluster's network through this node", agent.status.node),
                "sysctl -w net.ipv4.ip_forward=1".to_owned(),
            ],
        );
        found.push(off.by_command().or("for good, with the same in /etc/sysctl.d/"));
    }
    let Some(ruleset) = &facts.firewall else { return found };
    for chain in ruleset.chains.iter().filter(|chain| chain.hook == "forward" && chain.drops_rest) {
        let lets = |rule: &&Rule| rule.table == chain.table && rule.verdict == Verdict::Accept && rule.is_wide;
        if ruleset.rules.iter().find(lets).is_none() {
            let drops = warning(
                "forward_drops",
                [
                    format!("{} {} drops what is forwarded", chain.table, chain.name),
                    "pods do not get out of the cluster's network through this node".to_owned(),
                    letting_through(chain, interface),
                ],
            );
            found.push(drops.by_command());
        }
    }
    found
}

/// What lets a chain accept what comes from the node's own port, and what goes there.
fn letting_through(chain: &Chain, interface: &str) -> String {
    let interface = quoted(interface);
    match chain.table.split_once(' ') {
        Some((program @ ("iptables" | "ip6tables"), _)) => {
            let one = |way| format!("{program} -I {} {way} {interface} -j ACCEPT", chain.name);
            format!("{}; {}", one("-i"), one("-o"))
        }
        _ => {
            let one = |way| format!("nft insert rule {} {} {way} {interface} accept", chain.table, chain.name);
            format!("{}; {}", one("iifname"), one("oifname"))
        }
    }
}

pub(super) fn port_conflicts(facts: &Facts) -> Vec<Finding> {
    let own = facts.agent.as_ref().map(|agent| agent.status.pid);
    let mut found = Vec::new();
    for device in facts.interfaces.iter().map(|interface| &interface.link) {
        let Some(port) = device.tunnel_port.filter(|port| facts.udp_ports().contains(port)) else { continue };
        let taken = error(
            "kernel_tunnel_on_port",
            [
                format!("the kernel's device {} takes tunnel packets on UDP port {port} too", device.name),
                "a packet goes to one of the two, and to the other not".to_owned(),
                format!("give one of them another port, or ip link delete dev {}", quoted(&device.name)),
            ],
        );
        found.push(taken);
    }
    for socket in &facts.sockets {
        let Some(holder) = socket.holder.as_ref().filter(|holder| Some(holder.pid) != own) else { continue };
        let overlaps = |at: &std::net::SocketAddr| {
            let wild = socket.at.ip().is_unspecified() && (socket.at.is_ipv6() || at.is_ipv4());
            at.port() == socket.at.port() && (at.ip() == socket.at.ip() || wild)
        };
        let Some(at) = facts.listen.iter().find(|at| overlaps(at)) else { continue };
        let taken = error(
            "port_taken",
            [
                format!(
                    "process {} ({}) has UDP {} open, and the agent wants {at}",
                    holder.pid, holder.name, socket.at
                ),
                "tunnel packets may go to it, or the agent does not start".to_owned(),
                format!("end it: kill {}, or take other `underlay.vxlan_ports` and `geneve_ports`", holder.pid),
            ],
        );
        found.push(taken);
    }
    found
}
