//! Captures of tunnel packets: built by etherparse and by hand, kept in `tests/vectors`, read and rebuilt by us; and
//! some that Weft, the kernel and Open vSwitch sent.
//!
//! `WEFT_WRITE_VECTORS=1 cargo test -p weft-encap vectors` writes the former anew. The latter are written by the tests in
//! namespaces: `WEFT_WRITE_CAPTURES=1 cargo test -p weft-integration`, with root.

use std::path::PathBuf;

use etherparse::{ArpEthIpv4Packet, ArpOperation, PacketBuilder};
use weft_encap::checksum::{self, Verified};
use weft_encap::outer::{Addresses, Link, MAX_LEN, UdpChecksum};
use weft_encap::{DecapError, Encapsulation, Inner, MacAddr, Network, Outer, Vni, geneve};

const VNI: [u8; 3] = [0x12, 0x34, 0x56];

/// A tunnel packet, and what has to become of it.
struct Vector {
    outer: Outer,
    /// Tunnel header as literal bytes.
    header: Vec<u8>,
    inner: Vec<u8>,
    verdict: Result<(), DecapError>,
}

/// Tunnel header, inner frame, verdict.
type Case = (Vec<u8>, Vec<u8>, Result<(), DecapError>);

struct Capture {
    name: &'static str,
    encapsulation: Encapsulation,
    vectors: Vec<Vector>,
}

const LINK: Link = Link { dst: MacAddr([2, 0x77, 0, 0, 0, 2]), src: MacAddr([2, 0x77, 0, 0, 0, 1]) };

fn tcp4() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 244, 0, 1], [10, 244, 1, 2], 64)
        .tcp(40_000, 80, 1, 502)
        .ack(1)
        .psh()
        .write(&mut bytes, b"GET / HTTP/1.1\r\n\r\n")
        .unwrap();
    bytes
}

fn udp6() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6([0xfd; 16], [0xfc; 16], 64)
        .udp(5353, 53)
        .write(&mut bytes, b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04weft\x04test\x00\x00\x1c\x00\x01")
        .unwrap();
    bytes
}

fn arp() -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender_ipv4: [10, 244, 0, 1],
        target_mac: [0; 6],
        target_ipv4: [10, 244, 1, 2],
    };
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]).arp(packet.into()).write(&mut bytes).unwrap();
    bytes
}

fn captures() -> Vec<Capture> {
    let addresses = [
        Addresses::V4 { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into() },
        Addresses::V6 { src: "2001:db8::1".parse().unwrap(), dst: "2001:db8::2".parse().unwrap() },
    ];
    let outer = |v6: bool, encapsulation: Encapsulation| Outer {
        addresses: addresses[usize::from(v6)],
        src_port: 51_234,
        dst_port: encapsulation.default_port(),
        tos: 0x02,
        ttl: 64,
        identification: 0,
    };
    let build = |v6: bool, encapsulation: Encapsulation, cases: Vec<Case>| {
        let outer = outer(v6, encapsulation);
        cases.into_iter().map(|(header, inner, verdict)| Vector { outer, header, inner, verdict }).collect()
    };
    let vxlan = |v6| build(v6, Encapsulation::Vxlan, vxlan_cases());
    let geneve = |v6| build(v6, Encapsulation::Geneve, geneve_cases());
    vec![
        Capture { name: "vxlan-ipv4", encapsulation: Encapsulation::Vxlan, vectors: vxlan(false) },
        Capture { name: "vxlan-ipv6", encapsulation: Encapsulation::Vxlan, vectors: vxlan(true) },
        Capture { name: "geneve-ipv4", encapsulation: Encapsulation::Geneve, vectors: geneve(false) },
        Capture { name: "geneve-ipv6", encapsulation: Encapsulation::Geneve, vectors: geneve(true) },
    ]
}

fn vxlan_cases() -> Vec<Case> {
    let [a, b, c] = VNI;
    vec![
        (vec![8, 0, 0, 0, a, b, c, 0], tcp4(), Ok(())),
        (vec![8, 0, 0, 0, a, b, c, 0], udp6(), Ok(())),
        (vec![8, 0, 0, 0, a, b, c, 0], arp(), Ok(())),
        (vec![0x4a, 0xdf, 0xff, 0xff, a, b, c, 0xff], tcp4(), Ok(())),
        (vec![0, 0, 0, 0, a, b, c, 0], tcp4(), Err(DecapError::VxlanNoVni)),
        (vec![0x88, 0, 0, 9, a, b, c, 0], tcp4(), Err(DecapError::VxlanGroupPolicy)),
        // Next protocol 3: Ethernet.
        (vec![0x0c, 0, 0, 3, a, b, c, 0], tcp4(), Err(DecapError::VxlanGpe { flags: 0x0c, next_protocol: 3 })),
        (vec![8, 0x20, 0, 0, a, b, c, 17], tcp4(), Err(DecapError::VxlanRemoteChecksum)),
        (vec![8, 0, 0, 0, 0, 0, 0, 0], tcp4(), Err(DecapError::VniZero)),
        (vec![8, 0, 0, 0, a, b, c], vec![], Err(DecapError::Truncated { have: 7, need: 8 })),
    ]
}

fn geneve_cases() -> Vec<Case> {
    let [a, b, c] = VNI;
    let plain = vec![0, 0, 0x65, 0x58, a, b, c, 0];
    let with = |first: u8, flags: u8, options: &[u8]| [&[first, flags, 0x65, 0x58, a, b, c, 0], options].concat();
    // Class 0x0102 (OVN), type 0, four bytes: ingress and egress port; then an empty one of an experimental class.
    let ovn = [0x01, 0x02, 0x00, 0x01, 0, 1, 0, 2];
    let two = [&ovn[..], &[0xff, 0xff, 0x01, 0xe0]].concat();
    vec![
        (plain.clone(), tcp4(), Ok(())),
        (plain.clone(), udp6(), Ok(())),
        (plain, arp(), Ok(())),
        (with(2, 0, &ovn), tcp4(), Ok(())),
        (with(3, 0x3f, &two), udp6(), Ok(())),
        (
            with(1, 0x40, &[0xff, 0xff, 0x81, 0]),
            tcp4(),
            Err(DecapError::GeneveCriticalOption { class: 0xffff, kind: 0x81 }),
        ),
        (with(1, 0, &[0xff, 0xff, 1, 2]), tcp4(), Err(DecapError::GeneveOptionOverrun { have: 4, need: 12 })),
        (with(0x40, 0, &[]), tcp4(), Err(DecapError::GeneveVersion { seen: 1 })),
        (with(0, 0x80, &[]), tcp4(), Err(DecapError::GeneveControl)),
        (vec![0, 0, 8, 0, a, b, c, 0], tcp4(), Err(DecapError::GeneveProtocol { seen: 0x0800 })),
        (vec![0, 0, 0x65, 0x58, 0, 0, 0, 0], tcp4(), Err(DecapError::VniZero)),
        (with(0x3f, 0, &[]), vec![], Err(DecapError::Truncated { have: 8, need: 260 })),
    ]
}

/// The whole packet as etherparse writes it.
fn theirs(vector: &Vector) -> Vec<u8> {
    let outer = &vector.outer;
    let payload = [&vector.header[..], &vector.inner].concat();
    let link = PacketBuilder::ethernet2(LINK.src.0, LINK.dst.0);
    let builder = match outer.addresses {
        Addresses::V4 { src, dst } => {
            let protocol = etherparse::ip_number::UDP;
            let mut ip = etherparse::Ipv4Header::new(0, outer.ttl, protocol, src.octets(), dst.octets()).unwrap();
            ip.ecn = (outer.tos & 3).try_into().unwrap();
            ip.dont_fragment = true;
            link.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        }
        Addresses::V6 { src, dst } => {
            let ip = etherparse::Ipv6Header {
                traffic_class: outer.tos,
                hop_limit: outer.ttl,
                source: src.octets(),
                destination: dst.octets(),
                ..Default::default()
            };
            link.ip(etherparse::IpHeaders::Ipv6(ip, Default::default()))
        }
    };
    let mut bytes = Vec::new();
    builder.udp(outer.src_port, outer.dst_port).write(&mut bytes, &payload).unwrap();
    bytes
}

/// The same by our own writers; the tunnel header too, where it is one that we send.
fn ours(vector: &Vector, encapsulation: Encapsulation) -> Vec<u8> {
    let own = encapsulation.header(Vni::from_bytes(VNI).unwrap());
    let header = if vector.header[..] == *own { own.as_bytes() } else { &vector.header };
    let payload = [header, &vector.inner].concat();
    let mut room = [0; MAX_LEN];
    let link = LINK.write(&mut room, &vector.outer.addresses).unwrap();
    let udp = UdpChecksum::Complete { payload: checksum::sum(&payload) };
    let len = link + vector.outer.write(&mut room[link..], payload.len(), udp).unwrap();
    [&room[..len], &payload].concat()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{name}.pcap"))
}

/// Classic pcap, little-endian, Ethernet.
fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.extend(word.to_le_bytes());
    }
    for (second, packet) in packets.iter().enumerate() {
        let len = packet.len() as u32;
        for word in [second as u32, 0, len, len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(packet);
    }
    out
}

fn packets_of(mut pcap: &[u8]) -> Vec<Vec<u8>> {
    pcap = &pcap[24..];
    let mut out = Vec::new();
    while !pcap.is_empty() {
        let len = u32::from_le_bytes(pcap[8..12].try_into().unwrap()) as usize;
        out.push(pcap[16..16 + len].to_vec());
        pcap = &pcap[16 + len..];
    }
    out
}

#[test]
fn captures_are_understood_and_reproduced() {
    for Capture { name, encapsulation, vectors } in captures() {
        let built = pcap(&vectors.iter().map(theirs).collect::<Vec<_>>());
        if std::env::var_os("WEFT_WRITE_VECTORS").is_some() {
            std::fs::write(path(name), &built).unwrap();
        }
        let kept = std::fs::read(path(name)).unwrap();
        assert_eq!(kept, built, "{name}");
        let packets = packets_of(&kept);
        assert_eq!(packets.len(), vectors.len());
        for (index, (packet, vector)) in packets.iter().zip(&vectors).enumerate() {
            assert_eq!(*packet, ours(vector, encapsulation), "{name} {index}");
            let received = Outer::read(packet).unwrap();
            assert_eq!((received.outer, received.link), (vector.outer, LINK), "{name} {index}");
            assert_eq!(received.verify(), Verified::Right);
            let wanted = vector.verdict.map(|()| (Vni::from_bytes(VNI).unwrap(), &vector.inner[..]));
            assert_eq!(encapsulation.decap(received.payload), wanted, "{name} {index}");
        }
    }
}

#[test]
fn what_real_peers_sent_is_read() {
    let (vxlan, geneve) = (Encapsulation::Vxlan, Encapsulation::Geneve);
    let captures = [
        ("weft-vxlan-ipv4", vxlan),
        ("weft-vxlan-ipv6", vxlan),
        ("weft-geneve-ipv4", geneve),
        ("weft-geneve-ipv6", geneve),
        ("kernel-vxlan-ipv4", vxlan),
        ("ovs-geneve-ipv4", geneve),
    ];
    let mut with_options = 0;
    for (name, encapsulation) in captures {
        let packets = packets_of(&std::fs::read(path(name)).unwrap());
        assert!(packets.len() >= 3, "{name}");
        for packet in packets {
            let received = Outer::read(&packet).unwrap();
            assert_ne!(received.verify(), Verified::Wrong, "{name}");
            assert_eq!(received.outer.dst_port, encapsulation.default_port());
            let (vni, frame) = encapsulation.decap(received.payload).unwrap();
            let inner = Inner::parse(frame).unwrap();
            if let Ok(seen) = checksum::verify(&inner) {
                assert_eq!(seen, Verified::Right, "{name}");
            }
            let plain = encapsulation.header(vni).len() + frame.len() == received.payload.len();
            with_options += usize::from(!plain);
            if name.starts_with("weft") {
                assert_eq!(received.payload, [encapsulation.header(vni).as_bytes(), frame].concat(), "{name}");
            }
        }
    }
    assert!(with_options > 0, "Open vSwitch was told to send options");
}

#[test]
fn the_inner_frames_are_what_they_look_like() {
    for (frame, ports) in [(tcp4(), Some((40_000, 80))), (udp6(), Some((5353, 53))), (arp(), None)] {
        let inner = Inner::parse(&frame).unwrap();
        assert_ne!(inner.network, Network::Other);
        assert_eq!(inner.ports(), ports);
    }
}

#[test]
fn geneve_options_are_listed() {
    let payload = &geneve_cases()[4].0;
    let options: Vec<_> = geneve::parse(payload).unwrap().options.map(Result::unwrap).collect();
    assert_eq!(options.len(), 2);
    assert_eq!((options[0].class, options[0].kind, options[0].data), (0x0102, 0, &[0, 1, 0, 2][..]));
    assert_eq!((options[1].class, options[1].kind, options[1].data), (0xffff, 1, &[][..]));
}
