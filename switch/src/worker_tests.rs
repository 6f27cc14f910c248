//! A busy worker allocates nothing: traffic both ways, learning, flooding, splitting, fragmenting, answering and merging.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_bridge::tables::{DomainOptions, Port as PortRow, PortMode, Vtep, VtepKind};
use weft_bridge::{DropReason, Fdb, PortId, Seconds, Tables};
use weft_encap::{Checksum, Encapsulation, Gso, GsoKind, MacAddr, Offload, Vni};

use crate::counters::{Totals, WorkerCounters};
use crate::gather::{Buffers, Piece};
use crate::port::{Port, PortFrame, TapOffloads, Unsent};
use crate::underlay::{Datagram, Form, Lane, Outcome, ReceiveCounts, Underlay};
use crate::worker::{Shared, Worker};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Gives the same frames at every turn and counts what it is given.
struct Replay {
    frames: Vec<(Vec<u8>, Offload)>,
    written: usize,
}

impl Port for Replay {
    fn recv(&mut self, arena: &mut [u8], frames: &mut Vec<PortFrame>, reads: &mut u64) -> io::Result<()> {
        let mut start = 0;
        for (bytes, offload) in &self.frames {
            let end = start + bytes.len();
            arena[start..end].copy_from_slice(bytes);
            frames.push(PortFrame { range: start..end, offload: Ok(*offload) });
            *reads += 1;
            start = end;
        }
        Ok(())
    }

    fn offloads(&self) -> TapOffloads {
        TapOffloads::ALL
    }

    fn send(&mut self, _: Offload, pieces: &[Piece], buffers: &Buffers<'_>) -> Result<(), Unsent> {
        self.written += pieces.iter().map(|piece| piece.bytes(buffers).len()).sum::<usize>();
        Ok(())
    }
}

/// Gives the same tunnel packets at every turn, each with another inner source.
struct Wire {
    source: IpAddr,
    payloads: Vec<Vec<u8>>,
    next_mac: u32,
    groups: usize,
}

impl Underlay for Wire {
    fn recv(
        &mut self,
        _: usize,
        arena: &mut [u8],
        datagrams: &mut Vec<Datagram>,
        _: &mut ReceiveCounts,
    ) -> io::Result<()> {
        let mut start = 0;
        for payload in &self.payloads {
            let end = start + payload.len();
            arena[start..end].copy_from_slice(payload);
            // Bytes 16 to 19: the end of the inner source MAC behind eight bytes of tunnel header.
            arena[start + 16..start + 20].copy_from_slice(&self.next_mac.to_be_bytes());
            let (source, encapsulation) = (self.source, Encapsulation::Vxlan);
            datagrams.push(Datagram {
                range: start..end,
                segment: payload.len(),
                source,
                source_port: 49_152,
                encapsulation,
                tos: 0,
                form: Form::Untold,
            });
            start = end;
        }
        self.next_mac += 1;
        Ok(())
    }

    fn send(&mut self, _: usize, queued: &Lane, _: &[u8], report: &mut dyn FnMut(usize, Outcome)) -> u64 {
        for place in 0..queued.groups().len() {
            report(place, Outcome::Sent);
            self.groups += 1;
        }
        1
    }
}

fn tcp_frame(dst: MacAddr, src: MacAddr, seq: u32, payload: usize) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(src.0, dst.0)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(4000, 5000, seq, 1000)
        .ack(7);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![7; payload]).unwrap();
    frame
}

#[test]
fn a_busy_worker_allocates_nothing() {
    let vni = Vni::new(100).unwrap();
    let (pod, other, far) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 9]));
    let peer: IpAddr = "192.0.2.2".parse().unwrap();
    let mut tables = Tables::new(vec!["192.0.2.1".parse().unwrap()], vec![4789]);
    tables.add_domain(vni, DomainOptions::default()).unwrap();
    let row = |name: &str, mac, mtu, mode| PortRow { name: name.to_owned(), vni, mac, mtu, mode };
    let bound: PortId = tables.add_port(row("a", pod, 1450, PortMode::Bound { addresses: Vec::new() })).unwrap();
    let learning = tables.add_port(row("b", other, 1300, PortMode::Learning { limit: 64 })).unwrap();
    let vtep = Vtep {
        address: peer,
        udp_port: 4789,
        encapsulation: Encapsulation::Vxlan,
        kind: VtepKind::Foreign,
        pod_mtu: 1450,
    };
    tables.add_vtep(vtep, &[vni]).unwrap();

    let needed = Checksum::Needed { start: 34, offset: 16 };
    let gso = Gso { kind: GsoKind::Tcp4, size: 1396, header_len: 54, ecn: false };
    let mut superframe = tcp_frame(far, pod, 1, 44 * 1396);
    superframe[16..18].copy_from_slice(&u16::try_from(44 * 1396 + 40).unwrap().to_be_bytes());
    // Too long for the other port, and DF clear.
    let mut to_be_cut = tcp_frame(other, pod, 9, 2 * 1396);
    to_be_cut[20] = 0;
    let frames = vec![
        (superframe, Offload { checksum: needed, gso: Some(gso) }),
        (to_be_cut, Offload { checksum: needed, gso: Some(gso) }),
        (tcp_frame(far, pod, 9, 100), Offload { checksum: needed, gso: None }),
        (tcp_frame(other, pod, 9, 100), Offload::NONE),
        (tcp_frame(MacAddr::BROADCAST, pod, 9, 20), Offload::NONE),
    ];
    let header = Encapsulation::Vxlan.header(vni);
    let from_far = (0..44_u32).map(|i| [header.as_bytes(), &tcp_frame(pod, far, i * 1000, 1000)].concat());
    let wire = Wire { source: peer, payloads: from_far.collect(), next_mac: 0x100, groups: 0 };

    let shared = Shared {
        tables: Arc::new(ArcSwap::from_pointee(tables)),
        fdb: Arc::new(Fdb::new(4096)),
        counters: Arc::new(WorkerCounters::new()),
        levels: Arc::default(),
        echoes: crossbeam_channel::bounded(1).0,
        revisions: crossbeam_channel::bounded(1).0,
    };
    let mut worker = Worker::new(shared.clone(), wire);
    worker.add_port(bound, Replay { frames, written: 0 });
    worker.add_port(learning, Replay { frames: Vec::new(), written: 0 });
    let mut busy = |now| {
        worker.turn_port(bound, Seconds(now));
        worker.turn_underlay(0, Seconds(now));
    };
    busy(1);
    let before = ALLOCATIONS.with(Cell::get);
    for now in 2..200 {
        busy(now);
    }
    let after = ALLOCATIONS.with(Cell::get);
    assert_eq!(after - before, 0, "allocations in 198 rounds");

    let totals = Totals::sum(std::iter::once(&**shared.counters));
    totals.check().unwrap();
    assert_eq!(totals.frames_in, 199 * (5 + 44));
    assert_eq!(totals.dropped_at(weft_bridge::Stage::Verdict), 0);
    // The first is flooded to the other port too, where its DF is set against it.
    assert_eq!(totals.dropped(DropReason::ExceedsPortMtu), 199);
    assert_eq!(totals.dropped_at(weft_bridge::Stage::Egress), 199);
    assert_eq!(totals.learned.iter().find(|(name, _)| *name == "learned").unwrap().1, 199);
    assert!(totals.port_writes < totals.frames_in / 4, "received segments were merged: {}", totals.port_writes);
}
