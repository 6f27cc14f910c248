use super::*;
use crate::id::{PortId, Slab, VtepId};

fn attachments() -> [Attachment; 3] {
    let mut slab = Slab::with_capacity(4);
    let (a, b): (PortId, PortId) = (slab.insert(()).unwrap(), slab.insert(()).unwrap());
    let v: VtepId = slab.insert(()).unwrap();
    [Attachment::Port(a), Attachment::Port(b), Attachment::Vtep(v)]
}

fn learn(mac: u64, attachment: Attachment) -> Learn {
    Learn { domain: DomainId(3), mac: MacAddr::from_u64(mac), attachment, limit: u32::MAX }
}

#[test]
fn learns_refreshes_and_ages() {
    let fdb = Fdb::new(64);
    let [a, ..] = attachments();
    let event = learn(0x0200_0000_0001, a);
    assert_eq!(fdb.learn(&event, Seconds(10)), Learned::New);
    assert_eq!(fdb.learn(&event, Seconds(12)), Learned::Refreshed);
    let entry = fdb.lookup(event.domain, event.mac).unwrap();
    assert_eq!((entry.attachment, entry.age(Seconds(15))), (a, 3));
    assert_eq!(fdb.lookup(DomainId(4), event.mac), None);
    assert_eq!(fdb.sweep(Seconds(310), 300), 0);
    assert_eq!(fdb.sweep(Seconds(312), 300), 1);
    assert_eq!(fdb.lookup(event.domain, event.mac), None);
    assert!(fdb.is_empty());
    assert_eq!(fdb.len_behind(a), 0);
}

#[test]
fn ages_survive_the_wrap_of_the_stamp() {
    let fdb = Fdb::new(64);
    let [a, ..] = attachments();
    let event = learn(1, a);
    fdb.learn(&event, Seconds(MAX_AGE_SECONDS - 1));
    let entry = fdb.lookup(event.domain, event.mac).unwrap();
    assert_eq!(entry.age(Seconds(MAX_AGE_SECONDS + 9)), 10);
}

#[test]
fn a_flapping_mac_is_damped() {
    let fdb = Fdb::new(64);
    let [a, b, v] = attachments();
    assert_eq!(fdb.learn(&learn(1, a), Seconds(5)), Learned::New);
    assert_eq!(fdb.learn(&learn(1, b), Seconds(5)), Learned::Moved);
    assert_eq!(fdb.learn(&learn(1, v), Seconds(6)), Learned::Damped);
    assert_eq!(fdb.learn(&learn(1, v), Seconds(5 + FLAP_HOLD_SECONDS)), Learned::Moved);
    assert_eq!([fdb.len_behind(a), fdb.len_behind(b), fdb.len_behind(v)], [0, 0, 1]);
}

#[test]
fn limits_hold_behind_an_attachment_and_in_all() {
    let fdb = Fdb::new(64);
    let [a, b, _] = attachments();
    let limited = |mac| Learn { limit: 2, ..learn(mac, a) };
    assert_eq!(
        [1, 2, 3].map(|mac| fdb.learn(&limited(mac), Seconds(0))),
        [Learned::New, Learned::New, Learned::LimitReached]
    );
    assert_eq!(fdb.purge(a), 2);
    let outcomes: Vec<_> = (100..200).map(|mac| fdb.learn(&learn(mac, b), Seconds(0))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Learned::New).count(), 64);
    assert!(outcomes[64..].iter().all(|outcome| *outcome == Learned::Full));
    assert_eq!(fdb.rows(Seconds(0)).count(), 64);
}

#[test]
fn takes_its_capacity_in_neighbouring_and_scattered_macs() {
    for step in [1_u64, 0x100, 0x1_0000, 0x9e37_79b9] {
        let fdb = Fdb::new(65_536);
        let [a, ..] = attachments();
        let refused = (0..65_536_u64)
            .filter(|i| fdb.learn(&learn(0x0200_0000_0000 + i * step, a), Seconds(0)) != Learned::New)
            .count();
        assert!(refused < 8, "step {step:#x}: {refused} of 65536 found both buckets full");
        for i in (0..65_536_u64).step_by(97) {
            let mac = MacAddr::from_u64(0x0200_0000_0000 + i * step);
            let _ = fdb.lookup(DomainId(3), mac);
        }
    }
}
