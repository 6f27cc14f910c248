//! Paths that carry less than their first link, and routes that refuse.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use weft_bridge::DropReason;
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Host, MIB, Node, Overlay, Site, eventually, ping_all,
    send_superframe, site, stream,
};

/// A pod on each of two nodes.
fn pods(site: &Site, nodes: &[Node; 2], families: Family) -> ([Host; 2], [AgentNode; 2]) {
    let pods = ["a", "b"].map(|name| site.host(name));
    let agents = [0, 1].map(|own: usize| {
        AgentConfig::new(site, &nodes[own], &[families])
            .vni(7)
            .peer(nodes[1 - own].address(families), Encapsulation::Vxlan, &[7])
            .port(&pods[own], 7, &Overlay::NETWORKS[own])
            .start()
    });
    (pods, agents)
}

fn path_mtu_becomes(agent: &AgentNode, expected: u16, within: Duration) {
    let started = Instant::now();
    loop {
        let row = agent.vteps().remove(0);
        if (row.path.as_str(), row.path_mtu) == ("up", Some(expected)) {
            return;
        }
        assert!(started.elapsed() < within, "path MTU {expected} not within {within:?}: {row:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Mic92/tincr#109: 25 minutes of complete loss above 1320 bytes.
#[test]
fn never_recovering_after_a_path_mtu_decrease() {
    path_mtu_decrease(&site!("ip"), Family::Ipv4, 50);
}

#[test]
fn never_recovering_after_a_path_mtu_decrease_over_ipv6() {
    path_mtu_decrease(&site!("ip"), Family::Ipv6, 70);
}

fn path_mtu_decrease(site: &Site, family: Family, overhead: u16) {
    let (switch, nodes) = site.switched();
    let ([a, b], agents) = pods(site, &nodes, family);
    ping_all(&a, Overlay::IPV4[1]);
    path_mtu_becomes(&agents[0], 1500, Duration::from_secs(10));

    // The link to node 2 becomes narrower, and nobody says so: a bridge sends no ICMP.
    switch.ip("link set port2 mtu 1380");
    stream(&a, &b, Overlay::IPV4[1], 4 * MIB);
    path_mtu_becomes(&agents[0], 1380, Duration::from_secs(4));
    let longest = 1380 - overhead;
    let told = a.try_run(&["ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", "1372", Overlay::IPV4[1]]);
    let told = told.stdout + &told.stderr;
    assert!(told.contains(&format!("mtu = {longest}")) || told.contains(&format!("mtu={longest}")), "{told}");
    let route = a.ip(&format!("route get {}", Overlay::IPV4[1]));
    assert!(route.contains(&format!("mtu {longest}")), "{route}");
    assert!(agents[0].dropped_as(DropReason::ExceedsPathMtu) > 0);
    stream(&a, &b, Overlay::IPV4[1], 4 * MIB);

    switch.ip("link set port2 mtu 1500");
    path_mtu_becomes(&agents[0], 1500, Duration::from_secs(60));
    agents.into_iter().for_each(AgentNode::finish);
}

/// A path that echoes short probes is not up at its full length; and what it is up at has arrived there.
#[test]
fn up_means_that_a_probe_of_full_length_came_back() {
    const NARROW: u16 = 1000;
    let site = site!("ip", "ethtool");
    let (switch, nodes) = site.switched();
    switch.ip(&format!("link set port2 mtu {NARROW}"));
    // What is sent as a group shows as the packets that it stands for.
    nodes[0].like_a_wire();
    let mut capture = Capture::start(&nodes[1], "eth0");
    let (_, agents) = pods(&site, &nodes, Family::Ipv4);
    let up = eventually("the path is up", || {
        let row = agents[0].vteps().remove(0);
        if row.path == "up" { Ok(row) } else { Err(format!("{row:?}")) }
    });
    assert_eq!((up.path_mtu, up.pod_mtu), (Some(NARROW), NARROW - 50));
    capture.wait_for(1, |frame| frame.len() == 14 + usize::from(NARROW));
    assert!(capture.stop().iter().all(|frame| frame.len() <= 14 + usize::from(NARROW)));
    agents.into_iter().for_each(AgentNode::finish);
}

/// A blackhole route answers EINVAL to a group as to a packet: that says nothing of segmentation.
#[test]
fn a_route_that_refuses_costs_its_peer_only() {
    let site = site!("ip");
    let nodes = site.pair();
    let ([a, b], agents) = pods(&site, &nodes, Family::Ipv4);
    ping_all(&a, Overlay::IPV4[1]);
    let (own, to): (Ipv4Addr, Ipv4Addr) = (Overlay::IPV4[0].parse().unwrap(), Overlay::IPV4[1].parse().unwrap());
    let refused = |agent: &AgentNode| agent.dropped_as(DropReason::UnderlayUnreachable);
    let level = agents[0].status().underlay.level;
    nodes[0].ip(&format!("route add blackhole {}/32", nodes[1].address(Family::Ipv4)));
    let before = refused(&agents[0]);
    send_superframe(&a, (own, to), 1000, &[5; 2000]);
    eventually("the superframe is refused", || {
        if refused(&agents[0]) > before { Ok(()) } else { Err(format!("{:?}", agents[0].dropped())) }
    });
    let status = agents[0].status().underlay;
    assert_eq!((status.level, status.reason), (level, None));
    nodes[0].ip(&format!("route delete blackhole {}/32", nodes[1].address(Family::Ipv4)));
    stream(&a, &b, Overlay::IPV4[1], 16 * MIB);
    agents.into_iter().for_each(AgentNode::finish);
}
