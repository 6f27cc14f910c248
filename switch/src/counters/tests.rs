use std::sync::atomic::{AtomicBool, Ordering};

use super::{Totals, WorkerCounters};

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
