//! How long a pod's ADD and DEL take: `cargo bench -p weft-integration --bench cni -- --bench [PODS]`, as root, after
//! `cargo build --release -p weft -p weft-cni`. docs/cni.md has the figures.
//!
//! One pod after the other, up to so many on the node; beside it as many that wait until two other nodes forward by their
//! rows, and the plugins `bridge` and `host-local`, which come with the system, in the same way on another node of the same
//! machine, turn by turn.
#![expect(clippy::unwrap_used, reason = "a measurement whose set-up fails has failed")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use weft_control::config::file::unspanned;
use weft_integration::{AgentNode, Cluster, CniCall, CniNetwork, Host, Requirement, Site, unmet};

const PODS: usize = 250;
/// Prefix length of a node's range: room for as many once more that wait, and for more of them than that.
const NODE_PREFIX: u8 = 22;
const BRIDGE: &str = "/usr/lib/cni/bridge";

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

/// The plugin `bridge`, as a runtime calls it.
struct Bridge {
    node: Host,
    config: String,
}

impl Bridge {
    fn new(node: &Host, data: &Path) -> Self {
        let config = json!({ "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "br1", "isGateway": true,
            "ipam": { "type": "host-local", "dataDir": data, "routes": [{ "dst": "0.0.0.0/0" }],
                "ranges": [[{ "subnet": "10.60.0.0/16" }], [{ "subnet": "fd60::/64" }]] } });
        Self { node: node.clone(), config: config.to_string() }
    }

    fn call(&self, verb: &str, container: &str, netns: &str) {
        let mut command: Command = self.node.command(&[BRIDGE]);
        command.env("CNI_COMMAND", verb).env("CNI_PATH", "/usr/lib/cni").env("CNI_CONTAINERID", container);
        command.env("CNI_NETNS", netns).env("CNI_IFNAME", "eth0");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut process.stdin.take().unwrap(), self.config.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{what:<28} p50 {:7.1} ms   p99 {:7.1} ms   max {:7.1} ms", at(50), at(99), at(100));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if unmet("cni", &[Requirement::Root, Requirement::Tool("ip"), Requirement::Tool(BRIDGE)]) {
        return;
    }
    let pods = arguments.first().and_then(|pods| pods.parse().ok()).unwrap_or(PODS);
    let cluster = Cluster::<3>::new(Site::new("cni"));
    let agents: [AgentNode; 3] = std::array::from_fn(|own| {
        let mut config = cluster.config(own);
        config.file.network.as_mut().unwrap().node_prefix_ipv4 = unspanned(NODE_PREFIX);
        config.start()
    });
    agents.iter().for_each(|agent| agent.wait_for_endpoints(3));
    let network = CniNetwork::new(&cluster.nodes[0], &cluster.run_dir(0));
    let waiting = network.clone().with("waitFor", json!("cluster"));
    let other = cluster.site().host("other");
    let bridge = Bridge::new(&other, &cluster.site().directory().join("host-local"));
    let hosts: Vec<[Host; 3]> =
        (0..pods).map(|number| ["w", "k", "b"].map(|kind| cluster.site().host(&format!("{kind}{number}")))).collect();
    let [mut weft_add, mut known_add, mut weft_del, mut bridge_add, mut bridge_del] = [const { Vec::new() }; 5];
    for (number, [ours, known, theirs]) in hosts.iter().enumerate() {
        let (name, our_path, their_path) = (format!("c{number}"), path_of(ours), path_of(theirs));
        let known_path = path_of(known);
        weft_add.push(timed(|| _ = network.add(&CniCall::new(&name, &our_path))));
        known_add.push(timed(|| _ = waiting.add(&CniCall::new(&format!("k{number}"), &known_path))));
        bridge_add.push(timed(|| bridge.call("ADD", &name, &their_path)));
    }
    // What an addition costs when the node is full already.
    let late = weft_add.len() - weft_add.len() / 10;
    let (weft_late, bridge_late) = (weft_add[late..].to_vec(), bridge_add[late..].to_vec());
    for (number, [ours, _, theirs]) in hosts.iter().enumerate() {
        let (name, our_path, their_path) = (format!("c{number}"), path_of(ours), path_of(theirs));
        weft_del.push(timed(|| network.del(&CniCall::new(&name, &our_path))));
        bridge_del.push(timed(|| bridge.call("DEL", &name, &their_path)));
    }
    println!("{pods} pods, one after the other, IPv4 and IPv6");
    assert_eq!(agents[0].status().control.unwrap().unconfirmed_pods, 0);
    report("weft ADD", weft_add);
    report("weft ADD, known to two nodes", known_add);
    report("bridge + host-local ADD", bridge_add);
    report("weft ADD, the last tenth", weft_late);
    report("bridge ADD, the last tenth", bridge_late);
    report("weft DEL", weft_del);
    report("bridge + host-local DEL", bridge_del);
}
