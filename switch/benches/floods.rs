//! What a tunnel packet costs that is dropped because nobody knows its VNI or its source, beside one that is forwarded:
//! `cargo bench -p weft-switch --bench floods`.
//!
//! Kinds of packets take turns, so that what else the machine does meets all of them; medians are told. A worker in
//! memory makes no system call: the figures are of our own code alone.
#![expect(clippy::unwrap_used, reason = "a bench may stop at what it did not expect")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{DropReason, Seconds, Tables};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 99));
const VNI: u8 = 100;
const OTHER_VNI: u8 = 101;
/// Packets of one turn.
const PACKETS: usize = 128;
const ROUNDS: usize = 2_000;
const NOW: Seconds = Seconds(1);

/// A node with one pod and one peer.
fn node() -> (MemorySwitch, MemoryPort) {
    let vni = Vni::new(VNI.into()).unwrap();
    let mut tables = Tables::new(vec![IpAddr::from([192, 0, 2, 1])], vec![4789]);
    tables.add_domain(vni, DomainOptions::default()).unwrap();
    let mode = PortMode::Bound { addresses: vec![IpAddr::from([10, 0, 0, 1])] };
    let id = tables.add_port(Port { name: "a".to_owned(), vni, mac: MAC, mtu: 1450, mode }).unwrap();
    let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Managed);
    let vtep = Vtep { address: PEER, udp_port: 4789, encapsulation, kind, pod_mtu: 1450 };
    let vtep = tables.add_vtep(vtep, &[vni]).unwrap();
    tables.bind_mac(vni, FAR, vtep, false).unwrap();
    let mut switch = MemorySwitch::new(tables, 64);
    let port = switch.attach(id);
    (switch, port)
}

/// A VXLAN packet with a datagram of 64 bytes for the pod, Ethernet included.
fn packet(vni: u8) -> Vec<u8> {
    let mut packet = [&[8, 0, 0, 0, 0, 0, vni, 0], &MAC.0[..], &FAR.0].concat();
    packet.extend([8, 0, 0x45, 0, 0, 50, 0, 1, 0x40, 0, 64, 17, 0x26, 0xb7, 10, 0, 0, 2, 10, 0, 0, 1]);
    packet.extend([0x9c, 0x40, 0x14, 0x51, 0, 30, 0, 0]);
    packet.resize(8 + 64, 7);
    packet
}

fn main() {
    let (mut switch, port) = node();
    let kinds = [("forwarded", PEER, VNI), ("unknown VNI", PEER, OTHER_VNI), ("unknown source", STRANGER, VNI)];
    let mut times = kinds.map(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for ((_, source, vni), times) in kinds.iter().zip(&mut times) {
            let bytes = packet(*vni);
            for _ in 0..PACKETS {
                switch.underlay().arrives(*source, Encapsulation::Vxlan, bytes.len(), 0, bytes.clone());
            }
            let start = Instant::now();
            switch.run(NOW);
            times.push(start.elapsed());
            drop(port.pod_received());
        }
    }
    let totals = switch.totals();
    let all = (ROUNDS * PACKETS) as u64;
    for reason in [DropReason::UnknownVni, DropReason::UnknownSource] {
        let dropped = totals.drops.iter().find(|(seen, _)| *seen == reason).map(|(_, count)| *count);
        assert_eq!(dropped, Some(all), "{reason:?}: {:?}", totals.drops);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e9 / PACKETS as f64
    };
    let each = times.each_mut().map(median);
    for ((what, ..), nanoseconds) in kinds.iter().zip(each) {
        println!(
            "{what:<15} {nanoseconds:7.1} ns a packet, {:5.1} % of one that is forwarded",
            100.0 * nanoseconds / each[0]
        );
    }
}
