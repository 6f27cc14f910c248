//! The uplink against each peer there is: itself, sockets and the kernel, across a veth and something like a wire.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, UdpHeader};
use weft_encap::{Checksum, Inner, L4, Outer, Splitter, TunnelOffload, VIRTIO_NET_HDR_TUNNEL_LEN};
use weft_integration::UnderlayKind::{self, Socket, Uplink};
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Host, KernelNode, KernelTunnel, MIB, MacAddr, Node,
    Overlay, PacketSocket, Site, ethernet, eventually, exchange, exchange_superframes, keep_as_taps, mac_of, ping_all,
    send_superframe, site, stream, streams, vxlan,
};
use weft_switch::underlay::UplinkDevice;

/// An EtherType of nobody (IEEE 802 local experimental 1), so that no stack answers.
const EXPERIMENT: u16 = 0x88b5;
/// Bytes that a stream has at least in one packet of the uplink, on average, if superframes go whole.
const WHOLE: u64 = 16_000;

fn overlay(site: &Site, nodes: [Node; 2], carrier: (Encapsulation, Family), kinds: [UnderlayKind; 2]) -> Overlay {
    let pods = ["a", "b"].map(|name| site.host(name));
    let overlay = Overlay::start_over(site, nodes, pods, carrier, kinds);
    for (agent, kind) in overlay.agents.iter().zip(kinds) {
        if kind == Uplink {
            assert_eq!(agent.status().underlay.level, "uplink");
            agent.wait_for_way("uplink");
        }
    }
    overlay
}

/// Everything between the two pods, both ways.
fn between_pods([a, b]: [&Host; 2], bytes: u64) {
    for addresses in [Overlay::IPV4, Overlay::IPV6] {
        ping_all(a, addresses[1]);
        ping_all(b, addresses[0]);
        stream(a, b, addresses[1], bytes);
        stream(b, a, addresses[0], bytes);
        streams(4, a, b, addresses[1], 16 * MIB);
        for size in [1, 18, 64, 1300] {
            exchange(a, b, addresses[1], size, 500);
            exchange(b, a, addresses[0], size, 500);
        }
        exchange_superframes(a, b, addresses[1], 1300, 40, 2000);
        exchange_superframes(b, a, addresses[0], 100, 64, 2000);
    }
}

fn between_two(overlay: Overlay) {
    between_pods([&overlay.pods[0], &overlay.pods[1]], 64 * MIB);
    for agent in &overlay.agents {
        assert_eq!(agent.dropped(), [], "nothing is lost between two nodes");
    }
    overlay.finish();
}

const CARRIERS: [(Encapsulation, Family); 4] = [
    (Encapsulation::Vxlan, Family::Ipv4),
    (Encapsulation::Vxlan, Family::Ipv6),
    (Encapsulation::Geneve, Family::Ipv4),
    (Encapsulation::Geneve, Family::Ipv6),
];

#[test]
fn uplink_to_uplink() {
    for carrier in CARRIERS {
        println!("{carrier:?}");
        let site = site!();
        between_two(overlay(&site, site.pair(), carrier, [Uplink, Uplink]));
    }
}

#[test]
fn uplink_to_socket() {
    for carrier in CARRIERS {
        println!("{carrier:?}");
        let site = site!();
        between_two(overlay(&site, site.pair(), carrier, [Uplink, Socket]));
    }
}

#[test]
fn across_something_like_a_wire() {
    let carriers = [CARRIERS[0], CARRIERS[1], CARRIERS[2]];
    for (carrier, peer) in carriers.into_iter().flat_map(|carrier| [(carrier, Uplink), (carrier, Socket)]) {
        println!("{carrier:?} to {peer:?}");
        let site = site!("ethtool");
        let nodes = site.pair();
        nodes.iter().for_each(Node::like_a_wire);
        between_two(overlay(&site, nodes, carrier, [Uplink, peer]));
    }
}

fn with_the_kernel(site: &Site, family: Family, words: &str, wire: bool) {
    println!("{family:?} {words} {}", if wire { "wire" } else { "" });
    let nodes = site.pair();
    if wire {
        nodes.iter().for_each(Node::like_a_wire);
    }
    let [ours, theirs] = nodes;
    let weft = site.host("weft");
    let agent = AgentConfig::new(site, &ours, &[family])
        .vni(Overlay::VNI)
        .peer(theirs.address(family), Encapsulation::Vxlan, &[Overlay::VNI])
        .port(&weft, Overlay::VNI, &Overlay::NETWORKS[0])
        .underlay(Uplink)
        .start();
    agent.wait_for_way("uplink");
    let tunnel = KernelTunnel { vni: Overlay::VNI, family, remotes: &[&ours], words };
    let kernel = KernelNode::new(&theirs, &tunnel).pod(site, "kernel", &Overlay::NETWORKS[1]);
    between_pods([&weft, &kernel], 64 * MIB);
    assert_eq!(agent.dropped(), [], "nothing is lost between two that speak alike");
    agent.finish();
}

#[test]
fn uplink_to_the_kernels_vxlan() {
    for (family, words) in [(Family::Ipv4, ""), (Family::Ipv4, "noudpcsum"), (Family::Ipv6, "")] {
        with_the_kernel(&site!("ip", "bridge"; KernelVxlan), family, words, false);
    }
}

#[test]
fn uplink_to_the_kernels_vxlan_across_something_like_a_wire() {
    for (family, words) in [(Family::Ipv4, "udpcsum"), (Family::Ipv4, "noudpcsum"), (Family::Ipv6, "")] {
        with_the_kernel(&site!("ip", "bridge", "ethtool"; KernelVxlan), family, words, true);
    }
}

/// What the uplink is for.
#[test]
fn superframes_go_whole() {
    const BYTES: u64 = 256 * MIB;
    let site = site!();
    let overlay = overlay(&site, site.pair(), CARRIERS[0], [Uplink, Uplink]);
    let [a, b] = &overlay.pods;
    ping_all(a, Overlay::IPV4[1]);
    let count = || overlay.agents.each_ref().map(|agent| agent.forwarded("underlay_datagrams_out"));
    let in_count = || overlay.agents.each_ref().map(|agent| agent.forwarded("underlay_datagrams_in"));
    let (before, before_in) = (count(), in_count());
    stream(a, b, Overlay::IPV4[1], BYTES);
    let (after, after_in) = (count(), in_count());
    for (after, before) in [(after[0], before[0]), (after_in[1], before_in[1])] {
        assert!((after - before) * WHOLE < BYTES, "{} packets for {BYTES} bytes", after - before);
    }
    overlay.finish();
}

/// Bytes of a stream that make one superframe, and hardly that.
const TWO_SEGMENTS: u64 = 2000;

/// What the kernel says of real packets is understood, and where it says that headers are, there they are.
#[test]
fn the_kernels_word_on_superframes_is_so() {
    for carrier @ (encapsulation, family) in CARRIERS {
        println!("{carrier:?}");
        let site = site!("ip", "tc");
        let overlay = overlay(&site, site.pair(), carrier, [Uplink, Uplink]);
        let [a, b] = &overlay.pods;
        // Another device of the uplink's kind gets a copy of what arrives.
        let node = &overlay.nodes[1];
        let device = node.netns().run(UplinkDevice::make).unwrap().unwrap();
        let name = device.name();
        node.ip(&format!("link set {name} up"));
        let copy = format!("action mirred egress mirror dev {name} continue");
        node.tc(&format!("filter add dev eth0 ingress prio 1 protocol all u32 match u32 0 0 {copy}"));
        for address in [Overlay::IPV4[1], Overlay::IPV6[1]] {
            ping_all(a, address);
            stream(a, b, address, TWO_SEGMENTS);
            stream(a, b, address, MIB / 4);
            exchange_superframes(a, b, address, 100, 3, 30);
        }
        let mut packets = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        while let Ok(len) = rustix::io::read(&device, &mut buffer) {
            packets.push(buffer[..len].to_vec());
        }
        let kinds: BTreeSet<_> = packets.iter().filter_map(|packet| inside(packet, encapsulation, family)).collect();
        assert_eq!(kinds, BTreeSet::from(["tcp4", "tcp6", "udp4", "udp6"]));
        keep_as_taps(&format!("{encapsulation}-{family:?}").to_lowercase(), VIRTIO_NET_HDR_TUNNEL_LEN, &packets);
        overlay.finish();
    }
}

/// Which kind of superframe is in a tunnel packet, if any is, from the packet with the kernel's header before it.
fn inside(packet: &[u8], encapsulation: Encapsulation, family: Family) -> Option<&'static str> {
    let (header, packet) = packet.split_first_chunk::<VIRTIO_NET_HDR_TUNNEL_LEN>().unwrap();
    let read = TunnelOffload::from_bytes(header).unwrap_or_else(|error| panic!("{header:02x?}: {error}"));
    let tunnel = read.tunnel?;
    let outer = Outer::read(packet).unwrap();
    let (_, frame) = encapsulation.decap(outer.payload).unwrap();
    let before = packet.len() - frame.len();
    let inner = Inner::parse(frame).unwrap();
    let l4 = L4::of(&inner).unwrap();
    assert_eq!((tunnel.ipv6, tunnel.checksum), (family == Family::Ipv6, true));
    assert_eq!(usize::from(tunnel.outer_transport), packet.len() - outer.payload.len() - 8);
    assert_eq!(usize::from(tunnel.inner_network), before + inner.l3);
    let (start, offset) = ((before + l4.start) as u16, l4.checksum_offset());
    assert_eq!(read.offload.checksum, Checksum::Needed { start, offset });
    let splitter = Splitter::new(frame, &read.offload).unwrap();
    assert!(splitter.segments() > 1, "{read:?}");
    Some([["udp4", "udp6"], ["tcp4", "tcp6"]][usize::from(l4.tcp)][usize::from(l4.ipv6)])
}

/// A kernel pod's UDP superframe arrives with its metadata: nothing in it can be taken for tunnel packets.
#[test]
fn a_kernel_pods_udp_superframes_are_told_from_groups() {
    const SIZE: usize = 1300;
    const CUT: usize = SIZE - (8 + 14 + 20 + 8);
    let site = site!("ip", "bridge"; KernelVxlan);
    let [ours, theirs] = site.pair();
    let weft = site.host("weft");
    let agent = AgentConfig::new(&site, &ours, &[Family::Ipv4])
        .vni(Overlay::VNI)
        .peer(theirs.address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI])
        .port(&weft, Overlay::VNI, &Overlay::NETWORKS[0])
        .underlay(Uplink)
        .start();
    agent.wait_for_way("uplink");
    let tunnel = KernelTunnel { vni: Overlay::VNI, family: Family::Ipv4, remotes: &[&ours], words: "" };
    let kernel = KernelNode::new(&theirs, &tunnel).pod(&site, "kernel", &Overlay::NETWORKS[1]);
    ping_all(&kernel, Overlay::IPV4[0]);
    let forged = vxlan(Overlay::VNI, &ethernet(weft.mac("eth0"), mac_of(66), EXPERIMENT, &[0x66; 1000]));
    let mut payload = vec![0; 20 * SIZE];
    for cut in (CUT..payload.len()).step_by(SIZE) {
        let len = forged.len().min(payload.len() - cut);
        payload[cut..cut + len].copy_from_slice(&forged[..len]);
    }
    let receiver = weft.netns().run(|| UdpSocket::bind("10.0.0.1:9")).unwrap().unwrap();
    receiver.set_read_timeout(Some(weft_integration::BOUND)).unwrap();
    let capture = Capture::start(&weft, "eth0");
    send_superframe(&kernel, (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)), SIZE, &payload);
    let mut buffer = [0; 2 * SIZE];
    for datagram in payload.chunks(SIZE) {
        let length = receiver.recv(&mut buffer).unwrap();
        assert!(&buffer[..length] == datagram, "a datagram is another");
    }
    let forged = capture.stop().into_iter().filter(|frame| frame[12..14] == EXPERIMENT.to_be_bytes()).count();
    assert_eq!((forged, agent.dropped()), (0, Vec::new()));
    agent.finish();
}

/// A node with an uplink and a pod, and one from which anything can be sent.
fn with_a_sender(site: &Site, family: Family) -> (AgentNode, Host, [Node; 2]) {
    let nodes = site.pair();
    let pod = site.host("pod");
    pod.silence();
    let agent = AgentConfig::new(site, &nodes[0], &[family])
        .vni(Overlay::VNI)
        .peer(nodes[1].address(family), Encapsulation::Vxlan, &[Overlay::VNI])
        .port(&pod, Overlay::VNI, &[])
        .underlay(Uplink)
        .start();
    agent.wait_for_way("uplink");
    (agent, pod, nodes)
}

/// What the redirect does not take reaches the sockets.
#[test]
fn fragments_and_options_come_by_the_socket() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let site = site!("ip");
        let (agent, pod, nodes) = with_a_sender(&site, family);
        let packet = vxlan(Overlay::VNI, &ethernet(pod.mac("eth0"), mac_of(9), EXPERIMENT, &[7; 1400]));
        let mut capture = Capture::start(&pod, "eth0");
        // The sender's kernel fragments what is longer than its MTU.
        nodes[1].netns().links(|links| links.set_mtu("eth0", 1280)).unwrap();
        let at = SocketAddr::new(nodes[1].address(family), 0);
        let sender = nodes[1].netns().run(|| UdpSocket::bind(at)).unwrap().unwrap();
        sender.send_to(&packet, (nodes[0].address(family), 4789)).unwrap();
        capture.wait_for(1, |frame| frame.ends_with(&[7; 1400]));
        if family == Family::Ipv4 {
            let frame = ethernet(pod.mac("eth0"), mac_of(9), EXPERIMENT, &[8; 100]);
            let with_options = with_options(&nodes, &vxlan(Overlay::VNI, &frame));
            PacketSocket::open(&nodes[1], "eth0").send(&with_options);
            capture.wait_for(1, |frame| frame.ends_with(&[8; 100]));
        }
        assert_eq!(agent.dropped(), []);
        agent.finish();
    }
}

/// A tunnel packet from the second node to the first whose IPv4 header has options: three times "no operation", end.
fn with_options(nodes: &[Node; 2], payload: &[u8]) -> Vec<u8> {
    let address = |node: &Node| match node.address(Family::Ipv4) {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("{address}"),
    };
    let (from, to) = (address(&nodes[1]), address(&nodes[0]));
    let udp_len = (8 + payload.len()) as u16;
    let mut ip = Ipv4Header::new(udp_len, 64, IpNumber::UDP, from, to).unwrap();
    ip.options = Ipv4Options::try_from(&[1, 1, 1, 0][..]).unwrap();
    ip.set_payload_len(udp_len.into()).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    let udp = UdpHeader::with_ipv4_checksum(50_000, 4789, &ip, payload).unwrap();
    let MacAddr(source) = nodes[1].mac("eth0");
    let MacAddr(destination) = nodes[0].mac("eth0");
    let link = Ethernet2Header { source, destination, ether_type: EtherType::IPV4 };
    let mut frame = Vec::new();
    link.write(&mut frame).unwrap();
    ip.write(&mut frame).unwrap();
    udp.write(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// What is not for this node's own address passes the redirect by.
#[test]
fn packets_for_others_are_left_alone() {
    let site = site!("ip");
    let (agent, _pod, nodes) = with_a_sender(&site, Family::Ipv4);
    // Another address of the same node, and this node as a router.
    nodes[0].ip("address add 198.51.100.1/32 dev lo");
    nodes[1].ip("route add 198.51.100.1/32 via 192.0.2.1");
    let bound = nodes[0].netns().run(|| UdpSocket::bind("198.51.100.1:4789")).unwrap().unwrap();
    bound.set_read_timeout(Some(weft_integration::BOUND)).unwrap();
    let sender = nodes[1].netns().run(|| UdpSocket::bind("192.0.2.2:0")).unwrap().unwrap();
    sender.send_to(b"not yours", "198.51.100.1:4789").unwrap();
    let mut buffer = [0; 64];
    let length = bound.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"not yours");
    assert_eq!(agent.dropped(), []);
    agent.finish();
}

#[test]
fn paths_are_probed_through_the_uplink() {
    let site = site!("ip");
    let (switch, nodes) = site.switched();
    let overlay = overlay(&site, nodes, CARRIERS[0], [Uplink, Uplink]);
    let becomes = |mtu| {
        eventually("the path MTU", || {
            let row = overlay.agents[0].vteps().remove(0);
            let seen = (row.path.as_str(), row.path_mtu);
            if seen == ("up", Some(mtu)) { Ok(()) } else { Err(format!("{row:?}")) }
        });
    };
    becomes(1500);
    let [a, b] = &overlay.pods;
    switch.ip("link set port2 mtu 1380");
    stream(a, b, Overlay::IPV4[1], 4 * MIB);
    becomes(1380);
    stream(a, b, Overlay::IPV4[1], 4 * MIB);
    overlay.agents.into_iter().for_each(AgentNode::finish);
}
