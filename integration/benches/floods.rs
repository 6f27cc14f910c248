//! What tunnel packets of strangers cost a node beside those that it forwards: `cargo bench -p weft-integration --bench
//! floods`, as root, after `cargo build --release -p weft`. docs/performance.md has the figures, and what each part means.
//!
//! It takes some five minutes. The flood is of packets from a VTEP that nobody knows, or from a known one with a VNI that nobody has. It comes from a
//! third node, at a bounded rate.
#![expect(clippy::unwrap_used, reason = "a measurement whose set-up fails has failed")]

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use weft_bridge::DropReason;
use weft_control::config::file::{PollingEntry, UnderlayKind};
use weft_encap::MacAddr;
use weft_integration::{
    AgentConfig, AgentNode, Encapsulation, Family, Host, MIB, Node, Numbered, NumberedFlow, Overlay, Requirement, Site,
    eventually, receive_buffer, segment_size, stream, udp_over_ipv4, unmet, vxlan,
};
use weft_switch::levels::Levels;
use weft_switch::polling::Polling;
use weft_switch::underlay::{Listen, ReceiveCounts, SocketOptions, SocketUnderlay, Underlay};

const TUNNEL_PORT: u16 = 4789;
/// Where nobody listens: the kernel drops what comes there before it looks for a socket.
const DROPPED_PORT: u16 = 9;
/// Where nobody but this program listens.
const RECEIVED_PORT: u16 = 4790;
/// Bytes of what is received at once.
const ARENA: usize = 1 << 20;
const OTHER_VNI: u32 = Overlay::VNI + 1;
/// The third node's: as a VTEP that is known, and as one that is not.
const KNOWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 33);
/// A pod behind the third node.
const FAR: (MacAddr, Ipv4Addr, u16) = (MacAddr([2, 0, 0, 0, 0xaa, 3]), Ipv4Addr::new(10, 0, 0, 3), 40_000);
/// Where the second node's pod listens.
const POD: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 2), 5201);

/// Bytes of a datagram of a pod's.
const PAYLOAD: usize = 64;
/// Packets that wait while the worker stands still: fewer than its socket, or the queue of an uplink's device, holds.
const WAITING: usize = 3_200;
/// Packets that a sender hands to its kernel as one group.
const GROUP: usize = 32;
/// Flows, where there are several.
const FLOWS: u16 = 32;
const DRAINS: usize = 15;
const BUFFER: i32 = 16 << 20;

/// Of a flood under way, in packets a second, and how often it sends.
const FLOOD: u32 = 50_000;
const PAUSE: Duration = Duration::from_millis(1);
/// Packets of it at once at most.
const BURST: usize = 500;
/// Datagrams a second of the steady load, for so long in each round.
const LOAD: u32 = 20_000;
const STEADY: Duration = Duration::from_secs(1);
const ROUNDS: usize = 9;
/// Of the stream that takes what it can get.
const BULK: u64 = 256 * MIB;

/// What is sent to the second node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Frames for its pod, of so many flows.
    Forwarded(u16),
    UnknownVni,
    UnknownSource,
    /// What the kernel drops.
    KernelDrops,
    /// Taken out of a socket as a worker does it, and nothing more.
    Received,
}

/// Three nodes, of which the third has no agent: it sends what it likes. Pods are on the first two.
struct Stage {
    nodes: [Node; 3],
    pods: [Host; 2],
    agents: [AgentNode; 2],
    /// Of the second pod.
    listening: UdpSocket,
    /// On the second node, beside its agent's.
    underlay: Mutex<SocketUnderlay>,
    _site: Site,
}

impl Stage {
    fn new(kind: UnderlayKind, polling: Polling) -> Self {
        let site = Site::new("floods");
        let nodes = site.nodes::<3>();
        nodes[2].ip(&format!("address add {STRANGER}/24 dev eth0"));
        // Before conntrack, sockets and everything else.
        let drop = format!(
            "table inet floods {{ chain early {{ type filter hook prerouting priority raw; udp dport {DROPPED_PORT} drop; }}; }}"
        );
        nodes[1].run(&["nft", &drop]);
        let pods = ["a", "b"].map(|name| site.host(name));
        let agents = [0, 1].map(|own| {
            let mut config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).underlay(kind).vni(Overlay::VNI);
            config.file.workers.polling = PollingEntry(polling);
            for peer in nodes.iter().filter(|node| node.name() != nodes[own].name()) {
                config = config.peer(peer.address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI]);
            }
            config.port(&pods[own], Overlay::VNI, &Overlay::NETWORKS[own]).start()
        });
        let listening = pods[1].netns().run(|| UdpSocket::bind(POD)).unwrap().unwrap();
        listening.set_nonblocking(true).unwrap();
        receive_buffer(&listening, BUFFER).unwrap();
        let at = SocketAddr::new(nodes[1].address(Family::Ipv4), RECEIVED_PORT);
        let listen = [Listen { at, encapsulation: Encapsulation::Vxlan }];
        let options = SocketOptions { zero_checksums_over_ipv6: false };
        let open = || SocketUnderlay::open(&listen, &options, &Arc::new(Levels::default()), 1);
        let underlay = Mutex::new(nodes[1].netns().run(open).unwrap().unwrap().remove(0));
        Self { nodes, pods, agents, listening, underlay, _site: site }
    }

    fn sender(&self, kind: Kind, group: usize) -> Sender {
        let own = if kind == Kind::UnknownSource { STRANGER } else { KNOWN };
        let socket = self.nodes[2].netns().run(|| UdpSocket::bind((own, 0))).unwrap().unwrap();
        let port = match kind {
            Kind::KernelDrops => DROPPED_PORT,
            Kind::Received => RECEIVED_PORT,
            Kind::Forwarded(_) | Kind::UnknownVni | Kind::UnknownSource => TUNNEL_PORT,
        };
        socket.connect(SocketAddr::new(self.nodes[1].address(Family::Ipv4), port)).unwrap();
        let (vni, flows) = match kind {
            Kind::Forwarded(flows) => (Overlay::VNI, flows),
            Kind::UnknownVni => (OTHER_VNI, 1),
            Kind::UnknownSource | Kind::KernelDrops | Kind::Received => (Overlay::VNI, 1),
        };
        let pod = (self.pods[1].mac("eth0"), POD.0, POD.1);
        let packets = (0..flows).map(|flow| {
            let frame = udp_over_ipv4((FAR.0, FAR.1, FAR.2 + flow), pod, &[7; PAYLOAD]);
            vxlan(vni, &frame)
        });
        let packets: Vec<Vec<u8>> = packets.collect();
        let length = packets[0].len();
        if group > 1 {
            segment_size(&socket, length as u16).unwrap();
        }
        let bursts = (0..packets.len().max(group)).map(|at| packets[at % packets.len()].clone()).collect::<Vec<_>>();
        Sender { socket, bursts: bursts.chunks(group).map(<[_]>::concat).collect(), group }
    }

    /// Processor time for each packet that waited for this, in nanoseconds.
    fn receive(&self, sender: &Sender) -> f64 {
        sender.send(WAITING);
        let underlay = &self.underlay;
        let receive = || {
            let (mut underlay, mut arena, mut datagrams) = (underlay.lock().unwrap(), vec![0; ARENA], Vec::new());
            let (mut packets, begun) = (0, own_processor_time());
            while packets < WAITING {
                datagrams.clear();
                underlay.recv(0, &mut arena, &mut datagrams, &mut ReceiveCounts::default()).unwrap();
                assert!(!datagrams.is_empty(), "{packets} of {WAITING} came");
                packets += datagrams.iter().map(|one| one.range.len().div_ceil(one.segment.max(1))).sum::<usize>();
            }
            own_processor_time() - begun
        };
        let used = std::thread::scope(|scope| scope.spawn(receive).join().unwrap());
        used.as_nanos() as f64 / WAITING as f64
    }

    /// Processor time of the worker for each packet that waited for it, in nanoseconds.
    fn drain(&self, kind: Kind, sender: &Sender) -> f64 {
        let agent = &self.agents[1];
        let arrived = || agent.forwarded("underlay_datagrams_in");
        let dropped = || agent.dropped().iter().map(|(_, count)| count).sum::<u64>();
        let before = (arrived(), dropped());
        let begun = agent.frozen(|| {
            let begun = processor_time(agent.pid());
            sender.send(WAITING);
            begun
        });
        let wanted = before.0 + WAITING as u64;
        eventually("all is taken in", || {
            let now = arrived();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted}: {:?}", agent.counters())) }
        });
        let used = at_rest(|| processor_time(agent.pid())) - begun;
        let strangers = if matches!(kind, Kind::Forwarded(_)) { 0 } else { WAITING as u64 };
        assert_eq!(dropped() - before.1, strangers, "{kind:?}: {:?}", agent.dropped());
        let mut buffer = [0; 2048];
        let read = std::iter::from_fn(|| match self.listening.recv(&mut buffer) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        });
        assert_eq!(read.count() as u64 + strangers, WAITING as u64, "{kind:?}");
        used.as_nanos() as f64 / WAITING as f64
    }

    /// Runs something while the flood comes, every packet of which has to be dropped. Its packets, too.
    fn flooded<T>(&self, kind: Option<Kind>, act: impl FnOnce() -> T) -> (T, usize) {
        let Some(kind) = kind else { return (act(), 0) };
        let agent = &self.agents[1];
        let reason = match kind {
            Kind::UnknownVni => Some(DropReason::UnknownVni),
            Kind::UnknownSource => Some(DropReason::UnknownSource),
            Kind::KernelDrops | Kind::Forwarded(_) | Kind::Received => None,
        };
        let before = reason.map(|reason| agent.dropped_as(reason));
        let (over, sender) = (AtomicBool::new(false), self.sender(kind, 1));
        let (result, sent) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| sender.send_steadily(&over));
            let result = act();
            over.store(true, Ordering::Relaxed);
            (result, flood.join().unwrap())
        });
        if let Some((reason, before)) = reason.zip(before) {
            eventually("all of the flood is dropped by name", || {
                let dropped = agent.dropped_as(reason) - before;
                if dropped == sent as u64 { Ok(()) } else { Err(format!("{dropped} of {sent}")) }
            });
        }
        (result, sent)
    }
}

struct Sender {
    socket: UdpSocket,
    /// What is handed to the kernel at once, in turn.
    bursts: Vec<Vec<u8>>,
    group: usize,
}

impl Sender {
    fn send(&self, packets: usize) {
        for burst in self.bursts.iter().cycle().take(packets / self.group) {
            self.socket.send(burst).unwrap();
        }
    }

    /// Until it is over; how many packets.
    fn send_steadily(&self, over: &AtomicBool) -> usize {
        let (begun, mut passed, mut sent) = (Instant::now(), 0, 0);
        while !over.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * f64::from(FLOOD)) as usize;
            // Who was kept from sending does not make up for all of it.
            let burst = (due - passed).min(BURST);
            self.send(burst);
            (passed, sent) = (due, sent + burst);
            std::thread::sleep(PAUSE);
        }
        sent
    }
}

/// What the process's worker has had of processors.
fn processor_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let mut workers = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "worker-0\n"));
    let schedstat = fs::read_to_string(workers.next().unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}

/// What this thread has had.
#[expect(clippy::disallowed_methods, reason = "counts processor time")]
fn own_processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What does not change any more.
fn at_rest<T: PartialEq>(mut look: impl FnMut() -> T) -> T {
    let mut last = look();
    loop {
        std::thread::sleep(10 * PAUSE);
        let now = look();
        if now == last {
            return now;
        }
        last = now;
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Packets that waited, by turns of all kinds.
fn each_packet(kind: UnderlayKind) {
    let stage = Stage::new(kind, Polling::Off);
    let level = stage.agents[1].status().underlay.level;
    let kinds = [Kind::Forwarded(FLOWS), Kind::Forwarded(1), Kind::UnknownVni, Kind::UnknownSource, Kind::Received];
    for group in [1, GROUP] {
        let senders = kinds.map(|kind| stage.sender(kind, group));
        let mut samples = kinds.map(|_| Vec::with_capacity(DRAINS));
        for _ in 0..DRAINS {
            for ((kind, sender), samples) in kinds.iter().zip(&senders).zip(&mut samples) {
                let each = if *kind == Kind::Received { stage.receive(sender) } else { stage.drain(*kind, sender) };
                samples.push(each);
            }
        }
        let each = samples.map(median);
        for (kind, nanoseconds) in kinds.iter().zip(each) {
            println!("{level}, groups of {group:2}: {:<16} {nanoseconds:6.0} ns a packet", format!("{kind:?}"));
        }
    }
}

/// What came of a load beside one flood, in all rounds.
#[derive(Default)]
struct Beside {
    flow: Numbered,
    flood: usize,
    /// Of the second node's worker.
    used: Duration,
    /// Of the stream, in bit/s, a round each.
    rates: Vec<f64>,
}

/// A steady load, and a stream that takes what it can get, beside each flood, by turns.
fn beside_a_flood(kind: UnderlayKind, polling: Polling) {
    let stage = Stage::new(kind, polling);
    let floods = [None, Some(Kind::KernelDrops), Some(Kind::UnknownVni), Some(Kind::UnknownSource)];
    let [from, to] = &stage.pods;
    let worker = stage.agents[1].pid();
    let mut seen = floods.map(|_| Beside::default());
    for _ in 0..ROUNDS {
        for (flood, seen) in floods.iter().zip(&mut seen) {
            let begun = processor_time(worker);
            let (flow, packets) = stage.flooded(*flood, || {
                let flow = NumberedFlow::start(from, to, Overlay::IPV4[1], LOAD);
                std::thread::sleep(STEADY);
                flow.finish()
            });
            seen.used += at_rest(|| processor_time(worker)) - begun;
            seen.flood += packets;
            seen.flow.sent += flow.sent;
            seen.flow.lost += flow.lost;
            seen.flow.late += flow.late;
        }
        for (flood, seen) in floods.iter().zip(&mut seen) {
            let (report, _) = stage.flooded(*flood, || stream(from, to, Overlay::IPV4[1], BULK));
            seen.rates.push(report.bits_per_second);
        }
    }
    let level = stage.agents[1].status().underlay.level;
    let [_, dropped, ..] = &seen;
    for (flood, one) in floods.iter().zip(&seen) {
        let name = flood.map_or_else(|| "none".to_owned(), |kind| format!("{kind:?}"));
        let Numbered { sent, lost, late, .. } = one.flow;
        // What else the machine does meets neighbours in a round alike.
        let ratios = one.rates.iter().zip(&dropped.rates).map(|(rate, other)| rate / other);
        println!(
            "{level}, polling {polling:?}, flood {name:<14} {:6} packets: {lost} of {sent} datagrams lost, {late} late, {:5.0} ns of the worker each; TCP {:.2} Gbit/s, {:.2} of that beside KernelDrops",
            one.flood,
            one.used.as_nanos() as f64 / sent as f64,
            median(one.rates.clone()) / 1e9,
            median(ratios.collect()),
        );
    }
}

fn main() {
    // `cargo test` runs benches to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if unmet("floods", &[Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("nft")]) {
        return;
    }
    for kind in [UnderlayKind::Socket, UnderlayKind::Auto] {
        each_packet(kind);
        // Looking for frames takes processor time too: how much frames take is to be seen without.
        for polling in [Polling::Auto, Polling::Off] {
            beside_a_flood(kind, polling);
        }
    }
}
