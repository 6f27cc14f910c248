//! What must go on, and what must not be left, when an uplink comes, goes, breaks or is killed.

use std::net::IpAddr;

use weft_control::config::file::unspanned;
use weft_integration::UnderlayKind::{self, Auto, Socket, Uplink};
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Host, MIB, MacAddr, Node, Overlay, Site, eventually,
    exchange, ping_all, site, stream,
};

const DEVICE: &str = "weft-up0";
const ARP: [u8; 2] = [0x08, 0x06];

fn config(site: &Site, own: &Node, peer: IpAddr, pod: &Host, number: usize) -> AgentConfig {
    AgentConfig::new(site, own, &[Family::Ipv4])
        .vni(Overlay::VNI)
        .peer(peer, Encapsulation::Vxlan, &[Overlay::VNI])
        .port(pod, Overlay::VNI, &Overlay::NETWORKS[number])
}

/// Two nodes with these kinds of underlay, over IPv4.
fn overlay(site: &Site, kinds: [UnderlayKind; 2]) -> Overlay {
    overlay_over(site, Family::Ipv4, kinds)
}

fn overlay_over(site: &Site, family: Family, kinds: [UnderlayKind; 2]) -> Overlay {
    let pods = ["a", "b"].map(|name| site.host(name));
    let carrier = (Encapsulation::Vxlan, family);
    let overlay = Overlay::start_over(site, site.pair(), pods, carrier, kinds);
    for (agent, kind) in overlay.agents.iter().zip(kinds) {
        agent.wait_for_way(if kind == Socket { "socket" } else { "uplink" });
    }
    overlay
}

fn redirects(node: &Node) -> usize {
    node.tc("filter show dev eth0 ingress").matches("mirred").count()
}

fn assert_nothing_is_left(node: &Node) {
    let qdiscs = node.tc("qdisc show");
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    let links = node.ip("link show");
    assert!(!links.contains("weft-up"), "{links}");
}

fn assert_traffic([a, b]: &[Host; 2]) {
    ping_all(a, Overlay::IPV4[1]);
    ping_all(b, Overlay::IPV6[0]);
    stream(a, b, Overlay::IPV4[1], 16 * MIB);
    stream(b, a, Overlay::IPV4[0], 16 * MIB);
}

#[test]
fn teardown_leaves_nothing() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let site = site!("ip", "tc");
        let Overlay { nodes, pods, agents } = overlay_over(&site, family, [Uplink, Uplink]);
        assert!(nodes.iter().all(|node| redirects(node) > 0));
        assert_traffic(&pods);
        agents.into_iter().for_each(AgentNode::finish);
        nodes.iter().for_each(assert_nothing_is_left);
    }
}

/// A filter that outlives its device is a black hole.
#[test]
fn crash_then_start_with_socket_carries_traffic() {
    crash_then_start_with(Socket);
}

#[test]
fn crash_then_start_with_uplink_carries_traffic() {
    crash_then_start_with(Uplink);
}

fn crash_then_start_with(kind: UnderlayKind) {
    let site = site!("ip", "tc");
    let Overlay { nodes, pods, agents } = overlay(&site, [Uplink, Uplink]);
    assert_traffic(&pods);
    let [killed, other] = agents;
    killed.kill();
    assert!(redirects(&nodes[0]) > 0, "the killed agent's redirects are there: nothing to be proven otherwise");
    assert!(!nodes[0].ip("link show").contains("weft-up"), "the device goes with its process");
    let peer = nodes[1].address(Family::Ipv4);
    let again = config(&site, &nodes[0], peer, &pods[0], 0).underlay(kind).start();
    assert_traffic(&pods);
    if kind == Socket {
        assert_nothing_is_left(&nodes[0]);
    }
    again.finish();
    assert_nothing_is_left(&nodes[0]);
    other.finish();
}

/// Somebody else's qdisc and filters are there before, during and after.
#[test]
fn other_peoples_filters_stay() {
    let site = site!("ip", "tc");
    let nodes = site.pair();
    let node = &nodes[0];
    node.tc("qdisc add dev eth0 clsact");
    for hook in ["ingress", "egress"] {
        node.tc(&format!("filter add dev eth0 {hook} protocol ip prio 5 u32 match ip dport 9 0xffff flowid 1:1"));
        node.tc(&format!("filter add dev eth0 {hook} protocol ip prio 30000 u32 match u32 0 0 flowid 1:1"));
    }
    let shown = || ["ingress", "egress"].map(|hook| node.tc(&format!("filter show dev eth0 {hook}")));
    let before = shown();
    let pods = ["a", "b"].map(|name| site.host(name));
    let start = |own: usize| config(&site, &nodes[own], nodes[1 - own].address(Family::Ipv4), &pods[own], own);
    let other = start(1).start();
    for crashes in [false, true] {
        let agent = start(0).underlay(Uplink).start();
        agent.wait_for_way("uplink");
        assert_traffic(&pods);
        assert_ne!(shown(), before);
        if crashes {
            agent.kill();
        } else {
            agent.finish();
        }
        assert_eq!(redirects(node) > 0, crashes);
    }
    start(0).underlay(Socket).start().finish();
    assert_eq!(shown(), before);
    other.finish();
}

/// Whatever breaks, the sockets go on with it at once, and it is said why.
#[test]
fn an_uplink_that_breaks_is_given_up() {
    let ways: [(&str, &[&str], &str); 4] = [
        ("ip", &["link", "delete", DEVICE], DEVICE),
        ("ip", &["link", "set", DEVICE, "down"], DEVICE),
        ("tc", &["qdisc", "delete", "dev", "eth0", "clsact"], "redirect"),
        ("tc", &["filter", "delete", "dev", "eth0", "ingress"], "redirect"),
    ];
    for (program, words, told) in ways {
        println!("{program} {words:?}");
        let site = site!("ip", "tc");
        let Overlay { nodes, pods, agents } = overlay(&site, [Uplink, Uplink]);
        let [a, b] = &pods;
        std::thread::scope(|scope| {
            let streams = [
                scope.spawn(|| stream(a, b, Overlay::IPV4[1], 512 * MIB)),
                scope.spawn(|| stream(b, a, Overlay::IPV6[0], 512 * MIB)),
            ];
            eventually("the streams are under way", || {
                let sent = agents[0].forwarded("sent");
                if sent > 2000 { Ok(()) } else { Err(format!("{sent} sent")) }
            });
            nodes[0].run(&[&[program], words].concat());
            streams.into_iter().for_each(|stream| drop(stream.join().unwrap()));
        });
        agents[0].wait_for_way("socket");
        let status = agents[0].status().underlay;
        let reason = status.reason.unwrap();
        assert_eq!(status.level, "socket+offload");
        assert!(reason.starts_with("no uplink: ") && reason.contains(told), "{reason}");
        eventually("nothing is left", || {
            let left = redirects(&nodes[0]);
            if left == 0 { Ok(()) } else { Err(format!("{left} redirects")) }
        });
        assert_traffic(&pods);
        // No more than one turn's frames: what went to a device that was not there any more.
        let dropped: u64 = agents[0].dropped().iter().map(|(_, count)| count).sum();
        assert!(dropped <= 128, "{:?}", agents[0].dropped());
        agents.into_iter().for_each(AgentNode::finish);
    }
}

/// Nothing waits, and nothing is lost, for a MAC that is not known yet (antrea#467, ovs-issues#253).
#[test]
fn first_packets_are_not_lost_on_a_neighbour_miss() {
    let site = site!("ip");
    let Overlay { nodes, pods, agents } = overlay(&site, [Uplink, Uplink]);
    let [a, b] = &pods;
    ping_all(a, Overlay::IPV4[1]);
    for _ in 0..5 {
        nodes.iter().for_each(|node| drop(node.ip("neighbour flush all")));
        ping_all(a, Overlay::IPV4[1]);
        nodes.iter().for_each(|node| drop(node.ip("neighbour flush all")));
        ping_all(b, Overlay::IPV4[0]);
    }
    agents.iter().for_each(|agent| agent.wait_for_way("uplink"));
    agents.iter().for_each(|agent| assert_eq!(agent.dropped(), []));
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn a_next_hop_may_get_another_mac() {
    let site = site!("ip");
    let Overlay { nodes, pods, agents } = overlay(&site, [Uplink, Uplink]);
    let [a, b] = &pods;
    for last in 1..=3 {
        nodes[1].netns().links(|links| links.set_mac("eth0", MacAddr([2, 0, 0, 0, 1, last]))).unwrap();
        stream(a, b, Overlay::IPV4[1], 64 * MIB);
        stream(b, a, Overlay::IPV4[0], 64 * MIB);
        agents.iter().for_each(|agent| agent.wait_for_way("uplink"));
    }
    agents.into_iter().for_each(AgentNode::finish);
}

/// Our packets confirm no neighbour, so the kernel would let the entry rot.
#[test]
fn the_next_hop_is_kept_fresh() {
    let site = site!("ip");
    let Overlay { nodes, agents, .. } = overlay(&site, [Uplink, Socket]);
    for name in ["base_reachable_time_ms", "delay_first_probe_time"] {
        nodes[0].set(&format!("ipv4/neigh/eth0/{name}"), if name.ends_with("ms") { "500" } else { "1" });
    }
    let (ours, theirs) = (nodes[0].mac("eth0"), nodes[1].mac("eth0"));
    let mut capture = Capture::start(&nodes[1], "eth0");
    // A new reachable time holds from the next confirmation on.
    nodes[0].ip("neighbour flush all");
    capture.wait_for(3, |frame| frame[..6] == theirs.0 && frame[6..12] == ours.0 && frame[12..14] == ARP);
    agents[0].wait_for_way("uplink");
    agents.into_iter().for_each(AgentNode::finish);
}

/// A VTEP behind a router is reached by the router's MAC; one that moves behind another interface, by the sockets.
#[test]
fn routes_are_followed() {
    let site = site!("ip");
    let nodes = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let far: IpAddr = "198.51.100.2".parse().unwrap();
    nodes[1].ip("address add 198.51.100.2/32 dev lo");
    nodes[0].ip("route add 198.51.100.2/32 via 192.0.2.2");
    let agent = config(&site, &nodes[0], far, &pods[0], 0).underlay(Uplink).start();
    let mut other = config(&site, &nodes[1], nodes[0].address(Family::Ipv4), &pods[1], 1);
    other.file.underlay.addresses = unspanned(vec![far]);
    let other = other.start();
    agent.wait_for_way("uplink");
    assert_traffic(&pods);

    nodes[0].netns().links(|links| links.add_veth("eth1", "eth1", nodes[1].netns())).unwrap();
    for (node, number) in nodes.iter().zip(1..) {
        node.ip(&format!("address add 203.0.113.{number}/24 dev eth1"));
        node.ip("link set eth1 up");
    }
    nodes[0].ip("route replace 198.51.100.2/32 via 203.0.113.2");
    agent.wait_for_way("socket");
    assert_eq!(agent.status().underlay.level, "uplink");
    assert_traffic(&pods);
    nodes[0].ip("route replace blackhole 198.51.100.2/32");
    nodes[0].ip("route replace 198.51.100.2/32 via 192.0.2.2");
    agent.wait_for_way("uplink");
    assert_traffic(&pods);
    agent.finish();
    other.finish();
}

#[test]
fn auto_takes_an_uplink_where_there_can_be_one() {
    let site = site!("ip", "tc");
    let Overlay { nodes, pods, agents } = overlay(&site, [Auto, Auto]);
    agents.iter().for_each(|agent| assert_eq!(agent.status().underlay.level, "uplink"));
    agents.into_iter().for_each(AgentNode::finish);

    // An address on no Ethernet interface.
    nodes[0].ip("address add 198.51.100.1/32 dev lo");
    let start = |kind| {
        let mut config = config(&site, &nodes[0], nodes[1].address(Family::Ipv4), &pods[0], 0).underlay(kind);
        config.file.underlay.addresses = unspanned(vec!["198.51.100.1".parse().unwrap()]);
        config.attempt()
    };
    let agent = start(Auto).unwrap();
    let status = agent.status().underlay;
    let reason = status.reason.unwrap();
    assert_eq!(status.level, "socket+offload");
    assert!(reason.contains("`lo`, which is no Ethernet interface"), "{reason}");
    agent.finish();
    let refused = start(Uplink).unwrap_err();
    assert!(refused.message.contains("`lo`, which is no Ethernet interface"), "{}", refused.message);
    assert!(refused.message.contains("`underlay.kind`"), "{}", refused.message);
    assert_nothing_is_left(&nodes[0]);
}

/// Pods' packets go on while the agent that carries them is stopped and started: nothing of the old uplink holds.
#[test]
fn restarts_one_after_the_other() {
    let site = site!("ip", "tc");
    let nodes = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let start = |own: usize| config(&site, &nodes[own], nodes[1 - own].address(Family::Ipv4), &pods[own], own);
    let other = start(1).underlay(Uplink).start();
    for kind in [Uplink, Socket, Auto, Socket, Uplink] {
        let agent = start(0).underlay(kind).start();
        ping_all(&pods[0], Overlay::IPV4[1]);
        agent.wait_for_way(if kind == Socket { "socket" } else { "uplink" });
        exchange(&pods[0], &pods[1], Overlay::IPV4[1], 200, 100);
        agent.finish();
    }
    assert_nothing_is_left(&nodes[0]);
    other.finish();
}
