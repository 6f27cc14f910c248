//! The functions of weft-encap that each frame passes through.

mod frames;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_encap::outer::{Addresses, MAX_LEN, UdpChecksum};
use weft_encap::recover::recover_offload;
use weft_encap::{
    Checksum, Encapsulation, FlowHash, Inner, Merger, Offload, Outer, Splitter, Vni, checksum, merge, split,
};

use crate::frames::{SEGMENT, TCP4_HEADERS, segments, superframe, tcp4, udp6};

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    for (name, frame) in [("tcp4", tcp4(64)), ("udp6", udp6())] {
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("parse {name}"), |bench| bench.iter(|| Inner::parse(black_box(&frame))));
        group.bench_function(format!("parse and hash {name}"), |bench| {
            bench.iter(|| Inner::parse(black_box(&frame)).map(|inner| FlowHash::of(&inner).index(16)));
        });
        if let Ok(inner) = Inner::parse(&frame) {
            group.bench_function(format!("flow hash {name}"), |bench| {
                bench.iter(|| FlowHash::of(black_box(&inner)).index(black_box(16)));
            });
            group.bench_function(format!("recover offload {name}"), |bench| {
                bench.iter(|| recover_offload(black_box(&inner), 1450));
            });
        }
    }
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let packet = [encapsulation.header(Vni::MAX).as_bytes(), &tcp4(64)].concat();
        let mut room = vec![0; 128];
        group.throughput(Throughput::Bytes(packet.len() as u64));
        group.bench_function(format!("push {encapsulation}"), |bench| {
            bench.iter(|| {
                let header = encapsulation.header(black_box(Vni::MAX));
                black_box(&mut room)[..header.len()].copy_from_slice(&header);
            });
        });
        group.bench_function(format!("decap {encapsulation}"), |bench| {
            bench.iter(|| encapsulation.decap(black_box(&packet)));
        });
    }
    let outer = Outer {
        addresses: Addresses::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into() },
        src_port: 50_000,
        dst_port: 4789,
        tos: 0,
        ttl: 64,
        identification: 0,
    };
    let mut room = [0; MAX_LEN];
    group.throughput(Throughput::Bytes(outer.header_len() as u64));
    group.bench_function("write outer v4", |bench| {
        bench.iter(|| outer.write(black_box(&mut room), black_box(1458), UdpChecksum::Partial));
    });
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [64, 1450, 65_000] {
        let bytes: Vec<u8> = (0..len).map(|byte: usize| byte.to_le_bytes()[0]).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |bench| bench.iter(|| checksum::sum(black_box(&bytes))));
    }
    for payload in [64, usize::from(SEGMENT)] {
        let frame = tcp4(payload);
        let mut room = frame.clone();
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("complete tcp4 {payload}"), |bench| {
            bench.iter(|| {
                // The field as it was: what is filled once must not be filled again.
                room[50..52].copy_from_slice(&frame[50..52]);
                checksum::complete(black_box(&mut room), 34, 16)
            });
        });
    }
    group.finish();
}

fn superframes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("superframe");
    let (frame, offload) = superframe();
    group.throughput(Throughput::Bytes((frame.len() - TCP4_HEADERS) as u64));
    group.bench_function("split 44 segments", |bench| {
        let mut headers = [0; split::MAX_HEADER_LEN];
        bench.iter(|| {
            let mut splitter = Splitter::new(black_box(&frame), &offload).ok()?;
            let mut payload = 0;
            while let Some(range) = splitter.next_segment(&mut headers) {
                payload += range.len();
                black_box(&mut headers);
            }
            Some(payload)
        });
    });
    let (arena, ranges) = segments();
    for (name, offload) in
        [("merge 44 segments", Offload::NONE), ("merge 44 vouched", Offload { checksum: Checksum::Valid, gso: None })]
    {
        group.bench_function(name, |bench| {
            let mut merger = Merger::with_capacity(128);
            let mut headers = [0; merge::MAX_HEADER_LEN];
            bench.iter(|| {
                merger.clear();
                for range in &ranges {
                    let _ = merger.push(black_box(&arena), range.clone(), 1, offload);
                }
                for group in merger.groups() {
                    black_box(group.finish(&arena, &mut headers));
                    black_box(group.pieces().count());
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, headers, checksums, superframes);
criterion_main!(benches);
