//! Agents whose store fails: etcd of one node and of three, and `weft store`. Forwarding goes on, nothing that was
//! published is lost, and all is well again without anybody's help.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_control::config::file::{Control, unspanned};
use weft_integration::{
    AgentConfig, AgentNode, Child, Family, Host, Node, Site, SteadyStream, eventually, ping_all, site, weft,
};
use weft_netns::Netns;

const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;
/// Of the stream that goes on meanwhile, in bytes a second.
const RATE: u32 = 1 << 20;
/// The longest that it may stand still: an eighth of what a lease lasts, and more than a busy machine takes.
const STALL: Duration = Duration::from_millis(1250);
/// Of an agent.
const LEASE: Duration = Duration::from_secs(10);
/// What a slow store is late by, each way.
const LATE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Etcd,
    Weft,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Weft => "weft",
        }
    }
}

/// A store, or one member of an etcd, on a node of a site.
struct Store<'a> {
    kind: Kind,
    node: &'a Node,
    /// All members of an etcd.
    members: Vec<&'a Node>,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

fn address(node: &Node) -> String {
    node.address(Family::Ipv4).to_string()
}

impl<'a> Store<'a> {
    fn new(site: &Site, kind: Kind, node: &'a Node, members: &[&'a Node]) -> Self {
        let data = site.directory().join(format!("store.{}", node.name()));
        let log = data.with_extension("log");
        let mut store = Self { kind, node, members: members.to_vec(), data, log, process: None };
        store.start();
        store
    }

    /// An etcd of these members, which has a leader.
    fn cluster(site: &Site, members: &[&'a Node]) -> Vec<Self> {
        let all: Vec<_> = members.iter().map(|node| Self::new(site, Kind::Etcd, node, members)).collect();
        all.iter().for_each(Self::wait);
        all
    }

    /// One store by itself, which answers.
    fn alone(site: &Site, kind: Kind, node: &'a Node) -> Self {
        let store = Self::new(site, kind, node, &[node]);
        store.wait();
        store
    }

    fn endpoint(&self) -> String {
        format!("http://{}:{CLIENTS}", address(self.node))
    }

    /// Another way to it, on which what either says takes [`LATE`].
    fn late_endpoint(&self) -> String {
        let netns = self.node.netns();
        let (own, netns) = (SocketAddr::new(self.node.address(Family::Ipv4), 0), Netns::open(netns.label()).unwrap());
        let listener = netns.run(|| TcpListener::bind(own)).unwrap().unwrap();
        let late = listener.local_addr().unwrap();
        let store = SocketAddr::new(own.ip(), CLIENTS);
        thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let Ok(store) = netns.run(|| TcpStream::connect(store)).unwrap() else { continue };
                pass_late(&agent, &store);
                pass_late(&store, &agent);
            }
        });
        format!("http://{late}")
    }

    fn initial_cluster(&self) -> String {
        let members = self.members.iter().map(|node| format!("{}=http://{}:{PEERS}", node.name(), address(node)));
        members.collect::<Vec<_>>().join(",")
    }

    fn start(&mut self) {
        let (own, data) = (address(self.node), self.data.to_str().unwrap());
        let mut command = match self.kind {
            Kind::Weft => {
                let listen = format!("{own}:{CLIENTS}");
                let program = weft();
                self.node.command(&[
                    program.to_str().unwrap(),
                    "store",
                    "--relaxed",
                    "--listen",
                    &listen,
                    "--data",
                    data,
                ])
            }
            Kind::Etcd => {
                let (clients, peer) = (self.endpoint(), format!("http://{own}:{PEERS}"));
                let mut words = vec!["etcd", "--logger=zap", "--log-level=error", "--unsafe-no-fsync"];
                words.extend(["--name", self.node.name(), "--data-dir", data]);
                words.extend(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
                words.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                let initial = self.initial_cluster();
                words.extend(["--initial-cluster", &initial]);
                self.node.command(&words)
            }
        };
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Child::spawn(command));
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::KILL);
        process.wait();
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    fn etcdctl(&self, words: &[&str]) -> Result<String, String> {
        // Without a scheme: docs/store.md says why.
        let endpoint = format!("{}:{CLIENTS}", address(self.node));
        let start = ["env", "ETCDCTL_API=3", "etcdctl", "--command-timeout", "3s", "--endpoints", &endpoint];
        let output = self.node.try_run(&[&start[..], words].concat());
        if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
    }

    /// What it says of itself: its id, the leader's, and its revision.
    fn status(&self) -> Result<[u64; 3], String> {
        let told = self.etcdctl(&["endpoint", "status", "-w", "json"])?;
        let told: serde_json::Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
        let status = &told[0]["Status"];
        let numbers = [&status["header"]["member_id"], &status["leader"], &status["header"]["revision"]];
        Ok(numbers.map(|number| number.as_u64().unwrap_or_default()))
    }

    fn is_leader(&self) -> bool {
        self.status().is_ok_and(|[own, leader, _]| own == leader)
    }

    /// Until it has a leader and answers.
    #[track_caller]
    fn wait(&self) {
        eventually("the store answers", || match self.status() {
            Ok([_, leader, _]) if leader != 0 => self.etcdctl(&["get", "nothing"]).map(drop),
            other => Err(format!("{other:?}: {}", std::fs::read_to_string(&self.log).unwrap_or_default())),
        });
    }
}

/// Passes on what one end says, each word [`LATE`] after it was said.
fn pass_late(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let (said, heard) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if said.send((Instant::now() + LATE, bytes[..length].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in heard {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        _ = to.shutdown(Shutdown::Both);
    });
}

fn config(site: &Site, node: &Node, stores: &[&Store<'_>], pods: &[(&Host, &str)]) -> AgentConfig {
    let endpoints: Vec<String> = stores.iter().map(|store| store.endpoint()).collect();
    config_of(site, node, endpoints, pods)
}

fn config_of(site: &Site, node: &Node, endpoints: Vec<String>, pods: &[(&Host, &str)]) -> AgentConfig {
    let start = AgentConfig::new(site, node, &[Family::Ipv4]).vni(7);
    let mut config = pods.iter().fold(start, |config, (pod, address)| config.port(pod, 7, &[&format!("{address}/24")]));
    let mut control = Control::new(endpoints);
    control.prefix = unspanned("/test".to_owned());
    config.file.control = Some(control);
    config
}

/// The pods that an agent knows, with their nodes.
fn known(agent: &AgentNode) -> Vec<(String, Option<String>)> {
    agent.fdb().into_iter().filter(|row| row.kind == "static").map(|row| (row.mac, row.node)).collect()
}

/// Waits for the state, so many nodes and so many pods; and all the while never fewer than `least` pods are known.
#[track_caller]
fn wait_for(agent: &AgentNode, state: &str, nodes: usize, pods: usize, least: usize) {
    eventually("the agent knows the cluster", || {
        let (control, known) = (agent.status().control.unwrap(), known(agent));
        assert!(known.len() >= least, "of {least} pods are left {known:?}; {control:?}\n{}", agent.log());
        let there = control.state == state && control.nodes == nodes && known.len() == pods;
        let settled = there && (state != "connected" || control.suspects.is_empty() && control.held.is_empty());
        if settled { Ok(()) } else { Err(format!("{control:?} {known:?}")) }
    });
}

#[track_caller]
fn assert_agreement(agents: &[&AgentNode]) {
    let first = known(agents[0]);
    for agent in agents {
        assert_eq!(known(agent), first, "{}", agent.log());
    }
}

/// Ends an agent whose VTEPs have come and gone, and their counters with them.
fn end(agent: AgentNode) {
    assert_eq!(agent.status().law_broken, None);
    agent.kill();
}

#[test]
fn three_members_of_etcd_lose_their_leader_twice_and_agents_lose_nothing() {
    let site = site!("etcd", "etcdctl");
    let nodes = site.nodes::<4>();
    let pods = ["a", "b", "c", "d"].map(|name| site.host(name));
    let addresses = ["10.7.0.1", "10.7.0.2", "10.7.0.3", "10.7.0.4"];
    let mut members = Store::cluster(&site, &[&nodes[0], &nodes[1], &nodes[2]]);
    let start = |members: &[Store<'_>], own: usize| {
        let stores: Vec<_> = members.iter().collect();
        config(&site, &nodes[own], &stores, &[(&pods[own], addresses[own])]).start()
    };
    let agents = [0, 1, 2].map(|own| start(&members, own));
    agents.iter().for_each(|agent| wait_for(agent, "connected", 3, 3, 0));
    let traffic = SteadyStream::start(&pods[0], &pods[1], addresses[1], RATE);
    // The leader dies, and a node comes all the same.
    let leader = members.iter().position(Store::is_leader).unwrap();
    members[leader].kill();
    let fourth = start(&members, 3);
    agents
        .iter()
        .chain([&fourth])
        .for_each(|agent| wait_for(agent, "connected", 4, 4, usize::from(agent.pid() != fourth.pid()) * 3));
    assert_agreement(&[&agents[0], &agents[1], &agents[2], &fourth]);
    ping_all(&pods[2], addresses[3]);
    // It comes back, and the next leader dies.
    members[leader].start();
    members[leader].wait();
    let next = eventually("there is a leader", || members.iter().position(Store::is_leader).ok_or_else(String::new));
    members[next].kill();
    fourth.kill();
    agents.iter().for_each(|agent| wait_for(agent, "connected", 3, 3, 3));
    assert_agreement(&agents.each_ref());
    assert!(traffic.stall() < STALL && traffic.bytes() > 0);
    drop(traffic);
    agents.into_iter().for_each(end);
}

#[test]
fn a_node_that_is_cut_off_from_the_store_alone_is_held_and_lists_what_was_compacted() {
    let site = site!("ip", "etcd", "etcdctl");
    let nodes = site.nodes::<3>();
    for kind in [Kind::Etcd, Kind::Weft] {
        let pods = ["a", "b"].map(|name| site.host(&format!("{name}-{}", kind.name())));
        let store = Store::alone(&site, kind, &nodes[2]);
        let configs =
            [0, 1].map(|own| config(&site, &nodes[own], &[&store], &[(&pods[own], ["10.7.0.1", "10.7.0.2"][own])]));
        let file = configs[1].write();
        let agents = configs.map(AgentConfig::start);
        agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 0));
        let traffic = SteadyStream::start(&pods[1], &pods[0], "10.7.0.1", RATE);
        nodes[0].ip(&format!("route add blackhole {}/32", address(&nodes[2])));
        wait_for(&agents[0], "stale", 2, 2, 2);
        assert!(!agents[0].status().control.unwrap().reason.unwrap().is_empty());
        eventually("the other sees its lease end", || {
            let suspects = agents[1].status().control.unwrap().suspects;
            if suspects == ["n1"] { Ok(()) } else { Err(format!("{suspects:?}")) }
        });
        // What is written meanwhile, and forgotten by the store.
        let program = weft();
        let peer = [program.to_str().unwrap(), "peer", "--config", file.to_str().unwrap()];
        for words in
            [&["add", "192.0.2.77", "--vni", "7"][..], &["add", "192.0.2.78", "--vni", "7"], &["remove", "192.0.2.77"]]
        {
            nodes[1].run(&[&peer[..], words].concat());
        }
        let [_, _, revision] = store.status().unwrap();
        store.etcdctl(&["compaction", &revision.to_string()]).unwrap();
        nodes[0].ip(&format!("route del blackhole {}/32", address(&nodes[2])));
        for agent in &agents {
            wait_for(agent, "connected", 2, 2, 2);
            eventually("what was written meanwhile is known", || {
                let foreign: Vec<_> = agent.vteps().into_iter().filter(|vtep| vtep.kind == "foreign").collect();
                let there = foreign.len() == 1 && foreign[0].address == "192.0.2.78";
                if there { Ok(()) } else { Err(format!("{foreign:?}")) }
            });
        }
        assert!(agents[0].log().contains("compacted"), "{kind:?}: {}", agents[0].log());
        assert!(traffic.stall() < STALL && traffic.bytes() > 0);
        drop(traffic);
        agents.into_iter().for_each(end);
        drop(store);
    }
}

#[test]
fn an_older_snapshot_takes_nothing_away() {
    let site = site!("ip", "etcd", "etcdctl");
    let nodes = site.nodes::<3>();
    let pods = ["a", "b", "c"].map(|name| site.host(name));
    for kind in [Kind::Etcd, Kind::Weft] {
        let mut store = Store::alone(&site, kind, &nodes[2]);
        let pods_of = [vec![(&pods[0], "10.7.0.1")], vec![(&pods[1], "10.7.0.2")]];
        let [first, second] = [0, 1].map(|own| config(&site, &nodes[own], &[&store], &pods_of[own]).start());
        [&first, &second].into_iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 0));
        let traffic = SteadyStream::start(&pods[0], &pods[1], "10.7.0.2", RATE);
        let snapshot = site.directory().join(format!("snapshot.{}", kind.name()));
        let copy = |from: PathBuf, to: PathBuf| _ = std::fs::copy(from, to).unwrap();
        match kind {
            Kind::Etcd => drop(store.etcdctl(&["snapshot", "save", snapshot.to_str().unwrap()]).unwrap()),
            Kind::Weft => {
                store.kill();
                copy(store.data.join("store.redb"), snapshot.clone());
                store.start();
                store.wait();
            }
        }
        // What the snapshot does not have: a claim and a pod.
        second.kill();
        let more = [pods_of[1].clone(), vec![(&pods[2], "10.7.0.3")]].concat();
        let second = config(&site, &nodes[1], &[&store], &more).start();
        [&first, &second].into_iter().for_each(|agent| wait_for(agent, "connected", 2, 3, 0));
        drop(traffic);
        let traffic = SteadyStream::start(&pods[0], &pods[2], "10.7.0.3", RATE);
        store.kill();
        [&first, &second].into_iter().for_each(|agent| wait_for(agent, "stale", 2, 3, 3));
        // Until their leases are over. One that still has its own may find the store as it was, once the other has
        // written the same again, and is held for a minute because it has no reason to publish.
        for agent in [&first, &second] {
            eventually("its lease is over", || {
                let stale = Duration::from_secs(agent.status().control.unwrap().since_seconds);
                if stale > LEASE { Ok(()) } else { Err(format!("{stale:?}")) }
            });
        }
        std::fs::remove_dir_all(&store.data).unwrap();
        match kind {
            Kind::Etcd => {
                let peer = format!("http://{}:{PEERS}", address(&nodes[2]));
                let (data, initial) = (store.data.clone(), store.initial_cluster());
                let words = ["snapshot", "restore", snapshot.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
                let own =
                    ["--name", nodes[2].name(), "--initial-cluster", &initial, "--initial-advertise-peer-urls", &peer];
                store.etcdctl(&[&words[..], &own].concat()).unwrap();
            }
            Kind::Weft => {
                std::fs::create_dir(&store.data).unwrap();
                copy(snapshot, store.data.join("store.redb"));
            }
        }
        store.start();
        store.wait();
        for agent in [&first, &second] {
            eventually("the agent has published again", || {
                let control = agent.status().control.unwrap();
                let known = known(agent);
                assert_eq!(known.len(), 3, "{known:?}; {control:?}\n{}", agent.log());
                let published = store.etcdctl(&["get", "--prefix", "/test/v1/endpoints/", "--keys-only"]);
                let published = published.unwrap_or_default().split_whitespace().count();
                if (published, control.state.as_str(), control.held.len()) == (3, "connected", 0) {
                    Ok(())
                } else {
                    Err(format!("{published} endpoints in the store; {control:?}"))
                }
            });
        }
        eventually("the store's age is noticed", || {
            let told = |agent: &&AgentNode| agent.log().contains("replaced or restored from a backup");
            if [&first, &second].iter().any(told) { Ok(()) } else { Err(first.log() + &second.log()) }
        });
        assert_agreement(&[&first, &second]);
        assert!(traffic.stall() < STALL && traffic.bytes() > 0);
        drop(traffic);
        [first, second].into_iter().for_each(end);
        drop(store);
    }
}

#[test]
fn links_that_are_down_part_nobody_for_good() {
    let site = site!("ip", "etcd", "etcdctl");
    let (switch, nodes) = site.switched::<3>();
    let pods = ["a", "b"].map(|name| site.host(name));
    let store = Store::alone(&site, Kind::Etcd, &nodes[2]);
    let agents =
        [0, 1].map(|own| config(&site, &nodes[own], &[&store], &[(&pods[own], ["10.7.0.1", "10.7.0.2"][own])]).start());
    agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 0));
    // The store is parted from all: a mass lapse, which empties nothing.
    let traffic = SteadyStream::start(&pods[0], &pods[1], "10.7.0.2", RATE);
    switch.ip("link set port3 down");
    agents.iter().for_each(|agent| wait_for(agent, "stale", 2, 2, 2));
    eventually("both leases have ended in the store", || {
        let rows = store.etcdctl(&["get", "--prefix", "/test/v1/nodes/", "--keys-only"])?;
        if rows.trim().is_empty() { Ok(()) } else { Err(rows) }
    });
    ping_all(&pods[1], "10.7.0.1");
    switch.ip("link set port3 up");
    agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 2));
    assert!(traffic.stall() < STALL && traffic.bytes() > 0);
    drop(traffic);
    // A node is parted from all: the other lets go of it, and it of nobody.
    switch.ip("link set port1 down");
    wait_for(&agents[1], "connected", 1, 1, 1);
    wait_for(&agents[0], "stale", 2, 2, 2);
    switch.ip("link set port1 up");
    agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 1));
    assert_agreement(&agents.each_ref());
    ping_all(&pods[0], "10.7.0.2");
    agents.into_iter().for_each(end);
}

#[test]
fn a_store_that_stands_still_is_shown_as_stale_and_harms_nothing() {
    let site = site!("etcd", "etcdctl");
    let nodes = site.nodes::<3>();
    for kind in [Kind::Etcd, Kind::Weft] {
        let pods = ["a", "b"].map(|name| site.host(&format!("{name}-{}", kind.name())));
        let store = Store::alone(&site, kind, &nodes[2]);
        let agents = [0, 1]
            .map(|own| config(&site, &nodes[own], &[&store], &[(&pods[own], ["10.7.0.1", "10.7.0.2"][own])]).start());
        agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 0));
        let traffic = SteadyStream::start(&pods[0], &pods[1], "10.7.0.2", RATE);
        store.signal(Signal::STOP);
        agents.iter().for_each(|agent| wait_for(agent, "stale", 2, 2, 2));
        store.signal(Signal::CONT);
        agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 2));
        assert!(traffic.stall() < STALL && traffic.bytes() > 0);
        drop(traffic);
        agents.into_iter().for_each(end);
        drop(store);
    }
}

#[test]
fn a_slow_store_makes_news_late_and_harms_nothing() {
    let site = site!("etcd", "etcdctl");
    let nodes = site.nodes::<4>();
    for kind in [Kind::Etcd, Kind::Weft] {
        let pods = ["a", "b", "c"].map(|name| site.host(&format!("{name}-{}", kind.name())));
        let store = Store::alone(&site, kind, &nodes[3]);
        let late = store.late_endpoint();
        let start = |own: usize| {
            let address = ["10.7.0.1", "10.7.0.2", "10.7.0.3"][own];
            config_of(&site, &nodes[own], vec![late.clone()], &[(&pods[own], address)]).start()
        };
        let agents = [0, 1].map(start);
        agents.iter().for_each(|agent| wait_for(agent, "connected", 2, 2, 0));
        let traffic = SteadyStream::start(&pods[0], &pods[1], "10.7.0.2", RATE);
        let third = start(2);
        agents.iter().chain([&third]).for_each(|agent| wait_for(agent, "connected", 3, 3, 0));
        ping_all(&pods[0], "10.7.0.3");
        assert!(traffic.stall() < STALL && traffic.bytes() > 0);
        drop(traffic);
        agents.into_iter().chain([third]).for_each(end);
        drop(store);
    }
}
