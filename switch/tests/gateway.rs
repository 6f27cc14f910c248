//! The gateway of a network: answered for on every node, and reached at the node's own port.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use weft_bridge::tables::{DomainOptions, Gateway, Port, PortMode, TableError};
use weft_bridge::{Attachment, DropReason, PortId, Seconds, Tables};
use weft_encap::neighbour::question;
use weft_encap::{Inner, MacAddr, Network, Offload, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 7);
const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const POD_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 3, 0, 0, 0, 7);
const GATEWAY_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn vni() -> Vni {
    Vni::new(1).unwrap()
}

fn tables() -> (Tables, [PortId; 2]) {
    let mut tables = Tables::new(vec![[192, 0, 2, 1].into()], vec![4789]);
    tables.add_domain(vni(), DomainOptions::default()).unwrap();
    let mut add = |name: &str, mac, addresses: Vec<IpAddr>| {
        let mode = PortMode::Bound { addresses };
        tables.add_port(Port { name: name.to_owned(), vni: vni(), mac, mtu: 1450, mode }).unwrap()
    };
    let pod = add("pod", POD, vec![POD_IP.into(), POD_IP6.into()]);
    let host = add("host", HOST, Vec::new());
    (tables, [pod, host])
}

fn gateway(port: PortId) -> Gateway {
    Gateway { mac: GATEWAY, addresses: vec![GATEWAY_IP.into(), GATEWAY_IP6.into()], port }
}

fn switch() -> (MemorySwitch, MemoryPort, MemoryPort) {
    let (mut tables, [pod, host]) = tables();
    tables.set_gateway(gateway(host)).unwrap();
    let mut switch = MemorySwitch::new(tables, 64);
    let [pod, host] = [pod, host].map(|id| switch.attach(id));
    (switch, pod, host)
}

fn arp(from: MacAddr, own: Ipv4Addr) -> Vec<u8> {
    let (own, target) = (own.octets(), GATEWAY_IP.octets());
    let (request, ethernet) = (ArpOperation::REQUEST, ArpHardwareId::ETHERNET);
    let packet = ArpPacket::new(ethernet, EtherType::IPV4, request, &from.0, &own, &[0; 6], &target).unwrap();
    [&[0xff; 6][..], &from.0, &[8, 6], &packet.to_bytes()].concat()
}

fn solicitation() -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let mut frame = Vec::new();
    let asked = etherparse::Icmpv6Type::NeighborSolicitation;
    let builder = PacketBuilder::ethernet2(POD.0, [0x33, 0x33, 0xff, 0, 0, 1]);
    builder.ipv6(POD_IP6.octets(), to.octets(), 255).icmpv6(asked).write(&mut frame, &GATEWAY_IP6.octets()).unwrap();
    frame
}

fn udp(src: MacAddr, dst: MacAddr, from: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv4(from.octets(), [198, 51, 100, 1], 64);
    builder.udp(1000, 2000).write(&mut frame, b"out of the cluster").unwrap();
    frame
}

#[test]
fn who_asks_for_the_gateway_is_answered_and_nobody_else_hears_of_it() {
    let (mut switch, pod, host) = switch();
    let asked = solicitation();
    assert!(question(&Inner::parse(&asked).unwrap()).is_some(), "the test's own frame is a question");
    pod.pod_sends(arp(POD, POD_IP), Ok(Offload::NONE));
    pod.pod_sends(asked, Ok(Offload::NONE));
    // One that would take the gateway's address hears that it is taken.
    pod.pod_sends(arp(POD, Ipv4Addr::UNSPECIFIED), Ok(Offload::NONE));
    switch.run(Seconds(1));
    let answers = pod.pod_received();
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        assert_eq!(Inner::parse(&answer.bytes).unwrap().src, GATEWAY);
    }
    let inner = Inner::parse(&answers[0].bytes).unwrap();
    let Network::Arp(arp) = inner.network else { panic!("{:?}", inner.network) };
    assert_eq!((arp.operation, arp.sender_mac, arp.sender_ip), (2, GATEWAY, GATEWAY_IP));
    assert_eq!(host.pod_received().len(), 0);
    assert_eq!((switch.totals().answered, switch.totals().flood), (3, 0));
    switch.totals().check().unwrap();
}

#[test]
fn what_is_sent_to_the_gateway_reaches_the_nodes_own_port_under_its_own_mac() {
    let (mut switch, pod, host) = switch();
    let sent = udp(POD, GATEWAY, POD_IP);
    pod.pod_sends(sent.clone(), Ok(Offload::NONE));
    switch.run(Seconds(1));
    let [received] = <[_; 1]>::try_from(host.pod_received()).unwrap();
    assert_eq!(received.bytes[..6], HOST.0, "a kernel takes nothing that is for another MAC");
    assert_eq!(received.bytes[6..], sent[6..], "and everything else is as it was sent");
    // What the node routes back comes from anywhere.
    let back = udp(HOST, POD, Ipv4Addr::new(198, 51, 100, 1));
    host.pod_sends(back.clone(), Ok(Offload::NONE));
    // Its own packets to the gateway would come back to it.
    host.pod_sends(udp(HOST, GATEWAY, POD_IP), Ok(Offload::NONE));
    switch.run(Seconds(1));
    assert_eq!(pod.pod_received().iter().map(|frame| &frame.bytes).collect::<Vec<_>>(), [&back]);
    assert_eq!((host.pod_received().len(), switch.totals().dropped(DropReason::Hairpin)), (0, 1));
    switch.totals().check().unwrap();
}

#[test]
fn the_gateways_mac_is_nobody_elses() {
    let (mut tables, [pod, host]) = tables();
    assert_eq!(
        tables.set_gateway(Gateway { mac: POD, ..gateway(host) }),
        Err(TableError::DuplicateMac { mac: POD, vni: vni() })
    );
    assert_eq!(tables.domain(vni()).unwrap().static_mac(POD), Some(Attachment::Port(pod)));
    tables.set_gateway(gateway(host)).unwrap();
    assert_eq!(
        tables.set_gateway(Gateway { mac: POD, ..gateway(host) }),
        Err(TableError::DuplicateMac { mac: POD, vni: vni() }),
    );
    assert_eq!(tables.domain(vni()).unwrap().gateway(), Some(&gateway(host)), "what is refused changes nothing");
    let mode = PortMode::Bound { addresses: Vec::new() };
    let taken = tables.add_port(Port { name: "rival".to_owned(), vni: vni(), mac: GATEWAY, mtu: 1450, mode });
    assert!(taken.is_err());
    tables.remove_port(host);
    assert_eq!(tables.domain(vni()).unwrap().gateway(), None, "it goes with its port");
    assert_eq!(tables.domain(vni()).unwrap().static_mac(GATEWAY), None);
    assert_eq!(tables.set_gateway(gateway(host)), Err(TableError::UnknownPort));
}
