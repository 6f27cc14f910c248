//! The state against a model that keeps a copy of everything at every revision.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::history::Revision;
use super::state::{Change, State};
use crate::key_range::KeyRange;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, i64),
    Delete(u8, u8),
    /// Writes two keys and deletes from a third on, at once.
    Txn([u8; 2], u8),
    /// Up to that part of what could be compacted, in hundredths.
    Compact(i64),
    Grant(i64, i64),
    Revoke(i64),
    Renew(i64),
    /// Seconds go by.
    Wait(u64),
    Restart,
}

type Rows = BTreeMap<Bytes, KeyValue>;

#[derive(Default)]
struct Model {
    /// The rows after each write, the first one being that of revision 1.
    past: Vec<Rows>,
    compacted: i64,
    leases: BTreeMap<i64, (i64, u64)>,
}

impl Model {
    fn revision(&self) -> i64 {
        self.past.len() as i64
    }

    fn now(&self) -> Rows {
        self.past.last().cloned().unwrap_or_default()
    }

    fn write(&mut self, work: impl FnOnce(&mut Rows, i64)) {
        let (mut rows, revision) = (self.now(), self.revision() + 1);
        work(&mut rows, revision);
        if rows != self.now() {
            self.past.push(rows);
        }
    }

    fn end(&mut self, lease: i64) {
        if self.leases.remove(&lease).is_some() {
            self.write(|rows, _| rows.retain(|_, row| row.lease != lease));
        }
    }
}

fn set(rows: &mut Rows, key: u8, value: u8, lease: i64, revision: i64) {
    let (key, value) = (name(key), name(value));
    let (created, version) = rows.get(&key).map_or((revision, 0), |row| (row.create_revision, row.version));
    let (create_revision, version) = (created, version + 1);
    rows.insert(key.clone(), KeyValue { key, value, create_revision, mod_revision: revision, version, lease });
}

fn name(key: u8) -> Bytes {
    Bytes::copy_from_slice(&[key])
}

fn put(key: u8, value: u8, lease: i64) -> PutRequest {
    PutRequest { key: name(key), value: name(value), lease, ..PutRequest::default() }
}

fn delete(from: u8, to: u8) -> DeleteRangeRequest {
    DeleteRangeRequest { key: name(from), range_end: name(to), prev_kv: false }
}

fn step() -> impl Strategy<Value = Step> {
    let key = 1..9_u8;
    prop_oneof![
        8 => (key.clone(), any::<u8>(), 0..4_i64).prop_map(|(key, value, lease)| Step::Put(key, value, lease)),
        2 => (key.clone(), key.clone()).prop_map(|(from, to)| Step::Delete(from, to)),
        2 => (1..4_u8, 4..6_u8, 6..9_u8).prop_map(|(first, second, from)| Step::Txn([first, second], from)),
        1 => (0..100_i64).prop_map(Step::Compact),
        2 => (1..4_i64, 0..20_i64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => (1..4_i64).prop_map(Step::Revoke),
        1 => (1..4_i64).prop_map(Step::Renew),
        1 => (1..9_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// What was written down, as the disk keeps it.
#[derive(Default)]
struct Written {
    log: BTreeMap<Revision, KeyValue>,
    leases: BTreeMap<i64, i64>,
    revision: i64,
    compacted: i64,
}

impl Written {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Version(revision, version) => drop(self.log.insert(revision, version)),
                Change::Granted(id, ttl) => drop(self.leases.insert(id, ttl)),
                Change::Ended(id) => drop(self.leases.remove(&id)),
                Change::Compacted { at, revision, removed } => {
                    (self.compacted, self.revision) = (at, revision);
                    for revision in removed {
                        assert!(self.log.remove(&revision).is_some(), "{revision:?} was never written");
                    }
                }
            }
        }
    }

    fn restore(&self, now: Duration) -> State {
        let (log, leases) = (self.log.clone(), self.leases.clone());
        State::restore(log, leases, self.revision, self.compacted, now)
    }
}

fn read(state: &State, revision: i64) -> Result<Vec<KeyValue>, Refusal> {
    let all = Bytes::from_static(&[0]);
    let request = RangeRequest { key: all.clone(), range_end: all, revision, ..RangeRequest::default() };
    state.range(&request).map(|response| response.kvs)
}

fn check(state: &State, model: &Model, seconds: u64) -> Result<(), TestCaseError> {
    prop_assert_eq!(state.history().revision(), model.revision());
    for revision in 1..=model.revision() + 1 {
        let expected = match model.past.get(revision as usize - 1) {
            None => Err(Refusal::FutureRevision),
            Some(_) if revision < model.compacted => Err(Refusal::Compacted),
            Some(rows) => Ok(rows.values().cloned().collect()),
        };
        prop_assert_eq!(read(state, revision), expected, "at {}", revision);
    }
    for id in 1..4 {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let left = state.time_to_live(&request, Duration::from_secs(seconds));
        let now = model.now();
        let keys = |id| now.values().filter(move |row| row.lease == id).map(|row| row.key.clone()).collect::<Vec<_>>();
        let expected = model
            .leases
            .get(&id)
            .map_or((-1, 0, Vec::new()), |(ttl, end)| ((end - seconds).cast_signed(), *ttl, keys(id)));
        prop_assert_eq!((left.ttl, left.granted_ttl, left.keys), expected, "lease {}", id);
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_state_is_that_of_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let (mut state, mut seconds) = (State::default(), 0_u64);
        let mut model = Model { past: vec![Rows::new()], ..Model::default() };
        let mut written = Written { revision: 1, compacted: -1, ..Written::default() };
        for step in steps {
            let now = Duration::from_secs(seconds);
            match step {
                Step::Put(key, value, lease) => {
                    let done = state.put(&put(key, value, lease));
                    if lease != 0 && !model.leases.contains_key(&lease) {
                        prop_assert_eq!(done, Err(Refusal::LeaseNotFound));
                    } else {
                        prop_assert_eq!(done.unwrap().header.unwrap().revision, model.revision() + 1);
                        model.write(|rows, revision| set(rows, key, value, lease, revision));
                    }
                }
                Step::Delete(from, to) => {
                    let done = state.delete(&delete(from, to)).unwrap();
                    let before = model.now().len();
                    model.write(|rows, _| rows.retain(|key, _| !(name(from)..name(to)).contains(key)));
                    prop_assert_eq!(done.deleted, (before - model.now().len()) as i64);
                    prop_assert_eq!(done.header.unwrap().revision, model.revision());
                }
                Step::Txn(keys, from) => {
                    let puts = keys.map(|key| Request::RequestPut(put(key, key, 0)));
                    let requests = puts.into_iter().chain([Request::RequestDeleteRange(delete(from, 9))]);
                    let success = requests.map(|request| RequestOp { request: Some(request) }).collect();
                    state.txn(&TxnRequest { success, ..TxnRequest::default() }).unwrap();
                    model.write(|rows, revision| {
                        for key in keys {
                            set(rows, key, key, 0, revision);
                        }
                        rows.retain(|key, _| !(name(from)..name(9)).contains(key));
                    });
                }
                Step::Compact(part) => {
                    let revision = model.compacted + 1 + (model.revision() - model.compacted) * part / 100;
                    let done = state.compact(&CompactionRequest { revision, physical: false });
                    if revision <= model.revision() {
                        prop_assert_eq!(done.unwrap().header.unwrap().revision, model.revision());
                        model.compacted = revision;
                    } else {
                        prop_assert_eq!(done, Err(Refusal::FutureRevision));
                    }
                }
                Step::Grant(id, ttl) => {
                    let done = state.grant(&LeaseGrantRequest { id, ttl }, now);
                    match model.leases.entry(id) {
                        Entry::Occupied(_) => prop_assert_eq!(done, Err(Refusal::LeaseExists)),
                        Entry::Vacant(place) => {
                            prop_assert_eq!(done.unwrap().ttl, ttl.max(2));
                            place.insert((ttl.max(2), seconds + ttl.max(2).unsigned_abs()));
                        }
                    }
                }
                Step::Revoke(id) => {
                    prop_assert_eq!(state.revoke(id).is_ok(), model.leases.contains_key(&id));
                    model.end(id);
                }
                Step::Renew(id) => {
                    let ttl = model.leases.get_mut(&id).map_or(0, |lease| {
                        lease.1 = seconds + lease.0.unsigned_abs();
                        lease.0
                    });
                    prop_assert_eq!(state.keep_alive(id, now).ttl, ttl);
                }
                Step::Wait(time) => {
                    seconds += time;
                    state.expire(Duration::from_secs(seconds));
                    let mut over: Vec<_> = model.leases.iter().map(|(id, (_, end))| (*end, *id)).collect();
                    over.sort_unstable();
                    for (_, id) in over.into_iter().filter(|(end, _)| *end <= seconds) {
                        model.end(id);
                    }
                }
                Step::Restart => {
                    state = written.restore(now);
                    for (ttl, end) in model.leases.values_mut() {
                        *end = seconds + ttl.unsigned_abs();
                    }
                }
            }
            written.apply(state.take_changes());
            check(&state, &model, seconds)?;
        }
    }
}

#[test]
fn a_deletion_at_the_compacted_revision_is_still_told() {
    let mut state = State::default();
    state.put(&put(1, 1, 0)).unwrap();
    state.delete(&delete(1, 2)).unwrap();
    state.put(&put(2, 1, 0)).unwrap();
    state.compact(&CompactionRequest { revision: 3, physical: true }).unwrap();
    let left: Vec<i64> = state.history().changes(..).map(|(revision, _)| revision.main).collect();
    assert_eq!(left, [3, 4]);
    state.compact(&CompactionRequest { revision: 4, physical: true }).unwrap();
    let left: Vec<i64> = state.history().changes(..).map(|(revision, _)| revision.main).collect();
    assert_eq!(left, [4]);
}

#[test]
fn nothing_of_a_refused_transaction_is_done() {
    let mut state = State::default();
    state.put(&put(1, 1, 0)).unwrap();
    let before = state.history().bytes();
    // etcd's check for duplicates does not see that the end of one zero byte deletes all: the put finds nothing.
    let all = DeleteRangeRequest { key: name(1), range_end: Bytes::from_static(&[0]), prev_kv: false };
    let keep = PutRequest { key: name(1), ignore_value: true, ..PutRequest::default() };
    let requests = [Request::RequestPut(put(3, 3, 0)), Request::RequestDeleteRange(all), Request::RequestPut(keep)];
    let success = requests.map(|request| RequestOp { request: Some(request) }).into();
    let done = state.txn(&TxnRequest { success, ..TxnRequest::default() });
    assert_eq!(done, Err(Refusal::KeyNotFound));
    assert_eq!((state.history().revision(), state.history().bytes()), (2, before));
    assert_eq!(read(&state, 0).unwrap().len(), 1);
    let kept = state.history().range(&KeyRange::One(name(1)), 2).count();
    assert_eq!(kept, 1);
}
