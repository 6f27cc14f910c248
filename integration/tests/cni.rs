//! Pods that come and go by the CNI plugin, driven as the specification says.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use weft_integration::{
    AgentNode, Child, Cluster, CniCall, CniNetwork, Host, MIB, addresses_of, eventually, ping_all, site, stream,
};

/// Endpoints of two nodes' own.
const NODES: usize = 2;

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

/// The names of an agent's ports that runtimes brought.
fn pods_of(agent: &AgentNode) -> BTreeSet<String> {
    agent.ports().into_iter().map(|port| port.name).filter(|name| name != "host").collect()
}

/// What went through ports that are gone is in no row, so the rows cannot be added up; the workers' own sums can.
#[track_caller]
fn assert_sound(agent: &AgentNode) {
    assert_eq!(agent.status().law_broken, None);
}

fn networks(cluster: &Cluster<2>) -> [CniNetwork; 2] {
    [0, 1].map(|own| CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own)))
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_what_del_takes_away_is_free_again() {
    let cluster = Cluster::<2>::new(site!("ip", "tc", "ping"));
    let [first, second] = cluster.start();
    let networks = networks(&cluster);
    let pods = ["a", "b", "c"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    let calls = [CniCall::new("c-a", &paths[0]), CniCall::new("c-b", &paths[1]), CniCall::new("c-c", &paths[2])];
    let results = [networks[0].add(&calls[0]), networks[0].add(&calls[1]), networks[1].add(&calls[2])];
    // When ADD answers the store has the row: whoever lists it now finds it. The others hear of it at once.
    first.wait_for_endpoints(NODES + 3);
    second.wait_for_endpoints(NODES + 3);
    for (pod, result) in pods.iter().zip(&results) {
        let interface = &result["interfaces"][0];
        assert_eq!(interface["name"], "eth0");
        assert_eq!(interface["mac"], json!(pod.mac("eth0").to_string()));
        assert_eq!(interface["mtu"], json!(pod.link("eth0").mtu));
        assert_eq!(interface["sandbox"], json!(path_of(pod)));
        assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
        // Frames wait in the device alone, and not in 256 queues in front of it.
        let queues = pod.tc("qdisc show dev eth0");
        assert!(queues.starts_with("qdisc noqueue ") && queues.lines().count() == 1, "{queues}");
        let shown = pod.ip("address show dev eth0");
        for ip in result["ips"].as_array().unwrap() {
            assert!(shown.contains(ip["address"].as_str().unwrap()), "{shown}");
            assert_eq!(ip["interface"], 0);
        }
        assert!(pod.ip("route show default").contains("via 10.244.0.1 dev eth0"), "{}", pod.ip("route"));
        assert!(pod.ip("-6 route show default").contains("via fd00:244::1 dev eth0"), "{}", pod.ip("-6 route"));
    }
    let addresses = results.each_ref().map(addresses_of);
    for from in &pods {
        for address in addresses.iter().flatten() {
            ping_all(from, address);
        }
    }
    stream(&pods[0], &pods[2], &addresses[2][0], 16 * MIB);
    assert_eq!(pods_of(&first), ["c-a.eth0", "c-b.eth0"].map(str::to_owned).into());
    // Done again, it says the same; so does CHECK.
    assert_eq!(networks[0].add(&calls[0]), results[0]);
    networks[0].call("CHECK", &calls[0].clone().with("prevResult", results[0].clone())).unwrap();
    pods[0].ip("route del default");
    let error = networks[0].call("CHECK", &calls[0].clone().with("prevResult", results[0].clone())).unwrap_err();
    assert_eq!(error["code"], 103, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("0.0.0.0/0"), "{error}");
    // DEL, once more, and once more without a namespace.
    networks[0].del(&calls[0]);
    assert!(pods[0].netns().links(|links| links.get("eth0")).unwrap().is_none(), "the device is gone");
    networks[0].del(&calls[0]);
    networks[0].del(&CniCall::new("c-a", ""));
    assert_eq!(pods_of(&first), ["c-b.eth0".to_owned()].into());
    second.wait_for_endpoints(NODES + 2);
    let again = networks[0].add(&CniCall::new("c-a2", &paths[0]).with("runtimeConfig", json!({ "ips": addresses[0] })));
    assert_eq!(addresses_of(&again), addresses[0], "what was given back is there for who asks");
    [first, second].iter().for_each(assert_sound);
}

#[test]
fn results_have_the_form_that_the_caller_speaks() {
    let cluster = Cluster::<2>::new(site!("ip"));
    let [agent, _second] = cluster.start();
    let [network, _] = networks(&cluster);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let network = network.clone().with("cniVersion", json!(version));
        let pod = cluster.site().host(&version.replace('.', ""));
        let path = path_of(&pod);
        let call = CniCall::new("c1", &path);
        let before = json!({ "cniVersion": version, "interfaces": [{ "name": "lo", "sandbox": path }],
            "ips": [{ "address": "127.0.0.9/8", "interface": 0, "version": "4" }] });
        let result = network.add(&call.clone().with("prevResult", before));
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][1]["name"], "eth0", "{result}");
        assert_eq!(result["ips"][1]["interface"], 1, "{result}");
        let family = if version.starts_with("0.") { json!("6") } else { Value::Null };
        assert_eq!(result["ips"][2]["version"], family, "{result}");
        if version != "0.3.1" {
            network.call("CHECK", &call.clone().with("prevResult", result)).unwrap();
        }
        network.del(&call);
    }
    network.call("STATUS", &CniCall::new("", "")).unwrap();
    assert!(pods_of(&agent).is_empty());
}

#[test]
fn wishes_are_met_or_refused_by_name() {
    let cluster = Cluster::<2>::new(site!("ip"));
    let [agent, _second] = cluster.start();
    let [network, _] = networks(&cluster);
    let ranges = agent.status().control.unwrap().ranges;
    let third: std::net::Ipv4Addr = ranges[0].split('/').next().unwrap().parse().unwrap();
    let own = |last: u32| std::net::Ipv4Addr::from_bits(third.to_bits() + last).to_string();
    let pod = cluster.site().host("a");
    let path = path_of(&pod);
    let args =
        format!("IgnoreUnknown=1;IP={};MAC=02:00:00:00:0a:07;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1", own(77));
    let result = network.add(&CniCall { args: &args, ..CniCall::new("c1", &path) });
    assert_eq!((&addresses_of(&result)[0], &result["interfaces"][0]["mac"]), (&own(77), &json!("02:00:00:00:0a:07")));
    assert_eq!(pods_of(&agent), ["shop.web-1.eth0".to_owned()].into(), "people find it by its name");
    // A second interface has its own addresses, a route of the configuration, and not the default route.
    let wishes = json!({ "ips": [own(78)], "mac": "02:00:00:00:0a:08" });
    let second = CniCall { interface: "net1", ..CniCall::new("c1", &path) }
        .with("runtimeConfig", wishes)
        .with("routes", json!([{ "dst": "198.51.100.0/24" }]))
        .with("mtu", json!(1300));
    let result = network.add(&second);
    assert_eq!(result["routes"], json!([{ "dst": "198.51.100.0/24", "gw": "10.244.0.1" }]));
    assert_eq!((pod.mac("net1").to_string(), pod.link("net1").mtu), ("02:00:00:00:0a:08".to_owned(), 1300));
    assert!(pod.ip("route show default").contains("dev eth0"));
    assert!(pod.ip("route show 198.51.100.0/24").contains("via 10.244.0.1 dev net1"));
    for (wish, code, word) in [
        (json!([own(77)]), 102, "is taken"),
        (json!([own(1)]), 7, "no pod's"),
        (json!(["10.200.0.1"]), 7, "this node gives addresses of"),
        (json!([own(80), own(81)]), 7, "ask for one"),
        (json!(["x"]), 7, "`x`"),
    ] {
        let call = CniCall { interface: "net2", ..CniCall::new("c1", &path) };
        let error = network.call("ADD", &call.with("runtimeConfig", json!({ "ips": wish }))).unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(word), "{error}");
    }
    let error = network.call("ADD", &CniCall { interface: "net2", ..CniCall::new("c1", &path) }.with("vni", json!(9)));
    assert!(error.as_ref().unwrap_err()["msg"].as_str().unwrap().contains("`[[vni]]`"), "{error:?}");
    assert!(pod.netns().links(|links| links.get("net2")).unwrap().is_none(), "nothing is left of what was refused");
    // What has the name already stays as it is.
    pod.ip("link add net2 type veth peer name other");
    let error = network.call("ADD", &CniCall { interface: "net2", ..CniCall::new("c1", &path) }).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("Weft did not make"), "{error}");
    assert_eq!(pod.link("net2").kind.as_deref(), Some("veth"));
    assert_eq!(agent.ports().len(), 3);
    // GC leaves what is named, and takes the rest of its network alone.
    let valid = json!([{ "containerID": "c1", "ifname": "net1" }]);
    network
        .clone()
        .with("name", json!("others"))
        .call("GC", &CniCall::new("", "").with("cni.dev/valid-attachments", json!([])))
        .unwrap();
    assert_eq!(pods_of(&agent).len(), 2);
    network.call("GC", &CniCall::new("", "").with("cni.dev/valid-attachments", valid)).unwrap();
    assert_eq!(pods_of(&agent), ["c1.net1".to_owned()].into());
    assert_sound(&agent);
}

#[test]
fn pods_outlive_their_agent_and_what_ends_meanwhile_is_settled() {
    let cluster = Cluster::<2>::new(site!("ip", "ping"));
    let [first, second] = cluster.start();
    let networks = networks(&cluster);
    let pods = ["a", "b", "c", "d"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    let calls = paths.each_ref().map(|path| CniCall::new(path.rsplit('.').next().unwrap(), path));
    let results = calls.each_ref().map(|call| networks[0].add(call));
    let before: Vec<_> = first.ports().into_iter().map(|port| (port.name, port.mac, port.addresses)).collect();
    first.kill();
    // One ends as it should, one without a word. The agent's own device is all that keeps its namespace.
    networks[0].del(&calls[0]);
    assert!(cluster.run_dir(0).join("spool").is_dir());
    weft_netns::Netns::delete(pods[1].netns().label()).unwrap();
    let error = networks[0].call("ADD", &calls[0]).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    let first = cluster.config(0).start();
    let after: Vec<_> = first.ports().into_iter().map(|port| (port.name, port.mac, port.addresses)).collect();
    let kept = |port: &&(String, String, Vec<String>)| !["a.eth0", "b.eth0"].contains(&port.0.as_str());
    let mut expected: Vec<_> = before.iter().filter(kept).cloned().collect();
    expected.sort();
    let mut seen = after;
    seen.sort();
    assert_eq!(seen, expected, "the living are attached as they were, and the others are gone");
    assert_eq!(std::fs::read_dir(cluster.run_dir(0).join("spool")).unwrap().count(), 0);
    second.wait_for_endpoints(NODES + 2);
    ping_all(&pods[2], &addresses_of(&results[3])[0]);
    ping_all(&cluster.nodes[1], &addresses_of(&results[3])[1]);
    assert!(pods[3].ip("route show default").contains("via 10.244.0.1 dev eth0"));
    // While an agent runs, a pod whose namespace is gone gives its addresses back as well.
    weft_netns::Netns::delete(pods[3].netns().label()).unwrap();
    eventually("the pod's address is given back", || {
        let ports = pods_of(&first);
        if ports.len() == 1 { Ok(()) } else { Err(format!("{ports:?}\n{}", first.log())) }
    });
    second.wait_for_endpoints(NODES + 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(cluster.run_dir(0).join("pods.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    [first, second].iter().for_each(assert_sound);
}

#[test]
fn without_its_store_an_agent_attaches_only_what_need_not_be_known_elsewhere() {
    let mut cluster = Cluster::<2>::new(site!("ip", "ping"));
    let [first, second] = cluster.start();
    let networks = networks(&cluster);
    cluster.kill_store();
    eventually("the agent misses its store", || {
        let state = first.status().control.unwrap().state;
        if state == "stale" { Ok(()) } else { Err(state) }
    });
    let error = networks[0].call("STATUS", &CniCall::new("", "")).unwrap_err();
    assert_eq!(error["code"], 50, "{error}");
    let pods = ["a", "b"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    let calls = [CniCall::new("a", &paths[0]), CniCall::new("b", &paths[1])];
    let local = networks[0].add(&calls[0].clone().with("waitFor", json!("node")));
    ping_all(&cluster.nodes[0], &addresses_of(&local)[0]);
    // The other waits, and is answered when the store is there again.
    let waiting = networks[0].start("ADD", &calls[1]);
    eventually("the pod is attached", || {
        let ports = pods_of(&first);
        if ports.len() == 2 { Ok(()) } else { Err(format!("{ports:?}")) }
    });
    // One that ends before it was published is told so.
    let ending = cluster.site().host("ending");
    let ending_path = path_of(&ending);
    let call = CniCall::new("ending", &ending_path);
    let unfinished = networks[0].start("ADD", &call);
    eventually("the pod is attached", || {
        let ports = pods_of(&first);
        if ports.len() == 3 { Ok(()) } else { Err(format!("{ports:?}")) }
    });
    networks[0].del(&call);
    let output = unfinished.wait_with_output().unwrap();
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stdout).contains("detached before"),
        "{output:?}"
    );
    cluster.start_store();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    second.wait_for_endpoints(NODES + 2);
    ping_all(&cluster.nodes[1], &addresses_of(&local)[0]);
    [first, second].iter().for_each(assert_sound);
}

#[test]
fn a_namespace_that_only_the_runtime_sees_is_found_by_its_processes() {
    let cluster = Cluster::<2>::new(site!("ip", "ping", "unshare", "sleep"));
    let [first, _second] = cluster.start();
    let pod = cluster.site().host("a");
    let mut process = Child::spawn(pod.command(&["sleep", "1000"]));
    // The plugin sees it at a path where the agent sees an empty file.
    let private = cluster.site().directory().join("private");
    std::fs::write(&private, "").unwrap();
    let private = private.to_str().unwrap();
    let script = format!("mount --bind {} {private} && exec \"$0\"", path_of(&pod));
    let through = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script].map(str::to_owned);
    let mut network = CniNetwork::new(&cluster.nodes[0], &cluster.run_dir(0));
    network.through = through.to_vec();
    let call = CniCall::new("c1", private);
    let address = addresses_of(&network.add(&call)).remove(0);
    ping_all(&cluster.nodes[1], &address);
    first.kill();
    let first = cluster.config(0).start();
    assert_eq!(first.port("c1.eth0").state, "forwarding");
    ping_all(&cluster.nodes[0], &address);
    // Without a process there is no way to it for the next agent, and no proof either that it is gone.
    process.signal(rustix::process::Signal::KILL);
    process.wait();
    first.kill();
    let first = cluster.config(0).start();
    assert!(pods_of(&first).is_empty());
    let taken =
        network.clone().call("ADD", &CniCall::new("c2", private).with("runtimeConfig", json!({ "ips": [address] })));
    assert_eq!(taken.unwrap_err()["code"], 102, "its address stays its own");
    network.del(&call);
    let free = network.add(&CniCall::new("c2", private).with("runtimeConfig", json!({ "ips": [address] })));
    assert_eq!(addresses_of(&free)[0], address);
    assert_sound(&first);
}
