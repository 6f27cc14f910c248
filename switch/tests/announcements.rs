//! What becomes of frames that tell others of an address, or look for routers: they are flooded, and move nothing.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{Attachment, DropReason, PortId, Seconds, Tables};
use weft_encap::{Encapsulation, Inner, MacAddr, Network, Offload, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SECOND: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// All nodes and all routers of a link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Types of ICMPv6 (RFC 4861 sections 4.1 and 4.4).
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Of an advertisement: override (RFC 4861 section 4.4).
const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];
/// The option with the target's MAC, in units of eight bytes (RFC 4861 section 4.6.1).
const TARGET_MAC: [u8; 2] = [2, 1];

fn vni() -> Vni {
    Vni::new(1).unwrap()
}

fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

fn ip6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())
}

/// Hosts by the last byte of MAC and addresses: two bound pods, a learning port, and a pod behind a managed VTEP.
struct Lab {
    switch: MemorySwitch,
    pod: MemoryPort,
    second: MemoryPort,
    learning: MemoryPort,
    learning_id: PortId,
}

impl Lab {
    fn new() -> Self {
        let mut tables = Tables::new(vec![[192, 0, 2, 1].into()], vec![4789]);
        tables.add_domain(vni(), DomainOptions::default()).unwrap();
        let mut port = |mac: MacAddr, mode| {
            tables.add_port(Port { name: format!("p{}", mac.0[5]), vni: vni(), mac, mtu: 1450, mode }).unwrap()
        };
        let bound = |mac: MacAddr| PortMode::Bound { addresses: vec![ip(mac.0[5]).into(), ip6(mac.0[5]).into()] };
        let ids = [port(POD, bound(POD)), port(SECOND, bound(SECOND)), port(ROUTER, PortMode::Learning { limit: 8 })];
        let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Managed);
        let row = Vtep { address: PEER, udp_port: 4789, encapsulation, kind, pod_mtu: 1450 };
        let peer = tables.add_vtep(row, &[vni()]).unwrap();
        tables.bind_mac(vni(), REMOTE, peer, false).unwrap();
        for mac in [POD, SECOND, REMOTE] {
            tables.set_neighbour(vni(), ip(mac.0[5]).into(), mac).unwrap();
            tables.set_neighbour(vni(), ip6(mac.0[5]).into(), mac).unwrap();
        }
        let mut switch = MemorySwitch::new(tables, 64);
        let [pod, second, learning] = ids.map(|id| switch.attach(id));
        Self { switch, pod, second, learning, learning_id: ids[2] }
    }

    fn run(&mut self) {
        self.switch.run(Seconds(1));
        self.switch.totals().check().unwrap();
    }

    /// What has come to the first, the second and the learning port, and what has left for the VTEP, in frames.
    fn received(&self) -> [Vec<Vec<u8>>; 4] {
        let [pod, second, learning] = [&self.pod, &self.second, &self.learning]
            .map(|port| port.pod_received().into_iter().map(|f| f.bytes).collect());
        let header = Encapsulation::Vxlan.header(vni()).as_bytes().len();
        let groups = self.switch.underlay().sent();
        let sent =
            groups.iter().flat_map(|group| group.bytes.chunks(group.segment)).map(|sent| sent[header..].to_vec());
        [pod, second, learning, sent.collect()]
    }

    /// The MACs that the first pod's questions for the others' addresses are answered with.
    fn answers(&mut self) -> Vec<MacAddr> {
        for target in [REMOTE, SECOND] {
            self.pod.pod_sends(arp(ArpOperation::REQUEST, POD, ip(1), ip(target.0[5])), Ok(Offload::NONE));
        }
        self.run();
        let [pod, second, learning, sent] = self.received();
        assert_eq!((learning.len(), sent.len()), (0, 0), "both are known");
        let asked = second.iter().map(|asked| Inner::parse(asked).unwrap().src);
        assert_eq!(asked.collect::<Vec<_>>(), [POD], "who is here answers himself");
        pod.iter()
            .map(|answer| match Inner::parse(answer).unwrap().network {
                Network::Arp(arp) => arp.sender_mac,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn arp(operation: ArpOperation, sender: MacAddr, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &own.octets(),
        &[0; 6],
        &target.octets(),
    );
    [&[0xff; 6][..], &sender.0, &[8, 6], &packet.unwrap().to_bytes()].concat()
}

/// Says that an address is the sender's (RFC 5227 section 3), in the form that Linux sends by `arp_notify` and in the other.
fn gratuitous(sender: MacAddr, own: Ipv4Addr) -> [Vec<u8>; 2] {
    [ArpOperation::REQUEST, ArpOperation::REPLY].map(|operation| arp(operation, sender, own, own))
}

fn icmpv6(sender: MacAddr, to: Ipv6Addr, kind: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let [.., last] = to.octets();
    let builder = PacketBuilder::ethernet2(sender.0, [0x33, 0x33, 0, 0, 0, last]);
    let builder = builder.ipv6(ip6(sender.0[5]).octets(), to.octets(), 255);
    builder.icmpv6_raw(kind, 0, word).write(&mut frame, rest).unwrap();
    frame
}

/// An unsolicited advertisement (RFC 4861 section 7.2.6).
fn advertisement(sender: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    let rest = [&target.octets()[..], &TARGET_MAC, &sender.0].concat();
    icmpv6(sender, ALL_NODES, NEIGHBOUR_ADVERTISEMENT, OVERRIDE, &rest)
}

#[test]
fn what_a_bound_pod_tells_of_its_own_address_is_flooded_and_moves_nothing() {
    let mut lab = Lab::new();
    let told = [&gratuitous(POD, ip(1))[..], &[advertisement(POD, ip6(1))]].concat();
    told.iter().for_each(|frame| lab.pod.pod_sends(frame.clone(), Ok(Offload::NONE)));
    lab.run();
    let [own, others @ ..] = lab.received();
    assert_eq!(own, [[0; 0]; 0], "nobody answers");
    assert!(others.iter().all(|received| *received == told), "{others:?}");
    let totals = lab.switch.totals();
    assert_eq!((totals.flood, totals.answered), (3, 0));
    assert_eq!(lab.switch.fdb().len(), 0, "nothing is learned");
    assert_eq!(lab.answers(), [REMOTE]);
}

#[test]
fn a_bound_pod_speaks_for_its_own_addresses_alone() {
    let mut lab = Lab::new();
    for victim in [2, 9] {
        for frame in [&gratuitous(POD, ip(victim))[..], &[advertisement(POD, ip6(victim))]].concat() {
            lab.pod.pod_sends(frame, Ok(Offload::NONE));
        }
    }
    lab.run();
    assert_eq!(lab.received().map(|received| received.len()), [0; 4]);
    assert_eq!(lab.switch.totals().dropped(DropReason::SpoofedIp), 6);
    assert_eq!(lab.answers(), [REMOTE]);
}

/// Behind a learning port and behind another node may be anybody: what they say is passed on, and the store is believed.
#[test]
fn nobody_moves_a_published_address_by_saying_that_it_is_his() {
    let mut lab = Lab::new();
    let claimed = [&gratuitous(ROUTER, ip(9))[..], &[advertisement(ROUTER, ip6(9))]].concat();
    claimed.iter().for_each(|frame| lab.learning.pod_sends(frame.clone(), Ok(Offload::NONE)));
    lab.run();
    let [pod, second, learning, sent] = lab.received();
    assert!([pod, second, sent].iter().all(|received| *received == claimed));
    assert_eq!(learning.len(), 0);
    assert_eq!(lab.switch.fdb().len(), 1, "the sender's own MAC, behind that port");
    assert_eq!(lab.switch.fdb().rows(Seconds(1)).next().unwrap().attachment, Attachment::Port(lab.learning_id));
    assert_eq!(lab.answers(), [REMOTE]);
    // And one that another node's pod sends, of an address that is here.
    for frame in gratuitous(REMOTE, ip(2)) {
        let bytes = [Encapsulation::Vxlan.header(vni()).as_bytes(), &frame].concat();
        lab.switch.underlay().arrives(PEER, Encapsulation::Vxlan, bytes.len(), 0, bytes);
    }
    lab.run();
    assert_eq!(lab.received().map(|received| received.len()), [2, 2, 2, 0]);
    assert_eq!(lab.switch.fdb().len(), 1);
    assert_eq!(lab.answers(), [REMOTE]);
}

#[test]
fn a_router_solicitation_is_flooded_and_not_answered() {
    let mut lab = Lab::new();
    let asked = icmpv6(POD, ALL_ROUTERS, ROUTER_SOLICITATION, [0; 4], &[&[1, 1][..], &POD.0].concat());
    lab.pod.pod_sends(asked.clone(), Ok(Offload::NONE));
    lab.run();
    let [own, others @ ..] = lab.received();
    assert_eq!(own.len(), 0);
    assert!(others.iter().all(|received| *received == [asked.clone()]), "{others:?}");
    let totals = lab.switch.totals();
    assert_eq!((totals.flood, totals.answered), (1, 0));
}
