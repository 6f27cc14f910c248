//! What a switch does by the control plane's word: answers for neighbours, bounded floods, members that are early.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use weft_bridge::tables::{DomainOptions, FloodLimits, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{DropReason, Seconds, Tables};
use weft_encap::{Encapsulation, Inner, MacAddr, Network, Offload, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);
const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const REMOTE_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const LIMITS: FloodLimits = FloodLimits { unknown: 10, group: 20 };

fn vni(id: u32) -> Vni {
    Vni::new(id).unwrap()
}

/// A pod in VNI 1, one in VNI 2, and a managed VTEP with a pod in VNI 1.
fn switch() -> (MemorySwitch, [MemoryPort; 2]) {
    let mut tables = Tables::new(vec![[192, 0, 2, 1].into()], vec![4789]);
    let ids = [1, 2].map(|id| {
        tables.add_domain(vni(id), DomainOptions { flood_limits: LIMITS, ..DomainOptions::default() }).unwrap();
        let mode = PortMode::Bound { addresses: vec![POD_IP.into()] };
        tables.add_port(Port { name: format!("pod{id}"), vni: vni(id), mac: POD, mtu: 1450, mode }).unwrap()
    });
    let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Managed);
    let row = Vtep { address: PEER, udp_port: 4789, encapsulation, kind, pod_mtu: 1450 };
    let peer = tables.add_vtep(row, &[vni(1)]).unwrap();
    tables.bind_mac(vni(1), REMOTE, peer, false).unwrap();
    tables.set_neighbour(vni(1), REMOTE_IP.into(), REMOTE).unwrap();
    let mut switch = MemorySwitch::new(tables, 64);
    let ports = ids.map(|id| switch.attach(id));
    (switch, ports)
}

fn arp(target: Ipv4Addr) -> Vec<u8> {
    let (operation, hardware) = (ArpOperation::REQUEST, ArpHardwareId::ETHERNET);
    let (own, target) = (POD_IP.octets(), target.octets());
    let packet = ArpPacket::new(hardware, EtherType::IPV4, operation, &POD.0, &own, &[0; 6], &target).unwrap();
    [&[0xff; 6][..], &POD.0, &[8, 6], &packet.to_bytes()].concat()
}

fn udp(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(src.0, dst.0).ipv4(POD_IP.octets(), [10, 0, 0, 2], 64);
    builder.udp(1000, 2000).write(&mut frame, b"hello").unwrap();
    frame
}

fn run(switch: &mut MemorySwitch, now: u32) {
    switch.run(Seconds(now));
    switch.totals().check().unwrap();
}

#[test]
fn a_published_neighbour_is_answered_for_and_nothing_crosses_the_underlay() {
    let (mut switch, [pod, _]) = switch();
    for _ in 0..1000 {
        pod.pod_sends(arp(REMOTE_IP), Ok(Offload::NONE));
    }
    run(&mut switch, 1);
    let answers = pod.pod_received();
    assert_eq!(answers.len(), 1000, "as many as were asked, whatever floods are limited to");
    let inner = Inner::parse(&answers[0].bytes).unwrap();
    let Network::Arp(arp) = inner.network else { panic!("{:?}", inner.network) };
    assert_eq!((arp.operation, arp.sender_mac, arp.sender_ip, arp.target_ip), (2, REMOTE, REMOTE_IP, POD_IP));
    assert_eq!((inner.src, inner.dst), (REMOTE, POD));
    assert_eq!(switch.underlay().sent().len(), 0);
    let totals = switch.totals();
    assert_eq!((totals.answered, totals.flood, totals.copies), (1000, 0, 0));
}

#[test]
fn a_port_floods_so_much_a_second_and_what_is_known_still_goes() {
    let (mut switch, [pod, _]) = switch();
    let burst = |switch: &mut MemorySwitch, now: u32| {
        for _ in 0..100 {
            pod.pod_sends(udp(POD, STRANGER), Ok(Offload::NONE));
            pod.pod_sends(udp(POD, MacAddr::BROADCAST), Ok(Offload::NONE));
            pod.pod_sends(udp(POD, REMOTE), Ok(Offload::NONE));
        }
        run(switch, now);
        let totals = switch.totals();
        let dropped = [DropReason::UnknownFloodLimit, DropReason::GroupFloodLimit].map(|why| totals.dropped(why));
        (totals.unicast, totals.flood, dropped)
    };
    assert_eq!(burst(&mut switch, 1), (100, 30, [90, 80]));
    assert_eq!(burst(&mut switch, 1), (200, 30, [190, 180]), "the second is not over");
    assert_eq!(burst(&mut switch, 2), (300, 60, [280, 260]));
}

#[test]
fn the_first_frames_of_a_new_member_are_not_lost() {
    let (mut switch, [_, second]) = switch();
    let early = [Encapsulation::Vxlan.header(vni(2)).as_bytes(), &udp(STRANGER, POD)].concat();
    let arrive = |switch: &mut MemorySwitch, frames: usize, now: u32| {
        for _ in 0..frames {
            let (segment, bytes) = (early.len(), early.clone());
            switch.underlay().arrives(PEER, Encapsulation::Vxlan, segment, 0, bytes);
        }
        run(switch, now);
    };
    arrive(&mut switch, 3, 1);
    assert_eq!(second.pod_received().len(), 1, "three that were joined");
    assert_eq!((switch.totals().early, switch.totals().dropped(DropReason::NotMember)), (3, 0));
    arrive(&mut switch, 2000, 1);
    assert_eq!((switch.totals().early, switch.totals().dropped(DropReason::NotMember)), (1000, 1003), "and no more");
}
