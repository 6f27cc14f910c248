//! What a cluster costs its store and its agents: `cargo bench -p weft-integration --bench scale -- --bench [STORE]`, as
//! root, after `cargo build --release -p weft`. docs/scale.md has the figures.
//!
//! The agents are tasks of one process, each with a connection, a lease and a watch of its own, and all that it decides
//! about its own rows. They make no tables: a thousand of these do not fit into one machine. That is measured on one
//! agent more, which is a process.
#![expect(clippy::unwrap_used, reason = "a measurement whose set-up fails has failed")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use weft_control::cluster::record::{Attached, Node, PROBES, RECORD_VERSION, Receives, Standing};
use weft_control::cluster::{Keys, Membership, Own, OwnEndpoint, Step};
use weft_control::config::file::{Control, unspanned};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_integration::{AgentConfig, Family, Requirement, Site, StoreKind, StoreNode, unmet};
use weft_store::client::{Access, Lease, Store, Watch};

const ENDPOINTS: u32 = 100;
const VNI: u32 = 7;
const LEASE_SECONDS: u32 = 10;
/// How often an agent looks whether its rows are there.
const VERIFY: Duration = Duration::from_secs(10);
/// Agents that publish at once, when the cluster begins.
const AT_ONCE: usize = 32;
/// Changes, one after another.
const CHANGES: usize = 100;
/// Changes at once, each by another agent.
const BURST: usize = 100;
/// For how long the store is watched while nothing changes.
const IDLE: Duration = Duration::from_secs(20);
/// Between two looks at what an agent knows.
const LOOK: Duration = Duration::from_millis(20);
/// Changes that the agent hears of, one after another, and how long it is looked at besides.
const AGENT_CHANGES: u32 = 20;
const AFTERWARDS: Duration = Duration::from_secs(3);
/// MACs of endpoints that are added later begin like this.
const NEW: u8 = 0x06;

fn agents() -> u32 {
    std::env::var("WEFT_SCALE_AGENTS").map_or(1000, |agents| agents.parse().unwrap())
}

fn vni() -> Vni {
    Vni::new(VNI).unwrap()
}

fn mac(kind: u8, agent: u32, number: u32) -> MacAddr {
    let ([_, _, a, b], [_, _, c, d]) = (agent.to_be_bytes(), number.to_be_bytes());
    MacAddr([kind, 0, a, b, c, d])
}

fn endpoint(agent: u32, number: u32) -> OwnEndpoint {
    let address = Ipv4Addr::from(0x6440_0000 + agent * 1024 + number);
    OwnEndpoint { ips: vec![address.into()], port: format!("pod-{agent}-{number}"), attached: Attached::Bound }
}

fn own(agent: u32) -> Own {
    let address: IpAddr = Ipv4Addr::from(0x0a00_0000 + agent + 1).into();
    let node = Node {
        version: RECORD_VERSION,
        name: format!("node-{agent:04}"),
        instance: format!("{agent:032x}"),
        incarnation: 0,
        epoch: 0,
        standing: Standing::Joining,
        addresses: vec![address],
        receives: vec![Receives { encapsulation: Encapsulation::Vxlan, udp_port: 4789 }],
        underlay_mtu: 1500,
        vnis: vec![vni()],
        pod_ranges: Vec::new(),
        overlay_addresses: Vec::new(),
        capabilities: vec![PROBES.to_owned()],
    };
    let endpoints = (0..ENDPOINTS).map(|number| ((vni(), mac(2, agent, number)), endpoint(agent, number)));
    Own { node, network: None, endpoints: endpoints.collect() }
}

struct Member {
    number: u32,
    store: Store,
    membership: Membership,
    lease: Option<Lease>,
    keys: Keys,
}

impl Member {
    fn new(number: u32, endpoint: &str) -> Self {
        let keys = Keys::new("/weft");
        let membership = Membership::new(keys.clone(), own(number));
        Self { number, store: Store::new(Access::plain(endpoint)).unwrap(), membership, lease: None, keys }
    }

    /// Until the store has all its rows.
    async fn settle(&mut self) {
        loop {
            match self.membership.step() {
                Step::Rest => return,
                Step::Refused(holder) => panic!("{}: {holder:?}", self.number),
                Step::Lease => {
                    let lease = self.store.lease(LEASE_SECONDS).await.unwrap();
                    self.membership.leased(lease.id());
                    self.lease = Some(lease);
                }
                Step::Read(operations) => {
                    let read = self.store.commit(&[], &operations, &[]).await.unwrap();
                    self.membership.read(read.revision, &read.rows);
                }
                Step::Write(conditions, operations) => {
                    let written = self.store.commit(&conditions, &operations, &[]).await.unwrap();
                    self.membership.written(&written);
                }
            }
        }
    }

    /// Adds an endpoint when it is told to, tells of those that others added, and looks after its own rows.
    async fn follow(mut self, mut watch: Watch, mut adds: mpsc::Receiver<u32>, heard: mpsc::UnboundedSender<Instant>) {
        let mut verify = interval(VERIFY);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        verify.reset_after(VERIFY * (self.number % 100) / 100);
        let new = format!("/{VNI}/{NEW:02x}:");
        loop {
            tokio::select! {
                batch = watch.next() => for event in batch.unwrap().events {
                    let key = event.kv.unwrap().key;
                    if key.windows(new.len()).any(|part| part == new.as_bytes()) && heard.send(Instant::now()).is_err() {
                        return;
                    }
                },
                number = adds.recv() => {
                    let Some(number) = number else { return };
                    let mut endpoints = self.membership.own().endpoints.clone();
                    endpoints.insert((vni(), mac(NEW, self.number, number)), endpoint(self.number, 200 + number));
                    self.membership.set_endpoints(endpoints);
                    self.settle().await;
                }
                _ = verify.tick() => {
                    self.membership.verify();
                    self.settle().await;
                }
                () = async { self.lease.as_ref().unwrap().lost().await } => panic!("{}: its lease is lost", self.number),
            }
        }
    }
}

/// What a process has used: seconds of processor time, and MiB now and at most.
fn used(pid: u32) -> (f64, u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mebibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    (ticks / 100.0, mebibytes("VmRSS:"), mebibytes("VmHWM:"))
}

/// Bytes that went over the loopback of this namespace.
fn carried() -> u64 {
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn of(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

async fn measure(kind: StoreKind, config: AgentConfig) {
    let (store, _) = StoreNode::start(kind, "scale").await;
    let endpoint = format!("http://{}", store.address());
    println!("{kind:?}: {} agents with {ENDPOINTS} endpoints each", agents());
    let (began, busy) = (Instant::now(), used(store.pid()));
    let (mut joining, mut members) = (JoinSet::new(), Vec::new());
    let mut waiting = 0..agents();
    loop {
        while joining.len() < AT_ONCE {
            let Some(number) = waiting.next() else { break };
            let mut member = Member::new(number, &endpoint);
            joining.spawn(async move {
                member.settle().await;
                member
            });
        }
        let Some(member) = joining.join_next().await else { break };
        members.push(member.unwrap());
    }
    let now = used(store.pid());
    let (time, processor) = (began.elapsed().as_secs_f64(), now.0 - busy.0);
    println!("  all published: {time:.1} s, {processor:.1} s of the store's processor; {} MiB resident", now.1);

    let (began, busy, bytes) = (Instant::now(), used(store.pid()), carried());
    let listing = members[0].store.get(&members[0].keys.all(), None).await.unwrap();
    let (time, processor) = (began.elapsed().as_millis(), used(store.pid()).0 - busy.0);
    let (rows, mebibytes) = (listing.rows.len(), (carried() - bytes) >> 20);
    println!("  a listing: {rows} rows, {mebibytes} MiB, {time} ms, {processor:.2} s of the store's processor");

    let (heard, mut hears) = mpsc::unbounded_channel();
    let mut adds = BTreeMap::new();
    let mut following = JoinSet::new();
    for member in members {
        let watch = member.store.watch(member.keys.all(), listing.revision + 1);
        let (add, told) = mpsc::channel(1);
        adds.insert(member.number, add);
        following.spawn(member.follow(watch, told, heard.clone()));
    }
    let count = adds.len();
    // Until all watch: each hears of the first.
    adds[&0].send(0).await.unwrap();
    for _ in 0..count {
        hears.recv().await.unwrap();
    }

    let (began, busy, bytes) = (Instant::now(), used(store.pid()), carried());
    tokio::time::sleep(IDLE).await;
    let seconds = began.elapsed().as_secs_f64();
    let (idle, idle_bytes) = ((used(store.pid()).0 - busy.0) / seconds, (carried() - bytes) as f64 / seconds);
    println!(
        "  at rest: {:.1} % of a processor, {:.0} KiB/s, {} MiB",
        idle * 100.0,
        idle_bytes / 1024.0,
        used(store.pid()).1
    );

    let (mut each, mut all) = (Vec::new(), Vec::new());
    let (began, busy, bytes) = (Instant::now(), used(store.pid()), carried());
    for change in 1..=CHANGES {
        let sent = Instant::now();
        adds[&((change as u32 * 7) % agents())].send(change as u32).await.unwrap();
        let mut last = sent;
        for _ in 0..count {
            last = hears.recv().await.unwrap();
            each.push(last - sent);
        }
        all.push(last - sent);
    }
    let seconds = began.elapsed().as_secs_f64();
    let processor = (used(store.pid()).0 - busy.0 - idle * seconds) / CHANGES as f64;
    let bytes = ((carried() - bytes) as f64 - idle_bytes * seconds) / (CHANGES * count) as f64;
    println!("  a new endpoint is known to an agent: p50 {:?}, p99 {:?}", of(&mut each, 50), of(&mut each, 99));
    println!("  to all {count}: p50 {:?}, p99 {:?}", of(&mut all, 50), of(&mut all, 99));
    println!("  a change: {:.1} ms of the store's processor, {bytes:.0} bytes to each agent", processor * 1e3);

    let (began, busy) = (Instant::now(), used(store.pid()));
    for agent in 0..BURST as u32 {
        adds[&(agent * agents() / BURST as u32)].send(250).await.unwrap();
    }
    for _ in 0..count * BURST {
        hears.recv().await.unwrap();
    }
    let (time, now) = (began.elapsed(), used(store.pid()));
    println!("  {BURST} changes at once are known to all: {time:?}, {:.1} s of the store's processor", now.0 - busy.0);
    println!("  the store: {} MiB resident, {} MiB at most", now.1, now.2);
    one_agent(&endpoint, config, &adds, &mut hears).await;
}

/// A real agent that comes to the cluster.
async fn one_agent(
    endpoint: &str,
    mut config: AgentConfig,
    adds: &BTreeMap<u32, mpsc::Sender<u32>>,
    hears: &mut mpsc::UnboundedReceiver<Instant>,
) {
    let mut control = Control::new(vec![endpoint.to_owned()]);
    control.prefix = unspanned("/weft".to_owned());
    config.file.control = Some(control);
    let (began, count) = (Instant::now(), adds.len());
    // Here, for it ends with the thread that starts it.
    let agent = config.start();
    let (ready, alone) = (began.elapsed(), used(agent.pid()).1);
    let agent = tokio::task::spawn_blocking(move || {
        while agent.vteps().len() < count {
            std::thread::sleep(LOOK);
        }
        agent
    });
    let agent = agent.await.unwrap();
    let (seconds, now, most) = used(agent.pid());
    println!(
        "  an agent starts: ready after {ready:?}, knows all after {:?}, {seconds:.2} s of processor",
        began.elapsed()
    );
    println!("  its memory: {alone} MiB when it was ready, {now} MiB resident, {most} MiB at most");
    // What its probes take, in as long as the changes are given.
    let before = used(agent.pid()).0;
    tokio::time::sleep(AFTERWARDS).await;
    let probes = used(agent.pid()).0 - before;
    let before = used(agent.pid()).0;
    for change in 0..AGENT_CHANGES {
        adds[&change].send(251).await.unwrap();
        for _ in 0..count {
            hears.recv().await.unwrap();
        }
    }
    tokio::time::sleep(AFTERWARDS).await;
    let (after, now, most) = used(agent.pid());
    let changes = after - before - probes;
    println!("  {AGENT_CHANGES} changes cost it {changes:.2} s of processor; {now} MiB resident, {most} MiB at most");
    agent.kill();
}

fn main() {
    // `cargo test` runs benches to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") || unmet("scale", &[Requirement::Root]) {
        return;
    }
    let wanted = std::env::args().nth(1).filter(|word| !word.starts_with('-'));
    let kinds = [("weft", StoreKind::WeftSynced), ("etcd", StoreKind::EtcdSynced)];
    for (name, kind) in kinds {
        if wanted.as_ref().is_some_and(|wanted| wanted != name)
            || kind.is_etcd() && unmet("scale", &[Requirement::Tool("etcd")])
        {
            continue;
        }
        let site = Site::new("scale");
        let [node, router] = site.pair();
        node.ip("link set lo up");
        node.ip(&format!("route add 10.0.0.0/8 via {}", router.address(Family::Ipv4)));
        let config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(VNI);
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(measure(kind, config));
        };
        node.netns().run(run).unwrap();
    }
}
