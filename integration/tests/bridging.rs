//! What a bridge does: copies, learning, ageing, moves, and what must never come back.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::UdpSocket;

use weft_bridge::DropReason;
use weft_control::config::file::unspanned;
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Frame, Host, MIB, MacAddr, Node, PacketSocket, Site,
    arp_request, ethernet, eventually, exchange, exchange_superframes, mac_of, ping_all, site, stream, vxlan,
};

/// An EtherType of nobody (IEEE 802 local experimental 1), so that no stack answers.
const EXPERIMENT: u16 = 0x88b5;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const VNI: u32 = 9;
const ADDRESSES: [&str; 4] = ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"];

/// Three nodes, with pods `a` and `d` on the first, `b` on the second and `c` on the third, in one network.
struct Triangle {
    nodes: [Node; 3],
    pods: [Host; 4],
    agents: [AgentNode; 3],
}

impl Triangle {
    /// `learning`: the pods whose ports learn, by name.
    fn new(site: &Site, learning: &str, adjust: impl Fn(&mut AgentConfig)) -> Self {
        let nodes: [_; 3] = site.nodes();
        let pods = ["a", "b", "c", "d"].map(|name| site.host(name));
        pods.iter().for_each(Host::silence);
        let agents = [&[0, 3][..], &[1], &[2]].map(|here| {
            let own = here[0];
            let mut config = AgentConfig::new(site, &nodes[own], &[Family::Ipv4]).vni(VNI);
            for other in (0..3).filter(|other| *other != own) {
                config = config.peer(nodes[other].address(Family::Ipv4), Encapsulation::Vxlan, &[VNI]);
            }
            for pod in here {
                let network = format!("{}/24", ADDRESSES[*pod]);
                let learns = learning.contains(pods[*pod].name());
                let add = if learns { AgentConfig::learning_port } else { AgentConfig::port };
                config = add(config, &pods[*pod], VNI, &[&network]);
            }
            adjust(&mut config);
            config.start()
        });
        Self { nodes, pods, agents }
    }

    fn finish(self) {
        self.agents.into_iter().for_each(AgentNode::finish);
    }
}

/// Says hello from a MAC to everybody.
fn announce(pod: &Host, mac: MacAddr) {
    PacketSocket::open(pod, "eth0").send(&ethernet(BROADCAST, mac, EXPERIMENT, b"hello"));
}

/// Waits until the agent has learned a MAC there.
#[track_caller]
fn knows(agent: &AgentNode, mac: MacAddr, at: &str) {
    eventually("the MAC is learned", || {
        let rows = agent.fdb();
        let known = rows.iter().any(|row| row.mac == mac.to_string() && row.at == at && row.kind == "learned");
        if known { Ok(()) } else { Err(format!("{mac} is not at {at}: {rows:?}")) }
    });
}

#[test]
fn a_group_frame_reaches_every_pod_once_and_its_sender_never() {
    const FRAMES: usize = 200;
    let site = site!();
    let triangle = Triangle::new(&site, "", |_| {});
    let targets = [BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 42]), mac_of(99)];
    for (sender, pod) in triangle.pods.iter().enumerate() {
        let captures = triangle.pods.each_ref().map(|pod| Capture::start(pod, "eth0"));
        let (socket, own) = (PacketSocket::open(pod, "eth0"), pod.mac("eth0"));
        for number in 0..FRAMES {
            let payload = [&b"copy "[..], &number.to_be_bytes()].concat();
            socket.send(&ethernet(targets[number % targets.len()], own, EXPERIMENT, &payload));
        }
        for (receiver, mut capture) in captures.into_iter().enumerate() {
            let is_copy = |frame: &Frame| frame[14..].starts_with(b"copy ");
            let expected = if receiver == sender { 0 } else { FRAMES };
            capture.wait_for(expected, is_copy);
            triangle.agents.iter().for_each(AgentNode::assert_laws);
            let mut copies: Vec<Frame> = capture.stop().into_iter().filter(is_copy).collect();
            copies.sort_by_key(|copy| copy[19..].to_vec());
            let numbers = copies.iter().map(|copy| usize::from_be_bytes(copy[19..].try_into().unwrap()));
            assert!(numbers.eq(0..expected), "{sender} to {receiver}: {} copies of {expected}", copies.len());
        }
    }
    for agent in &triangle.agents {
        assert_eq!(agent.dropped(), []);
    }
    triangle.finish();
}

#[test]
fn pods_of_one_node_meet_without_the_underlay() {
    let site = site!();
    let triangle = Triangle::new(&site, "", |config| *config = config.clone().without_probes());
    let ([a, _, _, d], agent) = (&triangle.pods, &triangle.agents[0]);
    ping_all(a, ADDRESSES[3]);
    agent.assert_laws();
    let (before, reads) = (agent.forwarded("underlay_datagrams_out"), agent.forwarded("port_reads"));
    stream(a, d, ADDRESSES[3], 512 * MIB);
    agent.assert_laws();
    let reads = agent.forwarded("port_reads") - reads;
    assert!(reads < 200_000, "{reads} reads for 512 MiB: superframes were cut");
    exchange(d, a, ADDRESSES[0], 1300, 500);
    exchange_superframes(a, d, ADDRESSES[3], 1300, 40, 2000);
    assert_eq!(agent.forwarded("underlay_datagrams_out"), before, "something left the node");
    assert_eq!(agent.dropped(), []);
    triangle.finish();
}

#[test]
fn what_came_from_a_vtep_goes_to_none() {
    let site = site!();
    let triangle = Triangle::new(&site, "abc", |_| {});
    let [a, b, c, _] = &triangle.pods;
    announce(c, mac_of(3));
    knows(&triangle.agents[1], mac_of(3), "192.0.2.3");
    // A frame for c is sent to the second node as if by the first: passing it on would make a loop possible.
    let captures = [b, c].map(|pod| Capture::start(pod, "eth0"));
    let sender = triangle.nodes[0].netns().run(|| UdpSocket::bind("192.0.2.1:0")).unwrap().unwrap();
    for _ in 0..10 {
        let frame = ethernet(mac_of(3), mac_of(1), EXPERIMENT, b"detour");
        sender.send_to(&vxlan(VNI, &frame), "192.0.2.2:4789").unwrap();
    }
    eventually("the detour is refused", || match triangle.agents[1].dropped_as(DropReason::SplitHorizon) {
        10 => Ok(()),
        seen => Err(format!("{seen} dropped")),
    });
    PacketSocket::open(a, "eth0").send(&ethernet(BROADCAST, mac_of(4), EXPERIMENT, b"marker"));
    for mut capture in captures {
        capture.wait_for(1, |frame| frame.ends_with(b"marker"));
        assert!(capture.stop().iter().all(|frame| !frame.ends_with(b"detour")));
    }
    triangle.finish();
}

#[test]
fn a_short_arp_request_passes_unpadded() {
    let site = site!();
    let triangle = Triangle::new(&site, "", |_| {});
    let [a, b, ..] = &triangle.pods;
    let mut capture = Capture::start(b, "eth0");
    let request = arp_request(a.mac("eth0"), ADDRESSES[0].parse().unwrap(), "10.9.0.77".parse().unwrap());
    assert_eq!(request.len(), 42);
    PacketSocket::open(a, "eth0").send(&request);
    capture.wait_for(1, |frame| *frame == request);
    triangle.finish();
}

/// A bridge in the pod's namespace, with its device as one port and three hosts behind the others.
fn hosts_behind(site: &Site, pod: &Host, network: u8) -> [Host; 3] {
    pod.ip("link add br0 type bridge");
    pod.ip("link set br0 up");
    pod.ip("link set eth0 master br0");
    [11, 12, 13].map(|number| {
        let host = site.host(&format!("{}-h{number}", pod.name()));
        host.silence();
        let port = format!("port{number}");
        pod.netns().links(|links| links.add_veth(&port, "eth0", host.netns())).unwrap();
        // What goes through the tunnel has to fit it.
        for (place, interface) in [(pod, port.as_str()), (&host, "eth0")] {
            place.ip(&format!("link set {interface} mtu {} up", pod.link("eth0").mtu));
        }
        pod.ip(&format!("link set {port} master br0"));
        host.ip(&format!("address add 10.9.{network}.{number}/16 dev eth0"));
        host
    })
}

#[test]
fn macs_behind_a_learning_port_beside_bound_ones() {
    let site = site!("ip");
    // The port in front of the bridge has no addresses of its own.
    let triangle = Triangle::new(&site, "d", |config| {
        for port in &mut config.file.ports {
            let prefix = |address: &ipnet::IpNet| format!("{}/16", address.addr()).parse().unwrap();
            let own: Vec<_> = port.addresses.as_ref().iter().map(prefix).collect();
            port.addresses = unspanned(if port.name.as_ref() == "d" { Vec::new() } else { own });
        }
    });
    let [a, b, c, d] = &triangle.pods;
    let hosts = hosts_behind(&site, d, 1);
    for (host, number) in hosts.iter().zip([11, 12, 13]) {
        let address = format!("10.9.1.{number}");
        for pod in [a, b, c] {
            ping_all(pod, &address);
        }
        ping_all(host, ADDRESSES[1]);
        knows(&triangle.agents[0], host.mac("eth0"), "d");
        knows(&triangle.agents[1], host.mac("eth0"), "192.0.2.1");
    }
    stream(&hosts[0], b, ADDRESSES[1], 64 * MIB);
    stream(b, &hosts[2], "10.9.1.13", 64 * MIB);
    stream(&hosts[1], a, ADDRESSES[0], 64 * MIB);
    assert!(triangle.agents[0].port("d").learned >= 3);
    assert_eq!(triangle.agents[0].port("a").learned, 0, "nothing is learned behind a bound port");
    // A bound port's pod cannot speak for a host behind the learning one.
    announce(a, hosts[0].mac("eth0"));
    eventually("the impostor is refused", || match triangle.agents[0].dropped_as(DropReason::SpoofedMac) {
        1 => Ok(()),
        seen => Err(format!("{seen} dropped")),
    });
    knows(&triangle.agents[0], hosts[0].mac("eth0"), "d");
    ping_all(b, "10.9.1.11");
    triangle.finish();
}

#[test]
fn a_silent_mac_is_forgotten_and_flooded_to_again() {
    let site = site!();
    let triangle = Triangle::new(&site, "c", |config| config.file.fdb.ageing_seconds = unspanned(2));
    let [a, b, c, _] = &triangle.pods;
    announce(c, mac_of(5));
    for agent in &triangle.agents[..2] {
        knows(agent, mac_of(5), "192.0.2.3");
    }
    knows(&triangle.agents[2], mac_of(5), "c");
    let mut at_b = Capture::start(b, "eth0");
    let mut at_c = Capture::start(c, "eth0");
    let from_a = |word: &[u8]| {
        PacketSocket::open(a, "eth0").send(&ethernet(mac_of(5), a.mac("eth0"), EXPERIMENT, word));
    };
    from_a(b"known");
    at_c.wait_for(1, |frame| frame.ends_with(b"known"));
    for agent in &triangle.agents {
        // The sender's own is learned behind its node, and forgotten somewhat later.
        eventually("what was learned is forgotten", || {
            match agent.fdb().iter().find(|row| row.age_seconds.is_some()) {
                None => Ok(()),
                Some(row) => Err(format!("{row:?}")),
            }
        });
        assert!(agent.vteps().iter().all(|row| row.learned == 0) && agent.ports().iter().all(|row| row.learned == 0));
    }
    from_a(b"forgotten");
    at_b.wait_for(1, |frame| frame.ends_with(b"forgotten"));
    at_c.wait_for(1, |frame| frame.ends_with(b"forgotten"));
    assert!(at_b.stop().iter().all(|frame| !frame.ends_with(b"known")), "a known MAC was flooded to");
    triangle.finish();
}

#[test]
fn the_learn_limit_of_a_port_holds_and_is_counted() {
    let site = site!();
    let triangle = Triangle::new(&site, "d", |config| {
        config.file.ports.last_mut().unwrap().learn_limit = unspanned(4);
    });
    let (agent, d) = (&triangle.agents[0], &triangle.pods[3]);
    let mut at_b = Capture::start(&triangle.pods[1], "eth0");
    (100..110).for_each(|number| announce(d, mac_of(number)));
    at_b.wait_for(10, |frame| frame.ends_with(b"hello"));
    agent.assert_laws();
    assert_eq!(agent.port("d").learned, 4);
    assert_eq!((agent.learning("learned"), agent.learning("limit_reached")), (4, 6));
    assert_eq!(agent.dropped(), [], "what is not learned is carried all the same");
    // The cap is the port's: a VTEP's MACs have their own.
    assert_eq!(triangle.agents[1].vteps().iter().map(|row| row.learned).sum::<u32>(), 10);
    triangle.finish();
}

#[test]
fn a_mac_that_moves_is_followed_and_one_that_flaps_damped() {
    let site = site!();
    let triangle = Triangle::new(&site, "bc", |_| {});
    let [a, b, c, _] = &triangle.pods;
    let mac = mac_of(6);
    announce(b, mac);
    knows(&triangle.agents[0], mac, "192.0.2.2");
    announce(c, mac);
    knows(&triangle.agents[0], mac, "192.0.2.3");
    knows(&triangle.agents[1], mac, "192.0.2.3");
    knows(&triangle.agents[2], mac, "c");
    let (mut at_b, mut at_c) = (Capture::start(b, "eth0"), Capture::start(c, "eth0"));
    let socket = PacketSocket::open(a, "eth0");
    socket.send(&ethernet(mac, a.mac("eth0"), EXPERIMENT, b"after the move"));
    at_c.wait_for(1, |frame| frame.ends_with(b"after the move"));
    socket.send(&ethernet(BROADCAST, a.mac("eth0"), EXPERIMENT, b"marker"));
    at_b.wait_for(1, |frame| frame.ends_with(b"marker"));
    assert!(at_b.stop().iter().all(|frame| !frame.ends_with(b"after the move")), "sent to where it was");
    assert_eq!(triangle.agents[0].learning("moved"), 1);
    // Two that claim it in turn: the table does not follow every frame.
    for _ in 0..50 {
        announce(b, mac);
        announce(c, mac);
    }
    eventually("the flapping is damped", || {
        let counters = triangle.agents[0].counters().learning;
        if counters["damped"] > 0 { Ok(()) } else { Err(format!("{counters:?}")) }
    });
    triangle.agents.iter().for_each(AgentNode::assert_laws);
    assert!(triangle.agents[0].learning("moved") <= 5, "{:?}", triangle.agents[0].counters().learning);
    triangle.finish();
}

#[test]
fn a_bound_mac_is_not_taken_over_from_outside() {
    let site = site!();
    let triangle = Triangle::new(&site, "c", |_| {});
    let [a, b, c, _] = &triangle.pods;
    announce(c, a.mac("eth0"));
    eventually("the impostor is refused", || match triangle.agents[0].dropped_as(DropReason::StaticMacMoved) {
        1 => Ok(()),
        seen => Err(format!("{seen} dropped")),
    });
    ping_all(a, ADDRESSES[1]);
    ping_all(b, ADDRESSES[0]);
    triangle.finish();
}
