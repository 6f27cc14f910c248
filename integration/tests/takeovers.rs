//! Agents that take over from each other while their pods talk: nothing is lost, nothing overtakes.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with,
};
use rustix::process::Signal;
use weft_control::config::file::{Control, unspanned};
use weft_integration::{
    AgentConfig, AgentNode, Child, Encapsulation, Family, Host, Numbered, NumberedFlow, Overlay, Site, SteadyStream,
    UnderlayKind, eventually, ping_all, site, weft,
};

/// Datagrams a second of the numbered flow.
const PACKETS: u32 = 10_000;
/// TCP streams, each with so many bytes a second.
const STREAMS: usize = 8;
const STREAM_RATE: u32 = 2_000_000;
/// Takeovers of the test with sockets, and of each other; `WEFT_TAKEOVERS` takes others.
const TAKEOVERS: usize = 50;
const FEW_TAKEOVERS: usize = 12;
/// For less than so long nobody reads, half of the times at least.
const PAUSE: Duration = Duration::from_millis(20);
/// Milliseconds after which processes are killed that take over: before they ask, while, and after.
const KILLED_AFTER: [u64; 12] = [1, 5, 10, 15, 20, 25, 30, 40, 60, 80, 110, 150];
/// What a conversation may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two nodes with a pod each; the first one's agent is taken over from.
struct Pair {
    config: AgentConfig,
    pods: [Host; 2],
    agent: AgentNode,
    other: AgentNode,
}

impl Pair {
    fn new(site: &Site, adjust: impl Fn(AgentConfig) -> AgentConfig) -> Self {
        Self::with(site, ["a", "b"].map(|name| site.host(name)), &Overlay::NETWORKS.map(Vec::from), adjust)
    }

    /// With pods that send nothing to groups by themselves: whatever is flooded is flooded for want of knowledge.
    fn quiet(site: &Site, adjust: impl Fn(AgentConfig) -> AgentConfig) -> Self {
        let pods = ["a", "b"].map(|name| site.host(name));
        pods.iter().for_each(|pod| pod.silence());
        Self::with(site, pods, &Overlay::NETWORKS.map(|[ipv4, _]| vec![ipv4]), adjust)
    }

    fn with(
        site: &Site,
        pods: [Host; 2],
        networks: &[Vec<&str>; 2],
        adjust: impl Fn(AgentConfig) -> AgentConfig,
    ) -> Self {
        let nodes = site.pair();
        let [config, other] = [0, 1].map(|own| {
            let config = AgentConfig::new(site, &nodes[own], &[Family::Ipv4]).vni(Overlay::VNI);
            let peer = nodes[1 - own].address(Family::Ipv4);
            let config = config.peer(peer, Encapsulation::Vxlan, &[Overlay::VNI]);
            adjust(config.port(&pods[own], Overlay::VNI, &networks[own]))
        });
        let (agent, other) = (config.clone().start(), other.start());
        ping_all(&pods[0], Overlay::IPV4[1]);
        Self { config, pods, agent, other }
    }

    /// A flow in each direction.
    fn flows(&self) -> [NumberedFlow; 2] {
        let [a, b] = &self.pods;
        [(a, b, Overlay::IPV4[1]), (b, a, Overlay::IPV4[0])]
            .map(|(from, to, address)| NumberedFlow::start(from, to, address, PACKETS / 2))
    }

    fn streams(&self) -> Vec<SteadyStream> {
        let [a, b] = &self.pods;
        let ways = [(a, b, Overlay::IPV4[1]), (b, a, Overlay::IPV4[0])];
        let stream = |number: usize| {
            let (from, to, address) = ways[number % 2];
            SteadyStream::start(from, to, address, STREAM_RATE)
        };
        (0..STREAMS).map(stream).collect()
    }

    #[track_caller]
    fn finish(self) {
        self.agent.finish();
        self.other.finish();
    }
}

/// Nothing lost, nothing late.
#[track_caller]
fn assert_whole(flows: [NumberedFlow; 2], agents: [&AgentNode; 2]) -> [Numbered; 2] {
    let seen = flows.map(NumberedFlow::finish);
    for flow in &seen {
        let log = || {
            agents
                .map(|agent| format!("{}\n{:?}\n{:?}", agent.log(), agent.dropped(), agent.counters().kernel))
                .join("\n---\n")
        };
        assert!(flow.sent > 0 && (flow.lost, flow.late) == (0, 0), "{flow:?}\n{}", log());
    }
    seen
}

fn wait_for_more(flow: &NumberedFlow, count: u64) {
    let before = flow.received();
    eventually("the flow goes on", || {
        let now = flow.received();
        if now >= before + count { Ok(()) } else { Err(format!("{now} after {before}")) }
    });
}

#[track_caller]
fn nothing_is_lost(kind: UnderlayKind, workers: u16, takeovers: usize) {
    let site = site!();
    let mut pair = Pair::quiet(&site, |mut config| {
        config.file.workers.count = unspanned(workers);
        config.underlay(kind).with_keeper()
    });
    if kind != UnderlayKind::Socket {
        pair.agent.wait_for_way("uplink");
    }
    let count = std::env::var("WEFT_TAKEOVERS").map_or(takeovers, |count| count.parse().unwrap());
    let flows = pair.flows();
    let streams = pair.streams();
    let carrier = pair.pods[0].link("eth0").carrier_changes;
    let (mut pauses, mut floods) = (Vec::new(), Vec::new());
    let flooded = pair.other.forwarded("flood");
    for _ in 0..count {
        let next =
            pair.config.take_over().unwrap_or_else(|refused| panic!("{}\n{}", refused.message, pair.agent.log()));
        let old = std::mem::replace(&mut pair.agent, next);
        let log = old.log();
        old.handed_over();
        let line = log.lines().find(|line| line.contains("handed over; this process ends")).unwrap_or(&log);
        pauses.extend(line.rsplit_once("microseconds=").and_then(|(_, number)| number.trim().parse::<u64>().ok()));
        wait_for_more(&flows[0], 200);
        floods.push(pair.agent.forwarded("flood") + pair.agent.learning("learned"));
    }
    let flooded = pair.other.forwarded("flood") - flooded;
    let bytes: Vec<u64> = streams.iter().map(SteadyStream::bytes).collect();
    for (stream, before) in streams.iter().zip(bytes) {
        eventually("every stream goes on", || if stream.bytes() > before { Ok(()) } else { Err(String::new()) });
    }
    drop(streams);
    let seen = assert_whole(flows, [&pair.agent, &pair.other]);
    pauses.sort_unstable();
    println!(
        "{count} takeovers, {kind:?}, {workers} workers: nobody read for {pauses:?} us; flooded or learned {floods:?}, and {flooded} by the other; {seen:?}"
    );
    assert!(seen.iter().all(|flow| flow.sent * 10 >= flow.intended * 9), "less was sent than was to be: {seen:?}");
    assert_eq!(pauses.len(), count, "each says how long it was");
    assert!(u128::from(pauses[count / 2]) < PAUSE.as_micros(), "{pauses:?}");
    // All that is known is handed over.
    assert_eq!((floods, flooded), (vec![0; count], 0), "looked for again");
    assert_eq!(pair.pods[0].link("eth0").carrier_changes, carrier, "the pod saw it");
    pair.finish();
}

#[test]
fn nothing_is_lost_with_sockets() {
    nothing_is_lost(UnderlayKind::Socket, 1, TAKEOVERS);
}

#[test]
fn nothing_is_lost_with_an_uplink() {
    nothing_is_lost(UnderlayKind::Auto, 1, FEW_TAKEOVERS);
}

#[test]
fn nothing_is_lost_with_several_workers() {
    nothing_is_lost(UnderlayKind::Socket, 2, FEW_TAKEOVERS);
}

#[test]
fn what_the_store_said_is_handed_over_too() {
    let site = site!();
    let nodes = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let at = format!("{}:2379", nodes[0].address(Family::Ipv4));
    let (program, data) = (weft(), site.directory().join("store"));
    let store = || {
        let words =
            [program.to_str().unwrap(), "store", "--relaxed", "--listen", &at, "--data", data.to_str().unwrap()];
        let mut command = nodes[0].command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Child::spawn(command)
    };
    let mut running = store();
    let configs = [0, 1].map(|own| {
        let config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).vni(Overlay::VNI);
        let mut config = config.port(&pods[own], Overlay::VNI, &Overlay::NETWORKS[own]);
        config.file.control = Some(Control::new(vec![format!("http://{at}")]));
        config
    });
    let [agent, other] = [0, 1].map(|own| configs[own].clone().start());
    let [config, _] = configs;
    let mut pair = Pair { config, pods, agent, other };
    let stands = |agent: &AgentNode, state: &str| {
        eventually("the agent knows the cluster", || {
            let control = agent.status().control.unwrap();
            let there = control.state == state && (control.nodes, control.endpoints) == (2, 2);
            if there { Ok(()) } else { Err(format!("{control:?}\n{}", agent.log())) }
        });
    };
    [&pair.agent, &pair.other].into_iter().for_each(|agent| stands(agent, "connected"));
    ping_all(&pair.pods[0], Overlay::IPV4[1]);
    let flows = pair.flows();
    let take_over = |pair: &mut Pair, state: &str| {
        std::mem::replace(&mut pair.agent, pair.config.take_over().unwrap()).handed_over();
        let vteps = pair.agent.vteps();
        assert!(vteps.len() == 1 && vteps[0].kind == "managed", "{vteps:?}");
        [&pair.agent, &pair.other].into_iter().for_each(|agent| stands(agent, state));
        wait_for_more(&flows[0], 200);
    };
    take_over(&mut pair, "connected");
    running.signal(Signal::KILL);
    running.wait();
    [&pair.agent, &pair.other].into_iter().for_each(|agent| stands(agent, "stale"));
    take_over(&mut pair, "stale");
    let _running = store();
    [&pair.agent, &pair.other].into_iter().for_each(|agent| stands(agent, "connected"));
    take_over(&mut pair, "connected");
    assert_whole(flows, [&pair.agent, &pair.other]);
    assert_eq!(pair.agent.status().control.unwrap().suspects, Vec::<String>::new());
    pair.finish();
}

/// The version of what is handed over.
const STATE: u32 = 2;

/// What a successor does before it dies.
type Step = fn(&Successor);

/// One end of a conversation, as a process has it that takes over.
struct Successor(OwnedFd);

impl Successor {
    fn connect(run_dir: &Path) -> Self {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(run_dir.join("takeover.sock")).unwrap()).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn say(&self, text: &str) {
        let mut none = SendAncillaryBuffer::default();
        sendmsg(&self.0, &[IoSlice::new(text.as_bytes())], &mut none, SendFlags::NOSIGNAL).unwrap();
    }

    fn hello(&self, state: u32) {
        self.say(&format!(r#"{{"hello":{{"state":{state},"version":"test"}}}}"#));
    }

    /// The next message; none at the end.
    fn hear(&self) -> Option<String> {
        let mut bytes = vec![0; 1 << 16];
        // Descriptors that come with it are closed at once.
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).unwrap().bytes;
        (length > 0).then(|| String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn hear_until(&self, last: &str) {
        while self.hear().unwrap_or_else(|| panic!("it hung up before {last}")) != last {}
    }
}

#[test]
fn a_successor_that_dies_at_any_step_costs_nothing() {
    let site = site!();
    let mut pair = Pair::new(&site, |config| config);
    let run_dir = pair.agent.run_dir().to_owned();
    let flows = pair.flows();
    let streams = pair.streams();
    let steps: [(&str, Step); 6] = [
        ("it comes and goes", |_| {}),
        ("it talks nonsense", |successor| successor.say("{\"what\":")),
        ("it says who it is", |successor| successor.hello(STATE)),
        ("it has been handed everything", |successor| {
            successor.hello(STATE);
            successor.hear_until("\"all\"");
        }),
        ("nobody reads", |successor| {
            successor.hello(STATE);
            successor.hear_until("\"all\"");
            successor.say("\"quiesce\"");
            successor.hear_until("\"quiesced\"");
        }),
        ("it asks out of turn", |successor| {
            successor.hello(STATE);
            successor.say("\"commit\"");
        }),
    ];
    for (what, act) in steps {
        let before = pair.agent.log().matches("this agent goes on").count();
        let successor = Successor::connect(&run_dir);
        act(&successor);
        drop(successor);
        eventually(what, || {
            let log = pair.agent.log();
            if log.matches("this agent goes on").count() > before { Ok(()) } else { Err(log) }
        });
        wait_for_more(&flows[0], 200);
    }
    assert!(pair.agent.is_running());
    drop(streams);
    assert_whole(flows, [&pair.agent, &pair.other]);
    pair.finish();
}

#[test]
fn a_successor_that_stands_still_is_not_waited_for() {
    let site = site!();
    let pair = Pair::new(&site, |config| config);
    let stream = SteadyStream::start(&pair.pods[0], &pair.pods[1], Overlay::IPV4[1], STREAM_RATE);
    let successor = Successor::connect(pair.agent.run_dir());
    successor.hello(STATE);
    successor.hear_until("\"all\"");
    let _ = stream.stall();
    successor.say("\"quiesce\"");
    successor.hear_until("\"quiesced\"");
    let begun = Instant::now();
    assert_eq!(successor.hear(), None, "it was committed to");
    let waited = begun.elapsed();
    eventually("the agent goes on", || {
        let log = pair.agent.log();
        if log.contains("this agent goes on") { Ok(()) } else { Err(log) }
    });
    let bytes = stream.bytes();
    eventually("the stream goes on", || if stream.bytes() > bytes { Ok(()) } else { Err(String::new()) });
    println!("nobody read for {waited:?}, and the stream stood still for {:?}", stream.stall());
    drop(stream);
    pair.finish();
}

#[test]
fn a_process_that_is_killed_while_it_takes_over_costs_nothing() {
    let site = site!();
    let mut pair = Pair::new(&site, AgentConfig::with_keeper);
    let mut survived = 0;
    for milliseconds in KILLED_AFTER {
        let flows = pair.flows();
        wait_for_more(&flows[0], 200);
        let mut command = pair.config.takeover_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        process.kill().unwrap();
        process.wait().unwrap();
        let committed = pair.agent.log().contains("this process ends");
        if committed {
            // Killed after that, it is an agent like any other.
            std::mem::replace(&mut pair.agent, pair.config.clone().start()).handed_over();
            let _ = flows.map(NumberedFlow::finish);
        } else {
            wait_for_more(&flows[0], 200);
            assert_whole(flows, [&pair.agent, &pair.other]);
            survived += 1;
        }
    }
    println!("{survived} of {} were killed before they had taken over", KILLED_AFTER.len());
    assert!(survived > 0);
    pair.finish();
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let site = site!();
    let pair = Pair::new(&site, |config| config);
    let successor = Successor::connect(pair.agent.run_dir());
    successor.hello(99);
    let refusal = successor.hear().unwrap();
    let own = format!("state version {STATE}");
    for word in ["refused", &own, "state version 99", "weft test", "stop the one and start the other"] {
        assert!(refusal.contains(word), "{refusal}");
    }
    assert_eq!(successor.hear(), None);
    // The other way round: an agent of another version, played by this test.
    let directory = site.directory().join("elsewhere");
    std::fs::create_dir(&directory).unwrap();
    let mut config = pair.config.clone();
    config.file.run_dir = unspanned(directory.clone());
    config.take_over().unwrap_err().assert_says(&["no agent runs in", "without --takeover"]);
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(directory.join("takeover.sock")).unwrap()).unwrap();
    listen(&socket, 1).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It asks for its own version, and then for the one before.
            for (asked, refusal) in [(STATE, "it reads state version 7"), (STATE - 1, "and not that one")] {
                let client = Successor(accept_with(&socket, SocketFlags::CLOEXEC).unwrap());
                assert!(client.hear().unwrap().contains(&format!("\"state\":{asked},")));
                client.say(&format!(r#"{{"refused":{{"why":"{refusal}"}}}}"#));
            }
        });
        config.take_over().unwrap_err().assert_says(&["hands nothing over", "state version 7"]);
    });
    // What a takeover cannot change.
    let mut more_workers = pair.config.clone();
    more_workers.file.workers.count = unspanned(3);
    let refused = more_workers.take_over().unwrap_err();
    refused.assert_says(&["cannot change `workers.count`", "is 1 in the running agent", "3 here", "restart it"]);
    ping_all(&pair.pods[0], Overlay::IPV4[1]);
    pair.finish();
}
