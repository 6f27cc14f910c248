//! Pods and what is outside of their cluster, and addresses by other IPAM plugins.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;
use weft_control::config::file::unspanned;
use weft_encap::{Inner, Network as Packet};
use weft_integration::{
    Capture, Cluster, CniCall, CniNetwork, Host, MIB, addresses_of, eventually, ping_all, site, stream, weft, weft_cni,
};

/// Behind a node, on a link that knows nothing of the cluster.
const OUTSIDE: [&str; 2] = ["198.51.100.2", "2001:db8:51::2"];
/// Behind a node too, with a way back to pods.
const EXCEPTION: &str = "203.0.113.1";

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

/// Where packets that arrive at a device come from, when so many have come from one of these.
fn sources(capture: &mut Capture, wanted: &[IpAddr]) -> BTreeSet<IpAddr> {
    let source = |frame: &[u8]| match Inner::parse(frame).unwrap().network {
        Packet::Ipv4(ip) => Some(IpAddr::V4(ip.src)),
        Packet::Ipv6(ip) if !ip.src.is_unicast_link_local() => Some(IpAddr::V6(ip.src)),
        _ => None,
    };
    let frames = capture.wait_for(10, |frame| source(frame).is_some_and(|source| wanted.contains(&source)));
    frames.iter().filter_map(|frame| source(frame)).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pods_reach_the_outside_by_their_nodes_address_and_each_other_by_their_own() {
    let cluster = Cluster::<2>::new(site!("ip", "ping", "nft"));
    let node = &cluster.nodes[0];
    let world = cluster.site().host("world");
    node.ip(&format!("link add out type veth peer name eth0 netns {}", world.netns().label()));
    for (host, device, number) in [(&**node, "out", 1), (&world, "eth0", 2)] {
        host.ip(&format!("address add 198.51.100.{number}/24 dev {device}"));
        host.ip(&format!("address add 2001:db8:51::{number}/64 dev {device} nodad"));
        host.ip(&format!("link set {device} up"));
    }
    world.ip(&format!("address add {EXCEPTION}/24 dev lo"));
    node.ip("route add 203.0.113.0/24 via 198.51.100.2");
    // Somebody else's rules stay.
    node.run(&["nft", "add table ip theirs"]);
    let configured = |masquerade: bool| {
        let mut config = cluster.config(0);
        let mut network = config.file.network.take().unwrap();
        network.masquerade = masquerade;
        network.masquerade_exceptions = vec!["203.0.113.0/24".parse::<IpNet>().unwrap()];
        config.file.network = Some(network);
        config
    };
    let first = configured(true).start();
    let second = cluster.config(1).start();
    first.wait_for_endpoints(2);
    let says = |word: &str| first.status().outside.iter().any(|missing| missing.contains(word));
    assert!(says("net.ipv4.ip_forward=1") && says("net.ipv6.conf.all.forwarding=1"), "{:?}", first.status().outside);
    node.set("ipv4/ip_forward", "1");
    node.set("ipv6/conf/all/forwarding", "1");
    let networks = [0, 1].map(|own| CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own)));
    let pods = ["a", "b"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    let results = [0, 1].map(|own| networks[own].add(&CniCall::new("c", &paths[own])));
    let addresses = results.each_ref().map(addresses_of);
    for (outside, own) in OUTSIDE.iter().zip(["198.51.100.1", "2001:db8:51::1"]) {
        let mut capture = Capture::start(&world, "eth0");
        ping_all(&pods[0], outside);
        assert_eq!(sources(&mut capture, &[ip(own)]), [ip(own)].into(), "outside the node answers for its pods");
    }
    stream(&pods[0], &world, OUTSIDE[0], 16 * MIB);
    // Where the world knows the way back, pods are seen as they are.
    world.ip("route add 10.244.0.0/16 via 198.51.100.1");
    let mut capture = Capture::start(&world, "eth0");
    ping_all(&pods[0], EXCEPTION);
    let own = ip(&addresses[0][0]);
    assert_eq!(sources(&mut capture, &[own]), [own].into());
    // So they are by pods and nodes, also from a pod of another node through this node's own device.
    second.wait_for_endpoints(4);
    for target in [&pods[1], &*cluster.nodes[1]] {
        let (device, address) = if target.name() == "b" {
            ("eth0", addresses[1][0].clone())
        } else {
            ("weft0", second.status().control.unwrap().overlay_addresses[0].to_string())
        };
        let mut capture = Capture::start(target, device);
        ping_all(&pods[0], &address);
        assert!(sources(&mut capture, &[own]).contains(&own));
    }
    let tables = node.run(&["nft", "list", "tables"]);
    assert!(tables.contains("table ip weft-weft0") && tables.contains("table ip6 weft-weft0"), "{tables}");
    // Switched off, nothing of it is left; nor is it made twice by an agent that starts again.
    let rules = node.run(&["nft", "list", "ruleset"]);
    first.kill();
    let first = configured(true).start();
    assert_eq!(node.run(&["nft", "list", "ruleset"]), rules);
    first.kill();
    let first = configured(false).start();
    let tables = node.run(&["nft", "list", "tables"]);
    assert_eq!(tables.trim(), "table ip theirs");
    assert_eq!(first.status().outside, Vec::<String>::new(), "it forwards, and nobody asks for more");
}

/// The rules go with what they are for: another name of the device, or no network any more.
#[test]
fn a_node_without_a_network_masquerades_nothing() {
    let cluster = Cluster::<1>::new(site!("nft"));
    let node = &cluster.nodes[0];
    node.run(&["nft", "add table ip theirs"]);
    let tables = || {
        let told = node.run(&["nft", "list", "tables"]);
        told.lines().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let ours = |interface: &str| {
        let names = ["ip", "ip6"].map(|family| format!("table {family} weft-{interface}"));
        names.into_iter().chain(["table ip theirs".to_owned()]).collect::<BTreeSet<String>>()
    };
    let [first] = cluster.start();
    assert_eq!(tables(), ours("weft0"));
    first.kill();
    let mut renamed = cluster.config(0);
    renamed.file.network.as_mut().unwrap().interface = unspanned("weft1".to_owned());
    let second = renamed.start();
    second.wait_for_endpoints(1);
    assert_eq!(tables(), ours("weft1"));
    let mut without = cluster.config(0);
    without.file.network = None;
    let third = without.take_over().unwrap();
    second.handed_over();
    assert_eq!(tables(), ["table ip theirs".to_owned()].into());
    third.kill();
    let again = without.start();
    assert_eq!(tables(), ["table ip theirs".to_owned()].into());
    again.finish();
}

#[test]
fn host_local_gives_addresses_and_gets_them_back() {
    let cluster = Cluster::<1>::new(site!("ip", "ping", "/usr/lib/cni/host-local"));
    let [agent] = cluster.start();
    let data = cluster.site().directory().join("host-local");
    let ipam = json!({ "type": "host-local", "dataDir": data, "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": "192.0.2.0/28" }]] });
    let network = CniNetwork::new(&cluster.nodes[0], &cluster.run_dir(0)).with("ipam", ipam);
    let given = || {
        let files = std::fs::read_dir(data.join("weft")).unwrap().map(|file| file.unwrap().file_name());
        files.filter(|name| name.to_str().unwrap().starts_with("192.")).count()
    };
    let pods = ["a", "b", "c"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    let calls = [CniCall::new("a", &paths[0]), CniCall::new("b", &paths[1]), CniCall::new("c", &paths[2])];
    let results = calls.each_ref().map(|call| network.add(call));
    let addresses: BTreeSet<String> = results.iter().flat_map(addresses_of).collect();
    assert_eq!((addresses.len(), given()), (3, 3), "{results:?}");
    ping_all(&pods[0], &addresses_of(&results[2])[0]);
    assert!(pods[0].ip("route show default").contains("via 192.0.2.1 dev eth0"));
    network.call("CHECK", &calls[0].clone().with("prevResult", results[0].clone())).unwrap();
    // What the agent refuses goes back at once.
    let refused = CniCall { interface: "eth1", ..calls[0].clone() }.with("vni", json!(9));
    assert_eq!(network.call("ADD", &refused).unwrap_err()["code"], 7);
    assert_eq!(given(), 3);
    network.del(&calls[0]);
    network.del(&calls[0]);
    assert_eq!(given(), 2);
    // One whose namespace is gone keeps its address until GC: only the runtime can have the plugin called.
    weft_netns::Netns::delete(pods[1].netns().label()).unwrap();
    network.call("STATUS", &calls[1]).unwrap();
    let valid = json!([{ "containerID": "c", "ifname": "eth0" }]);
    network.call("GC", &CniCall::new("", "").with("cni.dev/valid-attachments", valid)).unwrap();
    assert_eq!(given(), 1);
    eventually("one pod is left", || {
        let ports: Vec<String> = agent.ports().into_iter().map(|port| port.name).collect();
        if ports == ["host", "c.eth0"] { Ok(()) } else { Err(format!("{ports:?}")) }
    });
}

#[test]
fn the_plugin_is_installed_and_removed_as_a_whole() {
    let site = site!();
    let (bin, conf) = (site.directory().join("opt/bin"), site.directory().join("etc/net.d"));
    let install = |more: &[&str]| {
        let mut command = std::process::Command::new(weft());
        command.args(["cni", "install", "--bin-dir"]).arg(&bin).arg("--conf-dir").arg(&conf).args(more);
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (done, said) = install(&["--name", "pods"]);
    assert!(done && said.matches(" written").count() == 2, "{said}");
    assert_eq!(std::fs::read(bin.join("weft-cni")).unwrap(), std::fs::read(weft_cni()).unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(bin.join("weft-cni")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(conf.join("10-weft.conflist")).unwrap()).unwrap();
    assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&json!("pods"), &json!("weft-cni")));
    let (done, said) = install(&["--name", "pods"]);
    assert!(done && said.matches("is as it should be").count() == 2, "{said}");
    let (done, said) = install(&["--name", "others"]);
    assert!(done && said.contains("10-weft.conflist replaced"), "{said}");
    let (done, said) = install(&["--plugin", "/nowhere/weft-cni"]);
    assert!(!done && said.contains("--plugin"), "{said}");
    let (done, said) = install(&["--uninstall"]);
    assert!(done && said.matches(" removed").count() == 2, "{said}");
    let (done, said) = install(&["--uninstall"]);
    assert!(done && said.matches("is not there").count() == 2, "{said}");
    for directory in [&bin, &conf] {
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0, "nothing else is left");
    }
}
