//! Agents that are killed, end, and start again: what their pods see of it.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use weft_control::config::file::Switch;
use weft_integration::{
    AgentConfig, AgentNode, BOUND, Encapsulation, Family, Host, Overlay, Site, SteadyStream, UnderlayKind, eventually,
    ping_all, site, weft,
};

/// Of the streams, in bytes a second.
const STREAM_RATE: u32 = 4_000_000;
/// Datagrams sent while nobody forwards: fewer than a TAP's queue holds.
const WAITING: usize = 200;

/// Agents killed in one test, and how soon after the next one is started a stream has to go on: once, which is what the
/// agent takes, and half of the times, which is that and what else the machine is about.
const KILLS: usize = 5;
const BACK_WITHIN: Duration = Duration::from_millis(100);
const MEDIAN_WITHIN: Duration = Duration::from_millis(250);
/// Frames that the next agent floods at most: what waited, what comes before the first answer, and what is for groups.
const FLOODS: u64 = WAITING as u64 + 64;

/// Two nodes with a pod each. The first agent has a keeper.
struct Pair {
    config: AgentConfig,
    pods: [Host; 2],
    agents: [AgentNode; 2],
}

impl Pair {
    fn new(site: &Site, adjust: impl Fn(AgentConfig) -> AgentConfig) -> Self {
        let nodes = site.pair();
        let pods = ["a", "b"].map(|name| site.host(name));
        let [first, second] = [0, 1].map(|own| {
            AgentConfig::new(site, &nodes[own], &[Family::Ipv4])
                .vni(Overlay::VNI)
                .peer(nodes[1 - own].address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI])
                .port(&pods[own], Overlay::VNI, &Overlay::NETWORKS[own])
        });
        let config = adjust(first.with_keeper());
        let agents = [config.clone().start(), adjust(second).start()];
        ping_all(&pods[0], Overlay::IPV4[1]);
        Self { config, pods, agents }
    }

    fn stream(&self) -> SteadyStream {
        SteadyStream::start(&self.pods[0], &self.pods[1], Overlay::IPV4[1], STREAM_RATE)
    }

    fn seen_by_pod(&self) -> (u32, Vec<String>) {
        let addresses = self.pods[0].netns().links(|links| links.addresses("eth0")).unwrap();
        (self.pods[0].link("eth0").carrier_changes, addresses.iter().map(ToString::to_string).collect())
    }
}

/// The keeper of a run directory.
fn keeper(run_dir: &Path) -> Option<Pid> {
    let wanted = format!("weft\0keeper\0serve\0--run-dir\0{}\0", run_dir.display());
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == wanted);
    processes.filter(is_it).find_map(Pid::from_raw)
}

fn wait_for_keeper(run_dir: &Path) -> Pid {
    eventually("a keeper", || keeper(run_dir).ok_or_else(|| "there is none".to_owned()))
}

fn wait_for_end_of(pid: Pid) {
    eventually("the keeper's end", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(stat) }
    });
}

/// Whether the keeper holds as many descriptors of TAPs as this.
fn wait_until_held(keeper: Pid, count: usize) {
    eventually("the keeper holds the queues", || {
        let entries = fs::read_dir(format!("/proc/{}/fd", keeper.as_raw_nonzero())).unwrap();
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let held = links.filter(|link| link == Path::new("/dev/net/tun")).count();
        if held == count { Ok(()) } else { Err(format!("it holds {held}")) }
    });
}

/// Sends numbered datagrams and says where they have to arrive.
fn send_some(from: &Host, to: &Host) -> UdpSocket {
    let receiver = to.netns().run(|| UdpSocket::bind((Overlay::IPV4[1], 0))).unwrap().unwrap();
    receiver.set_read_timeout(Some(BOUND)).unwrap();
    let sender = from.netns().run(|| UdpSocket::bind((Overlay::IPV4[0], 0))).unwrap().unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (0..WAITING).for_each(|number| _ = sender.send(&number.to_le_bytes()).unwrap());
    receiver
}

fn expect_all(receiver: &UdpSocket) {
    let mut bytes = [0; 8];
    for number in 0..WAITING {
        assert_eq!(receiver.recv(&mut bytes).unwrap(), bytes.len());
        assert_eq!(usize::from_le_bytes(bytes), number, "lost or out of order");
    }
}

#[track_caller]
fn a_killed_agent_is_not_noticed(kind: UnderlayKind, workers: u16) {
    let site = site!();
    let mut pair = Pair::new(&site, |mut config| {
        config.file.workers.count = weft_control::config::file::unspanned(workers);
        config.underlay(kind)
    });
    let keeper = wait_for_keeper(pair.agents[0].run_dir());
    wait_until_held(keeper, workers.into());
    let stream = pair.stream();
    let before = pair.seen_by_pod();
    let (mut back, mut floods) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        let Pair { config, pods, agents: [first, second] } = pair;
        first.kill();
        let waiting = send_some(&pods[0], &pods[1]);
        let begun = Instant::now();
        let bytes = stream.bytes();
        let first = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while stream.bytes() == bytes {
                    std::thread::sleep(Duration::from_micros(200));
                }
                begun.elapsed()
            });
            let first = config.clone().start();
            back.push(watch.join().unwrap());
            first
        });
        expect_all(&waiting);
        pair = Pair { config, pods, agents: [first, second] };
        assert_eq!(pair.seen_by_pod(), before, "the pod saw it");
        let arrived = stream.bytes();
        eventually("the stream goes on", || {
            if stream.bytes() > arrived + u64::from(STREAM_RATE) / 4 { Ok(()) } else { Err(String::new()) }
        });
        assert_eq!(wait_for_keeper(pair.agents[0].run_dir()), keeper, "another keeper");
        wait_until_held(keeper, workers.into());
        floods.push(pair.agents[0].forwarded("flood"));
        assert_eq!(pair.agents[0].learning("learned"), 1, "of the pod behind the other node");
    }
    // Frames waited for it, and nobody had to look for anybody: the other node has known all the while where this pod is.
    assert!(floods.iter().all(|floods| *floods <= FLOODS), "{floods:?}");
    let learned = ["learned", "moved"].map(|outcome| pair.agents[1].learning(outcome));
    assert_eq!(learned, [1, 0]);
    println!(
        "{kind:?}, {workers} workers: a TCP stream went on {back:?} after new agents were started; flooded {floods:?}"
    );
    back.sort_unstable();
    assert!(back[0] < BACK_WITHIN && back[KILLS / 2] < MEDIAN_WITHIN, "{back:?}");
    drop(stream);
    pair.agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn a_killed_agent_is_not_noticed_with_sockets() {
    a_killed_agent_is_not_noticed(UnderlayKind::Socket, 1);
}

#[test]
fn a_killed_agent_is_not_noticed_with_an_uplink() {
    a_killed_agent_is_not_noticed(UnderlayKind::Auto, 1);
}

#[test]
fn a_killed_agent_is_not_noticed_with_several_workers() {
    a_killed_agent_is_not_noticed(UnderlayKind::Socket, 3);
}

#[test]
fn a_killed_keeper_is_replaced_and_both_killed_is_a_flap() {
    let site = site!();
    let pair = Pair::new(&site, |config| config);
    let run_dir = pair.agents[0].run_dir().to_owned();
    let first = wait_for_keeper(&run_dir);
    wait_until_held(first, 1);
    let before = pair.seen_by_pod();
    kill_process(first, Signal::KILL).unwrap();
    let second =
        eventually("another keeper", || keeper(&run_dir).filter(|now| *now != first).ok_or_else(|| "none".to_owned()));
    wait_until_held(second, 1);
    assert!(pair.agents[0].log().contains("the keeper is gone"), "{}", pair.agents[0].log());
    assert_eq!(pair.seen_by_pod(), before);
    let Pair { config, pods, agents: [agent, other] } = pair;
    kill_process(second, Signal::KILL).unwrap();
    agent.kill();
    wait_for_end_of(second);
    let pair = Pair { agents: [config.clone().start(), other], config, pods };
    let after = pair.seen_by_pod();
    assert!(after.0 > before.0, "somebody else kept the carrier");
    assert!(before.1.iter().filter(|address| !address.starts_with("fe80")).all(|one| after.1.contains(one)));
    let log = pair.agents[0].log();
    assert!(log.contains("nobody kept the device open"), "{log}");
    ping_all(&pair.pods[0], Overlay::IPV4[1]);
    wait_until_held(wait_for_keeper(&run_dir), 1);
    pair.agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn a_keeper_stays_when_its_agent_ends_and_goes_when_it_is_not_wanted() {
    let site = site!();
    let pair = Pair::new(&site, |config| config);
    let run_dir = pair.agents[0].run_dir().to_owned();
    let first = wait_for_keeper(&run_dir);
    wait_until_held(first, 1);
    let status = fs::read_to_string(format!("/proc/{}/status", first.as_raw_nonzero())).unwrap();
    for sets in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(sets), "{status}");
    }
    for socket in ["keeper.sock", "takeover.sock"] {
        let mode = fs::metadata(run_dir.join(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
    }
    let before = pair.seen_by_pod();
    let Pair { config, pods, agents: [agent, other] } = pair;
    agent.finish();
    assert_eq!(keeper(&run_dir), Some(first));
    let mut without = config.clone();
    without.file.keeper = Switch::Off;
    let pair = Pair { agents: [without.start(), other], config, pods };
    wait_for_end_of(first);
    assert_eq!(pair.seen_by_pod(), before, "it ended before the agent had the device");
    ping_all(&pair.pods[0], Overlay::IPV4[1]);
    let Pair { config, pods, agents: [agent, other] } = pair;
    agent.finish();
    // One more, that ends by the command; and the next, with its directory.
    config.clone().start().finish();
    let second = wait_for_keeper(&run_dir);
    let weft = weft();
    let words = [weft.to_str().unwrap(), "keeper", "end", "--run-dir", run_dir.to_str().unwrap()];
    assert!(pods[0].run(&words).contains("has ended"));
    wait_for_end_of(second);
    assert!(pods[0].run(&words).contains("no keeper"));
    config.start().finish();
    let third = wait_for_keeper(&run_dir);
    fs::remove_dir_all(&run_dir).unwrap();
    wait_for_end_of(third);
    other.finish();
}

#[test]
fn a_device_that_the_pod_removed_is_not_kept() {
    let site = site!("ip");
    let pair = Pair::new(&site, |config| config);
    let keeper = wait_for_keeper(pair.agents[0].run_dir());
    wait_until_held(keeper, 1);
    pair.pods[0].ip("link delete eth0");
    eventually("the device is made again", || {
        let port = pair.agents[0].port("a");
        if pair.agents[0].log().contains("port attached again") { Ok(()) } else { Err(port.state) }
    });
    ping_all(&pair.pods[0], Overlay::IPV4[1]);
    wait_until_held(keeper, 1);
    let before = pair.seen_by_pod();
    let Pair { config, pods, agents: [agent, other] } = pair;
    agent.kill();
    let agent = config.clone().start();
    let pair = Pair { config, pods, agents: [agent, other] };
    assert_eq!(pair.seen_by_pod(), before);
    pair.agents.into_iter().for_each(AgentNode::finish);
}
