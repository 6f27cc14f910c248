//! Pods whose ADD waits until the other nodes forward by their rows.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_control::config::file::{Control, unspanned};
use weft_integration::{
    AgentNode, Child, Cluster, CniCall, CniNetwork, CommandLab, Family, Host, addresses_of, eventually, site, weft,
};

/// For how long a node may be silent before it is not waited for any more.
const SILENCE: Duration = Duration::from_secs(1);
/// What a busy machine adds to that.
const SLACK: Duration = Duration::from_secs(2);
/// More than any of it: a wait that ends by itself is told from one that was given up.
const TIMEOUT_MS: u64 = 20_000;

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

fn waiting<const N: usize>(cluster: &Cluster<N>, own: usize, timeout_ms: u64) -> CniNetwork {
    let network = CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own));
    network.with("waitFor", json!("cluster")).with("waitTimeoutMs", json!(timeout_ms))
}

fn unconfirmed(agent: &AgentNode) -> u64 {
    agent.status().control.unwrap().unconfirmed_pods
}

fn has_row(agent: &AgentNode, result: &Value) -> bool {
    let mac = result["interfaces"][0]["mac"].as_str().unwrap();
    agent.fdb().iter().any(|row| row.mac == mac && row.kind == "static")
}

/// Until every node has answered probes of every other: before that a silent one is not told from one that takes no part.
fn wait_for_paths(agents: &[&AgentNode], others: usize) {
    for agent in agents {
        eventually("all paths are up", || {
            let vteps = agent.vteps();
            let up = vteps.iter().filter(|vtep| vtep.path == "up").count();
            if up == others { Ok(()) } else { Err(format!("{vteps:?}")) }
        });
    }
}

/// Agents that say nothing by themselves, over IPv4, with each other's paths up.
fn quiet<const N: usize>(cluster: &Cluster<N>) -> [AgentNode; N] {
    let agents = std::array::from_fn(|own| {
        cluster.nodes[own].silence();
        let mut config = cluster.config(own);
        config.file.network.as_mut().unwrap().ranges.as_mut().truncate(1);
        config.start()
    });
    agents.iter().for_each(|agent: &AgentNode| agent.wait_for_endpoints(N));
    wait_for_paths(&agents.each_ref(), N - 1);
    agents
}

/// A pod that says nothing by itself, attached to a node.
fn sender<const N: usize>(cluster: &Cluster<N>, own: usize) -> Host {
    let pod = cluster.site().host("sender");
    pod.silence();
    let path = path_of(&pod);
    CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own)).add(&CniCall::new("sender", &path));
    pod
}

#[track_caller]
fn ping_once(from: &Host, to: &Value) {
    let address = &addresses_of(to)[0];
    let output = from.try_run(&["ping", "-c", "1", "-W", "5", address]);
    assert!(output.status.success(), "{address}: {output:?}");
}

/// The first packet that another node sends to a pod: the sender's agent knows the row as soon as ADD has answered, so it
/// floods neither the packet nor a question for the pod's address.
#[test]
fn what_goes_to_a_pod_right_after_its_add_is_not_flooded() {
    let cluster = Cluster::<3>::new(site!("ip", "ping"));
    let agents = quiet(&cluster);
    let sender = sender(&cluster, 1);
    let network = waiting(&cluster, 0, TIMEOUT_MS);
    for number in 0..20 {
        let pod = cluster.site().host(&format!("p{number}"));
        pod.silence();
        let path = path_of(&pod);
        let flooded = agents[1].forwarded("flood");
        let result = network.add(&CniCall::new(&format!("c{number}"), &path));
        ping_once(&sender, &result);
        assert_eq!(agents[1].forwarded("flood"), flooded, "pod {number}: {}", agents[1].log());
        assert!(agents[1..].iter().all(|agent| has_row(agent, &result)), "all nodes have it");
    }
    assert_eq!(unconfirmed(&agents[0]), 0);
    agents.into_iter().for_each(AgentNode::finish);
}

/// By the default ADD waits for the store alone: others may not know the pod yet, or it them, and nothing is lost for that.
#[test]
fn the_first_packet_right_after_an_add_arrives_either_way() {
    let cluster = Cluster::<2>::new(site!("ip", "ping"));
    let agents = quiet(&cluster);
    let networks = [0, 1].map(|own| CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own)));
    assert_eq!(networks[0].config["waitFor"], Value::Null, "the default");
    let add = |own: usize, name: &str| {
        let pod = cluster.site().host(name);
        pod.silence();
        let path = path_of(&pod);
        let result = networks[own].add(&CniCall::new(name, &path));
        (pod, result)
    };
    // Each pod is new to all others, so that no ping finds what another has taught.
    for number in 0..10 {
        let (old, old_at) = add(1, &format!("old{number}"));
        let (new, new_at) = add(0, &format!("new{number}"));
        let ways: [(&Host, &Value); 2] =
            if number % 2 == 0 { [(&new, &old_at), (&old, &new_at)] } else { [(&old, &new_at), (&new, &old_at)] };
        ways.into_iter().for_each(|(from, to)| ping_once(from, to));
    }
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn a_node_that_stands_still_is_not_waited_for() {
    let cluster = Cluster::<3>::new(site!("ip"));
    let agents = quiet(&cluster);
    let network = waiting(&cluster, 0, TIMEOUT_MS);
    let add = |name: &str| {
        let pod = cluster.site().host(name);
        pod.silence();
        let path = path_of(&pod);
        let began = Instant::now();
        (network.add(&CniCall::new(name, &path)), began.elapsed())
    };
    let (result, took) = agents[2].frozen(|| {
        let (result, took) = add("first");
        assert!(has_row(&agents[1], &result), "who answers is waited for");
        (result, took)
    });
    assert!(took >= SILENCE && took < SILENCE + SLACK, "{took:?}");
    eventually("who was away hears of it", || if has_row(&agents[2], &result) { Ok(()) } else { Err(agents[2].log()) });
    // Nobody is left to be waited for.
    let (_, took) = agents[1].frozen(|| agents[2].frozen(|| add("second")));
    assert!(took < SILENCE + SLACK, "{took:?}");
    assert_eq!(unconfirmed(&agents[0]), 0, "who is away does not count");
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn a_node_that_is_cut_off_from_the_store_is_waited_for_until_the_time_is_over_or_its_lease() {
    const SHORT_MS: u64 = 1500;
    let cluster = Cluster::<3>::new(site!("ip", "ping", "nft"));
    let agents = quiet(&cluster);
    let sender = sender(&cluster, 2);
    agents[0].wait_for_endpoints(4);
    let pods = ["a", "b", "c"].map(|name| cluster.site().host(name));
    pods.iter().for_each(|pod| pod.silence());
    let paths = pods.each_ref().map(path_of);
    let calls = [0, 1, 2].map(|one| CniCall::new(pods[one].name(), &paths[one]));
    let cut = "add table ip cut; add chain ip cut in { type filter hook input priority 0; }; \
               add rule ip cut in tcp sport 2379 drop";
    cluster.nodes[2].run(&["nft", cut]);
    let began = Instant::now();
    let result = waiting(&cluster, 0, SHORT_MS).add(&calls[0]);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(SHORT_MS) && took < Duration::from_millis(SHORT_MS) + SLACK, "{took:?}");
    assert_eq!(unconfirmed(&agents[0]), 1);
    let log = agents[0].log();
    let late = cluster.nodes[2].address(Family::Ipv4).to_string();
    let told = log.lines().find(|line| line.contains("not have its row yet"));
    assert!(told.is_some_and(|line| line.contains(&late)), "{log}");
    assert!(has_row(&agents[1], &result) && !has_row(&agents[2], &result));
    // Frames from there reach the pod all the same, by a flood.
    let flooded = agents[2].forwarded("flood");
    ping_once(&sender, &result);
    assert!(agents[2].forwarded("flood") > flooded, "the counter sees what is flooded");
    // Whose lease has ended is not waited for.
    eventually("the lease has ended", || {
        let suspects = agents[0].status().control.unwrap().suspects;
        if suspects == [cluster.nodes[2].name()] { Ok(()) } else { Err(format!("{suspects:?}")) }
    });
    let began = Instant::now();
    waiting(&cluster, 0, TIMEOUT_MS).add(&calls[1]);
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    // And who is back is waited for again.
    cluster.nodes[2].run(&["nft", "delete table ip cut"]);
    agents.iter().for_each(|agent| agent.wait_for_endpoints(6));
    let result = waiting(&cluster, 0, TIMEOUT_MS).add(&calls[2]);
    assert!(has_row(&agents[2], &result));
    assert_eq!(unconfirmed(&agents[0]), 1);
    agents.into_iter().for_each(AgentNode::finish);
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Weft,
    Etcd,
}

/// A store on the first node of a cluster in place of its own, which lets nobody in without a certificate.
struct Secured {
    listen: String,
    pki: PathBuf,
    _process: Child,
}

impl Secured {
    fn start(kind: Kind, cluster: &Cluster<2>) -> Self {
        let site = cluster.site().directory();
        let (pki, data) = (site.join(format!("pki.{kind:?}")), site.join(format!("store.{kind:?}")));
        let own = cluster.nodes[0].address(Family::Ipv4);
        let port = match kind {
            Kind::Weft => 23790,
            Kind::Etcd => 23791,
        };
        let (listen, text) = (format!("{own}:{port}"), |path: &Path| path.to_str().unwrap().to_owned());
        let names = ["--store", &own.to_string(), "--node", cluster.nodes[0].name(), "--node", cluster.nodes[1].name()];
        let made = CommandLab::try_run(&[&["pki", "init", &text(&pki)], &names[..]].concat());
        assert!(made.status.success(), "{made:?}");
        let [cert, key, ca, data] =
            [pki.join("store.pem"), pki.join("store.key"), pki.join("ca.pem"), data].map(|path| text(&path));
        let (url, peer) = (format!("https://{listen}"), format!("http://{own}:{}", port + 10));
        let initial = format!("s={peer}");
        let program = text(&weft());
        let words: Vec<&str> = match kind {
            Kind::Weft => vec![
                &program,
                "store",
                "--relaxed",
                "--listen",
                &listen,
                "--data",
                &data,
                "--tls-cert",
                &cert,
                "--tls-key",
                &key,
                "--client-ca",
                &ca,
            ],
            Kind::Etcd => vec![
                "etcd",
                "--name",
                "s",
                "--data-dir",
                &data,
                "--unsafe-no-fsync",
                "--log-level",
                "error",
                "--logger",
                "zap",
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &initial,
                "--cert-file",
                &cert,
                "--key-file",
                &key,
                "--client-cert-auth",
                "--trusted-ca-file",
                &ca,
            ],
        };
        let mut command = cluster.nodes[0].command(&words);
        let log = fs::File::create(site.join(format!("{kind:?}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { listen, pki, _process: Child::spawn(command) }
    }

    fn control(&self, node: &str) -> Control {
        let file = |name: String| Some(unspanned(self.pki.join(name)));
        let mut control = Control::new(vec![format!("https://{}", self.listen)]);
        control.ca_file = file("ca.pem".to_owned());
        control.cert_file = file(format!("{node}.pem"));
        control.key_file = file(format!("{node}.key"));
        control
    }
}

/// Many at once, and with both stores, by mutual TLS: each is known to the other node when its own ADD answers.
#[test]
fn many_pods_at_once_are_each_known_when_their_add_answers_with_both_stores() {
    const PODS: usize = 24;
    let cluster = Cluster::<2>::new(site!("ip", "etcd"));
    for kind in [Kind::Weft, Kind::Etcd] {
        let store = Secured::start(kind, &cluster);
        let agents = [0, 1].map(|own| {
            let mut config = cluster.config(own);
            config.file.control = Some(store.control(cluster.nodes[own].name()));
            config.start()
        });
        agents.iter().for_each(|agent| agent.wait_for_endpoints(2));
        wait_for_paths(&agents.each_ref(), 1);
        let network = waiting(&cluster, 0, TIMEOUT_MS);
        let paths: Vec<String> = (0..PODS)
            .map(|number| path_of(&cluster.site().host(&format!("{kind:?}{number}").to_lowercase())))
            .collect();
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (number, path) in paths.iter().enumerate() {
                let (network, other) = (&network, &agents[1]);
                scope.spawn(move || {
                    let result = network.add(&CniCall::new(&format!("c{number}"), path));
                    assert!(has_row(other, &result), "{kind:?}: pod {number}");
                });
            }
        });
        println!("{kind:?}: {PODS} pods at once in {:?}", began.elapsed());
        assert_eq!(unconfirmed(&agents[0]), 0);
        for number in 0..PODS {
            network.del(&CniCall::new(&format!("c{number}"), ""));
        }
        // What went through ports that are gone is in no row; the workers' own sums can be added up.
        agents.iter().for_each(|agent| assert_eq!(agent.status().law_broken, None));
    }
}

#[test]
fn a_wait_of_no_length_is_refused() {
    let cluster = Cluster::<2>::new(site!("ip"));
    let [_first, _second] = cluster.start();
    let pod = cluster.site().host("a");
    let path = path_of(&pod);
    for wrong in [json!(0), json!(60_001)] {
        let network = waiting(&cluster, 0, 1).with("waitTimeoutMs", wrong);
        let error = network.call("ADD", &CniCall::new("c1", &path)).unwrap_err();
        assert_eq!(error["code"], 7, "{error}");
        assert!(error["msg"].as_str().unwrap().contains("`waitTimeoutMs`"), "{error}");
    }
}
