//! What a CNI plugin has to put up with: calls that are repeated, cut short or late, pods that end without a word, and
//! IPAM plugins that fail.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_api::{PodInterface, spool};
use weft_control::config::file::unspanned;
use weft_integration::{AgentNode, Cluster, CniCall, CniNetwork, Host, addresses_of, eventually, site};
use weft_netns::Netns;

/// An IPAM plugin that gives container `c7` the address 192.0.2.7, and fails to take it back as long as there is a file
/// `broken.c7` beside it.
const GIVER: &str = r#"#!/bin/sh
cat > /dev/null
here=${0%/*}
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$here/calls"
case "$CNI_COMMAND" in
ADD) echo "{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"192.0.2.${CNI_CONTAINERID#c}/24\"}]}" ;;
DEL) [ -e "$here/broken.$CNI_CONTAINERID" ] && echo '{"code": 150, "msg": "the store of addresses is away"}' && exit 1 ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
exit 0
"#;

/// The plugin in a directory of its own.
struct Giver(PathBuf);

impl Giver {
    fn new(directory: &Path) -> Self {
        let directory = directory.join("giver");
        fs::create_dir(&directory).unwrap();
        let plugin = directory.join("giver");
        fs::write(&plugin, GIVER).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    /// The network whose addresses it gives.
    fn of(&self, network: CniNetwork) -> CniNetwork {
        network.with_plugins(self.0.to_str().unwrap()).with("ipam", json!({ "type": "giver" }))
    }

    /// What it was asked to take back since this was asked last.
    fn taken_back(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap_or_default();
        fs::write(self.0.join("calls"), "").unwrap();
        calls.lines().filter_map(|call| call.strip_prefix("DEL ")).map(str::to_owned).collect()
    }

    fn set_broken(&self, container: &str, is_broken: bool) {
        let mark = self.0.join(format!("broken.{container}"));
        if is_broken { fs::write(mark, "").unwrap() } else { fs::remove_file(mark).unwrap() }
    }
}

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

fn pods_of(agent: &AgentNode) -> BTreeSet<String> {
    agent.ports().into_iter().map(|port| port.name).filter(|name| name != "host").collect()
}

fn wait_for_pods(agent: &AgentNode, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    eventually(&format!("the pods are {names:?}"), || {
        let pods = pods_of(agent);
        if pods == wanted { Ok(()) } else { Err(format!("{pods:?}\n{}", agent.log())) }
    });
}

fn network_of<const N: usize>(cluster: &Cluster<N>) -> CniNetwork {
    CniNetwork::new(&cluster.nodes[0], &cluster.run_dir(0))
}

fn gc(network: &CniNetwork, valid: &[&str]) -> Result<Value, Value> {
    let valid: Vec<Value> = valid.iter().map(|one| json!({ "containerID": one, "ifname": "eth0" })).collect();
    network.call("GC", &CniCall::new("", "").with("cni.dev/valid-attachments", json!(valid)))
}

fn ledger(cluster: &Cluster<1>) -> String {
    fs::read_to_string(cluster.run_dir(0).join("pods.json")).unwrap()
}

/// A DEL that was cut off is noted; the container begins again before the agent looks.
#[test]
fn what_was_to_be_detached_before_an_add_does_not_cost_the_new_pod() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let [agent] = cluster.start();
    let network = network_of(&cluster);
    let pod = cluster.site().host("a");
    let path = path_of(&pod);
    let call = CniCall::new("c1", &path);
    network.add(&call);
    let name = network.config["name"].as_str().unwrap().to_owned();
    let noted = PodInterface { network: name, container: "c1".to_owned(), interface: "eth0".to_owned() };
    spool::put(&cluster.run_dir(0), &noted).unwrap();
    // An attached pod of another namespace would be refused.
    let next = cluster.site().host("b");
    let next_path = path_of(&next);
    let call = CniCall::new("c1", &next_path);
    let result = network.add(&call);
    eventually("the note is settled", || {
        let noted = spool::list(&cluster.run_dir(0)).unwrap();
        if noted.is_empty() { Ok(()) } else { Err(format!("{noted:?}")) }
    });
    network.call("CHECK", &call.with("prevResult", result)).unwrap();
    assert!(pod.netns().links(|links| links.get("eth0")).unwrap().is_none(), "the old one is detached");
    assert_eq!(pods_of(&agent), ["c1.eth0".to_owned()].into());
    // The same namespace once more.
    spool::put(&cluster.run_dir(0), &noted).unwrap();
    let call = CniCall::new("c1", &next_path);
    let result = network.add(&call);
    eventually("the note is settled", || {
        let noted = spool::list(&cluster.run_dir(0)).unwrap();
        if noted.is_empty() { Ok(()) } else { Err(format!("{noted:?}")) }
    });
    network.call("CHECK", &call.with("prevResult", result)).unwrap();
}

#[test]
fn an_add_that_is_repeated_while_the_store_is_away_leaves_a_living_pod_alone() {
    let mut cluster = Cluster::<1>::new(site!("ip"));
    let [agent] = cluster.start();
    let network = network_of(&cluster);
    let pod = cluster.site().host("a");
    let path = path_of(&pod);
    let call = CniCall::new("c1", &path);
    let result = network.add(&call);
    cluster.kill_store();
    agent.kill();
    let agent = cluster.config(0).start();
    let error = network.call("ADD", &call).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    assert!(pod.netns().links(|links| links.get("eth0")).unwrap().is_some(), "{}", agent.log());
    assert_eq!(pods_of(&agent), ["c1.eth0".to_owned()].into());
    network.call("CHECK", &call.clone().with("prevResult", result.clone())).unwrap();
    cluster.start_store();
    agent.wait_for_endpoints(2);
    assert_eq!(network.add(&call), result);
}

#[test]
fn addresses_of_an_ipam_plugin_are_asked_back_until_they_are_taken_back() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let [agent] = cluster.start();
    let giver = Giver::new(cluster.site().directory());
    let network = giver.of(network_of(&cluster));
    let pods = ["a", "b", "c", "d"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    for (path, name) in paths.iter().zip(["c1", "c2", "c3", "c4"]) {
        network.add(&CniCall::new(name, path));
    }
    agent.wait_for_endpoints(5);
    // One that ends without a word lets go of all but its address, which only the runtime can have taken back.
    Netns::delete(pods[0].netns().label()).unwrap();
    wait_for_pods(&agent, &["c2.eth0", "c3.eth0", "c4.eth0"]);
    agent.wait_for_endpoints(4);
    assert!(ledger(&cluster).contains("192.0.2.1/24"));
    assert!(giver.taken_back().is_empty());
    // A plugin that is missing costs nothing.
    let elsewhere = network.clone().with_plugins("/nowhere");
    let error = gc(&elsewhere, &["c4"]).unwrap_err();
    assert_eq!(error["code"], 7, "{error}");
    assert_eq!(pods_of(&agent).len(), 3, "nothing is taken away that could not be given back");
    // One address that is not taken back costs no other one.
    giver.set_broken("c2", true);
    let error = gc(&network, &["c4"]).unwrap_err();
    let said = format!("{} {}", error["msg"].as_str().unwrap(), error["details"].as_str().unwrap());
    assert!(said.contains("the store of addresses is away") && said.contains("c2"), "{error}");
    assert_eq!(giver.taken_back(), ["c1", "c2", "c3"]);
    wait_for_pods(&agent, &["c4.eth0"]);
    assert!(pods[1].netns().links(|links| links.get("eth0")).unwrap().is_none(), "its device is gone all the same");
    // The next agent knows of it too, and attaches nothing again, though the namespace is there.
    agent.kill();
    let agent = cluster.config(0).start();
    assert_eq!(pods_of(&agent), ["c4.eth0".to_owned()].into());
    giver.set_broken("c2", false);
    gc(&network, &["c4"]).unwrap();
    assert_eq!(giver.taken_back(), ["c2"]);
    gc(&network, &["c4"]).unwrap();
    assert!(giver.taken_back().is_empty());
    // Who comes again gets all anew.
    network.add(&CniCall::new("c2", &paths[1]));
    wait_for_pods(&agent, &["c2.eth0", "c4.eth0"]);
}

#[test]
fn status_says_what_does_not_work_and_whether_pods_suffer_by_it() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let mut config = cluster.config(0);
    let network = config.file.network.as_mut().unwrap();
    network.ranges.as_mut().truncate(1);
    network.node_prefix_ipv4 = unspanned(30);
    let agent = config.start();
    agent.wait_for_endpoints(1);
    let network = network_of(&cluster);
    let status = || network.call("STATUS", &CniCall::new("", ""));
    status().unwrap();
    // Such a range has one address for pods.
    let pods = ["a", "b"].map(|name| cluster.site().host(name));
    let paths = pods.each_ref().map(path_of);
    network.add(&CniCall::new("c1", &paths[0]));
    let error = status().unwrap_err();
    assert_eq!(error["code"], 50, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("no address of"), "{error}");
    assert_eq!(network.call("ADD", &CniCall::new("c2", &paths[1])).unwrap_err()["code"], 101);
    network.del(&CniCall::new("c1", &paths[0]));
    status().unwrap();
    agent.kill();
    let error = status().unwrap_err();
    assert_eq!(error["code"], 51, "{error}");
}

#[test]
fn check_is_about_what_prev_result_has_of_ours() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let [_agent] = cluster.start();
    let network = network_of(&cluster);
    let pod = cluster.site().host("a");
    let path = path_of(&pod);
    let routes = json!([{ "dst": "198.51.100.0/24" }, { "dst": "203.0.113.0/24" }]);
    let call = CniCall::new("c1", &path).with("routes", routes);
    let result = network.add(&call);
    let check = |result: &Value| network.call("CHECK", &call.clone().with("prevResult", result.clone()));
    check(&result).unwrap();
    // A later plugin took one route away, replaced another, and gave the device an address.
    pod.ip("route del 198.51.100.0/24");
    pod.ip("route del 203.0.113.0/24");
    let mut later = result.clone();
    later["routes"]
        .as_array_mut()
        .unwrap()
        .retain(|route| !["198.51.100.0/24", "203.0.113.0/24"].contains(&route["dst"].as_str().unwrap()));
    later["routes"].as_array_mut().unwrap().push(json!({ "dst": "203.0.113.0/24", "gw": "10.244.0.99" }));
    later["ips"].as_array_mut().unwrap().push(json!({ "address": "192.0.2.9/24", "interface": 0 }));
    check(&later).unwrap();
    for missing in ["198.51.100.0/24", "203.0.113.0/24"] {
        let mut expected = later.clone();
        expected["routes"].as_array_mut().unwrap().push(json!({ "dst": missing, "gw": "10.244.0.1" }));
        let error = check(&expected).unwrap_err();
        assert_eq!(error["code"], 103, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(missing), "{error}");
    }
    // So with addresses.
    let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
    pod.ip(&format!("address del {address} dev eth0"));
    let without: Vec<Value> =
        later["ips"].as_array().unwrap().iter().filter(|ip| ip["address"] != address.as_str()).cloned().collect();
    let mut fewer = later.clone();
    fewer["ips"] = json!(without);
    // What led over it is gone with it.
    fewer["routes"] = json!([]);
    check(&fewer).unwrap();
    let mut expected = fewer.clone();
    expected["ips"].as_array_mut().unwrap().push(json!({ "address": address, "interface": 0 }));
    let error = check(&expected).unwrap_err();
    assert_eq!(error["code"], 103, "{error}");
    assert!(error["msg"].as_str().unwrap().contains(&address), "{error}");
}

/// The path says nothing: another namespace may have it by now.
#[test]
fn a_pod_whose_path_leads_to_another_namespace_by_now_is_gone() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let [agent] = cluster.start();
    let network = network_of(&cluster);
    let pod = cluster.site().host("a");
    let label = pod.netns().label().to_owned();
    let path = path_of(&pod);
    let result = network.add(&CniCall::new("c1", &path));
    agent.kill();
    Netns::delete(&label).unwrap();
    let recreated = Netns::create(&label).unwrap();
    let agent = cluster.config(0).start();
    assert!(pods_of(&agent).is_empty(), "{}", agent.log());
    assert!(recreated.links(|links| links.get("eth0")).unwrap().is_none(), "a stranger got its device");
    let wish = json!({ "ips": [addresses_of(&result)[0]] });
    let again = network.add(&CniCall::new("c2", &path).with("runtimeConfig", wish));
    assert_eq!(addresses_of(&again)[0], addresses_of(&result)[0], "its address is free");
}
