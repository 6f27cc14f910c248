//! What goes wrong with tunnel packets that pass the host's stack by.

use std::net::Ipv4Addr;

use weft_integration::{MacAddr, ethernet, udp_over_ipv4, vxlan};

use crate::fault::{Ask, Deed, Fault, Repair};

/// Two nodes with an uplink.
pub(crate) const LAB: &str = "
name: uplink
nodes:
  - {name: n1, underlay: {kind: uplink}, pods: [{name: a, vni: 100, addresses: [10.0.0.1/24]}]}
  - {name: n2, underlay: {kind: uplink}, pods: [{name: c, vni: 100, addresses: [10.0.0.3/24]}]}
";

const N1: Ipv4Addr = Ipv4Addr::new(10, 199, 0, 1);
const N2: Ipv4Addr = Ipv4Addr::new(10, 199, 0, 2);
const VXLAN: u16 = 4789;
/// Where the UDP checksum of a frame is.
const CHECKSUM: usize = 14 + 20 + 6;

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a firewall rule is meant for packets that it never sees",
        plant: &[Deed::In(
            "n1",
            "nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; \
             nft add rule inet t c udp dport 4789 counter",
        )],
        asks: &[Ask::Doctor("n1", "rule_sees_no_uplink")],
        repair: Repair::By(&[Deed::In("n1", "nft delete table inet t")]),
    },
    Fault {
        name: "the underlay damages packets",
        plant: &[Deed::Sends("n2", |macs| {
            let inside = ethernet(macs.of("a"), MacAddr([2; 6]), 0x88b5, b"x");
            let mut frame =
                udp_over_ipv4((macs.of("n2"), N2, 50_000), (macs.of("n1"), N1, VXLAN), &vxlan(100, &inside));
            frame[CHECKSUM] ^= 0x55;
            vec![frame]
        })],
        asks: &[Ask::Doctor("n1", "bad_outer"), Ask::Live("n1", "bad_outer")],
        repair: Repair::Over,
    },
    Fault {
        name: "an agent with an uplink is killed",
        plant: &[Deed::Testbed("node", &["n1", "kill"])],
        asks: &[Ask::Doctor("n1", "stale_redirect"), Ask::Doctor("n1", "agent_not_running")],
        repair: Repair::By(&[Deed::Testbed("node", &["n1", "start"])]),
    },
];
