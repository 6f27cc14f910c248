//! Failures that users of other overlays met, each named after what they reported.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use weft_bridge::DropReason;
use weft_control::config::file::unspanned;
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Frame, Host, MIB, Node, Overlay, ethernet, eventually,
    exchange, mac_of, ping_all, site, stream, vxlan,
};
use weft_testbed::probe::{PingOptions, ping_from};

const EXPERIMENT: u16 = 0x88b5;

/// "only works on ping, no tcp" (openvswitch/ovs-issues#273): checksums handed on unfilled. Every device keeps
/// the offloads it came with, and all it hands out is right or marked.
#[test]
fn only_works_on_ping_no_tcp() {
    let site = site!("ethtool");
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let [a, b] = &overlay.pods;
    for pod in [a, b] {
        let features = pod.ethtool("-k eth0");
        for feature in ["tx-checksumming: on", "tcp-segmentation-offload: on", "generic-segmentation-offload: on"] {
            assert!(features.contains(feature), "no `{feature}` in\n{features}");
        }
    }
    ping_all(a, Overlay::IPV4[1]);
    for bytes in [1, 100, 1398, 1399, 70_000, MIB] {
        stream(a, b, Overlay::IPV4[1], bytes);
        stream(b, a, Overlay::IPV6[0], bytes);
    }
    for pod in [a, b] {
        let errors = pod.run(&["cat", "/proc/net/snmp"]);
        for (protocol, counter) in [("Tcp:", "InCsumErrors"), ("Udp:", "InCsumErrors"), ("Tcp:", "InErrs")] {
            assert_eq!(snmp(&errors, protocol, counter), 0, "{}: {protocol} {counter}", pod.name());
        }
    }
    overlay.finish();
}

/// One number of /proc/net/snmp: a line of names, then a line of values.
fn snmp(text: &str, protocol: &str, counter: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol)).map(str::split_ascii_whitespace);
    let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    values.nth(names.into_iter().position(|name| name == counter).unwrap()).unwrap().parse().unwrap()
}

/// "Superframes lost in a tunnel cost ~45x the syscalls" (tailscale/wireguard-go#69): a stream has to move in
/// pieces far longer than a packet through every system call.
#[test]
fn superframes_lost_in_a_tunnel() {
    const BYTES: u64 = 256 * MIB;
    let site = site!();
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let [a, b] = &overlay.pods;
    ping_all(a, Overlay::IPV4[1]);
    stream(a, b, Overlay::IPV4[1], BYTES);
    overlay.agents.iter().for_each(AgentNode::assert_laws);
    let [sender, receiver] = overlay.agents.each_ref().map(AgentNode::counters);
    let per_call = |calls: u64| BYTES / calls;
    let read = per_call(overlay.agents[0].port("a").link.rx_frames);
    assert!(read > 20_000, "{read} bytes in each frame from the sending pod");
    let sent = per_call(sender.forwarding["underlay_sends"]);
    assert!(sent > 10_000, "{sent} bytes in each send to the underlay");
    let written = per_call(receiver.forwarding["port_writes"]);
    assert!(written > 10_000, "{written} bytes in each write to the receiving pod");
    overlay.finish();
}

/// "One source port for everything puts all load on one core" (calico#8790). Flows spread; each keeps to one port.
#[test]
fn one_source_port_for_everything() {
    const FLOWS: usize = 64;
    let site = site!();
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let [a, b] = &overlay.pods;
    ping_all(a, Overlay::IPV4[1]);
    let capture = Capture::start(&overlay.nodes[1], "eth0");
    (0..FLOWS).for_each(|_| exchange(a, b, Overlay::IPV4[1], 100, 8));
    // Of the outer header, and of the UDP header in IPv4 in Ethernet in VXLAN behind it.
    let (outer, inner) = (14 + 20, 14 + 20 + 8 + 8 + 14 + 20);
    let port = |frame: &Frame, at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    // Path probes are no IPv4. Of two sockets that get one port behind each other, the destination's differ.
    let datagram = |frame: &Frame| frame.len() >= inner + 8 + 100 && frame[inner - 22..inner - 20] == [8, 0];
    let frames: Vec<Frame> = capture.stop().into_iter().filter(datagram).collect();
    let flow = |frame: &Frame| (port(frame, inner), port(frame, inner + 2));
    let pairs: BTreeSet<((u16, u16), u16)> = frames.iter().map(|frame| (flow(frame), port(frame, outer))).collect();
    let flows: BTreeSet<(u16, u16)> = pairs.iter().map(|(flow, _)| *flow).collect();
    let sources: BTreeSet<u16> = pairs.iter().map(|(_, source)| *source).collect();
    assert_eq!(pairs.len(), flows.len(), "a flow changed its source port: {pairs:?}");
    assert!(flows.len() > FLOWS / 2, "{} flows", flows.len());
    assert!(sources.len() >= 8, "{} flows share {} source ports", flows.len(), sources.len());
    overlay.finish();
}

/// "Overhead taken as 50 on IPv6 underlays where it is 70" (openperouter#749, antrea#1305, flannel#1781): the pod
/// gets the MTU that fits, which crosses unfragmented, and not one byte more.
#[test]
fn overhead_taken_as_50_on_ipv6_underlay() {
    let cases = [
        (Encapsulation::Vxlan, Family::Ipv4, 1450),
        (Encapsulation::Vxlan, Family::Ipv6, 1430),
        (Encapsulation::Geneve, Family::Ipv4, 1450),
        (Encapsulation::Geneve, Family::Ipv6, 1430),
    ];
    for (encapsulation, family, mtu) in cases {
        let site = site!("ping", "ethtool");
        let overlay = Overlay::pair(&site, encapsulation, family);
        // What is sent as a group shows as the packets that it stands for.
        overlay.nodes[0].like_a_wire();
        let [a, _] = &overlay.pods;
        assert_eq!(overlay.agents[0].port("a").mtu, mtu);
        assert_eq!(overlay.agents[0].vteps()[0].pod_mtu, mtu);
        assert_eq!(a.link("eth0").mtu, u32::from(mtu));
        let mut capture = Capture::start(&overlay.nodes[1], "eth0");
        let ping = |payload: u16| {
            a.try_run(&["ping", "-M", "do", "-c", "1", "-W", "5", "-s", &payload.to_string(), Overlay::IPV4[1]])
        };
        assert!(ping(mtu - 28).status.success(), "{encapsulation:?} over {family:?}: {}", ping(mtu - 28).stdout);
        let full = capture.wait_for(1, |frame| frame.len() == 14 + 1500);
        assert_eq!(full.len(), 1, "the full packet fills the underlay");
        let refused = ping(mtu - 27);
        assert!(!refused.status.success() && refused.stdout.contains("100% packet loss"), "{refused:?}");
        assert!(capture.stop().iter().all(|frame| frame.len() <= 14 + 1500));
        overlay.finish();
    }
}

/// "Overlay packets accepted from any outer source" (cilium#33992, rancher#23278).
#[test]
fn overlay_packets_accepted_from_any_outer_source() {
    let site = site!("ip");
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let (pod, stranger) = (&overlay.pods[0], &overlay.nodes[1]);
    stranger.ip("address add 192.0.2.66/24 dev eth0");
    let frame = ethernet(pod.mac("eth0"), mac_of(66), EXPERIMENT, b"from a stranger");
    let capture = Capture::start(pod, "eth0");
    let send = |source: &str, port: u16, packet: &[u8]| {
        let socket = stranger.netns().run(|| UdpSocket::bind((source, 0))).unwrap().unwrap();
        socket.send_to(packet, (overlay.nodes[0].address(Family::Ipv4), port)).unwrap();
    };
    for port in [4789, 6081] {
        send("192.0.2.66", port, &vxlan(Overlay::VNI, &frame));
    }
    eventually("both are dropped", || match overlay.agents[0].dropped_as(DropReason::UnknownSource) {
        2 => Ok(()),
        seen => Err(format!("{seen} dropped")),
    });
    let learned = overlay.agents[0].fdb().into_iter().any(|row| row.mac == mac_of(66).to_string());
    assert!(!learned, "a stranger taught us a MAC");
    // The same from the peer's own address, from any port, is let in: a VTEP is its address.
    send("192.0.2.2", 4789, &vxlan(Overlay::VNI, &frame));
    let mut capture = capture;
    capture.wait_for(1, |came| *came == frame);
    assert_eq!(capture.stop().iter().filter(|came| **came == frame).count(), 1);
    assert_eq!(overlay.agents[0].dropped(), [("unknown_source".to_owned(), 2)]);
    overlay.finish();
}

/// "Overlay over overlay encapsulating itself without end" (ZeroTierOne#779): the node's way to its peer leads
/// through the overlay itself.
#[test]
fn overlay_over_overlay_encapsulating_itself_without_end() {
    let site = site!("ip");
    let [one, two] = site.pair();
    let pod = site.host("pod");
    // Nothing but what is sent below may come back.
    [&pod, &one].iter().for_each(|host| host.silence());
    let agent = AgentConfig::new(&site, &one, &[Family::Ipv4])
        .without_probes()
        .vni(9)
        .peer(two.address(Family::Ipv4), Encapsulation::Vxlan, &[9])
        .port(&pod, 9, &["10.9.0.1/24"])
        .learning_port(&one, 9, &["10.9.0.2/24"])
        .with_interface("weft0")
        .start();
    ping_all(&pod, "10.9.0.2");
    // From now on what is sent to the peer enters the overlay, in which nobody but the peer could have it.
    one.ip("route add 192.0.2.2/32 dev weft0 src 192.0.2.1");
    one.ip(&format!("neigh add 192.0.2.2 lladdr {} dev weft0", mac_of(2)));
    agent.assert_laws();
    let before = agent.forwarded("frames_in");
    for word in ["one", "two", "three"] {
        weft_integration::PacketSocket::open(&pod, "eth0").send(&ethernet(
            mac_of(2),
            pod.mac("eth0"),
            EXPERIMENT,
            word.as_bytes(),
        ));
    }
    eventually("each comes back once and is dropped", || match agent.dropped_as(DropReason::EncapLoop) {
        3 => Ok(()),
        seen => Err(format!("{seen} dropped: {:?}", agent.dropped())),
    });
    agent.assert_laws();
    let frames = agent.forwarded("frames_in") - before;
    assert!(frames < 20, "{frames} frames out of three");
    one.ip("route delete 192.0.2.2/32 dev weft0");
    ping_all(&pod, "10.9.0.2");
    agent.finish();
}

/// "First cross-node packet lost on a neighbour miss" (antrea#467, ovs-issues#253).
#[test]
fn first_packet_between_nodes_lost() {
    let site = site!();
    let overlay = Overlay::pair(&site, Encapsulation::Geneve, Family::Ipv4);
    let mut options = PingOptions::default();
    (options.count, options.timeout) = (1, Duration::from_secs(5));
    // Neither the nodes nor the pods have heard of each other.
    for (pod, address) in [(&overlay.pods[0], Overlay::IPV4[1]), (&overlay.pods[1], Overlay::IPV6[0])] {
        let report = ping_from(pod.netns(), address.parse::<IpAddr>().unwrap(), &options).unwrap();
        assert_eq!(report.received, 1, "{report:?}");
    }
    overlay.finish();
}

/// "MAC moves that take 21-29 s" (openperouter#203), and learned rows that outlive a move (moby#52661): the next
/// frame decides, not a timer.
#[test]
fn mac_moves_that_take_half_a_minute() {
    let site = site!();
    let nodes: [Node; 3] = site.nodes();
    let pods = ["a", "b", "c"].map(|name| site.host(name));
    pods.iter().for_each(Host::silence);
    let agents = [0, 1, 2].map(|own: usize| {
        let mut config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).vni(9);
        for other in (0..3).filter(|other| *other != own) {
            config = config.peer(nodes[other].address(Family::Ipv4), Encapsulation::Vxlan, &[9]);
        }
        config.learning_port(&pods[own], 9, &[]).start()
    });
    let service = mac_of(0x77);
    let mut capture_c = Capture::start(&pods[2], "eth0");
    let says = |pod: &Host, frame: &[u8]| weft_integration::PacketSocket::open(pod, "eth0").send(frame);
    let request = ethernet(service, mac_of(1), EXPERIMENT, b"request");
    says(&pods[1], &ethernet(weft_integration::MacAddr([0xff; 6]), service, EXPERIMENT, b"here"));
    let at = |place: &str| {
        eventually("the first node follows", || {
            let rows = agents[0].fdb();
            let there = rows.iter().any(|row| row.mac == service.to_string() && row.at == place);
            if there { Ok(()) } else { Err(format!("{rows:?}")) }
        });
    };
    at("192.0.2.2");
    let begin = std::time::Instant::now();
    says(&pods[2], &ethernet(weft_integration::MacAddr([0xff; 6]), service, EXPERIMENT, b"here"));
    at("192.0.2.3");
    says(&pods[0], &request);
    capture_c.wait_for(1, |frame| *frame == request);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    agents.into_iter().for_each(AgentNode::finish);
}

/// 4789, 8472 and 6081 at once (asked for in flannel#2388): peers of each kind in one network.
#[test]
fn peers_on_different_ports_and_encapsulations_at_once() {
    let site = site!();
    let nodes: [Node; 3] = site.nodes();
    let pods = ["a", "b", "c"].map(|name| site.host(name));
    let networks = ["10.9.0.1/24", "10.9.0.2/24", "10.9.0.3/24"];
    let agents = [0, 1, 2].map(|own: usize| {
        let mut config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4, Family::Ipv6]).vni(9);
        config.file.underlay.vxlan_ports = unspanned(vec![4789, 8472]);
        for other in (0..3).filter(|other| *other != own) {
            // Between one and two VXLAN on 8472, between two and three VXLAN over IPv6, else Geneve.
            let (encapsulation, family, port) = match own + other {
                1 => (Encapsulation::Vxlan, Family::Ipv4, Some(8472)),
                3 => (Encapsulation::Vxlan, Family::Ipv6, None),
                _ => (Encapsulation::Geneve, Family::Ipv4, None),
            };
            config = config.peer(nodes[other].address(family), encapsulation, &[9]);
            config.file.vteps.last_mut().unwrap().port = port.map(unspanned);
        }
        config.port(&pods[own], 9, &[networks[own]]).start()
    });
    for (from, to) in [(0, "10.9.0.2"), (0, "10.9.0.3"), (1, "10.9.0.3"), (2, "10.9.0.1")] {
        ping_all(&pods[from], to);
    }
    stream(&pods[0], &pods[1], "10.9.0.2", 16 * MIB);
    stream(&pods[1], &pods[2], "10.9.0.3", 16 * MIB);
    stream(&pods[2], &pods[0], "10.9.0.1", 16 * MIB);
    for agent in agents {
        assert_eq!(agent.dropped(), []);
        agent.finish();
    }
}

/// "There is no way to know why a packet was dropped" (of OVN): every reason has a meaning and a next step, and is
/// shown as soon as it happens.
#[test]
fn there_is_no_way_to_know_why() {
    let site = site!();
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let pod = &overlay.pods[0];
    weft_integration::PacketSocket::open(pod, "eth0").send(&ethernet(mac_of(1), mac_of(66), EXPERIMENT, b"spoofed"));
    eventually("it is counted", || match overlay.agents[0].dropped_as(DropReason::SpoofedMac) {
        1 => Ok(()),
        seen => Err(format!("{seen}")),
    });
    let program = weft_integration::weft();
    let run_dir = overlay.agents[0].run_dir().to_str().unwrap();
    let shown = overlay.nodes[0].run(&[program.to_str().unwrap(), "show", "drops", "--run-dir", run_dir]);
    for word in ["spoofed_mac", DropReason::SpoofedMac.meaning(), DropReason::SpoofedMac.hint()] {
        assert!(shown.contains(word), "no `{word}` in\n{shown}");
    }
    assert_eq!(overlay.agents[0].port("a").link.drops, 1, "and the port shows it too");
    overlay.finish();
}
