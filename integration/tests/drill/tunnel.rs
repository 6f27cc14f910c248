//! What comes out of the tunnel and should not: from strangers, from peers that are set up wrongly, and damaged.

use etherparse::PacketBuilder;
use weft_integration::{Geneve, MacAddr, ethernet, mac_of, vxlan};

use crate::fault::{Ask, Deed, Fault, Macs, Repair};

/// The node under attack, a kernel that is its peer, and a machine that is none. Tunnel packets come by its sockets.
pub(crate) const LAB: &str = "
name: tunnel
nodes:
  - name: n1
    underlay: {kind: socket}
    pods:
      - {name: a, vni: 100, addresses: [10.0.0.1/24]}
      - {name: x, vni: 200, addresses: [10.0.0.1/24]}
  - {name: k, kind: kernel-vxlan, pods: [{name: d, vni: 100, addresses: [10.0.0.4/24]}]}
  - {name: w, kind: host}
";

const EXPERIMENT: u16 = 0x88b5;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
const VNI: u32 = 100;
/// More MACs than the smallest table holds.
const MANY: u16 = 1200;
/// Bytes of payload in a TCP segment.
const SEGMENT: usize = 1000;

/// A frame for the pod `a`, with which nothing is wrong.
fn good(macs: &Macs) -> Vec<u8> {
    ethernet(macs.of("a"), mac_of(2), EXPERIMENT, b"x")
}

/// It in VXLAN, with these two bytes at the beginning of the header.
fn flagged(macs: &Macs, flags: [u8; 2]) -> Vec<u8> {
    let mut packet = vxlan(VNI, &good(macs));
    packet[..2].copy_from_slice(&flags);
    packet
}

/// A fault of one kind of tunnel packet, which node `n1` drops by this name.
macro_rules! packet {
    ($name:literal, $from:literal, $port:expr, $reason:literal, $payload:expr) => {
        packet!($name, $from, $port, $reason, $reason, $payload)
    };
    ($name:literal, $from:literal, $port:expr, $reason:literal, $finding:literal, $payload:expr) => {
        Fault {
            name: $name,
            plant: &[Deed::Tunnels($from, $port, $payload)],
            asks: &[Ask::Live("n1", $reason), Ask::Doctor("n1", $finding)],
            repair: Repair::Over,
        }
    };
}

pub(crate) const FAULTS: &[Fault] = &[
    packet!("a stranger sends tunnel packets", "w", VXLAN, "unknown_source", |macs, _| vxlan(VNI, &good(macs))),
    packet!("somebody has this node's own address", "n1", VXLAN, "own_source", "own_address_elsewhere", |macs, _| {
        vxlan(VNI, &good(macs))
    }),
    packet!("a peer sends a VNI that nobody has", "k", VXLAN, "unknown_vni", |macs, _| vxlan(999, &good(macs))),
    packet!("a peer sends a VNI in which it has no part", "k", VXLAN, "not_member", |macs, _| vxlan(200, &good(macs))),
    packet!("a peer sends the VNI 0", "k", VXLAN, "vni_zero", |macs, _| vxlan(0, &good(macs))),
    packet!("a peer sends VXLAN without a VNI", "k", VXLAN, "vxlan_no_vni", |macs, _| flagged(macs, [0, 0])),
    packet!("a peer sends VXLAN-GPE", "k", VXLAN, "vxlan_gpe", |macs, _| flagged(macs, [0x0c, 0])),
    packet!("a peer sends a group policy", "k", VXLAN, "vxlan_group_policy", |macs, _| flagged(macs, [0x88, 0])),
    packet!("a peer leaves checksums to us", "k", VXLAN, "vxlan_remote_checksum", |macs, _| flagged(
        macs,
        [0x08, 0x20]
    )),
    packet!("packets are cut short on their way", "k", VXLAN, "tunnel_truncated", |macs, _| {
        vxlan(VNI, &good(macs))[..5].to_vec()
    }),
    Fault {
        name: "a peer sends Geneve to the port of VXLAN",
        plant: &[Deed::Tunnels("k", VXLAN, |macs, _| Geneve::new(VNI).around(&good(macs)))],
        asks: &[Ask::Live("n1", "vxlan_no_vni")],
        repair: Repair::Over,
    },
    packet!("a peer sends VXLAN to the port of Geneve", "k", GENEVE, "geneve_protocol", |macs, _| {
        vxlan(VNI, &ethernet(macs.of("a"), mac_of(2), EXPERIMENT, &[0; 100]))
    }),
    packet!("a peer's Geneve is of another version", "k", GENEVE, "geneve_version", |macs, _| {
        Geneve { version: 1, ..Geneve::new(VNI) }.around(&good(macs))
    }),
    packet!("a peer sends a critical option", "k", GENEVE, "geneve_critical_option", |macs, _| {
        Geneve::new(VNI).option(0xffff, 0x80, &[]).around(&good(macs))
    }),
    packet!("a peer sends control packets of Geneve", "k", GENEVE, "geneve_control", |macs, _| {
        Geneve { flags: 0x80, ..Geneve::new(VNI) }.around(&good(macs))
    }),
    packet!("a peer's options are longer than their header", "k", GENEVE, "geneve_options", |macs, _| {
        let mut overrun = Geneve::new(VNI).option(1, 1, &[0; 4]);
        overrun.options[3] = 2;
        overrun.around(&good(macs))
    }),
    packet!("something else uses the VNI of probes", "k", VXLAN, "bad_probe", |macs, _| {
        vxlan(0x00ff_fffe, &good(macs))
    }),
    packet!("frames are shorter than their header", "k", VXLAN, "runt", |macs, _| { vxlan(VNI, &good(macs)[..9]) }),
    packet!("checksums inside are wrong", "k", VXLAN, "bad_inner_checksum", |macs, number| {
        // They are looked at where segments are joined.
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(mac_of(2).0, macs.of("a").0);
        let tcp = builder.ipv4([10, 0, 0, 4], [10, 0, 0, 1], 64).tcp(4000, 5000, number * SEGMENT as u32, 1000).ack(1);
        tcp.write(&mut frame, &[7; SEGMENT]).unwrap();
        frame[600] ^= u8::from(number % 2 == 1);
        vxlan(VNI, &frame)
    }),
    packet!("a pod's MAC comes out of the tunnel", "k", VXLAN, "static_mac_moved", |macs, _| {
        vxlan(VNI, &ethernet(BROADCAST, macs.of("a"), EXPERIMENT, b"x"))
    }),
    Fault {
        name: "more MACs are behind a peer than the table holds",
        plant: &[
            Deed::In("n1", "sed -i 's/^capacity = .*/capacity = 1024/' $DIR/n1/agent.toml"),
            Deed::Testbed("node", &["n1", "restart"]),
            Deed::Sends("d", |_| {
                let mac = |number: u16| MacAddr([2, 0, 0, 8, (number >> 8) as u8, number as u8]);
                (0..MANY).map(|number| ethernet(BROADCAST, mac(number), EXPERIMENT, b"x")).collect()
            }),
        ],
        asks: &[Ask::Doctor("n1", "fdb_full")],
        repair: Repair::By(&[
            Deed::In("n1", "sed -i 's/^capacity = .*/capacity = 65536/' $DIR/n1/agent.toml"),
            Deed::Testbed("node", &["n1", "restart"]),
        ]),
    },
];
