//! What holds in every interleaving of two threads that loom can make with a few preemptions.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p weft-bridge --release --lib fdb`.

use super::*;
use crate::id::{PortId, Slab};
use loom::sync::Arc;
use loom::thread;

/// Times that a thread is interrupted at most: enough for every order of three accesses, and it keeps a
/// model to seconds.
const PREEMPTIONS: usize = 3;
/// Accesses of all threads in one run at most.
const MAX_STEPS: usize = 10_000;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = MAX_STEPS;
    builder.check(model);
}

fn ports() -> [Attachment; 2] {
    let mut slab = Slab::with_capacity(2);
    let (a, b): (PortId, PortId) = (slab.insert(()).unwrap(), slab.insert(()).unwrap());
    [Attachment::Port(a), Attachment::Port(b)]
}

fn table() -> Arc<Fdb> {
    Arc::new(Fdb::with_limits(2, 2, 2))
}

fn learn(mac: u64, attachment: Attachment) -> Learn {
    Learn { domain: DomainId(0), mac: MacAddr::from_u64(mac), attachment, limit: u32::MAX }
}

fn seen(fdb: &Fdb, mac: u64) -> Option<Attachment> {
    fdb.lookup(DomainId(0), MacAddr::from_u64(mac)).map(|entry| entry.attachment)
}

/// A MAC that takes the slot which `mac` leaves in an otherwise empty table.
fn successor(fdb: &Fdb, mac: u64) -> u64 {
    let first = |mac| std::ptr::from_ref(fdb.buckets_of(key(DomainId(0), MacAddr::from_u64(mac)))[0]);
    (mac + 1..).find(|other| first(*other) == first(mac)).unwrap()
}

/// Whether the counters say what the slots hold, once all threads have ended.
fn assert_counted(fdb: &Fdb) {
    let rows: Vec<_> = fdb.rows(Seconds(0)).collect();
    assert_eq!(fdb.len() as usize, rows.len());
    for attachment in ports() {
        let behind = rows.iter().filter(|row| row.attachment == attachment).count();
        assert_eq!(fdb.len_behind(attachment) as usize, behind);
    }
}

#[test]
fn a_reader_never_sees_another_keys_attachment() {
    check(|| {
        let [a, b] = ports();
        let fdb = table();
        let next = successor(&fdb, 1);
        fdb.learn(&learn(1, a), Seconds(0));
        let writer = {
            let fdb = fdb.clone();
            thread::spawn(move || {
                fdb.purge(a);
                fdb.learn(&learn(next, b), Seconds(1));
            })
        };
        assert!(seen(&fdb, 1).is_none_or(|attachment| attachment == a));
        assert!(seen(&fdb, next).is_none_or(|attachment| attachment == b));
        writer.join().unwrap();
        assert_eq!((seen(&fdb, 1), seen(&fdb, next)), (None, Some(b)));
        assert_counted(&fdb);
    });
}

#[test]
fn two_learners_never_make_two_entries() {
    check(|| {
        let [a, b] = ports();
        let fdb = table();
        let other = {
            let fdb = fdb.clone();
            thread::spawn(move || fdb.learn(&learn(1, b), Seconds(0)))
        };
        let mine = fdb.learn(&learn(1, a), Seconds(0));
        let theirs = other.join().unwrap();
        assert!(mine != Learned::Busy || theirs != Learned::Busy);
        assert_eq!(fdb.len(), 1);
        assert_counted(&fdb);
    });
}

#[test]
fn what_was_stamped_is_not_swept() {
    check(|| {
        let [a, _] = ports();
        let fdb = table();
        fdb.learn(&learn(1, a), Seconds(0));
        let sweeper = {
            let fdb = fdb.clone();
            thread::spawn(move || fdb.sweep(Seconds(400), 300))
        };
        let outcome = fdb.learn(&learn(1, a), Seconds(400));
        sweeper.join().unwrap();
        assert!(outcome == Learned::Busy || seen(&fdb, 1).is_some(), "{outcome:?}, and gone");
        assert_counted(&fdb);
    });
}

#[test]
fn a_stamp_never_reaches_the_successor_of_its_entry() {
    check(|| {
        let [a, b] = ports();
        let fdb = table();
        let next = successor(&fdb, 1);
        fdb.learn(&learn(1, a), Seconds(0));
        let writer = {
            let fdb = fdb.clone();
            thread::spawn(move || {
                fdb.purge(a);
                fdb.learn(&learn(next, b), Seconds(1));
            })
        };
        fdb.learn(&learn(1, a), Seconds(2));
        writer.join().unwrap();
        assert!(seen(&fdb, next).is_none_or(|attachment| attachment == b));
        assert!(seen(&fdb, 1).is_none_or(|attachment| attachment == a));
        assert_counted(&fdb);
    });
}

#[test]
fn a_move_and_a_stamp_leave_one_owner() {
    check(|| {
        let [a, b] = ports();
        let fdb = table();
        fdb.learn(&learn(1, a), Seconds(0));
        let mover = {
            let fdb = fdb.clone();
            thread::spawn(move || fdb.learn(&learn(1, b), Seconds(1)))
        };
        fdb.learn(&learn(1, a), Seconds(1));
        let moved = mover.join().unwrap();
        let owner = seen(&fdb, 1);
        assert!(owner == Some(a) || owner == Some(b) && moved == Learned::Moved, "{owner:?} after {moved:?}");
        assert_counted(&fdb);
    });
}
