use std::sync::atomic::{AtomicBool, Ordering};

use weft_bridge::tables::{DomainOptions, Port, PortMode};
use weft_bridge::{Attachment, Tables};
use weft_encap::{MacAddr, Vni};

use super::{LinkTotals, Totals, WorkerCounters, WorkerTotals};

const READS: usize = 2_000;

#[test]
fn a_reader_never_sees_half_a_turn() {
    let counters = WorkerCounters::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                counters.begin_turn();
                counters.frames_in.add(1);
                counters.unicast.add(1);
                // The copies of a turn are settled by its last action.
                counters.copies.add(1);
                (0..100).for_each(|_| std::hint::spin_loop());
                counters.sent.add(1);
                counters.end_turn();
                (0..100).for_each(|_| std::hint::spin_loop());
            }
        });
        let sums: Vec<_> = (0..READS).map(|_| Totals::sum(std::iter::once(&*counters))).collect();
        stop.store(true, Ordering::Relaxed);
        let whole = sums.iter().filter(|totals| totals.between_turns);
        assert!(whole.clone().count() > READS / 2, "{} of {READS} were whole", whole.count());
        whole.for_each(|totals| assert_eq!(totals.check(), Ok(())));
    });
}

#[test]
fn a_turn_that_does_not_end_is_said_to_be_one() {
    let counters = WorkerCounters::new();
    counters.begin_turn();
    counters.frames_in.add(1);
    let totals = Totals::sum(std::iter::once(&*counters));
    assert!(!totals.between_turns);
    assert_eq!(totals.frames_in, 1);
    counters.unicast.add(1);
    counters.end_turn();
    let totals = Totals::sum(std::iter::once(&*counters));
    assert!(totals.between_turns);
    assert_eq!(totals.check(), Ok(()));
}

#[test]
fn a_port_in_a_used_place_counts_from_zero() {
    let mut tables = Tables::new(Vec::new(), Vec::new());
    tables.add_domain(Vni::MAX, DomainOptions::default()).unwrap();
    let mode = PortMode::Learning { limit: 1 };
    let port = Port { name: "pod".to_owned(), vni: Vni::MAX, mac: MacAddr([2; 6]), mtu: 1450, mode };
    let first = tables.add_port(port.clone()).unwrap();
    tables.remove_port(first);
    let second = tables.add_port(port).unwrap();
    assert_eq!(first.index(), second.index());

    let counters = WorkerCounters::new();
    let seen = |id| LinkTotals::sum(counters.link(Attachment::Port(id)).into_iter()).rx_frames;
    counters.port(first).rx_frames.add(7);
    assert_eq!((seen(first), seen(second)), (7, 0));
    counters.port(second).rx_frames.add(2);
    assert_eq!((seen(first), seen(second)), (0, 2));
}

#[test]
fn turns_are_told_apart_by_the_frames_they_took_in() {
    let counters = WorkerCounters::new();
    for frames in [0, 1, 2, 3, 4, 128, 129, 3] {
        counters.begin_turn();
        counters.frames_in.add(frames);
        counters.end_turn();
    }
    let WorkerTotals { frames, batches, .. } = WorkerTotals::of(&counters);
    assert_eq!(frames, 270);
    assert_eq!(batches, [1, 1, 3, 0, 0, 0, 0, 1, 1]);
}
