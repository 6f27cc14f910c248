//! Bad frames from pods, and frames that cannot leave: each is dropped by its name, alone.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use etherparse::PacketBuilder;
use weft_bridge::DropReason;
use weft_integration::{
    AgentConfig, AgentNode, BOUND, Capture, Encapsulation, Family, Frame, Host, MacAddr, Node, PacketSocket, Site,
    arp_request, ethernet, eventually, mac_of, send_superframe, site, tagged, udp_over_ipv4, udp_over_ipv6, vxlan,
};

const EXPERIMENT: u16 = 0x88b5;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const VNI: u32 = 5000;
const LONELY_VNI: u32 = 6000;
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// An agent with a bound pod, a learning one, one that is alone in its network, and a peer that only listens.
struct Source {
    node: Node,
    bound: Host,
    learning: Host,
    lonely: Host,
    agent: AgentNode,
    peer: UdpSocket,
}

impl Source {
    fn new(site: &Site) -> Self {
        Self::with(site, |config| config)
    }

    fn with(site: &Site, adjust: impl FnOnce(AgentConfig) -> AgentConfig) -> Self {
        let [node, peer] = site.pair();
        let [bound, learning, lonely] = ["bound", "learning", "lonely"].map(|name| site.host(name));
        [&bound, &learning, &lonely].iter().for_each(|pod| pod.silence());
        let config = AgentConfig::new(site, &node, &[Family::Ipv4])
            .vni(VNI)
            .without_probes()
            .vni(LONELY_VNI)
            .peer(peer.address(Family::Ipv4), Encapsulation::Vxlan, &[VNI])
            .learning_port(&learning, VNI, &[])
            .port(&lonely, LONELY_VNI, &[])
            .port(&bound, VNI, &["10.0.0.1/24"]);
        let agent = adjust(config).start();
        let socket = peer.netns().run(|| UdpSocket::bind(("192.0.2.2", 4789))).unwrap().unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { node, bound, learning, lonely, agent, peer: socket }
    }

    /// The next frame that comes to the peer.
    fn received(&self) -> Frame {
        let mut packet = vec![0; 1 << 16];
        let len = self.peer.recv(&mut packet).unwrap();
        assert_eq!(packet[..8], vxlan(VNI, &[]));
        packet[8..len].to_vec()
    }

    /// Sends the frame from a pod between two good ones, in one burst; checks that these arrive at the peer and
    /// that the agent's only other deed is one drop of this name.
    #[track_caller]
    fn expect(&self, what: &str, reason: DropReason, pod: &Host, frame: &[u8]) {
        let good = |mark: &[u8]| ethernet(BROADCAST, self.bound.mac("eth0"), EXPERIMENT, mark);
        let (before, frames) = (self.agent.dropped_as(reason), self.agent.forwarded("frames_in"));
        let others = |reason: DropReason| {
            self.agent.dropped().into_iter().filter(move |(name, _)| name != reason.name()).collect::<Vec<_>>()
        };
        let others_before = others(reason);
        let (own, bad) = (PacketSocket::open(&self.bound, "eth0"), PacketSocket::open(pod, "eth0"));
        self.agent.frozen(|| {
            own.send(&good(b"before"));
            bad.send(frame);
            own.send(&good(b"behind"));
        });
        assert!(self.received() == good(b"before"), "{what}");
        assert!(self.received() == good(b"behind"), "{what}");
        self.agent.wait_for_frames(frames + 3);
        self.agent.assert_laws();
        assert_eq!(self.agent.forwarded("frames_in"), frames + 3, "{what}");
        assert_eq!(self.agent.dropped_as(reason), before + 1, "{what}: {:?}", self.agent.dropped());
        assert_eq!(others(reason), others_before, "{what}");
    }
}

/// A message of neighbour discovery to all nodes (RFC 4861 section 4) from the link-local address of a MAC, with a
/// target and the option that names a MAC.
fn discovery(kind: u8, from: MacAddr, (target, mac): (Ipv6Addr, MacAddr)) -> Frame {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(link_local(from).octets(), to.octets(), 255)
        .icmpv6_raw(kind, 0, [0x20, 0, 0, 0])
        .write(&mut frame, &[&target.octets()[..], &[2, 1], &mac.0].concat())
        .unwrap();
    frame
}

/// The address that a device forms from its MAC (RFC 4291 appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[test]
fn a_bound_pod_speaks_for_itself_only() {
    let site = site!();
    let source = Source::new(&site);
    let (pod, own) = (&source.bound, source.bound.mac("eth0"));
    let spoofs = |what: &str, reason, frame: &[u8]| source.expect(what, reason, pod, frame);
    spoofs("another's MAC", DropReason::SpoofedMac, &ethernet(BROADCAST, mac_of(7), EXPERIMENT, b"x"));
    let datagram = |from| udp_over_ipv4((own, from, 1), (BROADCAST, OTHER, 2), b"x");
    spoofs("another's IPv4", DropReason::SpoofedIp, &datagram(OTHER));
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    let datagram6 = |from: Ipv6Addr| udp_over_ipv6((own, from, 1), (BROADCAST, group, 2), b"x");
    spoofs("another's IPv6", DropReason::SpoofedIp, &datagram6("fd00::2".parse().unwrap()));
    spoofs("another's ARP", DropReason::SpoofedIp, &arp_request(own, OTHER, OWN));
    let mut arp = arp_request(own, OWN, OTHER);
    arp[22..28].copy_from_slice(&mac_of(7).0);
    spoofs("an ARP for another's MAC", DropReason::SpoofedIp, &arp);
    let others = "fd00::2".parse().unwrap();
    spoofs("another's neighbour advertisement", DropReason::SpoofedIp, &discovery(136, own, (others, own)));
    // What is its own, and what is everybody's, goes out.
    let link_local = link_local(own);
    let lies = discovery(136, own, (link_local, mac_of(7)));
    spoofs("an advertisement of another's MAC", DropReason::SpoofedMac, &lies);
    spoofs("a router advertisement", DropReason::RogueRouter, &discovery(134, own, (link_local, own)));
    let socket = PacketSocket::open(pod, "eth0");
    let dropped = source.agent.dropped();
    for frame in [
        discovery(136, own, (link_local, own)),
        datagram(OWN),
        datagram(Ipv4Addr::UNSPECIFIED),
        datagram6(link_local),
        datagram6(Ipv6Addr::UNSPECIFIED),
        arp_request(own, OWN, OTHER),
        arp_request(own, Ipv4Addr::UNSPECIFIED, OTHER),
    ] {
        socket.send(&frame);
        assert!(source.received() == frame);
    }
    assert_eq!(source.agent.dropped(), dropped);
    source.agent.finish();
}

#[test]
fn frames_that_may_not_enter() {
    let site = site!();
    let source = Source::new(&site);
    let (bound, learning) = (&source.bound, &source.learning);
    for sender in [MacAddr::ZERO, BROADCAST, MacAddr([3, 0, 0, 0, 0, 1])] {
        let frame = ethernet(BROADCAST, sender, EXPERIMENT, b"x");
        source.expect("no address of a sender", DropReason::BadSourceMac, learning, &frame);
    }
    for tags in [&[(0x8100, 5)][..], &[(0x88a8, 5)], &[(0x88a8, 5), (0x8100, 6)]] {
        let frame = tagged(&ethernet(BROADCAST, bound.mac("eth0"), EXPERIMENT, b"x"), tags);
        source.expect("a tagged frame", DropReason::VlanTagged, bound, &frame);
    }
    let lldp = ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]), bound.mac("eth0"), 0x88cc, b"x");
    source.expect("a link's own", DropReason::ReservedMulticast, bound, &lldp);
    let node: Ipv4Addr = "192.0.2.1".parse().unwrap();
    for port in [4789, 6081] {
        let inside = udp_over_ipv4((mac_of(7), OTHER, 50_000), (BROADCAST, node, port), &vxlan(VNI, &lldp));
        source.expect("our own encapsulation", DropReason::EncapLoop, learning, &inside);
    }
    let claims = |end: u8, frame: Frame| {
        let mut frame = frame;
        frame[usize::from(end)] = 0xff;
        frame
    };
    let datagram = udp_over_ipv4((mac_of(7), OTHER, 1), (BROADCAST, OWN, 2), b"x");
    source.expect("an IPv4 length beyond its frame", DropReason::MalformedIp, learning, &claims(16, datagram));
    let [from, to] = ["fd00::2", "fd00::1"].map(|address| address.parse().unwrap());
    let datagram = udp_over_ipv6((mac_of(7), from, 1), (BROADCAST, to, 2), b"x");
    source.expect("an IPv6 length beyond its frame", DropReason::MalformedIp, learning, &claims(18, datagram));
    let bound_mac = ethernet(BROADCAST, bound.mac("eth0"), EXPERIMENT, b"x");
    source.expect("another port's MAC", DropReason::StaticMacMoved, learning, &bound_mac);
    let to_itself = ethernet(bound.mac("eth0"), bound.mac("eth0"), EXPERIMENT, b"x");
    source.expect("to itself", DropReason::Hairpin, bound, &to_itself);
    let alone = ethernet(BROADCAST, source.lonely.mac("eth0"), EXPERIMENT, b"x");
    source.expect("to nobody", DropReason::NoFloodTarget, &source.lonely, &alone);
    source.agent.finish();
}

#[test]
fn longer_than_the_port_allows() {
    let site = site!("ip");
    let source = Source::new(&site);
    let (pod, mtu) = (&source.bound, usize::from(source.agent.port("bound").mtu));
    // The pod may set what it likes.
    pod.ip("link set eth0 mtu 3000");
    let mac = pod.mac("eth0");
    let frame = |len: usize| ethernet(BROADCAST, mac, EXPERIMENT, &vec![7; len]);
    for len in [mtu + 1, 3000] {
        source.expect("a long frame", DropReason::ExceedsIngressMtu, pod, &frame(len));
    }
    PacketSocket::open(pod, "eth0").send(&frame(mtu));
    assert!(source.received() == frame(mtu), "what fits goes through");

    // A superframe is as long as the packets that it stands for.
    pod.ip(&format!("neigh add {OTHER} lladdr ff:ff:ff:ff:ff:ff dev eth0"));
    let (sent, dropped) = (40, source.agent.dropped_as(DropReason::ExceedsIngressMtu));
    send_superframe(pod, (OWN, OTHER), mtu - 28, &vec![6; sent * (mtu - 28)]);
    for _ in 0..sent {
        assert_eq!(source.received().len(), 14 + mtu);
    }
    assert_eq!(source.agent.dropped_as(DropReason::ExceedsIngressMtu), dropped);
    send_superframe(pod, (OWN, OTHER), mtu - 27, &vec![6; sent * (mtu - 27)]);
    eventually("the superframe of long packets is dropped", || {
        match source.agent.dropped_as(DropReason::ExceedsIngressMtu) {
            seen if seen == dropped + 1 => Ok(()),
            seen => Err(format!("{seen} dropped, {dropped} before")),
        }
    });
    source.agent.finish();
}

#[test]
fn longer_than_the_way_out_allows() {
    let site = site!();
    let source = Source::with(&site, |mut config| {
        for port in &mut config.file.ports {
            let mtu = if port.name.as_ref() == "learning" { 1400 } else { 1500 };
            port.mtu = Some(weft_control::config::file::unspanned(mtu));
        }
        config
    });
    let mut neighbour = Capture::start(&source.learning, "eth0");
    let (own, socket) = (source.bound.mac("eth0"), PacketSocket::open(&source.bound, "eth0"));
    for (len, drops) in [
        (1400, &[][..]),
        (1401, &[("exceeds_port_mtu", 1)]),
        (1450, &[("exceeds_port_mtu", 2)]),
        (1451, &[("exceeds_port_mtu", 3), ("exceeds_path_mtu", 1)]),
        (1500, &[("exceeds_port_mtu", 4), ("exceeds_path_mtu", 2)]),
    ] {
        let frame = ethernet(BROADCAST, own, EXPERIMENT, &vec![9; len]);
        let frames = source.agent.forwarded("frames_in");
        socket.send(&frame);
        source.agent.wait_for_frames(frames + 1);
        source.agent.assert_laws();
        let drops: Vec<_> = drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        assert_eq!(source.agent.dropped(), drops, "{len}");
        if len <= 1400 {
            neighbour.wait_for(1, |came| *came == frame);
        }
        if len <= 1450 {
            assert!(source.received() == frame);
        }
    }
    assert_eq!(neighbour.stop().len(), 1);
    source.agent.finish();
}

#[test]
fn no_way_to_a_vtep() {
    let site = site!("ip");
    let source = Source::with(&site, |config| {
        let [unrouted, forbidden] = ["198.51.100.1", "198.51.100.2"].map(|address| address.parse().unwrap());
        config.peer(unrouted, Encapsulation::Vxlan, &[VNI]).peer(forbidden, Encapsulation::Geneve, &[VNI])
    });
    source.node.ip("route add prohibit 198.51.100.2");
    let frame = ethernet(BROADCAST, source.bound.mac("eth0"), EXPERIMENT, b"x");
    PacketSocket::open(&source.bound, "eth0").send(&frame);
    assert!(source.received() == frame, "the others get their copies");
    source.agent.assert_laws();
    let expected =
        [DropReason::UnderlayUnreachable, DropReason::UnderlayRefused].map(|reason| (reason.name().to_owned(), 1));
    assert_eq!(source.agent.dropped(), expected);
    source.agent.finish();
}

#[test]
fn a_device_that_is_down_or_gone() {
    let site = site!("ip");
    let source = Source::new(&site);
    let frame = ethernet(BROADCAST, source.bound.mac("eth0"), EXPERIMENT, b"x");
    let socket = PacketSocket::open(&source.bound, "eth0");
    source.learning.ip("link set eth0 down");
    socket.send(&frame);
    assert!(source.received() == frame);
    source.agent.assert_laws();
    assert_eq!(source.agent.dropped(), [(DropReason::PortDown.name().to_owned(), 1)]);
    source.learning.ip("link set eth0 up");
    let mut capture = Capture::start(&source.learning, "eth0");
    socket.send(&frame);
    capture.wait_for(1, |came| *came == frame);
    assert!(source.received() == frame);
    drop(capture);
    // A device that was removed is made again, the same for the pod; meanwhile the others go on.
    let before = source.learning.link("eth0");
    source.learning.ip("link delete eth0");
    socket.send(&frame);
    assert!(source.received() == frame);
    eventually("the device is there again", || {
        let link = source.learning.netns().links(|links| links.get("eth0")).unwrap();
        let state = source.agent.port("learning").state;
        match &link {
            Some(link) if link.index != before.index && link.up && state == "forwarding" => Ok(()),
            _ => Err(format!("{state}: {link:?}")),
        }
    });
    assert_eq!((source.learning.mac("eth0"), source.learning.link("eth0").mtu), (before.mac.unwrap(), before.mtu));
    let mut capture = Capture::start(&source.learning, "eth0");
    socket.send(&frame);
    capture.wait_for(1, |came| *came == frame);
    assert!(source.received() == frame);
    assert_eq!(source.agent.status().ports_lost, 0);
    source.agent.assert_laws();
    assert_eq!(source.agent.dropped(), [(DropReason::PortDown.name().to_owned(), 2)]);
    source.agent.finish();
}
