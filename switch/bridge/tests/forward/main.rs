//! Every verdict that `admit` and `forward` can give, and what they learn on the way.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod frames;

use std::collections::BTreeSet;

use weft_bridge::tables::DomainOptions;
use weft_bridge::{
    Arrival, Attachment, Decision, DropReason, Fdb, Ingress, Learn, Learned, Port, PortId, PortMode, Seconds, Stage,
    Tables, TunnelPacket, VTEP_LEARN_LIMIT, Verdict, Vtep, VtepId, VtepKind, admit, forward, group,
};
use weft_encap::ecn::Ecn;
use weft_encap::{Checksum, Encapsulation, Inner, MacAddr, Offload, OffloadError, Vni};

use crate::frames::{
    arp, asks_for, behind_headers, discovery, ethernet, superframe_around, superframe_offload, tagged, tunnel_packet,
    udp, udp_to, udp6,
};

const A: MacAddr = mac(0xa);
const B: MacAddr = mac(0xb);
const LEARNING: MacAddr = mac(0xc);
const STRANGER: MacAddr = mac(0x99);
const OWN: [u8; 4] = [192, 0, 2, 1];
const FOREIGN: [u8; 4] = [192, 0, 2, 2];
const MANAGED: [u8; 4] = [192, 0, 2, 3];
const POD: [u8; 4] = [10, 0, 0, 1];
const OTHER_POD: [u8; 4] = [10, 0, 0, 2];
const LEARN_LIMIT: u32 = 16;
const MTU: u16 = 1450;
const NOW: Seconds = Seconds(100);

const fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn vni(id: u32) -> Vni {
    Vni::new(id).unwrap()
}

/// A node with a VNI of every kind of attachment, a transparent one with one port, and an empty one.
struct Node {
    tables: Tables,
    fdb: Fdb,
    /// Bound, with addresses.
    a: PortId,
    /// Bound, without addresses.
    b: PortId,
    learning: PortId,
    /// Alone in VNI 2, which carries tags.
    alone: PortId,
    foreign: VtepId,
    managed: VtepId,
}

#[derive(Debug, PartialEq)]
enum Fate {
    Unicast(Attachment),
    Flood(BTreeSet<Attachment>),
    Answer(MacAddr),
    Drop(DropReason),
}

fn fate(verdict: Verdict<'_>) -> Fate {
    match verdict {
        Verdict::Unicast(egress) => Fate::Unicast(egress),
        Verdict::Flood(flood) => {
            let targets: Vec<_> = flood.targets().collect();
            let set = BTreeSet::from_iter(targets.iter().copied());
            assert_eq!(set.len(), targets.len(), "no target twice");
            Fate::Flood(set)
        }
        Verdict::Answer(mac) => Fate::Answer(mac),
        Verdict::Drop(reason) => Fate::Drop(reason),
    }
}

fn port(name: &str, vni: Vni, mac: MacAddr, mode: PortMode) -> Port {
    Port { name: name.to_owned(), vni, mac, mtu: MTU, mode }
}

fn vtep(address: [u8; 4], kind: VtepKind) -> Vtep {
    let encapsulation = Encapsulation::Vxlan;
    Vtep { address: address.into(), udp_port: 4789, encapsulation, kind, pod_mtu: MTU }
}

impl Node {
    fn new() -> Self {
        let mut tables = Tables::new(vec![OWN.into(), "2001:db8::1".parse().unwrap()], vec![4789, 6081]);
        tables.add_domain(vni(1), DomainOptions::default()).unwrap();
        tables.add_domain(vni(2), DomainOptions { vlan_transparent: true, ..DomainOptions::default() }).unwrap();
        tables.add_domain(vni(3), DomainOptions::default()).unwrap();
        let addresses = vec![POD.into(), "fd00::1".parse().unwrap()];
        let learning = PortMode::Learning { limit: LEARN_LIMIT };
        let a = tables.add_port(port("a", vni(1), A, PortMode::Bound { addresses })).unwrap();
        let b = tables.add_port(port("b", vni(1), B, PortMode::Bound { addresses: Vec::new() })).unwrap();
        let c = tables.add_port(port("c", vni(1), LEARNING, learning.clone())).unwrap();
        let alone = tables.add_port(port("d", vni(2), A, learning)).unwrap();
        let foreign = tables.add_vtep(vtep(FOREIGN, VtepKind::Foreign), &[vni(1)]).unwrap();
        let managed = tables.add_vtep(vtep(MANAGED, VtepKind::Managed), &[vni(1)]).unwrap();
        Self { tables, fdb: Fdb::new(64), a, b, learning: c, alone, foreign, managed }
    }

    fn decide(
        &self,
        ingress: Attachment,
        frame: &[u8],
        offload: Result<Offload, OffloadError>,
    ) -> (Fate, Option<Learn>) {
        let ingress = match ingress {
            Attachment::Port(id) => Ingress::Port(id),
            Attachment::Vtep(id) => Ingress::Vtep(id, self.tables.domain(vni(1)).unwrap()),
        };
        let Decision { verdict, learn, .. } =
            forward(&self.tables, &self.fdb, NOW, ingress, &Inner::parse(frame), offload);
        (fate(verdict), learn)
    }

    fn fate(&self, ingress: impl Into<Ends>, frame: &[u8]) -> Fate {
        self.decide(ingress.into().0, frame, Ok(Offload::NONE)).0
    }

    fn news(&self, ingress: impl Into<Ends>, frame: &[u8]) -> Option<Learn> {
        self.decide(ingress.into().0, frame, Ok(Offload::NONE)).1
    }

    /// Has a MAC of VNI 1 learned somewhere.
    fn learned(&self, mac: MacAddr, attachment: impl Into<Ends>) {
        let domain = self.tables.domain(vni(1)).unwrap().id();
        let learn = Learn { domain, mac, attachment: attachment.into().0, limit: LEARN_LIMIT };
        assert_eq!(self.fdb.learn(&learn, NOW), Learned::New);
    }

    fn admitted(&self, source: [u8; 4], encapsulation: Encapsulation, payload: &[u8]) -> Result<(), DropReason> {
        self.marked(0, source, encapsulation, payload)
    }

    fn marked(&self, tos: u8, source: [u8; 4], encapsulation: Encapsulation, payload: &[u8]) -> Result<(), DropReason> {
        let packet = TunnelPacket { source: source.into(), encapsulation, tos, payload };
        admit(&self.tables, &packet).map(|_| ())
    }
}

/// An attachment by either id.
struct Ends(Attachment);

impl From<PortId> for Ends {
    fn from(id: PortId) -> Self {
        Self(Attachment::Port(id))
    }
}

impl From<VtepId> for Ends {
    fn from(id: VtepId) -> Self {
        Self(Attachment::Vtep(id))
    }
}

fn unicast(to: impl Into<Ends>) -> Fate {
    Fate::Unicast(to.into().0)
}

fn flood<const N: usize>(to: [Ends; N]) -> Fate {
    Fate::Flood(to.into_iter().map(|Ends(attachment)| attachment).collect())
}

/// The reason each broken tunnel packet is dropped for.
fn refused_by_admit(node: &Node) -> Vec<(DropReason, Result<(), DropReason>)> {
    let [vxlan, geneve] = [Encapsulation::Vxlan, Encapsulation::Geneve];
    let good = tunnel_packet(vxlan, 1);
    let with_flags_zero = [&[0; 1], &good[1..]].concat();
    let with_vni_zero = [&good[..4], &[0; 4], &good[8..]].concat();
    let extended = |flags: [u8; 2]| node.admitted(FOREIGN, vxlan, &[&flags[..], &good[2..]].concat());
    let header = |first: u8, flags: u8, protocol: [u8; 2], options: &[u8]| {
        [&[first, flags], &protocol[..], &[0, 0, 1, 0], options, &good[8..]].concat()
    };
    let ethernet = [0x65, 0x58];
    let geneve_case = |payload: &[u8]| node.admitted(FOREIGN, geneve, payload);
    let (either_way, segment) = superframe_around(&good);
    let packet = TunnelPacket { source: FOREIGN.into(), encapsulation: vxlan, tos: 0, payload: &either_way };
    vec![
        (DropReason::BadProbe, node.admitted(FOREIGN, vxlan, &tunnel_packet(vxlan, weft_encap::probe::VNI.get()))),
        (DropReason::EcnNotCapable, node.marked(Ecn::Ce as u8, FOREIGN, vxlan, &good)),
        (DropReason::UnknownSource, node.admitted([192, 0, 2, 99], vxlan, &good)),
        (DropReason::OwnSource, node.admitted(OWN, vxlan, &good)),
        (DropReason::TunnelTruncated, node.admitted(FOREIGN, vxlan, &good[..7])),
        (DropReason::TunnelTruncated, node.admitted(FOREIGN, vxlan, &[])),
        (DropReason::VxlanNoVni, node.admitted(FOREIGN, vxlan, &with_flags_zero)),
        (DropReason::VxlanGpe, extended([0x0c, 0])),
        (DropReason::VxlanGroupPolicy, extended([0x88, 0])),
        (DropReason::VxlanRemoteChecksum, extended([0x08, 0x20])),
        (DropReason::VniZero, node.admitted(FOREIGN, vxlan, &with_vni_zero)),
        (DropReason::UnknownVni, node.admitted(FOREIGN, vxlan, &tunnel_packet(vxlan, 99))),
        (DropReason::NotMember, node.admitted(FOREIGN, vxlan, &tunnel_packet(vxlan, 2))),
        (DropReason::AmbiguousGroup, group(&node.tables, &packet, segment).map(|_| ())),
        (DropReason::GeneveVersion, geneve_case(&header(0x40, 0, ethernet, &[]))),
        (DropReason::GeneveControl, geneve_case(&header(0, 0x80, ethernet, &[]))),
        (DropReason::GeneveProtocol, geneve_case(&header(0, 0, [8, 0], &[]))),
        (DropReason::GeneveCriticalOption, geneve_case(&header(1, 0x40, ethernet, &[1, 0, 0x80, 0]))),
        (DropReason::GeneveOptions, geneve_case(&header(1, 0, ethernet, &[1, 0, 0, 5]))),
    ]
}

/// A port in the VNI that carries tags, and what becomes of its packets behind so many of them.
fn behind_so_many_tags(mode: PortMode, source: [u8; 4], tags: usize) -> Fate {
    let mut node = Node::new();
    let port = node.tables.add_port(port("t", vni(2), B, mode)).unwrap();
    let frame = udp_to(B, A, (source, OTHER_POD), 9, 20);
    node.fate(port, &[&frame[..12], &[0x88, 0xa8, 0, 7].repeat(tags), &frame[12..]].concat())
}

#[test]
fn no_address_hides_behind_tags() {
    let bound =
        |addresses: &[[u8; 4]]| PortMode::Bound { addresses: addresses.iter().map(|ip| (*ip).into()).collect() };
    for tags in 0..=2 {
        assert!(matches!(behind_so_many_tags(bound(&[POD]), POD, tags), Fate::Flood(_)), "{tags}");
        assert_eq!(behind_so_many_tags(bound(&[POD]), OTHER_POD, tags), Fate::Drop(DropReason::SpoofedIp), "{tags}");
    }
    for tags in 3..=5 {
        for mode in [bound(&[POD]), bound(&[])] {
            assert_eq!(behind_so_many_tags(mode, POD, tags), Fate::Drop(DropReason::TooManyHeaders), "{tags}");
        }
        let learning = PortMode::Learning { limit: 1 };
        assert!(matches!(behind_so_many_tags(learning, OTHER_POD, tags), Fate::Flood(_)), "{tags}");
    }
}

/// The reason each frame that may not be here, or leads nowhere, is dropped for.
fn refused_by_forward(node: &mut Node) -> Vec<(DropReason, Fate)> {
    let (a, b, learning, foreign) = (node.a, node.b, node.learning, node.foreign);
    node.learned(mac(0x51), learning);
    node.learned(mac(0x52), foreign);
    let gone = node.tables.add_port(port("gone", vni(3), A, PortMode::Learning { limit: 1 })).unwrap();
    node.tables.remove_port(gone);
    let long = udp_to(A, B, (POD, OTHER_POD), 9, usize::from(MTU));
    let outside = Offload { checksum: Checksum::Needed { start: 60, offset: 16 }, gso: None };
    // It would be filled in over the source address.
    let over_addresses = Offload { checksum: Checksum::Needed { start: 10, offset: 16 }, gso: None };
    let with_offload = |frame: &[u8], offload| node.decide(Attachment::Port(a), frame, offload).0;
    vec![
        (DropReason::IngressGone, node.fate(gone, &udp(A, B))),
        (DropReason::Runt, node.fate(a, &[0; 13])),
        (DropReason::BadOffload, with_offload(&udp(A, B), Err(OffloadError::ZeroSegment))),
        (DropReason::BadOffload, with_offload(&udp(A, B), Ok(outside))),
        (DropReason::BadOffload, with_offload(&udp(A, B), Ok(over_addresses))),
        (DropReason::BadSourceMac, node.fate(learning, &udp(MacAddr::ZERO, A))),
        (DropReason::BadSourceMac, node.fate(foreign, &udp(MacAddr::BROADCAST, A))),
        (DropReason::SpoofedMac, node.fate(a, &udp(STRANGER, B))),
        (DropReason::SpoofedIp, node.fate(a, &udp_to(A, B, (OTHER_POD, POD), 9, 20))),
        (DropReason::SpoofedIp, node.fate(a, &udp6(A, B, "fd00::2"))),
        (DropReason::SpoofedIp, node.fate(a, &arp(A, A, OTHER_POD))),
        (DropReason::SpoofedIp, node.fate(a, &arp(A, STRANGER, POD))),
        (DropReason::SpoofedIp, node.fate(a, &ethernet(A, B, 0x0806, &[0; 46]))),
        (DropReason::SpoofedIp, node.fate(a, &discovery(136, A, "fd00::1", ("fd00::2", A)))),
        (DropReason::SpoofedMac, node.fate(a, &discovery(136, A, "fd00::1", ("fd00::1", STRANGER)))),
        (DropReason::RogueRouter, node.fate(a, &discovery(134, A, "fe80::ff:fe00:a", ("::", A)))),
        (DropReason::MalformedIp, node.fate(a, &ethernet(A, B, 0x0800, &[0; 46]))),
        (DropReason::MalformedIp, node.fate(learning, &ethernet(STRANGER, A, 0x86dd, &[0x60; 46]))),
        (DropReason::MalformedIp, node.fate(foreign, &udp(STRANGER, A)[..40])),
        (DropReason::TooManyHeaders, node.fate(a, &behind_headers(&discovery(136, A, "fd00::1", ("fd00::2", A)), 9))),
        (DropReason::SpoofedIp, node.fate(a, &behind_headers(&discovery(136, A, "fd00::1", ("fd00::2", A)), 8))),
        (DropReason::VlanTagged, node.fate(b, &tagged(B, A))),
        (DropReason::VlanTagged, node.fate(foreign, &tagged(STRANGER, A))),
        (DropReason::ExceedsIngressMtu, node.fate(a, &long)),
        (DropReason::ExceedsIngressMtu, with_offload(&long, Ok(superframe_offload(MTU - 27)))),
        (DropReason::EncapLoop, node.fate(b, &udp_to(B, A, (OTHER_POD, OWN), 4789, 20))),
        (DropReason::EncapLoop, node.fate(foreign, &udp_to(STRANGER, A, (OWN, OTHER_POD), 6081, 20))),
        (DropReason::ReservedMulticast, node.fate(b, &udp(B, MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e])))),
        (DropReason::Hairpin, node.fate(learning, &udp(STRANGER, mac(0x51)))),
        (DropReason::Hairpin, node.fate(foreign, &udp(STRANGER, mac(0x52)))),
        (DropReason::Hairpin, node.fate(b, &udp(B, B))),
        (DropReason::SplitHorizon, node.fate(node.managed, &udp(STRANGER, mac(0x52)))),
        (DropReason::StaticMacMoved, node.fate(foreign, &udp(A, B))),
        (DropReason::StaticMacMoved, node.fate(node.managed, &udp(A, B))),
        (DropReason::StaticMacMoved, node.fate(learning, &udp(A, B))),
        (DropReason::NoFloodTarget, node.fate(node.alone, &udp(STRANGER, mac(0x77)))),
        (DropReason::NoFloodTarget, node.fate(node.alone, &udp(STRANGER, MacAddr::BROADCAST))),
    ]
}

#[test]
fn every_drop_of_a_verdict_has_a_frame_that_meets_it() {
    let mut node = Node::new();
    let mut met = BTreeSet::new();
    for (expected, seen) in refused_by_admit(&node) {
        assert_eq!(seen, Err(expected));
        met.insert(expected);
    }
    for (expected, seen) in refused_by_forward(&mut node) {
        assert_eq!(seen, Fate::Drop(expected));
        met.insert(expected);
    }
    // What a flood is dropped for that goes past its limit: whoever floods counts.
    met.extend([DropReason::UnknownFloodLimit, DropReason::GroupFloodLimit]);
    // Told by the uplink, which alone sees outer headers.
    met.insert(DropReason::BadOuter);
    let all = DropReason::ALL.iter().filter(|reason| reason.stage() == Stage::Verdict).copied().collect();
    assert_eq!(met, all, "a reason without a frame, or a verdict with an egress reason");
}

#[test]
fn what_is_wrong_is_not_learned() {
    let mut node = Node::new();
    let gone = node.tables.add_port(port("gone", vni(3), A, PortMode::Learning { limit: 1 })).unwrap();
    node.tables.remove_port(gone);
    assert_eq!(node.news(gone, &udp(STRANGER, B)), None);
    assert_eq!(node.news(node.learning, &tagged(STRANGER, A)), None);
    assert_eq!(node.news(node.foreign, &udp(A, B)), None);
    assert_eq!(node.news(node.learning, &udp(MacAddr::BROADCAST, B)), None);
}

#[test]
fn admits_a_members_frame_in_its_vni() {
    let node = Node::new();
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let packet = tunnel_packet(encapsulation, 1);
        let packet = TunnelPacket { source: MANAGED.into(), encapsulation, tos: 0, payload: &packet };
        let Arrival::Frame(admitted) = admit(&node.tables, &packet).unwrap() else { panic!("no frame") };
        assert_eq!(admitted.frame, udp(STRANGER, A));
        assert_eq!((admitted.vtep, admitted.domain.vni(), admitted.ecn), (node.managed, vni(1), None));
    }
}

#[test]
fn a_known_target_gets_the_one_copy() {
    let node = Node::new();
    node.learned(mac(0x51), node.learning);
    node.learned(mac(0x52), node.foreign);
    assert_eq!(node.fate(node.a, &udp(A, B)), unicast(node.b));
    assert_eq!(node.fate(node.foreign, &udp(STRANGER, B)), unicast(node.b));
    assert_eq!(node.fate(node.a, &udp(A, mac(0x51))), unicast(node.learning));
    assert_eq!(node.fate(node.managed, &udp(STRANGER, mac(0x51))), unicast(node.learning));
    assert_eq!(node.fate(node.a, &udp(A, mac(0x52))), unicast(node.foreign));
}

#[test]
fn floods_reach_everybody_else_but_never_a_vtep_from_a_vtep() {
    let Node { a, b, learning, foreign, managed, .. } = Node::new();
    let node = Node::new();
    for dst in [MacAddr::BROADCAST, MacAddr([0x01, 0, 0x5e, 0, 0, 1]), mac(0x77)] {
        let from_port = flood([b.into(), learning.into(), foreign.into(), managed.into()]);
        assert_eq!(node.fate(node.a, &udp(A, dst)), from_port);
        let from_vtep = flood([a.into(), b.into(), learning.into()]);
        assert_eq!(node.fate(node.foreign, &udp(STRANGER, dst)), from_vtep);
        assert_eq!(node.fate(node.managed, &udp(STRANGER, dst)), from_vtep);
    }
}

#[test]
fn a_learned_group_address_still_floods() {
    let node = Node::new();
    node.learned(MacAddr::BROADCAST, node.b);
    assert!(matches!(node.fate(node.a, &udp(A, MacAddr::BROADCAST)), Fate::Flood(_)));
}

#[test]
fn learns_behind_learning_ports_and_foreign_vteps_alone() {
    let node = Node::new();
    let domain = node.tables.domain(vni(1)).unwrap().id();
    let news = |attachment: Ends, limit| Some(Learn { domain, mac: STRANGER, attachment: attachment.0, limit });
    let frame = udp(STRANGER, B);
    assert_eq!(node.news(node.learning, &frame), news(node.learning.into(), LEARN_LIMIT));
    assert_eq!(node.news(node.foreign, &frame), news(node.foreign.into(), VTEP_LEARN_LIMIT));
    assert_eq!(node.news(node.managed, &frame), None);
    assert_eq!(node.news(node.a, &udp(A, B)), None);
}

#[test]
fn learns_from_what_it_drops_on_its_way_out() {
    let node = Node::new();
    node.learned(mac(0x51), node.learning);
    let (fate, learn) = node.decide(Attachment::Port(node.learning), &udp(STRANGER, mac(0x51)), Ok(Offload::NONE));
    assert_eq!(fate, Fate::Drop(DropReason::Hairpin));
    assert_eq!(learn.map(|learn| learn.mac), Some(STRANGER));
}

#[test]
fn what_is_known_is_news_again_when_it_moves_or_a_second_later() {
    let node = Node::new();
    let frame = udp(STRANGER, B);
    node.learned(STRANGER, node.learning);
    assert_eq!(node.news(node.learning, &frame), None);
    assert!(node.news(node.foreign, &frame).is_some());
    let later = Seconds(NOW.0 + 1);
    let ingress = Ingress::Port(node.learning);
    let decision = forward(&node.tables, &node.fdb, later, ingress, &Inner::parse(&frame), Ok(Offload::NONE));
    assert!(decision.learn.is_some());
}

#[test]
fn a_static_mac_wins_over_a_learned_one() {
    let node = Node::new();
    node.learned(B, node.foreign);
    assert_eq!(node.fate(node.a, &udp(A, B)), unicast(node.b));
    assert_eq!(node.fate(node.b, &udp(B, A)), unicast(node.a));
}

#[test]
fn a_bound_port_may_speak_for_its_own_addresses_and_the_unspecified_ones() {
    let node = Node::new();
    let goes = |frame: &[u8]| !matches!(node.fate(node.a, frame), Fate::Drop(_));
    assert!(goes(&udp(A, B)));
    assert!(goes(&udp_to(A, B, ([0; 4], [255; 4]), 67, 20)));
    for source in ["fd00::1", "::", "fe80::ff:fe00:a"] {
        assert!(goes(&udp6(A, B, source)), "{source}");
    }
    assert!(goes(&arp(A, A, POD)));
    assert!(goes(&arp(A, A, [0; 4])));
    for own in ["fd00::1", "fe80::ff:fe00:a"] {
        assert!(goes(&discovery(136, A, own, (own, A))), "{own}");
    }
    assert!(goes(&ethernet(A, B, 0x88cc, &[0; 46])));
    assert!(matches!(node.fate(node.b, &udp_to(B, A, (OTHER_POD, POD), 9, 20)), Fate::Unicast(_)));
}

#[test]
fn a_superframe_is_measured_by_its_segments() {
    let node = Node::new();
    let frame = udp_to(A, B, (POD, OTHER_POD), 9, 30_000);
    // IPv4 and UDP take 28 bytes of the MTU.
    let (fitting, _) = node.decide(Attachment::Port(node.a), &frame, Ok(superframe_offload(MTU - 28)));
    assert_eq!(fitting, unicast(node.b));
}

#[test]
fn tags_pass_where_the_vni_carries_them() {
    let mut node = Node::new();
    let second = node.tables.add_port(port("e", vni(2), B, PortMode::Bound { addresses: Vec::new() })).unwrap();
    assert_eq!(node.fate(node.alone, &tagged(A, B)), unicast(second));
}

#[test]
fn other_tunnels_pass() {
    let node = Node::new();
    let elsewhere = udp_to(B, A, (OTHER_POD, [198, 51, 100, 1]), 4789, 20);
    assert_eq!(node.fate(node.b, &elsewhere), unicast(node.a));
    let other_service = udp_to(B, A, (OTHER_POD, OWN), 53, 20);
    assert_eq!(node.fate(node.b, &other_service), unicast(node.a));
}

#[test]
fn vnis_do_not_see_each_other() {
    let mut node = Node::new();
    let second = node.tables.add_port(port("e", vni(2), B, PortMode::Bound { addresses: Vec::new() })).unwrap();
    node.learned(mac(0x51), node.learning);
    // A and B are in both, and each VNI answers with its own.
    assert_eq!(node.fate(node.alone, &udp(STRANGER, B)), unicast(second));
    assert_eq!(node.fate(node.a, &udp(A, B)), unicast(node.b));
    assert_eq!(node.fate(node.alone, &udp(STRANGER, mac(0x51))), flood([second.into()]));
}

#[test]
fn stale_ids_resolve_to_nothing() {
    let mut node = Node::new();
    node.learned(mac(0x51), node.learning);
    node.learned(mac(0x52), node.foreign);
    node.tables.remove_port(node.learning).unwrap();
    node.tables.remove_vtep(node.foreign).unwrap();
    // The slots are taken again, by others.
    let limit = PortMode::Learning { limit: LEARN_LIMIT };
    let heir = node.tables.add_port(port("heir", vni(1), mac(0x60), limit)).unwrap();
    let peer = node.tables.add_vtep(vtep([192, 0, 2, 9], VtepKind::Foreign), &[vni(1)]).unwrap();
    assert_eq!((heir.index(), peer.index()), (node.learning.index(), node.foreign.index()));
    let everybody = || flood([node.b.into(), heir.into(), peer.into(), node.managed.into()]);
    assert_eq!(node.fate(node.a, &udp(A, mac(0x51))), everybody());
    assert_eq!(node.fate(node.a, &udp(A, mac(0x52))), everybody());
    assert_eq!(node.fate(node.learning, &udp(STRANGER, B)), Fate::Drop(DropReason::IngressGone));
    assert_eq!(node.fate(node.foreign, &udp(STRANGER, B)), Fate::Drop(DropReason::UnknownSource));
    assert_eq!(
        node.admitted(FOREIGN, Encapsulation::Vxlan, &tunnel_packet(Encapsulation::Vxlan, 1)),
        Err(DropReason::UnknownSource)
    );
}

#[test]
fn a_removed_ports_mac_is_free_again() {
    let mut node = Node::new();
    node.tables.remove_port(node.b).unwrap();
    assert!(matches!(node.fate(node.a, &udp(A, B)), Fate::Flood(_)));
    assert!(node.news(node.foreign, &udp(B, A)).is_some());
}

#[test]
fn a_question_for_a_known_neighbour_is_not_flooded() {
    let mut node = Node::new();
    let (a, b) = (node.a, node.b);
    let remote = mac(0x77);
    node.tables.bind_mac(vni(1), remote, node.managed, false).unwrap();
    let [there, here, own, stale] = [[10, 0, 0, 7], OTHER_POD, POD, [10, 0, 0, 8]];
    for (address, mac) in [(there, remote), (here, B), (own, A), (stale, STRANGER)] {
        node.tables.set_neighbour(vni(1), address.into(), mac).unwrap();
    }
    let flooded = |fate: Fate| matches!(fate, Fate::Flood(_));
    assert_eq!(node.fate(a, &asks_for(there, (A, A, POD))), Fate::Answer(remote), "behind a VTEP: answered for");
    assert_eq!(
        node.fate(a, &asks_for(here, (A, A, POD))),
        Fate::Unicast(Attachment::Port(b)),
        "on this node: asked itself"
    );
    assert!(flooded(node.fate(a, &asks_for(own, (A, A, POD)))), "its own: only others can say that it is taken");
    assert!(flooded(node.fate(a, &asks_for(stale, (A, A, POD)))), "a MAC that is nowhere: nobody may speak for it");
    assert!(
        flooded(node.fate(node.foreign, &asks_for(there, (STRANGER, STRANGER, OTHER_POD)))),
        "what other nodes ask is theirs"
    );
    assert!(node.tables.remove_neighbour(vni(1), there.into()));
    assert!(!node.tables.remove_neighbour(vni(1), there.into()));
    assert!(flooded(node.fate(a, &asks_for(there, (A, A, POD)))));
}

#[test]
fn a_published_mac_that_roams_is_where_it_is_seen() {
    let mut node = Node::new();
    let [a, learning] = [node.a, node.learning].map(Attachment::Port);
    let [managed, foreign] = [node.managed, node.foreign].map(Attachment::Vtep);
    node.tables.bind_mac(vni(1), STRANGER, node.managed, true).unwrap();
    assert_eq!(node.fate(node.a, &udp(A, STRANGER)), Fate::Unicast(managed));
    // Neither a bound port nor a VTEP that publishes nothing may have it.
    assert_eq!(node.fate(node.foreign, &udp(STRANGER, A)), Fate::Drop(DropReason::StaticMacMoved));
    assert_eq!(node.fate(node.a, &udp(STRANGER, B)), Fate::Drop(DropReason::SpoofedMac));
    // A learning port may, and is believed from then on.
    assert_eq!(node.fate(node.learning, &udp(STRANGER, A)), Fate::Unicast(a));
    let news = node.news(node.learning, &udp(STRANGER, A)).unwrap();
    node.fdb.learn(&news, NOW);
    assert_eq!(node.fate(node.a, &udp(A, STRANGER)), Fate::Unicast(learning));
    assert!(node.fdb.forget(news.domain, STRANGER) && !node.fdb.forget(news.domain, STRANGER));
    assert_eq!(node.fate(node.a, &udp(A, STRANGER)), Fate::Unicast(managed));
    // What a foreign VTEP taught does not hide what is published.
    node.fdb.learn(&Learn { attachment: foreign, ..news }, NOW);
    assert_eq!(node.fate(node.a, &udp(A, STRANGER)), Fate::Unicast(managed));
    // Its own MAC a pod keeps.
    node.tables.bind_mac(vni(1), STRANGER, node.managed, false).unwrap();
    assert_eq!(node.fate(node.learning, &udp(STRANGER, A)), Fate::Drop(DropReason::StaticMacMoved));
}

#[test]
fn a_flood_says_why_and_what_limits_it() {
    let node = Node::new();
    let cause = |dst: MacAddr| {
        let frame = udp(A, dst);
        let inner = Inner::parse(&frame);
        let decision = forward(&node.tables, &node.fdb, NOW, Ingress::Port(node.a), &inner, Ok(Offload::NONE));
        let Verdict::Flood(flood) = decision.verdict else { panic!("{decision:?}") };
        flood.cause().limit(flood.domain().flood_limits())
    };
    assert_eq!(cause(STRANGER), (1000, DropReason::UnknownFloodLimit));
    assert_eq!(cause(MacAddr::BROADCAST), (10_000, DropReason::GroupFloodLimit));
}

#[test]
fn a_managed_vtep_may_be_early_and_a_foreign_one_not() {
    let node = Node::new();
    let source = |address: [u8; 4]| {
        let payload = tunnel_packet(Encapsulation::Vxlan, 2);
        let packet =
            TunnelPacket { source: address.into(), encapsulation: Encapsulation::Vxlan, tos: 0, payload: &payload };
        match admit(&node.tables, &packet) {
            Ok(Arrival::Frame(admitted)) => Ok(admitted.early),
            Ok(Arrival::Probe { .. }) => panic!("no probe"),
            Err(reason) => Err(reason),
        }
    };
    assert_eq!(source(FOREIGN), Err(DropReason::NotMember));
    assert_eq!(source(MANAGED), Ok(true));
}
