//! What a frame costs as tables, peers and ports grow: a lookup by itself, and the whole way through a switch in memory.
//!
//! Before the benchmarks it says how much memory an entry takes.

#![expect(clippy::unwrap_used, reason = "a bench may stop at what it did not expect")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{Attachment, DomainId, Fdb, Learn, PortId, Seconds, Tables, VtepId};
use weft_encap::{Encapsulation, MacAddr, Offload, Vni, checksum};
use weft_switch::memory::{MemoryPort, MemorySwitch};

const ENTRIES: [u32; 3] = [1_000, 100_000, 1_000_000];
const PEERS: [u32; 3] = [2, 200, 5_000];
const PORTS: [u32; 3] = [1, 16, 100];
/// Frames of one measurement.
const FRAMES: u32 = 1024;
/// Peers that are sent to, however many there are.
const BUSY_PEERS: u32 = 2;
const NOW: Seconds = Seconds(1);
const SENDER: u64 = 0x0200_0001_0000;
const REMOTE: u64 = 0x0200_0100_0000;

fn mac(base: u64, number: u32) -> MacAddr {
    MacAddr::from_u64(base + u64::from(number))
}

/// Steps over all numbers below `count` in an order that no prefetcher knows.
fn scattered(step: u32, count: u32) -> u32 {
    (u64::from(step).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % count
}

struct Network {
    tables: Tables,
    domain: DomainId,
    ports: Vec<PortId>,
    peers: Vec<VtepId>,
}

/// One virtual network with so many ports and peers, and MACs published behind the first peers.
fn network(ports: u32, peers: u32, macs: u32) -> Network {
    let vni = Vni::new(7).unwrap();
    let mut tables = Tables::new(vec![Ipv4Addr::new(192, 0, 2, 1).into()], vec![4789]);
    let domain = tables.add_domain(vni, DomainOptions::default()).unwrap();
    let port = |number: u32| Port {
        name: format!("pod{number}"),
        vni,
        mac: mac(SENDER, number),
        mtu: 1450,
        mode: PortMode::Bound { addresses: Vec::new() },
    };
    let ports = (0..ports).map(|number| tables.add_port(port(number)).unwrap()).collect();
    let vtep = |number: u32| Vtep {
        address: IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)),
        udp_port: 4789,
        encapsulation: Encapsulation::Vxlan,
        kind: VtepKind::Managed,
        pod_mtu: 1450,
    };
    let peers: Vec<_> = (0..peers).map(|number| tables.add_vtep(vtep(number), &[vni]).unwrap()).collect();
    for number in 0..macs {
        let peer = peers[(number % BUSY_PEERS) as usize];
        tables.bind_mac(vni, mac(REMOTE, number), peer, false).unwrap();
    }
    Network { tables, domain, ports, peers }
}

/// A table that has learned so many.
fn learned(network: &Network, entries: u32) -> Fdb {
    let fdb = Fdb::new(entries.next_power_of_two());
    for number in 0..entries {
        let attachment = Attachment::Vtep(network.peers[(number % BUSY_PEERS) as usize]);
        let learn = Learn { domain: network.domain, mac: mac(REMOTE, number), attachment, limit: u32::MAX };
        fdb.learn(&learn, NOW);
    }
    fdb
}

/// A UDP frame over IPv4.
fn frame(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    frame.extend([8, 0, 0x45, 0, 0, 92, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let header = checksum::finish(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame.extend([0x9c, 0x40, 0x14, 0x51, 0, 72, 0, 0]);
    frame.resize(106, 1);
    frame
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * rustix::param::page_size()
}

fn memory() {
    let few = network(1, BUSY_PEERS, 0);
    for entries in ENTRIES.into_iter().skip(1) {
        let before = resident();
        let fdb = learned(&few, entries);
        let between = resident();
        let many = network(1, BUSY_PEERS, entries);
        let after = resident();
        println!(
            "{entries} entries: {} bytes for a learned MAC ({} of them), {} for a published one",
            between.saturating_sub(before) / entries as usize,
            fdb.len(),
            after.saturating_sub(between) / entries as usize,
        );
        drop(many);
    }
}

fn lookups(criterion: &mut Criterion) {
    memory();
    let mut group = criterion.benchmark_group("lookup");
    for entries in ENTRIES {
        let (few, many) = (network(1, BUSY_PEERS, 0), network(1, BUSY_PEERS, entries));
        let fdb = learned(&few, entries);
        let mut step = 0;
        group.bench_function(format!("learned, {entries} entries"), |bench| {
            bench.iter(|| {
                step += 1;
                fdb.lookup(few.domain, black_box(mac(REMOTE, scattered(step, entries))))
            });
        });
        let domain = many.tables.domain_by_id(many.domain).unwrap();
        group.bench_function(format!("published, {entries} entries"), |bench| {
            bench.iter(|| {
                step += 1;
                domain.static_mac(black_box(mac(REMOTE, scattered(step, entries))))
            });
        });
    }
    group.finish();
}

/// Frames from all ports by turns, to a few MACs, through a switch with so many of everything.
fn pass(criterion: &mut Criterion, what: &str, sizes: (u32, u32, u32)) {
    let (ports, peers, macs) = sizes;
    let Network { tables, ports: ids, .. } = network(ports, peers, macs);
    let mut switch = MemorySwitch::new(tables, 1024);
    let pods: Vec<MemoryPort> = ids.into_iter().map(|id| switch.attach(id)).collect();
    let mut group = criterion.benchmark_group("switch");
    group.throughput(Throughput::Elements(u64::from(FRAMES)));
    group.bench_function(what, |bench| {
        bench.iter_custom(|rounds| {
            let mut taken = Duration::ZERO;
            for _ in 0..rounds {
                for number in 0..FRAMES {
                    let sender = number % ports;
                    let bytes = frame(mac(SENDER, sender), mac(REMOTE, scattered(number, 64)));
                    pods[sender as usize].pod_sends(bytes, Ok(Offload::NONE));
                }
                let began = Instant::now();
                switch.run(NOW);
                taken += began.elapsed();
                drop(black_box(switch.underlay().sent()));
            }
            taken
        });
    });
    group.finish();
}

fn growth(criterion: &mut Criterion) {
    for entries in ENTRIES {
        pass(criterion, &format!("{entries} published MACs"), (1, BUSY_PEERS, entries));
    }
    for peers in PEERS {
        pass(criterion, &format!("{peers} peers"), (1, peers, 64));
    }
    for ports in PORTS {
        pass(criterion, &format!("{ports} pods"), (ports, BUSY_PEERS, 64));
    }
}

criterion_group!(benches, lookups, growth);
criterion_main!(benches);
