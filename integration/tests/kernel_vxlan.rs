//! Weft on one node, over sockets, the kernel's own VXLAN on the other.
//!
//! Nothing is switched off on either side: a kernel sender across a veth delivers whole superframes, whose
//! inner checksums are not filled in and whose segment size nobody tells.

use std::net::{IpAddr, Ipv4Addr};

use weft_bridge::DropReason;
use weft_encap::checksum::{self, Verified};
use weft_encap::inner::PROTOCOL_TCP;
use weft_encap::{Inner, L4Error, Outer};
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, GIB, Host, KernelNode, KernelTunnel, MIB, Node, Overlay,
    Site, UnderlayKind, ethernet, eventually, exchange, exchange_superframes, keep_as_vectors, mac_of, ping_all,
    send_superframe, site, stream, vxlan,
};

/// A pod behind Weft and one behind the kernel.
struct Meeting {
    weft: Host,
    kernel: Host,
    agent: AgentNode,
}

impl Meeting {
    fn new(site: &Site, nodes: [Node; 2], family: Family, words: &str) -> Self {
        let [ours, theirs] = nodes;
        let weft = site.host("weft");
        let agent = AgentConfig::new(site, &ours, &[family])
            .vni(Overlay::VNI)
            .peer(theirs.address(family), Encapsulation::Vxlan, &[Overlay::VNI])
            .port(&weft, Overlay::VNI, &Overlay::NETWORKS[0])
            .underlay(UnderlayKind::Socket)
            .start();
        let tunnel = KernelTunnel { vni: Overlay::VNI, family, remotes: &[&ours], words };
        let node = KernelNode::new(&theirs, &tunnel);
        assert_eq!(u32::from(agent.port("weft").mtu), node.mtu(), "both sides reckon the same overhead");
        Self { weft, kernel: node.pod(site, "kernel", &Overlay::NETWORKS[1]), agent }
    }

    fn pings(&self) {
        for addresses in [Overlay::IPV4, Overlay::IPV6] {
            ping_all(&self.weft, addresses[1]);
            ping_all(&self.kernel, addresses[0]);
        }
    }

    fn streams(&self, addresses: [&str; 2], bytes: u64) {
        stream(&self.weft, &self.kernel, addresses[1], bytes);
        stream(&self.kernel, &self.weft, addresses[0], bytes);
    }

    fn datagrams(&self) {
        for addresses in [Overlay::IPV4, Overlay::IPV6] {
            for size in [1, 18, 64, 1300] {
                exchange(&self.weft, &self.kernel, addresses[1], size, 500);
                exchange(&self.kernel, &self.weft, addresses[0], size, 500);
            }
            exchange_superframes(&self.weft, &self.kernel, addresses[1], 1300, 40, 2000);
            exchange_superframes(&self.weft, &self.kernel, addresses[1], 100, 64, 2000);
        }
    }

    fn finish(self) {
        assert_eq!(self.agent.dropped(), [], "nothing is lost between two that speak alike");
        self.agent.finish();
    }
}

fn meeting_over(site: &Site, family: Family) {
    let meeting = Meeting::new(site, site.pair(), family, "");
    meeting.pings();
    meeting.streams(Overlay::IPV4, GIB);
    meeting.streams(Overlay::IPV6, 256 * MIB);
    meeting.datagrams();
    meeting.finish();
}

#[test]
fn over_ipv4() {
    meeting_over(&site!("ip", "bridge"; KernelVxlan), Family::Ipv4);
}

#[test]
fn over_ipv6() {
    meeting_over(&site!("ip", "bridge"; KernelVxlan), Family::Ipv6);
}

#[test]
fn outer_checksums_present_and_absent() {
    for (family, words) in [(Family::Ipv4, "noudpcsum"), (Family::Ipv4, "udpcsum"), (Family::Ipv6, "noudp6zerocsumtx")]
    {
        println!("{words}");
        let site = site!("ip", "bridge"; KernelVxlan);
        let meeting = Meeting::new(&site, site.pair(), family, words);
        meeting.pings();
        meeting.streams(Overlay::IPV4, 64 * MIB);
        meeting.finish();
    }
}

#[test]
fn across_something_like_a_wire() {
    for (family, words) in [(Family::Ipv4, "udpcsum"), (Family::Ipv4, "noudpcsum"), (Family::Ipv6, "")] {
        println!("{words}");
        let site = site!("ip", "bridge", "ethtool"; KernelVxlan);
        let nodes = site.pair();
        nodes.iter().for_each(Node::like_a_wire);
        let meeting = Meeting::new(&site, nodes, family, words);
        meeting.pings();
        meeting.streams(Overlay::IPV4, 128 * MIB);
        meeting.streams(Overlay::IPV6, 64 * MIB);
        meeting.datagrams();
        exchange_superframes(&meeting.kernel, &meeting.weft, Overlay::IPV4[0], 1300, 40, 2000);
        meeting.finish();
    }
}

#[test]
fn what_the_kernel_sends_is_read_packet_by_packet() {
    let site = site!("ip", "bridge", "ethtool"; KernelVxlan);
    let nodes = site.pair();
    nodes.iter().for_each(Node::like_a_wire);
    // What arrives is looked at before it is merged again.
    nodes[0].ethtool("-K eth0 gro off");
    let capture = Capture::start(&nodes[0], "eth0");
    let meeting = Meeting::new(&site, nodes, Family::Ipv4, "udpcsum");
    meeting.pings();
    meeting.streams(Overlay::IPV4, MIB);
    meeting.streams(Overlay::IPV6, MIB);
    meeting.datagrams();
    meeting.finish();
    let frames = capture.stop();
    keep_as_vectors("kernel-vxlan-ipv4", Encapsulation::Vxlan, &frames);
    let tunnel = frames.iter().filter_map(|frame| Outer::read(frame).ok()).filter(|read| read.outer.dst_port == 4789);
    let mut segments = 0;
    for received in tunnel {
        assert_eq!(received.verify(), Verified::Right);
        let (vni, frame) = Encapsulation::Vxlan.decap(received.payload).expect("plain VXLAN");
        assert_eq!(vni.get(), Overlay::VNI);
        let inner = Inner::parse(frame).expect("a frame");
        match checksum::verify(&inner) {
            Ok(seen) => assert_eq!(seen, Verified::Right),
            Err(error) => assert!(matches!(error, L4Error::NotIp { .. } | L4Error::Protocol { .. }), "{error}"),
        }
        segments += u32::from(inner.network.protocol() == Some(PROTOCOL_TCP));
    }
    assert!(segments > 1000, "{segments} TCP segments");
}

#[test]
fn a_kernel_pods_udp_superframes_arrive_cut() {
    let site = site!("ip", "bridge"; KernelVxlan);
    let meeting = Meeting::new(&site, site.pair(), Family::Ipv4, "");
    for addresses in [Overlay::IPV4, Overlay::IPV6] {
        exchange_superframes(&meeting.kernel, &meeting.weft, addresses[0], 1300, 40, 400);
        exchange_superframes(&meeting.kernel, &meeting.weft, addresses[0], 100, 64, 640);
    }
    meeting.finish();
}

#[test]
fn a_pods_payload_is_never_taken_for_tunnel_headers() {
    /// Payload of each datagram, and where the first cut of the whole tunnel packet would fall in it.
    const SIZE: usize = 1300;
    const CUT: usize = SIZE - (8 + 14 + 20 + 8);
    let site = site!("ip", "bridge"; KernelVxlan);
    let nodes = site.pair();
    let (weft, victim) = (site.host("weft"), site.host("victim"));
    [&weft, &victim].iter().for_each(|pod| pod.silence());
    // The peer has a part in both networks; its pod, in the first only.
    let agent = AgentConfig::new(&site, &nodes[0], &[Family::Ipv4])
        .vni(Overlay::VNI)
        .vni(6000)
        .peer(nodes[1].address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI, 6000])
        .port(&weft, Overlay::VNI, &["10.0.0.1/24"])
        .port(&victim, 6000, &[])
        .underlay(UnderlayKind::Socket)
        .start();
    let tunnel = KernelTunnel { vni: Overlay::VNI, family: Family::Ipv4, remotes: &[&nodes[0]], words: "" };
    let kernel = KernelNode::new(&nodes[1], &tunnel).pod(&site, "kernel", &["10.0.0.2/24"]);
    ping_all(&kernel, "10.0.0.1");
    let frame = ethernet(victim.mac("eth0"), mac_of(66), 0x88b5, &[0x66; 1000]);
    let mut payload = vec![0; 20 * SIZE];
    for cut in (CUT..payload.len()).step_by(SIZE) {
        let forged = vxlan(6000, &frame);
        let len = forged.len().min(payload.len() - cut);
        payload[cut..cut + len].copy_from_slice(&forged[..len]);
    }
    let at_victim = Capture::start(&victim, "eth0");
    for _ in 0..10 {
        send_superframe(&kernel, (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)), SIZE, &payload);
    }
    eventually("the forgeries are refused", || match agent.dropped().as_slice() {
        [(reason, 10)] if reason == DropReason::AmbiguousGroup.name() => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    agent.assert_laws();
    assert_eq!(at_victim.stop(), Vec::<Vec<u8>>::new(), "a pod reached another network");
    agent.finish();
}

#[test]
fn a_peer_that_takes_no_part_in_probes_keeps_the_configured_mtu() {
    let site = site!("ip", "bridge", "ping"; KernelVxlan);
    let meeting = Meeting::new(&site, site.pair(), Family::Ipv4, "");
    let row = eventually("the agent gives up asking", || {
        let row = meeting.agent.vteps().remove(0);
        if row.path == "unprobed" { Ok(row) } else { Err(format!("{row:?}")) }
    });
    assert_eq!((row.path_mtu, row.pod_mtu), (None, 1450));
    meeting.pings();
    let full = ["ping", "-M", "do", "-c", "1", "-W", "5", "-s", "1422", Overlay::IPV4[1]];
    meeting.weft.run(&full);
    meeting.streams(Overlay::IPV4, MIB);
    assert_eq!(meeting.agent.vteps().remove(0).path, "unprobed", "traffic proves no length");
    meeting.finish();
}

#[test]
fn a_vtep_is_its_address_whatever_its_source_port() {
    let site = site!("ip", "bridge"; KernelVxlan);
    let meeting = Meeting::new(&site, site.pair(), Family::Ipv4, "srcport 1024 1025");
    meeting.pings();
    let vteps = meeting.agent.vteps();
    assert_eq!(vteps.len(), 1, "{vteps:?}");
    assert_eq!(vteps[0].address.parse::<IpAddr>().unwrap().to_string(), "192.0.2.2");
    meeting.finish();
}
