//! Nodes that find each other in a store: no peer stands in any file.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use weft_control::config::file::{Control, unspanned};
use weft_integration::{
    AgentConfig, AgentNode, Child, Family, Host, MIB, Node, Site, eventually, ping_all, site, stream, weft,
};

const PORT: u16 = 2379;
const PODS: [[&str; 1]; 3] = [["10.7.0.1/24"], ["10.7.0.2/24"], ["10.7.0.3/24"]];

fn pod_address(pod: usize) -> &'static str {
    PODS[pod][0].split('/').next().unwrap_or_default()
}

/// `weft store` on a node's underlay address.
fn store(node: &Node, directory: &Path) -> Child {
    let listen = format!("{}:{PORT}", node.address(Family::Ipv4));
    let (program, data) = (weft(), directory.join("store"));
    let words =
        [program.to_str().unwrap(), "store", "--relaxed", "--listen", &listen, "--data", data.to_str().unwrap()];
    let mut command = node.command(&words);
    let log = std::fs::File::options().create(true).append(true).open(directory.join("store.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Child::spawn(command)
}

fn config(site: &Site, node: &Node, store: &Node, pod: &Host, addresses: &[&str]) -> AgentConfig {
    let mut config = AgentConfig::new(site, node, &[Family::Ipv4]).vni(7).port(pod, 7, addresses);
    let mut control = Control::new(vec![format!("http://{}:{PORT}", store.address(Family::Ipv4))]);
    control.prefix = unspanned("/test".to_owned());
    config.file.control = Some(control);
    config
}

#[track_caller]
fn wait_for_state(agent: &AgentNode, state: &str, nodes: usize) {
    eventually("the agent stands well with its store", || {
        let control = agent.status().control.unwrap();
        let there = control.state == state && control.nodes == nodes;
        if there { Ok(()) } else { Err(format!("{control:?}")) }
    });
}

#[track_caller]
fn wait_for_endpoints(agent: &AgentNode, count: usize) {
    eventually("all endpoints are known", || {
        let rows: Vec<_> = agent.fdb().into_iter().filter(|row| row.kind == "static").collect();
        if rows.len() == count { Ok(()) } else { Err(format!("{rows:?}")) }
    });
}

/// Ends an agent whose VTEPs have come and gone, and their counters with them.
fn end(agent: AgentNode) {
    assert_eq!(agent.status().law_broken, None);
    agent.kill();
}

#[test]
fn nodes_find_each_other_and_forward_without_their_store() {
    let site = site!();
    let nodes = site.nodes::<3>();
    let pods = ["a", "b", "c"].map(|name| site.host(name));
    let mut process = store(&nodes[0], site.directory());
    let agents: Vec<_> =
        (0..3).map(|own| config(&site, &nodes[own], &nodes[0], &pods[own], &PODS[own]).start()).collect();
    for agent in &agents {
        wait_for_state(agent, "connected", 3);
        wait_for_endpoints(agent, 3);
        let vteps = agent.vteps();
        assert!(vteps.len() == 2 && vteps.iter().all(|vtep| vtep.kind == "managed"), "{vteps:?}");
    }
    for (own, pod) in pods.iter().enumerate() {
        for other in (0..3).filter(|other| *other != own) {
            ping_all(pod, pod_address(other));
        }
    }
    stream(&pods[1], &pods[2], pod_address(2), 16 * MIB);
    for agent in &agents {
        assert_eq!(agent.status().fdb_entries, 0, "nothing is learned from a node");
    }
    // The store goes, and forwarding goes on.
    process.signal(Signal::KILL);
    process.wait();
    for agent in &agents {
        wait_for_state(agent, "stale", 3);
    }
    ping_all(&pods[0], pod_address(1));
    stream(&pods[2], &pods[0], pod_address(0), 16 * MIB);
    // It comes back, with what it had.
    let _process = store(&nodes[0], site.directory());
    for agent in &agents {
        wait_for_state(agent, "connected", 3);
    }
    // One that is restarted finds everything as it was.
    let [first, second, third] = <[AgentNode; 3]>::try_from(agents).unwrap();
    second.kill();
    let second = config(&site, &nodes[1], &nodes[0], &pods[1], &PODS[1]).start();
    for agent in [&first, &second, &third] {
        wait_for_state(agent, "connected", 3);
        wait_for_endpoints(agent, 3);
    }
    ping_all(&pods[1], pod_address(2));
    // One that is gone for good is let go: its lease ends, and its path is silent.
    third.kill();
    for agent in [&first, &second] {
        wait_for_state(agent, "connected", 2);
        wait_for_endpoints(agent, 2);
        assert_eq!(agent.vteps().len(), 1);
    }
    ping_all(&pods[0], pod_address(1));
    [first, second].into_iter().for_each(end);
}

#[test]
fn a_second_node_of_one_name_ends_before_it_is_ready_and_harms_nobody() {
    let site = site!();
    let nodes = site.nodes::<3>();
    let pods = ["a", "b", "c"].map(|name| site.host(name));
    let _process = store(&nodes[0], site.directory());
    let first = config(&site, &nodes[0], &nodes[0], &pods[0], &PODS[0]).start();
    let second = config(&site, &nodes[1], &nodes[0], &pods[1], &PODS[1]).start();
    wait_for_state(&second, "connected", 2);
    let mut impostor = config(&site, &nodes[2], &nodes[0], &pods[2], &PODS[2]);
    impostor.file.node = Some(unspanned("n2".to_owned()));
    // Its holder is at another address, so it cannot be what ran here before: nothing is worth waiting for.
    let refused = impostor.attempt().unwrap_err();
    refused.assert_says(&["another agent, at 192.0.2.2, has the name `n2`"]);
    ping_all(&pods[0], pod_address(1));
    assert_eq!(first.vteps().len(), 1);
    first.finish();
    second.finish();
}

#[test]
fn foreign_vteps_are_added_and_removed_for_all_nodes_and_nodes_removed() {
    let site = site!("ip");
    let nodes = site.nodes::<3>();
    let pods = ["a", "b"].map(|name| site.host(name));
    let _process = store(&nodes[0], site.directory());
    let configs = [0, 1].map(|own| config(&site, &nodes[own], &nodes[0], &pods[own], &PODS[own]));
    let file = configs[0].write();
    let agents = configs.map(AgentConfig::start);
    // The third node has a kernel and no agent.
    nodes[2].ip("link add vx0 type vxlan id 7 dstport 4789 local 192.0.2.3 dev eth0 remote 192.0.2.1");
    nodes[2].ip("address add 10.7.0.9/24 dev vx0");
    nodes[2].ip("link set vx0 mtu 1450 up");
    let peer = |words: &[&str]| {
        let program = weft();
        let start = [program.to_str().unwrap(), "peer", "--config", file.to_str().unwrap()];
        nodes[0].run(&[&start[..], words].concat())
    };
    peer(&["add", "192.0.2.3", "--vni", "7"]);
    assert!(peer(&["list"]).contains("192.0.2.3"));
    for agent in &agents {
        eventually("the foreign VTEP is known", || {
            let vteps = agent.vteps();
            let kinds: Vec<_> = vteps.iter().map(|vtep| (vtep.address.as_str(), vtep.kind.as_str())).collect();
            if kinds.contains(&("192.0.2.3", "foreign")) { Ok(()) } else { Err(format!("{kinds:?}")) }
        });
    }
    ping_all(&pods[0], "10.7.0.9");
    peer(&["remove", "192.0.2.3"]);
    for agent in &agents {
        eventually("the foreign VTEP is gone", || {
            let vteps = agent.vteps();
            if vteps.iter().all(|vtep| vtep.kind == "managed") { Ok(()) } else { Err(format!("{vteps:?}")) }
        });
    }
    // A node that is gone for good goes at once by hand, before its lease ends.
    let [first, second] = agents;
    second.kill();
    let program = weft();
    nodes[0].run(&[program.to_str().unwrap(), "node", "--config", file.to_str().unwrap(), "remove", "n2"]);
    eventually(
        "the node is gone",
        || if first.vteps().is_empty() { Ok(()) } else { Err(format!("{:?}", first.vteps())) },
    );
    assert!(!first.log().contains("let go"), "{}", first.log());
    end(first);
}

#[test]
fn an_address_of_two_pods_is_named_and_counted() {
    let site = site!();
    let nodes = site.nodes::<2>();
    let pods = ["a", "b"].map(|name| site.host(name));
    let _process = store(&nodes[0], site.directory());
    let [one, other] = [0, 1].map(|own| config(&site, &nodes[own], &nodes[0], &pods[own], &PODS[0]));
    let file = one.write();
    // The second of them is the later one.
    let first = one.start();
    wait_for_state(&first, "connected", 1);
    assert_eq!(first.status().control.unwrap().conflicts_total, 0);
    let second = other.start();
    for agent in [&first, &second] {
        eventually("the address of two is named", || {
            let control = agent.status().control.unwrap();
            let named = ["address 10.7.0.1 of VNI 7: n2 has it, and it is claimed by n1 too"];
            let there = control.conflicts == named && control.conflicts_total == 1;
            if there { Ok(()) } else { Err(format!("{control:?}")) }
        });
    }
    assert!(first.log().contains("address 10.7.0.1 of VNI 7"), "{}", first.log());
    second.finish();
    let program = weft();
    nodes[0].run(&[program.to_str().unwrap(), "node", "--config", file.to_str().unwrap(), "remove", "n2"]);
    eventually("nobody claims it any more", || {
        let control = first.status().control.unwrap();
        let gone = control.conflicts.is_empty() && control.conflicts_total == 1;
        if gone { Ok(()) } else { Err(format!("{control:?}")) }
    });
    end(first);
}
