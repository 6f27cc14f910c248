//! What leaves a node, as an independent dissector reads it.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use weft_encap::Outer;
use weft_integration::{
    Capture, Encapsulation, Family, MIB, Node, Overlay, PAYLOAD_PORTS, Packet, Site, dissect, dissect_vectors,
    exchange, exchange_superframes, keep_as_vectors, ping_all, site, stream,
};

const FIELDS: &[&str] = &[
    "frame.protocols",
    "frame.len",
    "eth.type",
    "eth.dst",
    "ip.dst",
    "ipv6.dst",
    "vxlan.vni",
    "vxlan.flags",
    "geneve.vni",
    "geneve.version",
    "geneve.options",
    "geneve.proto_type",
    "geneve.flags",
    "ip.flags.df",
    "ip.flags.mf",
    "ip.frag_offset",
    "ip.len",
    "ip.checksum.status",
    "ipv6.plen",
    "ipv6.nxt",
    "ipv6.fraghdr.offset",
    "udp.srcport",
    "udp.dstport",
    "udp.checksum",
    "udp.checksum.status",
    "tcp.checksum.status",
    "tcp.srcport",
    "tcp.dstport",
    "_ws.malformed",
];
const GOOD: &str = "1";
/// Where path probes go, in a VNI of their own; they are tunnel packets like all others.
const PROBE_TARGET: &str = "02:57:65:66:74:01";
const UNDERLAY_MTU: usize = 1500;
const ETHERNET: usize = 14;

/// What a node sends while its pod pings, streams and sends datagrams; what reaches the other end of the cable is
/// finished, because the node's interface leaves nothing to the next one.
fn sent(site: &Site, encapsulation: Encapsulation, family: Family) -> Vec<Packet> {
    let nodes = site.pair();
    nodes.iter().for_each(Node::like_a_wire);
    // What arrives is looked at before it is merged again.
    nodes[1].ethtool("-K eth0 gro off");
    let pods = ["a", "b"].map(|name| site.host(name));
    pods.iter().for_each(|pod| pod.set("ipv4/ip_local_port_range", PAYLOAD_PORTS));
    let overlay = Overlay::start(site, nodes, pods, encapsulation, family);
    let [a, b] = &overlay.pods;
    let capture = Capture::start(&overlay.nodes[1], "eth0");
    for addresses in [Overlay::IPV4, Overlay::IPV6] {
        ping_all(a, addresses[1]);
        ping_all(b, addresses[0]);
        stream(a, b, addresses[1], MIB);
        stream(b, a, addresses[0], MIB);
        exchange(a, b, addresses[1], 1300, 100);
        exchange_superframes(a, b, addresses[1], 1300, 40, 400);
        // Sixteen flows more, for their source ports.
        (0..16).for_each(|_| exchange(a, b, addresses[1], 10, 4));
    }
    let file = site.directory().join("sent.pcap");
    let frames = capture.save(&file);
    overlay.finish();
    let packets = dissect(&file, FIELDS);
    assert_eq!(packets.len(), frames.len());
    keep_as_vectors(
        &format!("weft-{encapsulation}-{}", if family == Family::Ipv4 { "ipv4" } else { "ipv6" }),
        encapsulation,
        &frames,
    );
    packets
}

/// A tunnel packet's flow in the pods' eyes.
fn flow(packet: &Packet) -> Vec<String> {
    let ports = if packet.all("tcp.srcport").is_empty() {
        // The first UDP header is the tunnel's.
        [packet.all("udp.srcport"), packet.all("udp.dstport")].map(|ports| ports[1..].concat())
    } else {
        ["tcp.srcport", "tcp.dstport"].map(|field| packet.inner(field).to_owned())
    };
    let ends = ["frame.protocols", "eth.dst", "ip.dst", "ipv6.dst"].map(|field| packet.inner(field).to_owned());
    ports.into_iter().chain(ends).collect()
}

fn check(packets: &[Packet], encapsulation: Encapsulation, family: Family) {
    let (name, port) = match encapsulation {
        Encapsulation::Vxlan => ("vxlan", "4789"),
        Encapsulation::Geneve => ("geneve", "6081"),
    };
    let outer = if family == Family::Ipv4 { "eth:ethertype:ip:udp:" } else { "eth:ethertype:ipv6:udp:" };
    let tunnel: Vec<_> = packets.iter().filter(|packet| packet.outer("udp.dstport") == port).collect();
    assert!(tunnel.len() > 2000, "{} tunnel packets", tunnel.len());
    let mut source_ports: BTreeMap<Vec<String>, BTreeSet<u16>> = BTreeMap::new();
    let mut longest = 0;
    for packet in &tunnel {
        let protocols = packet.outer("frame.protocols");
        assert!(protocols.starts_with(&format!("{outer}{name}:eth:ethertype:")), "{packet:?}");
        assert!(packet.all("_ws.malformed").is_empty(), "{packet:?}");
        let vni = if packet.inner("eth.dst") == PROBE_TARGET { weft_encap::probe::VNI.get() } else { Overlay::VNI };
        check_tunnel_header(packet, encapsulation, vni);
        if family == Family::Ipv4 {
            assert!(["1", "True"].contains(&packet.outer("ip.flags.df")), "DF is not set: {packet:?}");
            assert!(["0", "False"].contains(&packet.outer("ip.flags.mf")), "a fragment: {packet:?}");
            assert_eq!(packet.outer("ip.frag_offset"), "0", "a fragment: {packet:?}");
        } else {
            assert_eq!(packet.outer("ipv6.nxt"), "17", "extension headers: {packet:?}");
            assert!(packet.all("ipv6.fraghdr.offset").is_empty(), "a fragment: {packet:?}");
        }
        assert_ne!(packet.outer("udp.checksum"), "0x0000", "no outer checksum: {packet:?}");
        for field in ["ip.checksum.status", "udp.checksum.status", "tcp.checksum.status"] {
            assert!(packet.all(field).iter().all(|status| *status == GOOD), "{field}: {packet:?}");
        }
        let length: usize = packet.outer("frame.len").parse().unwrap();
        longest = longest.max(length - ETHERNET);
        let source: u16 = packet.outer("udp.srcport").parse().unwrap();
        assert!(source >= 49_152, "source port {source}");
        if vni != Overlay::VNI {
            continue;
        }
        source_ports.entry(flow(packet)).or_default().insert(source);
    }
    assert_eq!(longest, UNDERLAY_MTU, "a full packet fills the underlay and no more");
    let several: Vec<_> = source_ports.iter().filter(|(_, ports)| ports.len() > 1).collect();
    assert!(several.is_empty(), "a flow changed its source port: {several:?}");
    let all: BTreeSet<u16> = source_ports.values().flatten().copied().collect();
    assert!(all.len() >= 8, "{} flows share {} source ports", source_ports.len(), all.len());
    for protocol in ["arp", "icmp", "tcp", "udp", "icmpv6"] {
        let seen =
            tunnel.iter().any(|packet| packet.outer("frame.protocols").split(':').skip(5).any(|p| p == protocol));
        assert!(seen, "no {protocol} inside");
    }
}

fn check_tunnel_header(packet: &Packet, encapsulation: Encapsulation, vni: u32) {
    match encapsulation {
        Encapsulation::Vxlan => {
            assert_eq!(packet.all("vxlan.vni"), [vni.to_string()], "{packet:?}");
            assert_eq!(packet.all("vxlan.flags"), ["0x0800"], "only the I flag: {packet:?}");
        }
        Encapsulation::Geneve => {
            assert_eq!(packet.all("geneve.vni"), [format!("{vni:#08x}")], "{packet:?}");
            assert_eq!(packet.all("geneve.version"), ["0"], "{packet:?}");
            assert_eq!(packet.all("geneve.proto_type"), ["0x6558"], "{packet:?}");
            assert!(packet.all("geneve.options").is_empty(), "we send no options: {packet:?}");
            assert!(packet.all("geneve.flags").iter().all(|flags| *flags == "0x00"), "{packet:?}");
        }
    }
}

fn over(site: &Site, encapsulation: Encapsulation, family: Family) {
    let packets = sent(site, encapsulation, family);
    check(&packets, encapsulation, family);
}

/// Everything that encap's tests take for a tunnel packet without a fault is one to tshark too.
#[test]
fn the_vectors_of_encap_have_no_malformed_mark() {
    let _site = site!("tshark");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../encap/tests/vectors");
    let mut checked = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let geneve = path.to_str().unwrap().contains("geneve");
        let encapsulation = if geneve { Encapsulation::Geneve } else { Encapsulation::Vxlan };
        let packets = dissect_vectors(&path, FIELDS);
        let frames = frames_of(&fs::read(&path).unwrap());
        assert_eq!(packets.len(), frames.len(), "{}", path.display());
        for (packet, frame) in packets.iter().zip(frames) {
            let payload = Outer::read(&frame).unwrap().payload;
            // What is refused may well look malformed: some of it ends in the middle of its header.
            if encapsulation.decap(payload).is_ok() {
                assert!(packet.all("_ws.malformed").is_empty(), "{}: {packet:?}", path.display());
                let protocols = packet.outer("frame.protocols");
                assert!(protocols.contains(&format!(":udp:{encapsulation}:eth:")), "{}: {protocols}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked} packets");
}

fn frames_of(pcap: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &pcap[24..];
    let mut frames = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        frames.push(behind[..len].to_vec());
        rest = &behind[len..];
    }
    frames
}

#[test]
fn vxlan_over_ipv4() {
    over(&site!("tshark", "ethtool"), Encapsulation::Vxlan, Family::Ipv4);
}

#[test]
fn vxlan_over_ipv6() {
    over(&site!("tshark", "ethtool"), Encapsulation::Vxlan, Family::Ipv6);
}

#[test]
fn geneve_over_ipv4() {
    over(&site!("tshark", "ethtool"), Encapsulation::Geneve, Family::Ipv4);
}

#[test]
fn geneve_over_ipv6() {
    over(&site!("tshark", "ethtool"), Encapsulation::Geneve, Family::Ipv6);
}
