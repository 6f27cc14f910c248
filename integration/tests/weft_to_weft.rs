//! Weft on both nodes, over sockets: streams and datagrams, every byte of them compared.

use weft_control::config::file::Switch;
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Frame, GIB, MIB, MacAddr, Node, Overlay, PacketSocket,
    Site, UnderlayKind, ethernet, exchange, exchange_superframes, mac_of, ping_all, site, stream, streams,
};

/// An EtherType of nobody (IEEE 802 local experimental 1), so that no stack answers.
const EXPERIMENT: u16 = 0x88b5;

fn between_two(site: &Site, encapsulation: Encapsulation, family: Family, bytes: u64) {
    let pods = ["a", "b"].map(|name| site.host(name));
    let kinds = [UnderlayKind::Socket; 2];
    let overlay = Overlay::start_over(site, site.pair(), pods, (encapsulation, family), kinds);
    let [a, b] = &overlay.pods;
    for addresses in [Overlay::IPV4, Overlay::IPV6] {
        ping_all(a, addresses[1]);
        ping_all(b, addresses[0]);
        // The greater part in IPv4; what differs in IPv6 shows in less.
        let bytes = if addresses == Overlay::IPV4 { bytes } else { bytes / 4 };
        stream(a, b, addresses[1], bytes);
        stream(b, a, addresses[0], bytes);
        streams(4, a, b, addresses[1], 32 * MIB);
        for size in [1, 18, 64, 1300] {
            exchange(a, b, addresses[1], size, 500);
        }
        exchange_superframes(b, a, addresses[0], 1300, 40, 2000);
        exchange_superframes(b, a, addresses[0], 100, 64, 2000);
    }
    for agent in &overlay.agents {
        assert_eq!(agent.dropped(), [], "nothing is lost between two nodes");
        assert_eq!(agent.status().underlay.level, "socket+offload");
    }
    overlay.finish();
}

#[test]
fn vxlan_over_ipv4() {
    let site = site!();
    between_two(&site, Encapsulation::Vxlan, Family::Ipv4, GIB);
}

#[test]
fn vxlan_over_ipv6() {
    let site = site!();
    between_two(&site, Encapsulation::Vxlan, Family::Ipv6, 256 * MIB);
}

#[test]
fn geneve_over_ipv4() {
    let site = site!();
    between_two(&site, Encapsulation::Geneve, Family::Ipv4, 256 * MIB);
}

#[test]
fn geneve_over_ipv6() {
    let site = site!();
    between_two(&site, Encapsulation::Geneve, Family::Ipv6, 256 * MIB);
}

#[test]
fn without_offload_of_the_underlay() {
    let site = site!();
    let (nodes, pods) = (site.pair(), ["a", "b"].map(|name| site.host(name)));
    let agents = [0, 1].map(|own| {
        let mut config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4])
            .vni(7)
            .peer(nodes[1 - own].address(Family::Ipv4), Encapsulation::Vxlan, &[7])
            .port(&pods[own], 7, &Overlay::NETWORKS[own])
            .underlay(UnderlayKind::Socket);
        config.file.offloads.segment = Switch::Off;
        config.file.offloads.gro = Switch::Off;
        config.start()
    });
    let status = agents[0].status().underlay;
    assert_eq!((status.level.as_str(), status.reason.is_some()), ("socket", true), "{status:?}");
    ping_all(&pods[0], Overlay::IPV4[1]);
    stream(&pods[0], &pods[1], Overlay::IPV4[1], 64 * MIB);
    exchange_superframes(&pods[1], &pods[0], Overlay::IPV6[0], 1300, 40, 2000);
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn across_something_like_a_wire() {
    let site = site!("ethtool");
    let nodes = site.pair();
    nodes.iter().for_each(Node::like_a_wire);
    let pods = ["a", "b"].map(|name| site.host(name));
    let carrier = (Encapsulation::Vxlan, Family::Ipv4);
    let overlay = Overlay::start_over(&site, nodes, pods, carrier, [UnderlayKind::Socket; 2]);
    let [a, b] = &overlay.pods;
    ping_all(a, Overlay::IPV4[1]);
    stream(a, b, Overlay::IPV4[1], 128 * MIB);
    stream(b, a, Overlay::IPV6[0], 128 * MIB);
    exchange_superframes(a, b, Overlay::IPV4[1], 1300, 40, 2000);
    overlay.agents.iter().for_each(|agent| assert_eq!(agent.dropped(), []));
    overlay.finish();
}

#[test]
fn two_networks_with_the_same_addresses_do_not_meet() {
    let site = site!();
    let nodes = site.pair();
    let pods = [["a1", "b1"], ["a2", "b2"]].map(|names| names.map(|name| site.host(name)));
    let agents = [0, 1].map(|own: usize| {
        let mut config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).vni(1).vni(2);
        let peer = nodes[1 - own].address(Family::Ipv4);
        config = config.peer(peer, Encapsulation::Vxlan, &[1, 2]);
        for (vni, pods) in [(1, &pods[0]), (2, &pods[1])] {
            let mac = mac_of(own as u8 + 1);
            config = config.port(&pods[own], vni, &Overlay::NETWORKS[own]).with_mac(mac);
        }
        config.start()
    });
    for pods in &pods {
        ping_all(&pods[0], Overlay::IPV4[1]);
        ping_all(&pods[1], Overlay::IPV6[0]);
        stream(&pods[0], &pods[1], Overlay::IPV4[1], 16 * MIB);
    }
    // Unicast and broadcast of one network, every frame of which the other would notice.
    let captures = ["a2", "b2"].map(|name| pods[1].iter().find(|pod| pod.name() == name).unwrap());
    let captures = captures.map(|pod| Capture::start(pod, "eth0"));
    let mut seen = Capture::start(&pods[0][1], "eth0");
    let socket = PacketSocket::open(&pods[0][0], "eth0");
    let own = pods[0][0].mac("eth0");
    for target in [MacAddr([0xff; 6]), pods[0][1].mac("eth0"), mac_of(77)] {
        (0..50).for_each(|_| socket.send(&ethernet(target, own, EXPERIMENT, b"of network 1")));
    }
    seen.wait_for(150, |frame| frame.ends_with(b"of network 1"));
    for agent in &agents {
        agent.assert_laws();
        for vni in [1, 2] {
            assert_eq!(agent.fdb().iter().filter(|row| row.vni == vni).count(), 2, "{:?}", agent.fdb());
        }
    }
    for capture in captures {
        let strange: Vec<Frame> = capture.stop().into_iter().filter(|frame| frame.ends_with(b"of network 1")).collect();
        assert!(strange.is_empty(), "network 2 saw {} frames of network 1", strange.len());
    }
    agents.into_iter().for_each(AgentNode::finish);
}
