//! What goes wrong in pods, at their ports, and with their agent.

use std::net::Ipv4Addr;

use rustix::process::Signal;
use weft_integration::{MacAddr, arp_request, ethernet, mac_of, tagged, udp_over_ipv4, vxlan};

use crate::fault::{Ask, Deed, Fault, Repair};

/// `a`, `b`, the learning port `r` and, in another network, `x` on one node, `c` on the other.
pub(crate) const LAB: &str = "
name: pods
nodes:
  - name: n1
    pods:
      - {name: a, vni: 100, addresses: [10.0.0.1/24]}
      - {name: b, vni: 100, addresses: [10.0.0.2/24]}
      - {name: r, vni: 100, addresses: [10.0.0.254/24], mode: learning}
      - {name: x, vni: 200, addresses: [10.0.0.9/24]}
  - name: n2
    pods:
      - {name: c, vni: 100, addresses: [10.0.0.3/24]}
";

const EXPERIMENT: u16 = 0x88b5;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const N1: Ipv4Addr = Ipv4Addr::new(10, 199, 0, 1);
const VXLAN: u16 = 4789;
/// More frames than a port may flood in a second towards targets that nobody knows.
const STORM: usize = 20_000;
/// More MACs than may be learned behind a port.
const MANY: u16 = 300;

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a pod's device is switched off",
        plant: &[Deed::In("a", "ip link set eth0 down")],
        asks: &[Ask::Doctor("n1", "pod_device_down"), Ask::Trace(&["--from", "c", "--to", "a"], "port_down")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "a pod's device has a greater MTU than its port",
        plant: &[
            Deed::In("a", "ip link set eth0 mtu 3000"),
            Deed::Sends("a", |macs| vec![ethernet(BROADCAST, macs.of("a"), EXPERIMENT, &[0; 2000])]),
        ],
        asks: &[Ask::Doctor("n1", "pod_mtu_changed"), Ask::Live("n1", "exceeds_ingress_mtu")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "a pod's device has another MAC",
        plant: &[Deed::In("a", "ip link set eth0 address 02:00:00:00:00:77 && (ping -c 1 -W 0.1 10.0.0.3 || true)")],
        asks: &[Ask::Doctor("n1", "pod_mac_changed"), Ask::Live("n1", "spoofed_mac")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "a pod has lost its address",
        plant: &[Deed::In("a", "ip address del 10.0.0.1/24 dev eth0")],
        asks: &[Ask::Doctor("n1", "pod_address_gone")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "another device is in a port's place",
        plant: &[Deed::In("b", "ip link delete eth0; ip link add eth0 type bridge")],
        asks: &[Ask::Doctor("n1", "port_lost")],
        repair: Repair::By(&[Deed::In("b", "ip link delete eth0")]),
    },
    Fault {
        name: "a device is left of a pod that is gone",
        plant: &[Deed::In("n1", "ip tuntap add dev left mode tap multi_queue && ip link set left alias weft")],
        asks: &[Ask::Doctor("n1", "stale_device")],
        repair: Repair::AsTold(&[]),
    },
    Fault {
        name: "a pod sends from another's MAC",
        plant: &[Deed::Sends("a", |macs| vec![ethernet(BROADCAST, macs.of("b"), EXPERIMENT, b"x")])],
        asks: &[Ask::Live("n1", "spoofed_mac")],
        repair: Repair::Over,
    },
    Fault {
        name: "a pod sends from another's address",
        plant: &[Deed::Sends("a", |macs| vec![udp_over_ipv4((macs.of("a"), B, 1), (macs.of("b"), B, 2), b"x")])],
        asks: &[Ask::Live("n1", "spoofed_ip"), Ask::Doctor("n1", "spoofed_ip")],
        repair: Repair::Over,
    },
    Fault {
        name: "a pod says by ARP that it has another's address",
        plant: &[Deed::Sends("b", |macs| vec![arp_request(macs.of("b"), A, A)])],
        asks: &[Ask::Live("n1", "spoofed_ip")],
        repair: Repair::Over,
    },
    Fault {
        name: "a pod sends VLAN tags into a network without",
        plant: &[Deed::Sends("a", |macs| {
            vec![tagged(&ethernet(BROADCAST, macs.of("a"), EXPERIMENT, b"x"), &[(0x8100, 5)])]
        })],
        asks: &[Ask::Live("n1", "vlan_tagged"), Ask::Doctor("n1", "vlan_tagged")],
        repair: Repair::Over,
    },
    Fault {
        name: "a router sends from a group's MAC",
        plant: &[Deed::Sends("r", |_| vec![ethernet(BROADCAST, MacAddr([3, 0, 0, 0, 0, 1]), EXPERIMENT, b"x")])],
        asks: &[Ask::Live("n1", "bad_source_mac"), Ask::Doctor("n1", "bad_source_mac")],
        repair: Repair::Over,
    },
    Fault {
        name: "a router sends packets that are shorter than they say",
        plant: &[Deed::Sends("r", |_| {
            let mut frame = udp_over_ipv4((mac_of(7), B, 1), (BROADCAST, A, 2), b"x");
            frame[16] = 0xff;
            vec![frame]
        })],
        asks: &[Ask::Live("n1", "malformed_ip"), Ask::Doctor("n1", "malformed_ip")],
        repair: Repair::Over,
    },
    Fault {
        name: "behind a router there is the MAC of a pod",
        plant: &[Deed::Sends("r", |macs| vec![ethernet(BROADCAST, macs.of("a"), EXPERIMENT, b"x")])],
        asks: &[Ask::Live("n1", "static_mac_moved"), Ask::Doctor("n1", "static_mac_moved")],
        repair: Repair::Over,
    },
    Fault {
        name: "a pod sends to itself through its port",
        plant: &[Deed::Sends("a", |macs| vec![ethernet(macs.of("a"), macs.of("a"), EXPERIMENT, b"x")])],
        asks: &[Ask::Live("n1", "hairpin"), Ask::Doctor("n1", "hairpin")],
        repair: Repair::Over,
    },
    Fault {
        name: "the underlay is reached through the overlay",
        plant: &[Deed::Sends("r", |macs| {
            let inside = ethernet(BROADCAST, macs.of("a"), EXPERIMENT, b"x");
            vec![udp_over_ipv4((mac_of(7), B, 50_000), (BROADCAST, N1, VXLAN), &vxlan(100, &inside))]
        })],
        asks: &[Ask::Live("n1", "encap_loop"), Ask::Doctor("n1", "encap_loop")],
        repair: Repair::Over,
    },
    Fault {
        name: "a pod looks for MACs that nobody has, without end",
        plant: &[Deed::Sends("a", |macs| vec![ethernet(mac_of(99), macs.of("a"), EXPERIMENT, b"x"); STORM])],
        asks: &[Ask::Live("n1", "unknown_flood_limit"), Ask::Doctor("n1", "unknown_flood_limit")],
        repair: Repair::Over,
    },
    Fault {
        name: "a pod is attached to the wrong network",
        plant: &[
            Deed::In("n1", "sed -i '/name = \"b\"/,/^vni/ s/^vni = 100/vni = 200/' $DIR/n1/agent.toml"),
            Deed::Testbed("node", &["n1", "restart"]),
        ],
        asks: &[
            Ask::Trace(&["--from", "a", "--to", "10.0.0.2"], "it is in VNI 200"),
            Ask::Trace(&["--from", "c", "--to", "10.0.0.2"], "it is in VNI 200"),
        ],
        repair: Repair::By(&[
            Deed::In("n1", "sed -i '/name = \"b\"/,/^vni/ s/^vni = 200/vni = 100/' $DIR/n1/agent.toml"),
            Deed::Testbed("node", &["n1", "restart"]),
        ]),
    },
    Fault {
        name: "more MACs than allowed are behind a learning port",
        plant: &[Deed::Sends("r", |_| {
            let mac = |number: u16| MacAddr([2, 0, 0, 7, (number >> 8) as u8, number as u8]);
            (0..MANY).map(|number| ethernet(BROADCAST, mac(number), EXPERIMENT, b"x")).collect()
        })],
        asks: &[Ask::Doctor("n1", "learn_limit")],
        // Forgotten with the agent; else after the ageing time.
        repair: Repair::By(&[Deed::Testbed("node", &["n1", "restart"])]),
    },
    Fault {
        name: "an agent is killed",
        plant: &[Deed::Testbed("node", &["n1", "kill"])],
        asks: &[Ask::Doctor("n1", "agent_not_running"), Ask::Doctor("n1", "stale_device")],
        repair: Repair::By(&[Deed::Testbed("node", &["n1", "start"])]),
    },
    Fault {
        name: "an agent hangs",
        plant: &[Deed::Signals("n1", Signal::STOP)],
        asks: &[Ask::Doctor("n1", "agent_hangs")],
        repair: Repair::By(&[Deed::Signals("n1", Signal::CONT)]),
    },
];
