//! What a kernel hands over as more than one segment: tunnel packets, or one with a superframe inside.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{DropReason, Seconds, Tables};
use weft_encap::checksum::Verified;
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, Inner, MacAddr, Offload, Vni, checksum};
use weft_switch::levels::Level;
use weft_switch::memory::{MemoryPort, MemorySwitch};
use weft_switch::port::TapOffloads;

const NOW: Seconds = Seconds(1);
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const MTU: u16 = 1450;
/// Payload of each datagram.
const SIZE: usize = 1000;
/// Tunnel, Ethernet, IPv4 and UDP headers before the payload.
const HEADERS: usize = 8 + 14 + 20 + 8;

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// A switch with a pod in each of two networks, of which the peer knows both.
fn switch() -> (MemorySwitch, [MemoryPort; 2]) {
    let mut tables = Tables::new(vec![[192, 0, 2, 1].into()], vec![4789, 6081]);
    let ids = [1, 2].map(|number| {
        tables.add_domain(vni(number), DomainOptions::default()).unwrap();
        let mode = PortMode::Bound { addresses: Vec::new() };
        let (name, mac) = (format!("pod{number}"), mac(number as u8));
        tables.add_port(Port { name, vni: vni(number), mac, mtu: MTU, mode }).unwrap()
    });
    let (address, encapsulation) = (PEER, Encapsulation::Vxlan);
    let vtep = Vtep { address, udp_port: 4789, encapsulation, kind: VtepKind::Foreign, pod_mtu: MTU };
    tables.add_vtep(vtep, &[vni(1), vni(2)]).unwrap();
    let mut switch = MemorySwitch::new(tables, 64);
    let ports = ids.map(|id| switch.attach(id));
    (switch, ports)
}

fn tunnel(number: u32, frame: &[u8]) -> Vec<u8> {
    [Encapsulation::Vxlan.header(vni(number)).as_bytes(), frame].concat()
}

fn udp(to: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(mac(9).0, mac(to).0).ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64);
    builder.udp(4000, 5000).write(&mut frame, payload).unwrap();
    frame
}

/// As the kernel leaves it to whoever segments: with the pseudo-header sum of the whole.
fn superframe(to: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = udp(to, payload);
    let len = (frame.len() - 34) as u16;
    let sum = checksum::pseudo_header_v4([10, 0, 0, 9].into(), [10, 0, 0, 1].into(), 17, len);
    frame[40..42].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    frame
}

fn arrives(switch: &mut MemorySwitch, segment: usize, bytes: Vec<u8>) {
    switch.underlay().arrives(PEER, Encapsulation::Vxlan, segment, 0, bytes);
    switch.run(NOW);
    switch.totals().check().unwrap();
}

fn dropped(switch: &MemorySwitch) -> Vec<(DropReason, u64)> {
    switch.totals().drops.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_udp_superframe_keeps_its_segment_size() {
    let (mut switch, [one, two]) = switch();
    let frame = superframe(1, &[7; 4 * SIZE + 5]);
    arrives(&mut switch, SIZE, tunnel(1, &frame));
    let received = one.pod_received();
    assert_eq!((received.len(), two.pod_received().len()), (1, 0));
    assert!(received[0].bytes == frame);
    assert_eq!(received[0].offload.checksum, Checksum::Needed { start: 34, offset: 6 });
    let gso = Gso { kind: GsoKind::Udp, size: SIZE as u16, header_len: 42, ecn: false };
    assert_eq!(received[0].offload.gso, Some(gso));
    assert_eq!(dropped(&switch), []);
}

#[test]
fn datagrams_longer_than_the_pods_mtu_are_dropped() {
    let (mut switch, [one, _]) = switch();
    arrives(&mut switch, 1422, tunnel(1, &superframe(1, &[7; 4000])));
    assert_eq!(one.pod_received().len(), 1);
    arrives(&mut switch, 1423, tunnel(1, &superframe(1, &[7; 4000])));
    assert_eq!(one.pod_received().len(), 0);
    assert_eq!(dropped(&switch), [(DropReason::ExceedsPortMtu, 1)]);
}

#[test]
fn a_group_of_tunnel_packets_is_taken_apart() {
    let (mut switch, [one, two]) = switch();
    let packets = [tunnel(1, &udp(1, &[1; 500])), tunnel(2, &udp(2, &[2; 400]))];
    arrives(&mut switch, packets[0].len(), packets.concat());
    assert!(one.pod_received()[0].bytes == udp(1, &[1; 500]));
    assert!(two.pod_received()[0].bytes == udp(2, &[2; 400]));
    assert_eq!(dropped(&switch), []);
}

#[test]
fn a_pods_payload_is_never_taken_for_tunnel_headers() {
    let (mut switch, [one, two]) = switch();
    // Where the segment size would cut the whole packet, the pod's payload has a packet for the other network.
    let mut payload = vec![0; 4 * SIZE];
    let forged = tunnel(2, &udp(2, b"forged"));
    payload[SIZE - HEADERS..][..forged.len()].copy_from_slice(&forged);
    arrives(&mut switch, SIZE, tunnel(1, &superframe(1, &payload)));
    assert_eq!((one.pod_received().len(), two.pod_received().len()), (0, 0));
    assert_eq!(dropped(&switch), [(DropReason::AmbiguousGroup, 1)]);
}

#[test]
fn a_pods_packet_never_swallows_those_of_others() {
    let (mut switch, [one, two]) = switch();
    // A packet that claims, in every length and sum, to be as long as the whole group.
    let other = tunnel(2, &udp(2, &[5; 500]));
    let mut liar = superframe(1, &vec![0; 500 + other.len()]);
    liar.truncate(42 + 500);
    arrives(&mut switch, other.len(), [tunnel(1, &liar), other].concat());
    assert_eq!((one.pod_received().len(), two.pod_received().len()), (0, 0));
    assert_eq!(dropped(&switch), [(DropReason::AmbiguousGroup, 1)]);
}

#[test]
fn a_port_that_takes_no_udp_superframes_gets_datagrams() {
    for (takes, writes) in [(true, 1), (false, 4)] {
        let (mut switch, [one, _]) = switch();
        one.take_only(TapOffloads { udp: takes, ..TapOffloads::ALL });
        let packet = tunnel(1, &udp(1, &[1; 500]));
        arrives(&mut switch, packet.len(), packet.repeat(4));
        assert_eq!(one.pod_received().len(), writes);
        assert_eq!(switch.totals().sent, 4);
        assert_eq!(dropped(&switch), []);
    }
}

/// What a port received is finished, and its payload is this.
fn assert_finished(port: &MemoryPort, frames: usize, payload: &[u8]) {
    let received = port.pod_received();
    assert_eq!(received.len(), frames);
    for frame in &received {
        assert_eq!(frame.offload, Offload::NONE);
        assert_eq!(checksum::verify(&Inner::parse(&frame.bytes).unwrap()), Ok(Verified::Right));
    }
    assert!(received.iter().flat_map(|frame| &frame.bytes[42..]).eq(payload));
}

#[test]
fn a_port_gets_no_more_than_it_takes() {
    let payload: Vec<u8> = (0..4 * SIZE + 5).map(|place| (place / 7) as u8).collect();
    for (takes, small) in [(TapOffloads { udp: false, ..TapOffloads::ALL }, false), (TapOffloads::NONE, true)] {
        let (mut switch, [one, _]) = switch();
        one.take_only(takes);
        arrives(&mut switch, SIZE, tunnel(1, &superframe(1, &payload)));
        assert_finished(&one, 5, &payload);
        let unfilled = tunnel(1, &superframe(1, &payload[..SIZE]));
        arrives(&mut switch, unfilled.len(), unfilled);
        if small {
            assert_finished(&one, 1, &payload[..SIZE]);
        } else {
            assert_eq!(one.pod_received()[0].offload.checksum, Checksum::Needed { start: 34, offset: 6 });
        }
        assert_eq!((switch.totals().sent, dropped(&switch)), (2, vec![]));
    }
}

/// Levels that are off.
fn left(switch: &MemorySwitch) -> Vec<Level> {
    Level::ALL.into_iter().filter(|level| !switch.levels().uses(*level)).collect()
}

#[test]
fn a_superframe_that_the_kernel_refuses_arrives_cut_and_a_plain_one_ends_its_level() {
    let payload: Vec<u8> = (0..4 * SIZE).map(|place| (place / 7) as u8).collect();
    let (mut switch, [one, _]) = switch();
    one.kernel_takes_only(TapOffloads { udp: false, ..TapOffloads::ALL });
    let mut writes = 0;
    let mut arrive = |segments: usize, tried, merged| {
        let payload = &payload[..segments * SIZE];
        if merged {
            let packets: Vec<u8> = payload.chunks(SIZE).flat_map(|payload| tunnel(1, &udp(1, payload))).collect();
            arrives(&mut switch, packets.len() / segments, packets);
        } else {
            arrives(&mut switch, SIZE, tunnel(1, &superframe(1, payload)));
        }
        assert_finished(&one, segments, payload);
        writes += segments as u64 + u64::from(tried);
        assert_eq!((switch.totals().port_writes, dropped(&switch)), (writes, vec![]));
        left(&switch)
    };
    for merged in [false, true] {
        assert_eq!(arrive(4, true, merged), [], "four could be too many");
    }
    assert_eq!(arrive(2, true, true), [Level::Udp4, Level::Udp6]);
    for merged in [false, true] {
        assert_eq!(arrive(4, false, merged), [Level::Udp4, Level::Udp6]);
    }
}

#[test]
fn a_checksum_that_the_kernel_refuses_to_fill_is_filled_and_its_level_ends() {
    let (mut switch, [one, _]) = switch();
    one.kernel_takes_only(TapOffloads::NONE);
    for refused in [true, false] {
        let unfilled = tunnel(1, &superframe(1, &[3; SIZE]));
        arrives(&mut switch, unfilled.len(), unfilled);
        assert_finished(&one, 1, &[3; SIZE]);
        assert_eq!(switch.totals().port_writes, if refused { 2 } else { 3 });
        assert_eq!(left(&switch), [Level::Checksum, Level::Tcp4, Level::Tcp6, Level::Udp4, Level::Udp6]);
    }
    assert_eq!(dropped(&switch), []);
}
