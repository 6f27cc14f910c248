//! Weft on one node, Open vSwitch with its userspace datapath on the other, Geneve between them.
//!
//! Open vSwitch reads its underlay as a wire would deliver it: the switch's port in front of it fills in what
//! the veth left open. Nothing is switched off on our side.

use std::collections::BTreeSet;

use weft_bridge::DropReason;
use weft_integration::{
    AgentConfig, AgentNode, Capture, Encapsulation, Family, Frame, Host, MIB, Node, Overlay, OvsNode, Packet,
    PacketSocket, Site, dissect, eventually, exchange, exchange_superframes, keep_as_vectors, ping_all, site, stream,
};

/// Where Geneve begins in a frame of the underlay.
const GENEVE_AT: usize = 14 + 20 + 8;

struct Meeting {
    node: Node,
    weft: Host,
    theirs: Host,
    agent: AgentNode,
    ovs: OvsNode,
}

impl Meeting {
    fn new(site: &Site, family: Family) -> Self {
        let (switch, nodes): (_, [_; 2]) = site.switched();
        switch.ethtool("-K port2 tx off tso off gso off");
        let (weft, peer) = (site.host("weft"), nodes[1].address(family));
        let agent = AgentConfig::new(site, &nodes[0], &[family])
            .vni(Overlay::VNI)
            .peer(peer, Encapsulation::Geneve, &[Overlay::VNI])
            .port(&weft, Overlay::VNI, &Overlay::NETWORKS[0])
            .start();
        let ovs = OvsNode::new(site, &nodes[1], family, &nodes[0], Overlay::VNI);
        let theirs = ovs.pod(site, "ovs", &Overlay::NETWORKS[1], agent.port("weft").mtu.into());
        // Open vSwitch loses the first packet to a neighbour that it does not know yet.
        ping_all(&nodes[1], &nodes[0].address(family).to_string());
        Self { node: nodes[0].clone(), weft, theirs, agent, ovs }
    }
}

fn meeting_over(site: &Site, family: Family) {
    let meeting = Meeting::new(site, family);
    let Meeting { weft, theirs, agent, .. } = &meeting;
    for addresses in [Overlay::IPV4, Overlay::IPV6] {
        ping_all(weft, addresses[1]);
        ping_all(theirs, addresses[0]);
        stream(weft, theirs, addresses[1], 64 * MIB);
        stream(theirs, weft, addresses[0], 64 * MIB);
        exchange(weft, theirs, addresses[1], 64, 200);
        exchange(theirs, weft, addresses[0], 1300, 200);
        exchange_superframes(weft, theirs, addresses[1], 1300, 40, 400);
    }
    eventually("the agent finds that it takes no part in path probes", || {
        let row = agent.vteps().remove(0);
        let unprobed = (row.path.as_str(), row.path_mtu, row.pod_mtu) == ("unprobed", None, agent.port("weft").mtu);
        if unprobed { Ok(()) } else { Err(format!("{row:?}")) }
    });
    assert_eq!(agent.dropped(), []);
    meeting.agent.finish();
}

#[test]
fn geneve_over_ipv4() {
    meeting_over(&site!("ip", "ethtool", "ovs-vswitchd"), Family::Ipv4);
}

#[test]
fn geneve_over_ipv6() {
    meeting_over(&site!("ip", "ethtool", "ovs-vswitchd"), Family::Ipv6);
}

#[test]
fn an_unknown_option_is_ignored_unless_it_is_critical() {
    let site = site!("ip", "ethtool", "ovs-vswitchd", "tshark");
    let Meeting { node, weft, theirs, agent, ovs } = Meeting::new(&site, Family::Ipv4);
    ping_all(&theirs, Overlay::IPV4[0]);
    // Options take room too, and Open vSwitch tells nobody that a packet does not fit.
    theirs.ip("link set eth0 mtu 1400");
    ovs.ofctl("add-tlv-map", "{class=0x0102,type=0x01,len=4}->tun_metadata0");
    ovs.ofctl("add-tlv-map", "{class=0x0102,type=0x81,len=8}->tun_metadata1");
    let towards_weft =
        |action: &str| ovs.ofctl("add-flow", &format!("priority=10,in_port=to-ovs,actions={action},NORMAL"));

    towards_weft("set_field:0xdeadbeef->tun_metadata0");
    let mut underlay = Capture::start(&node, "eth0");
    ping_all(&theirs, Overlay::IPV4[0]);
    let has_option = |frame: &Frame| frame.get(GENEVE_AT).is_some_and(|first| first & 0x3f == 2);
    assert!(underlay.wait_for(60, has_option).iter().all(|frame| frame[GENEVE_AT + 12..].starts_with(&[0xde, 0xad])));
    let file = site.directory().join("options.pcap");
    keep_as_vectors("ovs-geneve-ipv4", Encapsulation::Geneve, &underlay.save(&file));
    let option = ["class", "type", "type.critical"].map(|field| format!("geneve.option.{field}"));
    let option = option.each_ref().map(String::as_str);
    let packets = dissect(&file, &option);
    let read: BTreeSet<_> = packets.iter().map(|packet: &Packet| option.map(|field| packet.outer(field))).collect();
    assert!(read.contains(&["0x0102", "0x01", "0"]), "{read:?}");
    assert!(read.iter().all(|seen| seen[0].is_empty() || seen[0] == "0x0102"), "{read:?}");
    stream(&theirs, &weft, Overlay::IPV4[0], 8 * MIB);
    assert_eq!(agent.dropped(), [], "an option that is not critical is ignored");

    towards_weft("set_field:0xdeadbeef->tun_metadata0,set_field:0x0123456789abcdef->tun_metadata1");
    let socket = PacketSocket::open(&theirs, "eth0");
    let frame = weft_integration::ethernet(weft.mac("eth0"), theirs.mac("eth0"), 0x88b5, b"critical");
    (0..10).for_each(|_| socket.send(&frame));
    eventually("frames with the critical option are dropped", || {
        let seen = agent.dropped_as(DropReason::GeneveCriticalOption);
        if seen >= 10 { Ok(()) } else { Err(format!("{:?}", agent.dropped())) }
    });
    let reasons: Vec<_> = agent.dropped().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, [DropReason::GeneveCriticalOption.name()]);

    ovs.ofctl("del-flows", "in_port=to-ovs");
    ping_all(&theirs, Overlay::IPV4[0]);
    agent.finish();
}
