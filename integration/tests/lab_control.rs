//! Labs whose agents find each other by a store.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use weft_control::config::file::File;
use weft_integration::{CommandLab, Requirement, StoreKind, StoreNode, eventually, test_name, unmet, weft};

const TOOLS: [Requirement; 2] = [Requirement::Root, Requirement::Tool("ip")];

/// Two sites, a router between them, and a link that is narrower than it says.
const SITES: &str = "
encapsulation: geneve
segments:
  - {name: s, ipv4: 10.1.0.0/24, ipv6: 'fd01::/64'}
  - {name: t, ipv4: 10.2.0.0/24, ipv6: 'fd02::/64'}
routers: [{name: r, segments: [s, t]}]
nodes:
  - {name: n1, segment: s, pods: [{name: a, vni: 7, addresses: [10.0.0.1/24]}, {name: b, vni: 8}]}
  - {name: n2, segment: t, link: {mtu: 1000, delay: 2ms}, pods: [{name: c, vni: 7, addresses: [10.0.0.2/24]}]}
  - {name: n3, segment: t}
";

/// Three nodes in one network.
const THREE: &str = "
nodes:
  - {name: n1, pods: [{name: a, vni: 7, mac: 02:00:00:00:00:01, addresses: [10.0.0.1/24, 'fd00::1/64']}]}
  - {name: n2, pods: [{name: b, vni: 7, mac: 02:00:00:00:00:02, addresses: [10.0.0.2/24, 'fd00::2/64']}]}
  - {name: n3, pods: [{name: c, vni: 7, mac: 02:00:00:00:00:03, addresses: [10.0.0.3/24, 'fd00::3/64']}]}
";

/// A lab of this text.
#[track_caller]
fn up(test: &str, text: &str) -> CommandLab {
    let file = file_of(test, "yaml");
    std::fs::write(&file, text).unwrap();
    let lab = CommandLab::up_file(&file);
    std::fs::remove_file(&file).unwrap();
    lab
}

fn file_of(test: &str, ending: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weft-it-{}-{test}.{ending}", std::process::id()))
}

/// What a node shows, in JSON.
#[track_caller]
fn show(lab: &CommandLab, node: &str, what: &str) -> Value {
    let place = format!("{}.{node}", lab.name());
    serde_json::from_str(&lab.run(&["show", what, "--node", &place, "--json"])).unwrap()
}

/// The MACs that a node has of others, with the nodes that published them.
fn published(lab: &CommandLab, node: &str) -> Vec<(String, String)> {
    let fdb = show(lab, node, "fdb");
    let rows = fdb.as_array().unwrap().iter().filter(|row| row["kind"] == "static" && row["attachment"] == "vtep");
    rows.map(|row| (row["mac"].as_str().unwrap().to_owned(), row["node"].as_str().unwrap().to_owned())).collect()
}

/// What two labs of one file have in common, whatever their store is.
fn knowledge(lab: &CommandLab) -> Value {
    let of_node = |node: &str| {
        let vteps = show(lab, node, "vteps");
        let kinds = vteps.as_array().unwrap().iter().map(|row| [&row["address"], &row["kind"], &row["encapsulation"]]);
        let kinds: Vec<_> = kinds.map(|row| row.map(Clone::clone)).collect();
        let rows = ["nodes", "fdb", "neighbours"].map(|what| show(lab, node, what));
        serde_json::json!([node, kinds, rows])
    };
    serde_json::json!(["n1", "n2", "n3"].map(of_node))
}

#[tokio::test]
async fn a_store_of_the_labs_own_and_etcd_are_alike() {
    if unmet(test_name!(), &[&TOOLS[..], &[Requirement::Tool("etcd")]].concat()) {
        return;
    }
    let (etcd, _) = StoreNode::start(StoreKind::Etcd, test_name!()).await;
    let control = [String::from("control: embedded"), format!("control: {{etcd: ['http://{}']}}", etcd.address())];
    let mut seen = Vec::new();
    for control in control {
        let lab = up(test_name!(), &format!("{control}\n{SITES}"));
        let known = knowledge(&lab);
        assert_eq!(known[0][2][0].as_array().unwrap().len(), 3, "{known}");
        assert_eq!(known[0][1], serde_json::json!([["10.2.0.1", "managed", "geneve"]]), "{known}");
        assert_eq!(published(&lab, "n2").len(), 1, "{known}");
        seen.push(known);
        let pairs = lab.run(&["testbed", "matrix", lab.name()]);
        assert!(pairs.contains("2 of 2 pairs"), "{pairs}");
        assert!(lab.run(&["testbed", "list"]).contains(&format!("{} (store)", lab.name())));
        // An agent that comes back finds everything, and is found.
        lab.run(&["testbed", "node", lab.name(), "n2", "kill"]);
        lab.run(&["testbed", "node", lab.name(), "n2", "start"]);
        assert_eq!(published(&lab, "n2").len(), 1);
        lab.ping_all("a", "10.0.0.2");
        lab.run(&["testbed", "down", lab.name()]);
        assert_eq!(lab.traces(), [""; 0]);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn nodes_that_are_killed_vanish_and_pods_that_move_are_found() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = up(test_name!(), THREE);
    let row = |mac: &str, node: &str| (format!("02:00:00:00:00:0{mac}"), node.to_owned());
    assert_eq!(published(&lab, "n1"), [row("2", "n2"), row("3", "n3")]);
    assert!(lab.run(&["testbed", "logs", lab.name(), "store"]).contains("serving"));
    // Pod b goes from n2 to n1: what the agents are told is changed, and they start again.
    let config = |node: &str| PathBuf::from(format!("/run/weft/labs/{}/{node}/agent.toml", lab.name()));
    let read = |node: &str| -> File { toml::from_str(&std::fs::read_to_string(config(node)).unwrap()).unwrap() };
    let (mut first, mut second) = (read("n1"), read("n2"));
    assert!(first.vteps.is_empty() && first.control.is_some());
    lab.run(&["testbed", "node", lab.name(), "n2", "stop"]);
    first.ports.append(&mut second.ports);
    for (node, file) in [("n1", first), ("n2", second)] {
        std::fs::write(config(node), toml::to_string(&file).unwrap()).unwrap();
    }
    lab.exec("b", &["ip", "link", "delete", "eth0"]);
    for node in ["n1", "n2"] {
        lab.run(&["testbed", "node", lab.name(), node, "restart"]);
    }
    eventually("the pod is where it moved to", || {
        let seen = published(&lab, "n3");
        if seen == [row("1", "n1"), row("2", "n1")] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    lab.ping_all("c", "10.0.0.2");
    // A path that was never seen alive counts as silent only some time after the lease.
    eventually("the path to the node is proven", || {
        let vteps = show(&lab, "n3", "vteps");
        let up = vteps.as_array().unwrap().iter().any(|row| row["address"] == "10.199.0.1" && row["path"] == "up");
        if up { Ok(()) } else { Err(vteps.to_string()) }
    });
    // Its lease ends and its path is silent.
    lab.run(&["testbed", "node", lab.name(), "n1", "kill"]);
    eventually("the node is gone, with its pods", || {
        let (seen, nodes) = (published(&lab, "n3"), show(&lab, "n3", "nodes"));
        let gone = seen.is_empty() && nodes.as_array().unwrap().iter().all(|node| node["name"] != "n1");
        if gone { Ok(()) } else { Err(format!("{seen:?} {nodes} {}", show(&lab, "n3", "vteps"))) }
    });
    let neighbours = show(&lab, "n3", "neighbours");
    assert!(neighbours.as_array().unwrap().iter().all(|row| row["node"] == "n3"), "{neighbours}");
}

#[test]
fn no_question_for_a_published_pod_crosses_the_underlay() {
    if unmet(test_name!(), &[&TOOLS[..], &[Requirement::Tool("tshark")]].concat()) {
        return;
    }
    let lab = up(test_name!(), THREE);
    for pod in ["a", "b", "c"] {
        eventually("no address is looked for twice any more", || {
            let tentative = lab.exec(pod, &["ip", "-6", "address", "show", "tentative"]);
            if tentative.is_empty() { Ok(()) } else { Err(tentative) }
        });
    }
    let file = file_of(test_name!(), "pcapng");
    let mut capture = Command::new(weft());
    capture.args(["testbed", "capture", lab.name(), "n1", "-w"]).arg(&file).stderr(Stdio::piped());
    let mut capture = capture.spawn().unwrap();
    let mut told = BufReader::new(capture.stderr.take().unwrap()).lines();
    assert!(told.next().unwrap().unwrap().starts_with("capturing at "));
    for address in ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"] {
        lab.exec("a", &["ip", "neighbour", "flush", "dev", "eth0"]);
        lab.ping_all("a", address);
    }
    Command::new("kill").args(["-INT", &capture.id().to_string()]).status().unwrap();
    capture.wait().unwrap();
    let count = |filter: &str| {
        let output = Command::new("tshark").arg("-r").arg(&file).args(["-Y", filter]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (echoes, questions) = (
        count("vxlan && (icmp || icmpv6.type == 128 || icmpv6.type == 129)"),
        count("vxlan && (arp || icmpv6.type == 135 || icmpv6.type == 136)"),
    );
    std::fs::remove_file(&file).unwrap();
    assert!(echoes.lines().count() >= 16, "{echoes}");
    assert_eq!(questions, "");
}
