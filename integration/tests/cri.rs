//! Pods as a kubelet makes them: by the Container Runtime Interface of a containerd on each node.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use weft_integration::{
    AgentNode, BOX_FILE, BOX_IMAGE, BOX_SERVER, Cluster, CniDirectories, Containerd, Cri, Sandbox, eventually,
    fetch_box_file, pack_box_image, site,
};

const SERVER: Sandbox<'static> = Sandbox { namespace: "shop", name: "server-0" };
const CLIENT: Sandbox<'static> = Sandbox { namespace: "shop", name: "client-1" };
/// Endpoints of two nodes' own.
const NODES: usize = 2;

/// A node's runtime.
struct Kubelet {
    cri: Cri,
    runtime: Containerd,
    /// Of the plugin, a line each.
    calls: PathBuf,
}

impl Kubelet {
    fn start(cluster: &Cluster<2>, own: usize, archive: &std::path::Path) -> Self {
        let directory = cluster.site().directory().join(format!("c{own}"));
        fs::create_dir(&directory).unwrap();
        let calls = directory.join("calls");
        let plugins = CniDirectories::install(&directory, &cluster.run_dir(own));
        plugins.record_calls(&calls);
        let runtime = Containerd::start(&cluster.nodes[own], &directory, plugins, archive);
        Self { cri: runtime.cri(), runtime, calls }
    }

    /// A pod of one container. The interface answers some time after containerd does, and hears of images later still.
    fn run(&self, sandbox: Sandbox<'_>, command: &[&str]) -> Pod {
        let id = eventually("a sandbox", || {
            self.cri.run_sandbox(sandbox).map_err(|error| format!("{error}\n{}", self.runtime.log()))
        });
        let container = self.cri.start_container(&id, sandbox, BOX_IMAGE, command);
        Pod { container: container.unwrap_or_else(|error| panic!("{error}\n{}", self.runtime.log())), id }
    }

    /// What the runtime called for, and whether it named a namespace.
    fn calls(&self) -> Vec<(String, bool)> {
        let calls = fs::read_to_string(&self.calls).unwrap();
        let calls = calls.lines().filter_map(|line| line.split_once(' '));
        calls.map(|(verb, namespace)| (verb.to_owned(), namespace != "-")).collect()
    }
}

struct Pod {
    id: String,
    container: String,
}

/// The addresses of an agent's pods, by their names.
fn pods_of(agent: &AgentNode) -> Vec<(String, BTreeSet<String>)> {
    let host = |address: &String| address.split('/').next().unwrap().to_owned();
    let pods = agent.ports().into_iter().filter(|port| port.name != "host");
    pods.map(|pod| (pod.name, pod.addresses.iter().map(host).collect())).collect()
}

#[test]
fn pods_of_kubelets_fetch_from_each_other_and_leave_nothing() {
    let cluster = Cluster::<2>::new(site!(
        "ip",
        "containerd",
        "ctr",
        "runc",
        "unshare",
        "busybox",
        "tar",
        "/usr/lib/cni/loopback"
    ));
    let agents = cluster.start();
    let archive = pack_box_image(cluster.site().directory());
    let kubelets = [0, 1].map(|own| Kubelet::start(&cluster, own, &archive));
    let pods = [kubelets[0].run(SERVER, &BOX_SERVER), kubelets[1].run(CLIENT, &["sleep", "1000000"])];
    agents.iter().for_each(|agent| agent.wait_for_endpoints(NODES + pods.len()));

    for (own, sandbox) in [SERVER, CLIENT].into_iter().enumerate() {
        let name = format!("{}.{}.eth0", sandbox.namespace, sandbox.name);
        let addresses = kubelets[own].cri.addresses(&pods[own].id).unwrap();
        assert_eq!(addresses.len(), 2, "one of each family: {addresses:?}");
        assert_eq!(pods_of(&agents[own]), [(name.clone(), addresses.into_iter().collect())]);
        let ledger = fs::read_to_string(cluster.run_dir(own).join("pods.json")).unwrap();
        assert!(ledger.contains(&format!("\"{name}\"")) && ledger.contains(&pods[own].id), "{ledger}");
    }
    for address in kubelets[0].cri.addresses(&pods[0].id).unwrap() {
        let fetched = eventually("the server listens", || {
            let fetched = kubelets[1].cri.exec(&pods[1].container, &fetch_box_file(&address)).unwrap();
            fetched.filter(|fetched| !fetched.is_empty()).ok_or_else(|| format!("nothing from {address}"))
        });
        assert!(fetched.ends_with(BOX_FILE), "{fetched}");
    }

    for (own, (kubelet, pod)) in kubelets.iter().zip(&pods).enumerate() {
        // A kubelet stops a sandbox as often as it takes, and knows of no namespace then.
        kubelet.cri.stop_sandbox(&pod.id).unwrap();
        assert_eq!(pods_of(&agents[own]), [], "it was told");
        kubelet.cri.stop_sandbox(&pod.id).unwrap();
        kubelet.cri.remove_sandbox(&pod.id).unwrap();
        let calls = kubelet.calls();
        let calls: Vec<(&str, bool)> = calls.iter().map(|(verb, named)| (verb.as_str(), *named)).collect();
        assert_eq!(calls[..2], [("ADD", true), ("DEL", true)], "{calls:?}");
        assert!(calls.len() > 2 && calls[2..].iter().all(|call| *call == ("DEL", false)), "{calls:?}");
        assert_eq!(kubelet.cri.sandboxes().unwrap(), Vec::<String>::new());
    }
    agents.iter().for_each(|agent| agent.wait_for_endpoints(NODES));
    // Nor does an agent that starts anew find anything in its ledger.
    for (own, agent) in agents.into_iter().enumerate() {
        agent.kill();
        assert_eq!(pods_of(&cluster.config(own).start()), []);
    }
}
