//! Bad input: each gets the drop that is named after it, and costs nobody else anything.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use etherparse::PacketBuilder;
use weft_bridge::DropReason;
use weft_integration::{
    AgentConfig, AgentNode, BOUND, Capture, Encapsulation, Family, Frame, Geneve, Host, MacAddr, Node, PacketSocket,
    Site, ethernet, eventually, mac_of, random_bytes, site, tagged, udp_over_ipv4, vxlan,
};

const EXPERIMENT: u16 = 0x88b5;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const VNI: u32 = 5000;
/// A network of the agent in which the peer has no part.
const OTHER_VNI: u32 = 6000;
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;

/// An agent with one pod, and a peer of which it knows one address.
struct Target {
    node: Node,
    pod: Host,
    agent: AgentNode,
    /// At the peer's known address and tunnel port.
    peer: UdpSocket,
}

impl Target {
    fn new(site: &Site) -> Self {
        Self::with(site, |config| config)
    }

    fn with(site: &Site, adjust: impl FnOnce(AgentConfig) -> AgentConfig) -> Self {
        let [node, peer] = site.pair();
        let (pod, other) = (site.host("pod"), site.host("other"));
        for host in [&pod, &other] {
            host.silence();
        }
        let config = AgentConfig::new(site, &node, &[Family::Ipv4])
            .vni(VNI)
            .without_probes()
            .vni(OTHER_VNI)
            .peer(peer.address(Family::Ipv4), Encapsulation::Vxlan, &[VNI])
            .port(&other, OTHER_VNI, &[])
            .port(&pod, VNI, &["10.0.0.1/24"]);
        let agent = adjust(config).start();
        let socket = peer.netns().run(|| UdpSocket::bind(("192.0.2.2", VXLAN_PORT))).unwrap().unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { node, pod, agent, peer: socket }
    }

    fn send(&self, port: u16, packet: &[u8]) {
        let to = SocketAddr::new(self.node.address(Family::Ipv4), port);
        self.peer.send_to(packet, to).unwrap();
    }

    /// A frame for the pod that is in order.
    fn good(&self, mark: &[u8]) -> Frame {
        ethernet(self.pod.mac("eth0"), mac_of(2), EXPERIMENT, mark)
    }

    /// Sends the packet between two good ones, in one burst; checks that these arrive, and that the agent's only
    /// other deed is one drop of this name.
    #[track_caller]
    fn expect(&self, what: &str, reason: DropReason, port: u16, packet: &[u8]) {
        let mut capture = Capture::start(&self.pod, "eth0");
        let (before, frames) = (self.agent.dropped(), self.agent.forwarded("frames_in"));
        self.agent.frozen(|| {
            self.send(VXLAN_PORT, &vxlan(VNI, &self.good(b"before")));
            self.send(port, packet);
            self.send(VXLAN_PORT, &vxlan(VNI, &self.good(b"behind")));
        });
        self.agent.wait_for_frames(frames + 3);
        capture.wait_for(1, |frame| *frame == self.good(b"before"));
        capture.wait_for(1, |frame| *frame == self.good(b"behind"));
        self.agent.assert_laws();
        assert_eq!(capture.stop().len(), 2, "{what}: it reached the pod");
        assert_eq!(self.agent.forwarded("frames_in"), frames + 3, "{what}");
        let one_more = plus_one(before, reason);
        assert_eq!(self.agent.dropped(), one_more, "{what}");
    }
}

/// The counts with one more of this reason.
fn plus_one(mut counts: Vec<(String, u64)>, reason: DropReason) -> Vec<(String, u64)> {
    match counts.iter_mut().find(|(name, _)| name == reason.name()) {
        Some((_, count)) => *count += 1,
        None => counts.push((reason.name().to_owned(), 1)),
    }
    let place = |name: &str| DropReason::ALL.iter().position(|reason| reason.name() == name);
    counts.sort_by_key(|(name, _)| place(name));
    counts
}

#[test]
fn tunnel_headers_that_are_wrong() {
    let site = site!();
    let target = Target::new(&site);
    let frame = target.good(b"bad");
    let good = vxlan(VNI, &frame);
    let geneve = |change: fn(&mut Geneve)| {
        let mut header = Geneve::new(VNI);
        change(&mut header);
        header.around(&frame)
    };
    for len in [0, 1, 7] {
        target.expect("truncated VXLAN", DropReason::TunnelTruncated, VXLAN_PORT, &good[..len]);
        target.expect("truncated Geneve", DropReason::TunnelTruncated, GENEVE_PORT, &geneve(|_| ())[..len]);
    }
    let options = Geneve::new(VNI).option(1, 1, &[0; 8]).around(&[]);
    target.expect("truncated options", DropReason::TunnelTruncated, GENEVE_PORT, &options[..options.len() - 1]);
    let mut no_vni = good.clone();
    for flags in [0, 0xf7, 0x80, 0x04] {
        no_vni[0] = flags;
        target.expect("VXLAN without the I flag", DropReason::VxlanNoVni, VXLAN_PORT, &no_vni);
    }
    let extensions = [
        ("an OAM packet of GPE", DropReason::VxlanGpe, [0x09, 0]),
        ("GPE's next protocol", DropReason::VxlanGpe, [0x0c, 0]),
        ("a GPE of tomorrow", DropReason::VxlanGpe, [0x18, 0]),
        ("a group policy", DropReason::VxlanGroupPolicy, [0x88, 0]),
        ("remote checksum offload", DropReason::VxlanRemoteChecksum, [0x08, 0x20]),
    ];
    for (what, reason, flags) in extensions {
        let mut extended = good.clone();
        extended[..2].copy_from_slice(&flags);
        target.expect(what, reason, VXLAN_PORT, &extended);
    }
    for version in 1..=3 {
        let mut header = Geneve::new(VNI);
        header.version = version;
        target.expect("a Geneve of tomorrow", DropReason::GeneveVersion, GENEVE_PORT, &header.around(&frame));
    }
    let critical = Geneve::new(VNI).option(1, 1, &[0; 4]).option(0xffff, 0x80, &[]).around(&frame);
    target.expect("a critical option", DropReason::GeneveCriticalOption, GENEVE_PORT, &critical);
    let mut overrun = Geneve::new(VNI).option(1, 1, &[0; 4]);
    overrun.options[3] = 2;
    target.expect("an option beyond the header", DropReason::GeneveOptions, GENEVE_PORT, &overrun.around(&frame));
    target.expect("a control packet", DropReason::GeneveControl, GENEVE_PORT, &geneve(|header| header.flags = 0x80));
    for protocol in [0x0800, 0x86dd, 0, 0xffff] {
        let mut header = Geneve::new(VNI);
        header.protocol = protocol;
        target.expect("no Ethernet inside", DropReason::GeneveProtocol, GENEVE_PORT, &header.around(&frame));
    }
    target.expect("VXLAN's VNI 0", DropReason::VniZero, VXLAN_PORT, &vxlan(0, &frame));
    target.expect("Geneve's VNI 0", DropReason::VniZero, GENEVE_PORT, &geneve(|header| header.vni = 0));
    for vni in [1, VNI + 1, VNI << 8, 0xff_ffff] {
        target.expect("a VNI of nobody", DropReason::UnknownVni, VXLAN_PORT, &vxlan(vni, &frame));
        target.expect("a VNI of nobody", DropReason::UnknownVni, GENEVE_PORT, &Geneve::new(vni).around(&frame));
    }
    target.expect("another's VNI", DropReason::NotMember, VXLAN_PORT, &vxlan(OTHER_VNI, &frame));
    target.agent.finish();
}

#[test]
fn frames_from_a_tunnel_that_are_wrong() {
    let site = site!();
    let target = Target::new(&site);
    let (pod, stranger) = (target.pod.mac("eth0"), mac_of(2));
    let carry = |what: &str, reason, frame: &[u8]| target.expect(what, reason, VXLAN_PORT, &vxlan(VNI, frame));
    for len in 0..14 {
        carry("a runt", DropReason::Runt, &target.good(b"")[..len]);
    }
    for source in [MacAddr::ZERO, BROADCAST, MacAddr([1, 0, 0, 0, 0, 9])] {
        carry("no address of a sender", DropReason::BadSourceMac, &ethernet(pod, source, EXPERIMENT, b"x"));
    }
    for tags in [&[(0x8100, 5)][..], &[(0x88a8, 5)], &[(0x88a8, 5), (0x8100, 6)], &[(0x9100, 5)], &[(0x8100, 0)]] {
        carry("a tagged frame", DropReason::VlanTagged, &tagged(&target.good(b"x"), tags));
    }
    carry("a tag cut off", DropReason::VlanTagged, &tagged(&target.good(b""), &[(0x8100, 5)])[..14]);
    for last in [0, 2, 0x0e] {
        let link_local = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        carry("a link's own", DropReason::ReservedMulticast, &ethernet(link_local, stranger, EXPERIMENT, b"x"));
    }
    carry("the pod's own MAC", DropReason::StaticMacMoved, &ethernet(BROADCAST, pod, EXPERIMENT, b"x"));
    let own: Ipv4Addr = "192.0.2.1".parse().unwrap();
    let peer: Ipv4Addr = "192.0.2.2".parse().unwrap();
    for port in [VXLAN_PORT, GENEVE_PORT] {
        let towards = udp_over_ipv4((stranger, peer, 50_000), (pod, own, port), &vxlan(VNI, &target.good(b"x")));
        carry("our own encapsulation inside", DropReason::EncapLoop, &towards);
        let away = udp_over_ipv4((stranger, own, 50_000), (pod, peer, port), &vxlan(VNI, &target.good(b"x")));
        carry("our own encapsulation inside", DropReason::EncapLoop, &away);
    }
    // Known to be where it comes from.
    target.send(VXLAN_PORT, &vxlan(VNI, &ethernet(BROADCAST, mac_of(2), EXPERIMENT, b"learn me")));
    eventually("the peer's MAC is learned", || match target.agent.vteps()[0].learned {
        1 => Ok(()),
        seen => Err(format!("{seen} learned")),
    });
    carry("back where it came from", DropReason::Hairpin, &ethernet(mac_of(2), mac_of(3), EXPERIMENT, b"x"));
    let long = ethernet(pod, stranger, EXPERIMENT, &[7; 1451]);
    carry("longer than the pod's MTU", DropReason::ExceedsPortMtu, &long);
    let long = udp_over_ipv4((stranger, peer, 1), (pod, "10.0.0.1".parse().unwrap(), 2), &[7; 1451 - 28]);
    carry("longer than the pod's MTU", DropReason::ExceedsPortMtu, &long);
    target.agent.finish();
}

#[test]
fn a_segment_damaged_on_the_way_is_neither_handed_on_nor_mended() {
    const SIZE: usize = 1000;
    let site = site!();
    let target = Target::new(&site);
    let segment = |number: usize| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(mac_of(2).0, target.pod.mac("eth0").0);
        let tcp = builder.ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).tcp(4000, 5000, (number * SIZE) as u32, 1000).ack(1);
        tcp.write(&mut frame, &[number as u8; SIZE]).unwrap();
        frame
    };
    let mut damaged = segment(3);
    damaged[600] ^= 0x20;
    let mut capture = Capture::start(&target.pod, "eth0");
    let frames = target.agent.forwarded("frames_in");
    target.agent.frozen(|| {
        for number in 0..6 {
            let frame = if number == 3 { damaged.clone() } else { segment(number) };
            target.send(VXLAN_PORT, &vxlan(VNI, &frame));
        }
        target.send(VXLAN_PORT, &vxlan(VNI, &target.good(b"behind")));
    });
    target.agent.wait_for_frames(frames + 7);
    capture.wait_for(1, |frame| *frame == target.good(b"behind"));
    target.agent.assert_laws();
    assert_eq!(target.agent.dropped(), plus_one(Vec::new(), DropReason::BadInnerChecksum));
    // Joined or not, each payload but that one is there, in order and as it was.
    let payloads = capture.stop().into_iter().filter(|frame| frame[12..14] == [8, 0]);
    let payloads: Vec<u8> = payloads.flat_map(|frame| frame[14 + 40..].to_vec()).collect();
    let wanted: Vec<u8> = [0, 1, 2, 4, 5].into_iter().flat_map(|number| [number; SIZE]).collect();
    assert!(payloads == wanted, "{} bytes of {}", payloads.len(), wanted.len());
    target.agent.finish();
}

#[test]
fn overlay_packets_from_our_own_address() {
    let site = site!();
    let target = Target::new(&site);
    let before = target.agent.dropped();
    let own = target.node.netns().run(|| UdpSocket::bind(("192.0.2.1", 0))).unwrap().unwrap();
    own.send_to(&vxlan(VNI, &target.good(b"own")), ("192.0.2.1", VXLAN_PORT)).unwrap();
    let expected = plus_one(before, DropReason::OwnSource);
    eventually("it is dropped", || match target.agent.dropped() {
        seen if seen == expected => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    target.agent.finish();
}

#[test]
fn all_zero_and_random_bytes_of_every_length() {
    const PACKETS: u64 = 10_000;
    let site = site!();
    let target = Target::new(&site);
    let log = target.agent.log().len();
    let frames = target.agent.forwarded("frames_in");
    for number in 0..PACKETS {
        let port = [VXLAN_PORT, GENEVE_PORT][number as usize % 2];
        let len = (number as usize * 7) % 1400;
        let mut packet = if number % 10 == 0 { vec![0; len] } else { random_bytes(number, len) };
        // Half of them get through the tunnel's header.
        if number % 4 >= 2 && len > 8 {
            let head = if port == VXLAN_PORT { vxlan(VNI, &[]) } else { Geneve::new(VNI).around(&[]) };
            packet[..8].copy_from_slice(&head);
            if len > 20 {
                // And their frames are for the pod.
                packet[8..14].copy_from_slice(&target.pod.mac("eth0").0);
            }
        }
        target.send(port, &packet);
        if number % 100 == 99 {
            target.agent.wait_for_frames(frames + number + 1);
        }
    }
    target.agent.assert_laws();
    assert_eq!(target.agent.forwarded("frames_in"), frames + PACKETS);
    let dropped: u64 = target.agent.dropped().iter().map(|(_, count)| count).sum();
    assert!(dropped > PACKETS / 2 && dropped < PACKETS, "{:?}", target.agent.dropped());
    assert_eq!(target.agent.log().len(), log, "bad packets were logged:\n{}", target.agent.log());
    target.expect("and it still works", DropReason::VxlanNoVni, VXLAN_PORT, &[0; 64]);
    target.agent.finish();
}

#[test]
fn ten_thousand_bad_packets_make_no_line_in_the_log() {
    let site = site!();
    let target = Target::new(&site);
    let log = target.agent.log().len();
    let frames = target.agent.forwarded("frames_in");
    let packets = [vec![0; 60], vxlan(77, &target.good(b"x")), vxlan(VNI, &[1; 9]), vxlan(VNI, &[0; 60])];
    for number in 0..10_000_usize {
        target.send(VXLAN_PORT, &packets[number % packets.len()]);
        if number % 100 == 99 {
            target.agent.wait_for_frames(frames + number as u64 + 1);
        }
    }
    target.agent.assert_laws();
    let reasons = [DropReason::VxlanNoVni, DropReason::UnknownVni, DropReason::Runt, DropReason::BadSourceMac];
    for reason in reasons {
        assert_eq!(target.agent.dropped_as(reason), 2_500, "{:?}", target.agent.dropped());
    }
    assert_eq!(target.agent.log().len(), log, "{}", target.agent.log());
    target.agent.finish();
}

#[test]
fn what_is_to_be_ignored_is_ignored() {
    let site = site!();
    let target = Target::new(&site);
    let mut capture = Capture::start(&target.pod, "eth0");
    let frame = target.good(b"through");
    let mut reserved = vxlan(VNI, &frame);
    // Every bit that RFC 7348 reserves and no extension claims.
    reserved[0] |= 0x42;
    reserved[1..4].copy_from_slice(&[0xdf, 0xff, 0xff]);
    reserved[7] = 0xff;
    target.send(VXLAN_PORT, &reserved);
    let mut options = Geneve::new(VNI).option(0x0102, 1, &[1, 2, 3, 4]).option(0xffff, 0x7f, &[9; 124]);
    // The reserved bits of Geneve, and a C bit without a critical option.
    options.flags = 0x7f;
    target.send(GENEVE_PORT, &options.around(&frame));
    target.send(VXLAN_PORT, &vxlan(VNI, &target.good(b"")));
    let came = capture.wait_for(2, |came| *came == frame);
    assert_eq!(came.len(), 2);
    capture.wait_for(1, |came| came.len() == 14);
    assert_eq!(target.agent.dropped(), []);
    target.agent.finish();
}

#[test]
fn tags_are_carried_where_the_network_is_transparent() {
    let site = site!();
    let target = Target::with(&site, |mut config| {
        config.file.vnis[0].vlan_transparent = true;
        config
    });
    // Two tags fit besides a full packet.
    assert_eq!(target.agent.port("pod").mtu, 1450 - 8);
    let mut capture = Capture::start(&target.pod, "eth0");
    for tags in [&[(0x8100, 5)][..], &[(0x88a8, 5), (0x8100, 6)], &[(0x8100, 0xe000)]] {
        let frame = tagged(&target.good(b"tagged"), tags);
        target.send(VXLAN_PORT, &vxlan(VNI, &frame));
        capture.wait_for(1, |came| *came == frame);
    }
    // And back.
    let back = tagged(&ethernet(BROADCAST, target.pod.mac("eth0"), EXPERIMENT, &[8; 100]), &[(0x8100, 7)]);
    PacketSocket::open(&target.pod, "eth0").send(&back);
    let mut packet = [0; 2000];
    let len = target.peer.recv(&mut packet).unwrap();
    assert!(packet[..len] == vxlan(VNI, &back), "{:?}", &packet[..len]);
    assert_eq!(target.agent.dropped(), []);
    target.agent.finish();
}
