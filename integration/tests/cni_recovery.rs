//! What a CNI plugin has to put up with: calls that are repeated, cut short or late, and pods that end without a word.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;

use serde_json::json;
use weft_api::{PodInterface, spool};
use weft_integration::{AgentNode, Cluster, CniCall, CniNetwork, Host, addresses_of, eventually, site};
use weft_netns::Netns;

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

fn pods_of(agent: &AgentNode) -> BTreeSet<String> {
    agent.ports().into_iter().map(|port| port.name).filter(|name| name != "host").collect()
}

fn network_of<const N: usize>(cluster: &Cluster<N>) -> CniNetwork {
    CniNetwork::new(&cluster.nodes[0], &cluster.run_dir(0))
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
