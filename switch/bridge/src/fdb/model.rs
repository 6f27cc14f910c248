use super::*;
use crate::id::{PortId, Slab};
use loom::sync::Arc;
use loom::thread;

fn ports() -> [Attachment; 2] {
    let mut slab = Slab::with_capacity(4);
    let (a, b): (PortId, PortId) = (slab.insert(()).unwrap(), slab.insert(()).unwrap());
    [Attachment::Port(a), Attachment::Port(b)]
}

fn learn(mac: u64, attachment: Attachment) -> Learn {
    Learn { domain: DomainId(0), mac: MacAddr::from_u64(mac), attachment, limit: u32::MAX }
}

#[test]
fn a_reader_never_sees_another_keys_attachment() {
    loom::model(|| {
        let [a, b] = ports();
        let fdb = Arc::new(Fdb::with_limits(8, 4, 4));
        fdb.learn(&learn(1, a), Seconds(0));
        let writer = {
            let fdb = fdb.clone();
            thread::spawn(move || {
                fdb.purge(a);
                for mac in 2..4 {
                    fdb.learn(&learn(mac, b), Seconds(1));
                }
            })
        };
        let seen = fdb.lookup(DomainId(0), MacAddr::from_u64(1));
        assert!(seen.is_none_or(|entry| entry.attachment == a));
        let other = fdb.lookup(DomainId(0), MacAddr::from_u64(2));
        assert!(other.is_none_or(|entry| entry.attachment == b));
        writer.join().unwrap();
    });
}

#[test]
fn two_learners_never_make_two_entries() {
    loom::model(|| {
        let [a, b] = ports();
        let fdb = Arc::new(Fdb::with_limits(8, 4, 4));
        let other = {
            let fdb = fdb.clone();
            thread::spawn(move || fdb.learn(&learn(1, b), Seconds(0)))
        };
        let mine = fdb.learn(&learn(1, a), Seconds(0));
        let theirs = other.join().unwrap();
        assert!(mine != Learned::Busy || theirs != Learned::Busy);
        assert_eq!(fdb.len(), 1);
        assert_eq!(fdb.len_behind(a) + fdb.len_behind(b), 1);
    });
}

#[test]
fn a_stamp_never_revives_a_removed_entry() {
    loom::model(|| {
        let [a, _] = ports();
        let fdb = Arc::new(Fdb::with_limits(8, 4, 4));
        fdb.learn(&learn(1, a), Seconds(0));
        let sweeper = {
            let fdb = fdb.clone();
            thread::spawn(move || fdb.sweep(Seconds(400), 300))
        };
        let outcome = fdb.learn(&learn(1, a), Seconds(400));
        let removed = sweeper.join().unwrap();
        let found = fdb.lookup(DomainId(0), MacAddr::from_u64(1)).is_some();
        assert_eq!(u32::from(found), fdb.len());
        if removed == 0 && outcome != Learned::Busy {
            assert!(found);
        }
    });
}
