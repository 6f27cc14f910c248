//! What a trace costs a frame: without one, with one that matches nothing, and with one that tells of every frame.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft_bridge::tables::{DomainOptions, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{Seconds, Tables};
use weft_encap::{Encapsulation, MacAddr, Offload, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};
use weft_switch::trace::{Depth, Filter, Trace};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Frames of one turn.
const FRAMES: usize = 128;
const NOW: Seconds = Seconds(1);

/// A node with one pod; the pod that it sends to is behind a VTEP.
fn node() -> Option<(MemorySwitch, MemoryPort)> {
    let vni = Vni::new(100).ok()?;
    let mut tables = Tables::new(vec![IpAddr::from([192, 0, 2, 1])], vec![4789]);
    tables.add_domain(vni, DomainOptions::default()).ok()?;
    let mode = PortMode::Bound { addresses: vec![IpAddr::from([10, 0, 0, 1])] };
    let id = tables.add_port(Port { name: "a".to_owned(), vni, mac: MAC, mtu: 1450, mode }).ok()?;
    let (encapsulation, kind) = (Encapsulation::Vxlan, VtepKind::Managed);
    let address = IpAddr::from([192, 0, 2, 2]);
    let vtep = tables.add_vtep(Vtep { address, udp_port: 4789, encapsulation, kind, pod_mtu: 1450 }, &[vni]).ok()?;
    tables.bind_mac(vni, FAR, vtep, false).ok()?;
    let mut switch = MemorySwitch::new(tables, 64);
    let port = switch.attach(id);
    Some((switch, port))
}

/// A datagram of 64 bytes, Ethernet included.
fn datagram() -> Vec<u8> {
    let mut frame = [&FAR.0[..], &MAC.0, &[8, 0, 0x45, 0, 0, 50, 0, 1, 0x40, 0, 64, 17, 0, 0]].concat();
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 0x14, 0x51, 0, 30, 0, 0]);
    frame.resize(64, 7);
    frame
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn of 128 datagrams");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let other = Filter { vni: Vni::new(7).ok(), ..Filter::default() };
    for (name, filter) in
        [("no trace", None), ("matching nothing", Some(other)), ("every frame", Some(Filter::default()))]
    {
        let Some((mut switch, port)) = node() else { return };
        let trace: Option<Trace> = filter.and_then(|filter| switch.trace(&filter, Depth::Fates).ok());
        let fill = || {
            (0..FRAMES).for_each(|_| port.pod_sends(datagram(), Ok(Offload::NONE)));
            if let Some(trace) = &trace {
                black_box(trace.take(FRAMES));
            }
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                fill,
                |()| {
                    switch.run(NOW);
                    black_box(switch.underlay().sent())
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
