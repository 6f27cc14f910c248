//! Pods that a runtime brought, while their agents are killed, and taken over from.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;

use serde_json::{Value, json};
use weft_api::{PodInterface, spool};
use weft_integration::{
    AgentNode, Between, Cluster, CniCall, CniNetwork, Host, NumberedFlow, SteadyStream, addresses_of, eventually,
    ping_all, site,
};

/// Datagrams a second of each flow, and bytes a second of each stream.
const PACKETS: u32 = 2_000;
const STREAM_RATE: u32 = 2_000_000;
/// How often each node's agent is taken over from in one test, before and after kills; how often it is killed.
const TAKEOVERS: usize = 3;
const KILLS: usize = 2;

/// Two nodes with a pod each, and keepers.
struct Pair {
    cluster: Cluster<2>,
    agents: Vec<AgentNode>,
    pods: [Host; 2],
    results: [Value; 2],
}

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

fn add(cluster: &Cluster<2>, own: usize, pod: &Host) -> Value {
    let path = path_of(pod);
    CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own)).add(&CniCall::new(pod.name(), &path))
}

/// What a pod's programs notice of its device.
fn seen_by(pod: &Host) -> (u32, Vec<String>) {
    let addresses = pod.netns().links(|links| links.addresses("eth0")).unwrap();
    (pod.link("eth0").carrier_changes, addresses.iter().map(ToString::to_string).collect())
}

fn wait_for_more(flow: &NumberedFlow, count: u64) {
    let before = flow.received();
    eventually("the flow goes on", || {
        let now = flow.received();
        if now >= before + count { Ok(()) } else { Err(format!("{now} after {before}")) }
    });
}

/// The pods of an agent, with what they have.
fn ports_of(agent: &AgentNode) -> Vec<(String, String, Vec<String>)> {
    let pods = agent.ports().into_iter().filter(|port| port.name != "host");
    let mut pods: Vec<_> = pods.map(|port| (port.name, port.mac, port.addresses)).collect();
    pods.sort();
    pods
}

impl Pair {
    fn new(cluster: Cluster<2>) -> Self {
        let agents = Vec::from([0, 1].map(|own| cluster.config(own).with_keeper().start()));
        agents.iter().for_each(|agent| agent.wait_for_endpoints(2));
        let pods = ["a", "b"].map(|name| cluster.site().host(name));
        let results = [0, 1].map(|own| add(&cluster, own, &pods[own]));
        agents.iter().for_each(|agent| agent.wait_for_endpoints(4));
        Self { cluster, agents, pods, results }
    }

    /// From each pod to the other's addresses of both families.
    fn ways(&self) -> Vec<(&Host, &Host, String)> {
        let ways = [(0, 1), (1, 0)].into_iter().flat_map(|(from, to): (usize, usize)| {
            addresses_of(&self.results[to]).into_iter().map(move |address| (from, to, address))
        });
        ways.map(|(from, to, address)| (&self.pods[from], &self.pods[to], address)).collect()
    }

    /// Takes over from both agents in turn, while numbered datagrams go both ways: all arrive, and none overtakes another.
    fn take_over(&mut self) {
        let flows: Vec<NumberedFlow> =
            self.ways().iter().map(|(from, to, address)| NumberedFlow::start(from, to, address, PACKETS)).collect();
        flows.iter().for_each(|flow| wait_for_more(flow, 100));
        for _ in 0..TAKEOVERS {
            for own in [0, 1] {
                let next = self.cluster.config(own).with_keeper().take_over();
                let next = next.unwrap_or_else(|refused| panic!("{}\n{}", refused.message, self.agents[own].log()));
                std::mem::replace(&mut self.agents[own], next).handed_over();
                flows.iter().for_each(|flow| wait_for_more(flow, 100));
            }
        }
        for seen in flows.into_iter().map(NumberedFlow::finish) {
            assert!(seen.sent > 0 && (seen.lost, seen.late) == (0, 0), "{seen:?}");
        }
    }
}

#[test]
fn pods_keep_links_addresses_and_connections() {
    let mut pair = Pair::new(Cluster::<2>::new(site!()));
    let streams: Vec<SteadyStream> =
        pair.ways().iter().map(|(from, to, address)| SteadyStream::start(from, to, address, STREAM_RATE)).collect();
    let go_on = || {
        for stream in &streams {
            let before = stream.bytes();
            eventually("the stream goes on", || if stream.bytes() > before { Ok(()) } else { Err(String::new()) });
        }
    };
    let seen = pair.pods.each_ref().map(seen_by);
    let ports = [ports_of(&pair.agents[0]), ports_of(&pair.agents[1])];
    pair.take_over();
    go_on();
    for _ in 0..KILLS {
        for own in [0, 1] {
            pair.agents.remove(own).kill();
            pair.agents.insert(own, pair.cluster.config(own).with_keeper().start());
            go_on();
        }
    }
    pair.take_over();
    go_on();
    assert_eq!(pair.pods.each_ref().map(seen_by), seen, "the pods saw it");
    assert_eq!([ports_of(&pair.agents[0]), ports_of(&pair.agents[1])], ports);
    drop(streams);
    pair.agents.iter().for_each(|agent| agent.wait_for_endpoints(4));
    pair.agents.into_iter().for_each(AgentNode::finish);
}

/// One that fails after it has set everything up: until it may begin, nothing is undone that the other agent has.
#[test]
fn a_takeover_that_fails_late_has_detached_nothing() {
    let pair = Pair::new(Cluster::<2>::new(site!("ip", "nft", "ping")));
    let Pair { cluster, agents, pods, results } = &pair;
    let (agent, node) = (&agents[0], &cluster.nodes[0]);
    let gone = cluster.site().host("gone");
    add(cluster, 0, &gone);
    let file = cluster.run_dir(0).join("pods.json");
    let ledger = || fs::read_to_string(&file).unwrap();
    let rules = || node.run(&["nft", "list", "ruleset"]);
    let before = (ledger(), rules());
    assert!(before.1.contains("weft-weft0"), "{}", before.1);
    let between = Between::new(agent.run_dir());
    let mut config = cluster.config(0).with_keeper();
    config.file.network.as_mut().unwrap().masquerade = false;
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (successor, running) = (between.welcome(), between.agent());
            running.say(&successor.hear().unwrap());
            let said = running.hear_all();
            // The agent waits for its successor now, and for nobody else: so the plugin notes what is to be detached.
            let interface =
                PodInterface { network: "weft".to_owned(), container: "a".to_owned(), interface: "eth0".to_owned() };
            let noted = spool::put(agent.run_dir(), &interface).unwrap();
            weft_netns::Netns::delete(gone.netns().label()).unwrap();
            said.iter().for_each(|message| successor.say(message));
            assert_eq!(successor.hear().unwrap().about(), "quiesce");
            assert!(noted.is_file(), "it is for the agent that goes on");
            assert_eq!((ledger(), rules()), before);
            assert!(pods[0].netns().links(|links| links.get("eth0")).unwrap().is_some());
        });
        config.take_over().unwrap_err()
    });
    drop(between);
    refused.assert_says(&["it has hung up", "it goes on by itself"]);
    // And that one does it all.
    eventually("both pods are detached", || {
        let ports = ports_of(agent);
        if ports.is_empty() { Ok(()) } else { Err(format!("{ports:?}\n{}", agent.log())) }
    });
    assert_eq!(fs::read_dir(cluster.run_dir(0).join("spool")).unwrap().count(), 0);
    agents[1].wait_for_endpoints(3);
    let path = path_of(&pods[0]);
    let wish = json!({ "ips": addresses_of(&results[0]) });
    let again = CniCall::new("again", &path).with("runtimeConfig", wish);
    let result = CniNetwork::new(node, &cluster.run_dir(0)).add(&again);
    assert_eq!(addresses_of(&result), addresses_of(&results[0]), "its addresses were free");
    ping_all(&pods[1], &addresses_of(&result)[0]);
    // The one that takes over does what the other did not come to, and what it says of the network holds.
    let noted =
        PodInterface { network: "weft".to_owned(), container: "again".to_owned(), interface: "eth0".to_owned() };
    spool::put(agent.run_dir(), &noted).unwrap();
    let next = config.take_over().unwrap();
    eventually("it is detached", || {
        let ports = ports_of(&next);
        if ports.is_empty() { Ok(()) } else { Err(format!("{ports:?}\n{}", next.log())) }
    });
    assert!(!rules().contains("weft-weft0"), "{}", rules());
}

/// What agents wrote before changes stood in lines of their own: one object, without an end of the line.
#[test]
fn pods_of_a_ledger_of_version_1_are_attached_again() {
    let mut pair = Pair::new(Cluster::<2>::new(site!("ping")));
    let (_, seen) = seen_by(&pair.pods[0]);
    let ports = ports_of(&pair.agents[0]);
    pair.agents.remove(0).kill();
    let file = pair.cluster.run_dir(0).join("pods.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let boot = lines.next().unwrap()["boot"].clone();
    let [attached] = &lines.map(|line| line["attached"].clone()).collect::<Vec<_>>()[..] else { panic!("{text}") };
    let namespace = &attached["namespace"];
    let addresses = addresses_of(&pair.results[0]);
    let old = json!({
        "version": 1,
        "boot": boot,
        "given_last": addresses,
        "pods": [{
            "network": "weft", "container": "a", "interface": "eth0",
            "namespace": {
                "path": path_of(&pair.pods[0]), "visible": true,
                "cookie": namespace["cookie"], "inode": namespace["inode"],
            },
            "port": "a.eth0", "vni": 7, "mac": pair.pods[0].mac("eth0").to_string(), "mtu": null,
            "addresses": [
                { "address": format!("{}/16", addresses[0]), "gateway": "10.244.0.1" },
                { "address": format!("{}/48", addresses[1]), "gateway": "fd00:244::1" },
            ],
            "delegated": false,
            "routes": attached["routes"],
        }],
    });
    assert_eq!(old["pods"][0], *attached, "what was written of a pod is what is written");
    fs::write(&file, old.to_string()).unwrap();
    pair.agents.insert(0, pair.cluster.config(0).with_keeper().start());
    assert_eq!((seen_by(&pair.pods[0]).1, ports_of(&pair.agents[0])), (seen, ports));
    ping_all(&pair.pods[1], &addresses[0]);
    // The next change is one of the new form, with all that was there.
    let another = pair.cluster.site().host("c");
    add(&pair.cluster, 0, &another);
    let text = fs::read_to_string(&file).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["version"], &first["pods"]), (&json!(2), &old["pods"]), "{text}");
    pair.agents.remove(0).kill();
    pair.agents.insert(0, pair.cluster.config(0).with_keeper().start());
    assert_eq!(ports_of(&pair.agents[0]).len(), 2);
    pair.agents.into_iter().for_each(AgentNode::finish);
}
