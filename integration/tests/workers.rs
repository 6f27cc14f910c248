//! Several workers on one node: every flow keeps to one of them, and its frames to their order.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use weft_control::config::file::{PollingEntry, unspanned};
use weft_integration::{
    AgentConfig, AgentNode, Encapsulation, Family, Host, MIB, Site, exchange, exchange_superframes, ping_all, site,
    stream,
};
use weft_switch::polling::{MAX_POLLING, Polling};

const VNI: u32 = 5000;
const WORKERS: u16 = 3;
/// Pods at once on each way; each exchange is a flow of its own.
const FLOWS: usize = 12;
const DATAGRAMS: usize = 1500;

/// Two nodes with several workers, two pods on the first and one on the second.
struct Busy {
    agents: [AgentNode; 2],
    pods: [Host; 3],
}

impl Busy {
    fn new(site: &Site, adjust: impl Fn(&mut AgentConfig)) -> Self {
        let nodes = site.pair();
        let pods = ["a", "b", "c"].map(|name| site.host(name));
        let config = |own: usize, other: usize| {
            let mut config = AgentConfig::new(site, &nodes[own], &[Family::Ipv4]).vni(VNI).peer(
                nodes[other].address(Family::Ipv4),
                Encapsulation::Vxlan,
                &[VNI],
            );
            config.file.workers.count = unspanned(WORKERS);
            adjust(&mut config);
            config
        };
        let first = config(0, 1).port(&pods[0], VNI, &["10.0.0.1/24", "fd00::1/64"]);
        let first = first.port(&pods[1], VNI, &["10.0.0.2/24", "fd00::2/64"]);
        let second = config(1, 0).port(&pods[2], VNI, &["10.0.0.3/24", "fd00::3/64"]);
        let agents = [first.start(), second.start()];
        ping_all(&pods[0], "10.0.0.3");
        Self { agents, pods }
    }

    fn finish(self) {
        self.agents.into_iter().for_each(AgentNode::finish);
    }
}

#[test]
fn frames_of_one_flow_never_overtake_each_other() {
    let site = site!();
    let busy = Busy::new(&site, |_| {});
    let [a, b, c] = &busy.pods;
    let ways = [(a, c, "10.0.0.3"), (c, a, "10.0.0.1"), (a, b, "fd00::2"), (b, c, "fd00::3")];
    // A pod's kernel keeps about a hundred packets for a neighbour it has yet to find, fewer than the flows send at once.
    ways.iter().for_each(|(from, _, address)| ping_all(from, address));
    std::thread::scope(|scope| {
        for flow in 0..FLOWS {
            let (from, to, address) = ways[flow % ways.len()];
            scope.spawn(move || exchange(from, to, address, 200 + flow, DATAGRAMS));
            scope.spawn(move || exchange_superframes(from, to, address, 1000, 16, DATAGRAMS));
        }
    });
    stream(a, c, "10.0.0.3", 64 * MIB);
    for agent in &busy.agents {
        let workers = agent.counters().workers;
        assert_eq!(workers.len(), usize::from(WORKERS));
        let total: u64 = workers.values().sum();
        assert!(workers.values().filter(|frames| **frames > total / 50).count() > 1, "one did it all: {workers:?}");
    }
    busy.finish();
}

#[test]
fn workers_run_where_they_are_told() {
    let site = site!();
    let busy = Busy::new(&site, |config| config.file.workers.cpus = unspanned(vec![0]));
    for agent in &busy.agents {
        let allowed = tasks(agent).filter_map(|task| {
            let status = std::fs::read_to_string(task.join("status")).unwrap();
            let field = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
            field("Name:").filter(|name| name.starts_with("worker-")).and_then(|_| field("Cpus_allowed_list:"))
        });
        assert_eq!(allowed.collect::<Vec<_>>(), vec!["0"; usize::from(WORKERS)]);
    }
    busy.finish();
}

#[test]
fn workers_go_before_programs_and_the_rest_of_the_agent_does_not() {
    let site = site!();
    let busy = Busy::new(&site, |_| {});
    let (_, own) = nice_of(Path::new("/proc/self"));
    for agent in &busy.agents {
        for (name, nice) in tasks(agent).map(|task| nice_of(&task)) {
            assert_eq!(nice, if name.starts_with("worker-") { own.min(-10) } else { own }, "{name}");
        }
    }
    busy.finish();
}

/// A worker on the same processor goes before this program, and has a reason to look all the time.
#[test]
fn a_program_that_never_waits_is_not_starved_by_a_worker_that_looks() {
    let site = site!();
    let [node, _] = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let mut config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(VNI).port(&pods[0], VNI, &["10.0.0.1/24"]);
    config.file.workers.cpus = unspanned(vec![0]);
    config.file.workers.polling = PollingEntry(Polling::For(MAX_POLLING));
    let agent = config.port(&pods[1], VNI, &["10.0.0.2/24"]).start();
    ping_all(&pods[0], "10.0.0.2");
    let socket = |pod: &Host, at| pod.netns().run(|| UdpSocket::bind((at, 9))).unwrap().unwrap();
    let [sender, _receiver] = [socket(&pods[0], "10.0.0.1"), socket(&pods[1], "10.0.0.2")];
    let over = AtomicBool::new(false);
    let before = worker_time(&agent);
    let used = std::thread::scope(|scope| {
        let program = scope.spawn(|| {
            let mut only = CpuSet::new();
            only.set(0);
            sched_setaffinity(None, &only).unwrap();
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            time_of(Path::new("/proc/thread-self"))
        });
        for _ in 0..500 {
            sender.send_to(b"look", "10.0.0.2:9").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
        program.join().unwrap()
    });
    let looked = worker_time(&agent) - before;
    assert!(looked < used / 3, "the worker took {looked:?}, the program got {used:?}");
    agent.finish();
}

fn worker_time(agent: &AgentNode) -> Duration {
    time_of(&tasks(agent).find(|task| nice_of(task).0 == "worker-0").unwrap())
}

/// Processor time of a thread: the first field of its schedstat (Documentation/scheduler/sched-stats.rst).
fn time_of(task: &Path) -> Duration {
    let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(stat.split_ascii_whitespace().next().unwrap().parse().unwrap())
}

/// Name and nice value of a thread: fields 2 and 19 of proc_pid_stat(5).
fn nice_of(task: &Path) -> (String, i32) {
    let stat = std::fs::read_to_string(task.join("stat")).unwrap();
    let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
    (name.to_owned(), fields.split_ascii_whitespace().nth(16).unwrap().parse().unwrap())
}

/// Directories of an agent's threads.
fn tasks(agent: &AgentNode) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().map(|task| task.unwrap().path())
}

#[test]
fn a_processor_that_is_not_there() {
    let site = site!();
    let [node, _] = site.pair();
    let pod = site.host("pod");
    let mut config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(VNI).port(&pod, VNI, &[]);
    config.file.workers.cpus = unspanned(vec![1023]);
    let refused = config.attempt().unwrap_err();
    refused.assert_says(&["CPU 1023", "choose others of `workers.cpus`"]);
    assert_eq!(pod.netns().links(|links| links.list()).unwrap().len(), 1, "a device was left");
}

#[test]
fn a_second_agent_cannot_share_the_tunnel_port_of_several_workers() {
    let site = site!();
    let [node, _] = site.pair();
    let config = |name: &str| {
        let directory = site.directory().join(name);
        std::fs::create_dir(&directory).unwrap();
        let mut config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(VNI);
        config.file.run_dir = unspanned(directory);
        config.file.workers.count = unspanned(WORKERS);
        config
    };
    let first = config("first").start();
    let refused = config("second").attempt().unwrap_err();
    refused.assert_says(&["192.0.2.1:4789", "in use", "a second agent?"]);
    first.finish();
}
