//! How soon frames follow a pod that moves, from its new node's word to the first frame that arrives there.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use tokio::sync::mpsc;
use weft_control::cluster::record::{Attached, Node as NodeRecord, RECORD_VERSION, Receives, Standing};
use weft_control::cluster::{Keys, Membership, Own, OwnEndpoint, Step};
use weft_control::config::file::Control;
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_integration::{AgentConfig, BOUND, Capture, Child, Family, PacketSocket, eventually, site, weft};
use weft_store::client::{Access, Lease, Store};

const PORT: u16 = 2379;
/// How often the pod moves.
const MOVES: usize = 200;
/// Between two frames to it.
const PAUSE: Duration = Duration::from_millis(1);
/// Within which frames have to follow 99 of 100 moves.
const FOLLOWED_WITHIN: Duration = Duration::from_millis(200);
const POD: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);
const VXLAN: u16 = 4789;

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

/// A node that has no data plane: what it publishes is what an agent would.
struct Word {
    membership: Membership,
    store: Store,
    lease: Option<Lease>,
}

impl Word {
    fn new(number: u8, store: Store) -> Self {
        let node = NodeRecord {
            version: RECORD_VERSION,
            name: format!("n{number}"),
            instance: format!("instance {number}"),
            incarnation: 0,
            epoch: 0,
            standing: Standing::Joining,
            addresses: vec![IpAddr::from([192, 0, 2, number])],
            receives: vec![Receives { encapsulation: Encapsulation::Vxlan, udp_port: VXLAN }],
            underlay_mtu: 1500,
            vnis: vec![vni()],
            pod_ranges: Vec::new(),
            overlay_addresses: Vec::new(),
            capabilities: Vec::new(),
        };
        let own = Own { node, network: None, endpoints: BTreeMap::new() };
        Self { membership: Membership::new(Keys::new("/weft"), own), store, lease: None }
    }

    /// Publishes that the pod is here, or that it is not.
    async fn says(&mut self, here: bool) {
        let pod =
            OwnEndpoint { ips: vec![IpAddr::from([10, 7, 0, 9])], port: "pod".to_owned(), attached: Attached::Bound };
        self.membership.set_endpoints(here.then_some(((vni(), POD), pod)).into_iter().collect());
        loop {
            match self.membership.step() {
                Step::Rest => return,
                Step::Refused(holder) => panic!("{holder:?}"),
                Step::Lease => {
                    let lease = self.store.lease(60).await.unwrap();
                    self.membership.leased(lease.id());
                    self.lease = Some(lease);
                }
                Step::Read(operations) => {
                    let read = self.store.commit(&[], &operations, &[]).await.unwrap();
                    self.membership.read(read.revision, &read.rows);
                }
                Step::Write(conditions, operations) => {
                    let committed = self.store.commit(&conditions, &operations, &[]).await.unwrap();
                    self.membership.written(&committed);
                }
            }
        }
    }
}

/// Moves the pod to and fro, and returns how long frames took to follow, the shortest first.
async fn moves(endpoint: String, mut arrived: mpsc::UnboundedReceiver<(usize, Instant)>) -> Vec<Duration> {
    let store = Store::new(Access::plain(endpoint)).unwrap();
    let mut nodes = [Word::new(2, store.clone()), Word::new(3, store)];
    let mut times = Vec::new();
    for number in 0..=MOVES {
        let place = number % 2;
        let start = Instant::now();
        nodes[place].says(true).await;
        let follow = async {
            loop {
                let (at, when) = arrived.recv().await.unwrap();
                if at == place && when >= start {
                    return when - start;
                }
            }
        };
        times.push(tokio::time::timeout(BOUND, follow).await.expect("frames follow the pod"));
        nodes[1 - place].says(false).await;
    }
    // The first time it comes, and moves from nowhere.
    times.remove(0);
    times.sort();
    times
}

#[test]
fn frames_follow_a_pod_that_moves() {
    let site = site!();
    let nodes = site.nodes::<3>();
    let pod = site.host("a");
    let address = format!("{}:{PORT}", nodes[0].address(Family::Ipv4));
    let (program, data) = (weft(), site.directory().join("store"));
    let words = [program.to_str().unwrap(), "store", "--listen", &address, "--data", data.to_str().unwrap()];
    let mut command = nodes[0].command(&words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _store = Child::spawn(command);
    let mut config = AgentConfig::new(&site, &nodes[0], &[Family::Ipv4]).vni(7).port(&pod, 7, &["10.7.0.1/24"]);
    config.file.control = Some(Control::new(vec![format!("http://{address}")]));
    let agent = config.start();
    eventually("the agent is in its store", || {
        let control = agent.status().control.unwrap();
        if control.state == "connected" { Ok(()) } else { Err(format!("{control:?}")) }
    });
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(pod.mac("eth0").0, POD.0).ipv4([10, 7, 0, 1], [10, 7, 0, 9], 64);
    builder.udp(1000, 2000).write(&mut frame, b"to the pod, wherever it is").unwrap();
    // Each frame tells where the pod was; of those in a row that say the same, the first does.
    let (sender, arrived) = mpsc::unbounded_channel();
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    let captures: Vec<Capture> = (0..2)
        .map(|place| {
            let (sender, last, frame) = (sender.clone(), last.clone(), frame.clone());
            Capture::start_where(&nodes[place + 1], "eth0", move |packet| {
                if packet.ends_with(&frame) && last.swap(place, Ordering::Relaxed) != place {
                    let _ = sender.send((place, Instant::now()));
                }
                false
            })
        })
        .collect();
    let over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = PacketSocket::open(&pod, "eth0");
            while !over.load(Ordering::Relaxed) {
                socket.send(&frame);
                std::thread::sleep(PAUSE);
            }
        });
        let moved = nodes[0].netns().run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(moves(format!("http://{address}"), arrived))
        });
        over.store(true, Ordering::Relaxed);
        moved.unwrap()
    });
    drop(captures);
    let [half, most, longest] = [MOVES / 2, MOVES * 99 / 100, MOVES - 1].map(|place| times[place]);
    println!("{MOVES} moves: frames follow within {half:?} (p50), {most:?} (p99), {longest:?} (longest)");
    assert!(most < FOLLOWED_WITHIN, "p99 is {most:?}");
    assert_eq!(agent.status().law_broken, None);
}
