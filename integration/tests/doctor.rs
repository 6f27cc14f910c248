//! `weft doctor` on labs that are well, and on one in which things are broken from outside.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::UdpSocket;

use serde_json::Value;
use weft_integration::{CommandLab, Requirement, eventually, test_name, unmet};
use weft_testbed::Lab;

const TOOLS: [Requirement; 4] =
    [Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("nft"), Requirement::KernelVxlan];

/// Exit code and report.
fn doctor(lab: &CommandLab, node: &str, more: &[&str]) -> (i32, Value) {
    let place = format!("{}.{node}", lab.name());
    let output = CommandLab::try_run(&[&["doctor", "--json", "--node", &place], more].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let report =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

fn names(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap()).collect()
}

/// Waits until the doctor names all of these, and returns the rest.
#[track_caller]
fn finds(lab: &CommandLab, node: &str, wanted: &[&str], more: &[&str]) {
    eventually("the doctor finds it", || {
        let (code, report) = doctor(lab, node, more);
        let found = names(&report);
        let all = wanted.iter().all(|name| found.contains(name));
        if all && code == 1 { Ok(()) } else { Err(format!("{code}: {report:#}, not all of {wanted:?}")) }
    });
}

#[test]
fn healthy_labs_have_no_finding() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    for example in ["two-node.yaml", "two-vnis.yaml", "dual-stack.yaml", "learning.yaml", "kernel-peer.yaml"] {
        let lab = CommandLab::up(example);
        let list = Lab::open(&lab.name().parse().unwrap()).unwrap();
        let nodes = list.status().nodes.into_iter().map(|node| node.name);
        for node in nodes.filter(|node| list.run_dir_of(node).join("agent.sock").exists()) {
            let (code, report) = doctor(&lab, &node, &[]);
            assert_eq!((code, names(&report)), (0, Vec::new()), "{example} {node}: {report:#}");
            assert_eq!(report["agent_answers"], true);
        }
    }
}

#[test]
fn what_is_broken_from_outside_is_named() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let node = |node: &str, command: &str| lab.exec(node, &["sh", "-c", command]);

    node("n1", "nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; policy accept; }'");
    node("n1", "nft add rule inet t c udp dport 4789 drop");
    let level: Value = {
        let place = format!("{}.n1", lab.name());
        serde_json::from_str(&lab.run(&["status", "--json", "--node", &place])).unwrap()
    };
    let rule = if level["underlay"]["level"] == "uplink" { "rule_sees_no_uplink" } else { "rule_drops_tunnel" };
    finds(&lab, "n1", &[rule], &[]);
    node("n1", "nft delete table inet t");

    node("a", "ip link set eth0 down");
    node("b", "ip link set eth0 mtu 9000");
    finds(&lab, "n1", &["pod_device_down", "pod_mtu_changed"], &[]);
    node("a", "ip link set eth0 up");
    node("b", "ip link set eth0 mtu 1450");

    node("n1", "ip tuntap add dev left mode tap multi_queue && ip link set left alias weft");
    node("n1", "ip link add vx0 type vxlan id 1 dstport 4789 dev eth0");
    finds(&lab, "n1", &["stale_device", "kernel_tunnel_on_port"], &[]);
    node("n1", "ip link delete left; ip link delete vx0");

    node("a", "ip link delete eth0; ip link add eth0 type bridge");
    finds(&lab, "n1", &["port_lost"], &[]);
    node("a", "ip link delete eth0");
    eventually("all is well again", || {
        let (code, report) = doctor(&lab, "n1", &[]);
        if code == 0 { Ok(()) } else { Err(format!("{report:#}")) }
    });

    node("n1", "ip link set eth0 mtu 1300");
    finds(&lab, "n1", &["underlay_mtu"], &[]);
    node("n1", "ip link set eth0 mtu 1500");

    // Agents that were killed: from the other side, and where they were.
    lab.run(&["testbed", "node", lab.name(), "n2", "kill"]);
    finds(&lab, "n1", &["peer_down"], &[]);
    let (_, report) = doctor(&lab, "n1", &[]);
    assert!(!names(&report).contains(&"stale_device"), "the other node's pods are none of this one's: {report:#}");
    let config = format!("/run/weft/labs/{}/n2/agent.toml", lab.name());
    let netns = Lab::open(&lab.name().parse().unwrap()).unwrap().netns("n2").unwrap();
    let taken = netns.run(|| UdpSocket::bind("0.0.0.0:4789").unwrap()).unwrap();
    let mut gone = vec!["agent_not_running", "stale_device", "port_taken"];
    if level["underlay"]["level"] == "uplink" {
        gone.push("stale_redirect");
    }
    finds(&lab, "n2", &gone, &["--config", &config]);
    drop(taken);
    lab.run(&["testbed", "node", lab.name(), "n2", "start"]);
    eventually("and again", || {
        let reports = ["n1", "n2"].map(|node| doctor(&lab, node, &[]));
        if reports.iter().all(|(code, _)| *code == 0) { Ok(()) } else { Err(format!("{reports:?}")) }
    });
}

#[test]
fn without_an_agent_it_says_so_and_without_rights_it_does_not_guess() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let directory = std::env::temp_dir().join(format!("weft-it-doctor-{}", std::process::id()));
    let output = CommandLab::try_run(&["doctor", "--run-dir", directory.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("[no_agent]") && told.contains("weft agent --config FILE"), "{told}");
    let mut unprivileged = std::process::Command::new("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(weft_integration::weft());
    let output = unprivileged.args(["doctor"]).output().unwrap();
    // Where that user may not even start the program, setpriv has codes of its own.
    if output.status.code() != Some(126) && output.status.code() != Some(127) {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("as root"), "{output:?}");
    }
}
