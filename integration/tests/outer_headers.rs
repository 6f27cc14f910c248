//! The outer headers over real sockets: what is carried out of the inner ones and into them, and what is accepted.

use std::net::IpAddr;

use weft_bridge::DropReason;
use weft_control::config::file::{DscpEntry, TtlEntry, unspanned};
use weft_encap::checksum;
use weft_encap::ecn::{Dscp, Ecn, apply_ecn};
use weft_encap::outer::{Addresses, Link, MAX_LEN, Outer, Ttl, UdpChecksum};
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Frame, Geneve, Host, MacAddr, Node, PacketSocket, Site,
    arp_request, ethernet, mac_of, site, udp_over_ipv4, udp_over_ipv6, vxlan,
};

const VNI: u32 = 5000;
const VXLAN_PORT: u16 = 4789;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
/// IPv4's TTL and IPv6's hop limit and class, in bytes from the start of the frame.
const TTL_V4: usize = 14 + 8;
const HOP_LIMIT_V6: usize = 14 + 7;

/// An agent with one pod that may send anything, and a peer whose packets are written by hand.
struct Wire {
    nodes: [Node; 2],
    pod: Host,
    agent: AgentNode,
    family: Family,
}

impl Wire {
    fn new(site: &Site, family: Family, adjust: impl FnOnce(&mut AgentConfig)) -> Self {
        let nodes = site.pair();
        let pod = site.host("pod");
        pod.silence();
        let mut config = AgentConfig::new(site, &nodes[0], &[family])
            .vni(VNI)
            .without_probes()
            .peer(nodes[1].address(family), Encapsulation::Vxlan, &[VNI])
            .learning_port(&pod, VNI, &[]);
        adjust(&mut config);
        let agent = config.start();
        Self { nodes, pod, agent, family }
    }

    /// The outer headers under which a frame of the pod reaches the peer.
    #[track_caller]
    fn outer_of(&self, frame: &[u8]) -> Outer {
        let mut capture = Capture::start(&self.nodes[1], "eth0");
        PacketSocket::open(&self.pod, "eth0").send(frame);
        let payload = vxlan(VNI, frame);
        let carries = |seen: &Frame| Outer::read(seen).is_ok_and(|read| read.payload == payload);
        let seen = capture.wait_for(1, carries);
        Outer::read(&seen[0]).expect("a tunnel packet").outer
    }

    /// Lets the peer send a tunnel packet.
    fn arrives(&self, to: u16, tos: u8, payload: &[u8], with_checksum: bool) {
        let [ours, theirs] = &self.nodes;
        let addresses = match (theirs.address(self.family), ours.address(self.family)) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4 { src, dst },
            (IpAddr::V6(src), IpAddr::V6(dst)) => Addresses::V6 { src, dst },
            (src, dst) => panic!("{src} and {dst}"),
        };
        let outer = Outer { addresses, src_port: 50_000, dst_port: to, tos, ttl: 64, identification: 0 };
        let udp = match with_checksum {
            true => UdpChecksum::Complete { payload: checksum::sum(payload) },
            false => UdpChecksum::Zero,
        };
        let mut room = [0; MAX_LEN];
        let link = Link { dst: ours.mac("eth0"), src: theirs.mac("eth0") };
        let at = link.write(&mut room, &addresses).expect("room");
        let len = at + outer.write(&mut room[at..], payload.len(), udp).expect("room");
        PacketSocket::open(theirs, "eth0").send(&[&room[..len], payload].concat());
    }

    fn finish(self) {
        self.agent.finish();
    }
}

fn ipv4(mark: &[u8]) -> Vec<u8> {
    udp_over_ipv4((mac_of(1), [10, 0, 0, 1].into(), 1000), (BROADCAST, [10, 0, 0, 2].into(), 2000), mark)
}

fn ipv6(mark: &[u8]) -> Vec<u8> {
    let [src, dst] = ["fd00::1", "fd00::2"].map(|address| address.parse().expect("an address"));
    udp_over_ipv6((mac_of(1), src, 1000), (BROADCAST, dst, 2000), mark)
}

/// A frame with this byte there. Its IPv4 header checksum is wrong then, which is nothing to a switch.
fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

#[test]
fn the_ttl_is_fixed_or_that_of_the_inner_packet() {
    let arp = arp_request(mac_of(1), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    for family in FAMILIES {
        for (knob, fixed) in [(Ttl::default(), Some(64)), (Ttl::Fixed(7), Some(7)), (Ttl::Inherit, None)] {
            let site = site!();
            let wire = Wire::new(&site, family, |config| config.file.underlay.ttl = TtlEntry(knob));
            for hops in [255, 64, 2, 1] {
                for frame in [with(ipv4(&[hops]), TTL_V4, hops), with(ipv6(&[hops]), HOP_LIMIT_V6, hops)] {
                    assert_eq!(wire.outer_of(&frame).ttl, fixed.unwrap_or(hops), "{knob:?}, inner {hops}");
                }
            }
            assert_eq!(wire.outer_of(&with(ipv4(b"none"), TTL_V4, 0)).ttl, fixed.unwrap_or(1));
            assert_eq!(wire.outer_of(&arp).ttl, fixed.unwrap_or(64));
            wire.finish();
        }
    }
}

#[test]
fn the_dscp_is_fixed_or_that_of_the_inner_packet() {
    const VOICE: u8 = 46;
    for family in FAMILIES {
        for (knob, dscp) in [(Dscp::Fixed(0), 0), (Dscp::Fixed(10), 10), (Dscp::Inherit, VOICE)] {
            let site = site!();
            let wire = Wire::new(&site, family, |config| config.file.underlay.dscp = DscpEntry(knob));
            let frames = [with(ipv4(b"4"), 15, VOICE << 2), with(with(ipv6(b"6"), 14, 0x60 | VOICE >> 2), 15, 0x80)];
            for frame in frames {
                assert_eq!(wire.outer_of(&frame).tos, dscp << 2, "{knob:?}");
            }
            wire.finish();
        }
    }
}

#[test]
fn congestion_marks_cross_by_rfc_6040() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    // Columns are the outer field in this order; none: dropped.
    let columns = [NotEct, Ect0, Ect1, Ce];
    let figure_4 = [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
    ];
    for family in FAMILIES {
        let site = site!();
        let wire = Wire::new(&site, family, |_| ());
        let mut drops = 0;
        for make in [ipv4, ipv6] {
            for (inner, row) in figure_4 {
                let marked = |mark: &[u8], ecn| {
                    let mut frame = make(mark);
                    assert!(apply_ecn(&mut frame, ecn));
                    frame
                };
                assert_eq!(wire.outer_of(&marked(b"out", inner)).tos, inner as u8, "out: {inner:?}");
                for (outer, outgoing) in columns.into_iter().zip(row) {
                    let mark = [b'i', inner as u8, outer as u8];
                    let mut sent = marked(&mark, inner);
                    // From behind the peer.
                    sent[6..12].copy_from_slice(&mac_of(2).0);
                    let mut capture = Capture::start(&wire.pod, "eth0");
                    wire.arrives(VXLAN_PORT, outer as u8, &vxlan(VNI, &sent), true);
                    let last = ethernet(BROADCAST, mac_of(2), 0x88b5, &mark);
                    wire.arrives(VXLAN_PORT, 0, &vxlan(VNI, &last), true);
                    capture.wait_for(1, |seen| *seen == last);
                    let wanted = outgoing.map(|ecn| {
                        assert!(apply_ecn(&mut sent, ecn));
                        sent
                    });
                    let seen: Vec<_> = capture.stop().into_iter().filter(|seen| *seen != last).collect();
                    assert_eq!(seen, wanted.into_iter().collect::<Vec<_>>(), "{inner:?} in {outer:?}");
                    drops += u64::from(outgoing.is_none());
                    assert_eq!(wire.agent.dropped_as(DropReason::EcnNotCapable), drops);
                }
            }
        }
        wire.finish();
    }
}

/// Whether a frame in this tunnel packet reaches the pod, which another one behind it surely does.
fn reaches(wire: &Wire, port: u16, around: impl Fn(&[u8]) -> Vec<u8>, with_checksum: bool) -> bool {
    let frame = |mark: &[u8]| ethernet(BROADCAST, mac_of(2), 0x88b5, mark);
    let mut capture = Capture::start(&wire.pod, "eth0");
    wire.arrives(port, 0, &around(&frame(b"first")), with_checksum);
    wire.arrives(port, 0, &around(&frame(b"second")), true);
    capture.wait_for(1, |seen| *seen == frame(b"second"));
    capture.stop().contains(&frame(b"first"))
}

#[test]
fn zero_outer_checksums_are_taken_over_ipv4_and_by_setting_over_ipv6() {
    for (family, setting, taken) in [
        (Family::Ipv4, false, true),
        (Family::Ipv4, true, true),
        (Family::Ipv6, false, false),
        (Family::Ipv6, true, true),
    ] {
        let site = site!();
        let wire = Wire::new(&site, family, |config| {
            config.file.underlay.zero_checksums_over_ipv6 = setting;
            config.file.underlay.vxlan_ports = unspanned(vec![VXLAN_PORT, 8472]);
        });
        for port in [VXLAN_PORT, 8472] {
            assert!(reaches(&wire, port, |frame| vxlan(VNI, frame), true));
            assert_eq!(reaches(&wire, port, |frame| vxlan(VNI, frame), false), taken, "{family:?}, {setting}");
        }
        assert_eq!(reaches(&wire, 6081, |frame| Geneve::new(VNI).around(frame), false), taken);
        wire.finish();
    }
}

#[test]
fn several_ports_of_both_encapsulations_at_once() {
    for family in FAMILIES {
        let site = site!();
        let wire = Wire::new(&site, family, |config| {
            config.file.underlay.vxlan_ports = unspanned(vec![4789, 8472, 9999]);
            config.file.underlay.geneve_ports = unspanned(vec![6081, 6082]);
            config.file.vteps[0].port = Some(unspanned(8472));
        });
        for port in [4789, 8472, 9999] {
            assert!(reaches(&wire, port, |frame| vxlan(VNI, frame), true), "{port}");
        }
        for port in [6081, 6082] {
            assert!(reaches(&wire, port, |frame| Geneve::new(VNI).around(frame), true), "{port}");
        }
        assert_eq!(wire.outer_of(&ipv4(b"back")).dst_port, 8472, "the port of the peer's entry");
        assert_eq!(wire.agent.dropped(), []);
        wire.finish();
    }
}
