//! What traces cost while none is on, in instructions: other work on the machine changes none of them.
//!
//! Each way of serving is counted by valgrind in a process of its own: this test, started again.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::IpAddr;
use std::process::Command;

use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{Seconds, Tables};
use weft_encap::{Offload, Vni};
use weft_integration::{Encapsulation, MacAddr, Requirement, test_name, udp_over_ipv4, unmet, vxlan};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PEER: [u8; 4] = [192, 0, 2, 2];
const VNI: u32 = 100;
const NOW: Seconds = Seconds(1);
/// Frames in a turn of the pod's port, and tunnel packets in one of the underlay.
const BATCH: usize = 128;
const ROUNDS: usize = 100;
/// Instructions more for a frame, at most, than by code that was compiled without traces.
const MOST: f64 = 1.0;
/// Says to the test in a process of its own how frames are served.
const WAY: &str = "WEFT_WAY";

/// A node with one pod, which a pod behind a VTEP talks to.
fn node() -> (MemorySwitch, MemoryPort) {
    let vni = Vni::new(VNI).unwrap();
    let mut tables = Tables::new(vec![IpAddr::from([192, 0, 2, 1])], vec![4789]);
    tables.add_domain(vni, DomainOptions::default()).unwrap();
    let mode = PortMode::Bound { addresses: vec![IpAddr::from([10, 0, 0, 1])] };
    let id = tables.add_port(Port { name: "a".to_owned(), vni, mac: OWN, mtu: 1450, mode }).unwrap();
    let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Managed);
    let vtep = Vtep { address: PEER.into(), udp_port: 4789, encapsulation, kind, pod_mtu: 1450 };
    let vtep = tables.add_vtep(vtep, &[vni]).unwrap();
    tables.bind_mac(vni, FAR, vtep, false).unwrap();
    let mut switch = MemorySwitch::new(tables, 64);
    let port = switch.attach(id);
    (switch, port)
}

/// Serves frames of 64 bytes in both directions as `way` says, or not at all.
fn serve(way: &str) {
    let (mut switch, port) = node();
    let [own, far] = [(OWN, [10, 0, 0, 1].into(), 4000), (FAR, [10, 0, 0, 2].into(), 5000)];
    let leaves = udp_over_ipv4(own, far, &[7; 22]);
    let arrives = vxlan(VNI, &udp_over_ipv4(far, own, &[7; 22]));
    for _ in 0..ROUNDS {
        for _ in 0..BATCH {
            port.pod_sends(leaves.clone(), Ok(Offload::NONE));
            switch.underlay().arrives(PEER.into(), Encapsulation::Vxlan, arrives.len(), 0, arrives.clone());
        }
        match way {
            "unserved" => continue,
            "without traces" => switch.run_without_traces(NOW),
            "no trace on" => switch.run(NOW),
            other => panic!("what is `{other}`?"),
        }
        assert!(!switch.underlay().sent().is_empty() && !port.pod_received().is_empty());
    }
    let frames = if way == "unserved" { 0 } else { 2 * BATCH * ROUNDS };
    assert_eq!(switch.totals().unicast, frames as u64);
}

/// Instructions of a process that serves so.
fn instructions(way: &str) -> f64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe().unwrap());
    valgrind.args(["--exact", "a_trace_that_is_not_on_costs_a_frame_nothing", "--test-threads=1"]);
    let output = valgrind.env(WAY, way).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{way}: {}\n{told}", String::from_utf8_lossy(&output.stdout));
    let count = told.lines().find_map(|line| line.split_once("Collected :")).unwrap_or_else(|| panic!("{told}"));
    count.1.trim().parse().unwrap()
}

#[test]
fn a_trace_that_is_not_on_costs_a_frame_nothing() {
    if let Ok(way) = std::env::var(WAY) {
        return serve(&way);
    }
    if unmet(test_name!(), &[Requirement::Tool("valgrind")]) {
        return;
    }
    let [unserved, without, off] = ["unserved", "without traces", "no trace on"].map(instructions);
    let each = |instructions: f64| instructions / (2 * BATCH * ROUNDS) as f64;
    let (frame, more) = (each(without - unserved), each(off - without));
    let percent = more / frame * 100.0;
    println!("a frame takes {frame:.0} instructions; with no trace on {more:.3} more, which is {percent:.4} %");
    assert!(frame > 100.0, "frames were not served");
    assert!(more < MOST, "{more:.2} instructions for each frame to find that no trace is on");
}
