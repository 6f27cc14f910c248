//! What the stores do in a second, and what they need for it: `weft store` with and without `fsync`, and etcd where it
//! is installed. `cargo bench -p weft-integration --bench store`, after
//! `cargo build --release -p weft`.
#![expect(clippy::unwrap_used, reason = "a measurement whose set-up fails has failed")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_integration::{Requirement, StoreClients, StoreKind, StoreNode, unmet};
use weft_store::KeyRange;
use weft_store::client::{Access, Store};
use weft_store::proto::etcdserverpb::{CompactionRequest, PutRequest};

/// How long writers write.
const SPAN: Duration = Duration::from_secs(3);
/// Rows of an endpoint are about so long.
const VALUE: usize = 200; // bytes
const WATCHERS: usize = 1000;
const ROUNDS: usize = 30;
const KEYS: usize = 100_000;
/// Requests on their way at once, while the store is filled.
const FILLERS: usize = 64;

fn request(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![b'v'; VALUE].into(), ..PutRequest::default() }
}

/// Writes by so many clients, each with a connection of its own: a second's number, and the median and the 99th
/// percentile of their times.
async fn puts(node: &StoreNode, clients: usize) -> (f64, [Duration; 2]) {
    let mut writers = tokio::task::JoinSet::new();
    let began = Instant::now();
    for writer in 0..clients {
        let mut store = StoreClients::connect(node.address()).await.unwrap();
        writers.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < SPAN {
                let sent = Instant::now();
                store.kv.put(request(&format!("put/{writer}/{}", times.len() % 100))).await.unwrap();
                times.push(sent.elapsed());
            }
            times
        });
    }
    let mut times = writers.join_all().await.concat();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, [times[times.len() / 2], times[times.len() * 99 / 100]])
}

/// From a write to the first and the last of all watchers that hear of it; medians.
async fn fan_out(node: &StoreNode) -> [Duration; 2] {
    let store = || Store::new(Access::plain(format!("http://{}", node.address()))).unwrap();
    let writer = store();
    let first = writer.put("watched".into(), Bytes::new(), None).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut watchers = tokio::task::JoinSet::new();
    // As agents do: each node has one connection; a hundred of them are enough to have many.
    let connections: Vec<Store> = (0..100).map(|_| store()).collect();
    for number in 0..WATCHERS {
        let mut watch = connections[number % connections.len()].watch(KeyRange::prefix("watched"), first);
        let tell = tell.clone();
        watchers.spawn(async move {
            while let Ok(batch) = watch.next().await {
                if !batch.events.is_empty() && tell.send(batch.revision).is_err() {
                    break;
                }
            }
        });
    }
    for _ in 0..WATCHERS {
        assert_eq!(told.recv().await, Some(first));
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let store = writer.clone();
        let written = tokio::spawn(async move { store.put("watched".into(), Bytes::new(), None).await });
        for number in 0..WATCHERS {
            told.recv().await.unwrap();
            if number == 0 {
                times[0].push(began.elapsed());
            }
        }
        times[1].push(began.elapsed());
        written.await.unwrap().unwrap();
    }
    watchers.abort_all();
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn resident(node: &StoreNode) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Memory in MiB before and after so many keys, the size of the file in MiB, and the times of a listing of all, of a
/// compaction that removes as many versions, and of a start.
async fn fill(node: &mut StoreNode, clients: &StoreClients) {
    let before = resident(node);
    for round in 0..2 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..FILLERS {
            let mut clients = clients.clone();
            writers.spawn(async move {
                for number in (writer..KEYS).step_by(FILLERS) {
                    clients.kv.put(request(&format!("endpoint/{number:06}"))).await.unwrap();
                }
            });
        }
        writers.join_all().await;
        println!("  {} versions of {KEYS} keys: {} MiB resident, {before} before", KEYS * (round + 1), resident(node));
    }
    let store = Store::new(Access::plain(format!("http://{}", node.address()))).unwrap();
    let began = Instant::now();
    let listing = store.get(&KeyRange::prefix("endpoint/"), None).await.unwrap();
    assert_eq!(listing.rows.len(), KEYS);
    println!("  listing of all: {:?}", began.elapsed());
    let began = Instant::now();
    let compact = CompactionRequest { revision: listing.revision, physical: true };
    clients.clone().kv.compact(compact).await.unwrap();
    println!("  compaction of half of it: {:?}; {} MiB resident", began.elapsed(), resident(node));
    node.kill();
    let began = Instant::now();
    node.run().await;
    println!("  start after kill -9: {:?}; {} MiB resident", began.elapsed(), resident(node));
}

fn main() {
    // `cargo test` runs benches to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kinds = [StoreKind::Weft, StoreKind::WeftSynced, StoreKind::Etcd, StoreKind::EtcdSynced];
    for kind in kinds {
        if kind.is_etcd() && unmet("store", &[Requirement::Tool("etcd")]) {
            continue;
        }
        runtime.block_on(async {
            let (mut node, store) = StoreNode::start(kind, "bench").await;
            println!("{kind:?}");
            for clients in [1, 64] {
                let (rate, [median, late]) = puts(&node, clients).await;
                println!("  {clients} clients: {rate:.0} puts/s; median {median:?}, 99 % within {late:?}");
            }
            let [first, last] = fan_out(&node).await;
            println!("  {WATCHERS} watchers: the first hears after {first:?}, the last after {last:?} (medians)");
            if !kind.is_synced() {
                fill(&mut node, &store).await;
            }
        });
    }
}
