//! Instructions of the functions that each frame passes through, which no other work on the machine changes.
//!
//! `make instructions` runs it, and ends in failure where one takes more than it may: a tenth more than it took when that
//! was written down.
#![expect(clippy::unwrap_used, reason = "a bench may stop at what it did not expect")]
#![expect(unused_qualifications, missing_docs, reason = "the macros write them")]

mod frames;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::ops::Range;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use weft_bridge::tables::{DomainOptions, Port, PortMode};
use weft_bridge::{Fdb, Ingress, PortId, Seconds, Tables, Verdict, forward};
use weft_encap::{
    Checksum, Encapsulation, FlowHash, Inner, MacAddr, Merger, Offload, Splitter, Vni, checksum, merge, split,
};

use crate::frames::{segments, superframe, tcp4};

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn tunnel_packet() -> Vec<u8> {
    [Encapsulation::Vxlan.header(Vni::MAX).as_bytes(), &tcp4(64)].concat()
}

/// Two ports of one network; the second one has the frame's destination.
fn node() -> (Tables, Fdb, PortId, Vec<u8>) {
    let vni = Vni::MAX;
    let mut tables = Tables::new(vec![Ipv4Addr::new(192, 0, 2, 1).into()], vec![4789]);
    tables.add_domain(vni, DomainOptions::default()).unwrap();
    let mut frame = tcp4(64);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    let ids = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2; 6])].map(|mac| {
        let mode = PortMode::Bound { addresses: Vec::new() };
        tables.add_port(Port { name: mac.to_string(), vni, mac, mtu: 1450, mode }).unwrap()
    });
    (tables, Fdb::new(1024), ids[0], frame)
}

// What came in goes out again, so that freeing it does not count.

#[library_benchmark(config = at_most(270))]
#[bench::tcp4(tcp4(64))]
fn parse_and_hash(frame: Vec<u8>) -> (Option<usize>, Vec<u8>) {
    (Inner::parse(black_box(&frame)).ok().map(|inner| FlowHash::of(&inner).index(16)), frame)
}

#[library_benchmark(config = at_most(32))]
#[bench::vxlan(tunnel_packet())]
fn decap(packet: Vec<u8>) -> (usize, Vec<u8>) {
    (Encapsulation::Vxlan.decap(black_box(&packet)).map_or(0, |(_, inner)| inner.len()), packet)
}

type Node = (Tables, Fdb, PortId, Vec<u8>);

#[library_benchmark(config = at_most(900))]
#[bench::known_unicast(node())]
fn parse_and_decide((tables, fdb, port, frame): Node) -> (bool, Node) {
    let inner = Inner::parse(black_box(&frame));
    let decision = forward(&tables, &fdb, Seconds(1), Ingress::Port(port), &inner, Ok(Offload::NONE));
    (matches!(decision.verdict, Verdict::Unicast(_)), (tables, fdb, port, frame))
}

#[library_benchmark(config = at_most(760))]
#[bench::bytes_1450(vec![7; 1450])]
fn sum(bytes: Vec<u8>) -> (u16, Vec<u8>) {
    (checksum::finish(checksum::sum(black_box(&bytes))), bytes)
}

#[library_benchmark(config = at_most(29_000))]
#[bench::segments_44(superframe())]
fn split_superframe((frame, offload): (Vec<u8>, Offload)) -> (usize, Vec<u8>) {
    let mut headers = [0; split::MAX_HEADER_LEN];
    let mut splitter = Splitter::new(black_box(&frame), &offload).unwrap();
    let mut payload = 0;
    while let Some(range) = splitter.next_segment(&mut headers) {
        payload += range.len();
        black_box(&mut headers);
    }
    (payload, frame)
}

type Segments = (Merger, (Vec<u8>, Vec<Range<usize>>));

#[library_benchmark(config = at_most(13_000))]
#[bench::segments_44((Merger::with_capacity(128), segments()))]
fn merge_vouched((mut merger, (arena, ranges)): Segments) -> (usize, Segments) {
    let mut headers = [0; merge::MAX_HEADER_LEN];
    for range in &ranges {
        let _ = merger.push(black_box(&arena), range.clone(), 1, Offload { checksum: Checksum::Valid, gso: None });
    }
    let pieces = merger.groups().map(|group| {
        black_box(group.finish(&arena, &mut headers));
        group.pieces().count()
    });
    (pieces.sum(), (merger, (arena, ranges)))
}

library_benchmark_group!(
    name = hot,
    benchmarks = [parse_and_hash, decap, parse_and_decide, sum, split_superframe, merge_vouched]
);
main!(library_benchmark_groups = hot);
