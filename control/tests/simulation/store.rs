//! The store's pure state, with a clock that the test moves, backups, and what the client tells of it.

use std::time::Duration;

use bytes::Bytes;
use weft_store::KeyRange;
use weft_store::client::{Committed, Condition, Operation};
use weft_store::mvcc::{Revision, State};
use weft_store::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use weft_store::proto::etcdserverpb::request_op::Request;
use weft_store::proto::etcdserverpb::response_op::Response;
use weft_store::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use weft_store::proto::mvccpb::event::EventType;
use weft_store::proto::mvccpb::{Event, KeyValue};

/// Of every lease, in seconds.
pub(crate) const TTL: i64 = 10;

/// What a backup has.
pub(crate) struct Backup {
    log: Vec<(Revision, KeyValue)>,
    leases: Vec<i64>,
    revision: i64,
    compacted: i64,
}

pub(crate) struct SimStore {
    state: State,
    pub(crate) cluster: u64,
    pub(crate) now: Duration,
    next_lease: i64,
}

/// A watch that cannot go on.
#[derive(Debug)]
pub(crate) struct Compacted;

impl SimStore {
    pub(crate) fn new() -> Self {
        Self { state: State::default(), cluster: 1, now: Duration::ZERO, next_lease: 1000 }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.state.history().revision()
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.state.expire(self.now);
    }

    pub(crate) fn grant(&mut self) -> i64 {
        self.next_lease += 1;
        let request = LeaseGrantRequest { ttl: TTL, id: self.next_lease };
        self.state.grant(&request, self.now).unwrap();
        self.next_lease
    }

    /// Whether the lease was there.
    pub(crate) fn keep_alive(&mut self, lease: i64) -> bool {
        self.state.keep_alive(lease, self.now).ttl > 0
    }

    pub(crate) fn list(&self, range: &KeyRange) -> Vec<KeyValue> {
        self.state.history().range(range, self.revision()).cloned().collect()
    }

    /// All that was written from a revision on, up to so many revisions.
    pub(crate) fn events(&self, range: &KeyRange, from: i64, most: usize) -> Result<(i64, Vec<Event>), Compacted> {
        let history = self.state.history();
        if from <= history.compacted() {
            return Err(Compacted);
        }
        if from > self.revision() {
            return Ok((self.revision(), Vec::new()));
        }
        let to = self.revision().min(from + i64::try_from(most).unwrap() - 1);
        let all = history.changes(Revision { main: from, sub: 0 }..=Revision { main: to, sub: i64::MAX });
        let events = all.filter(|(_, kv)| range.contains(&kv.key)).map(|(_, kv)| {
            let kind = if kv.version == 0 { EventType::Delete } else { EventType::Put };
            Event { r#type: kind.into(), kv: Some(kv.clone()), prev_kv: None }
        });
        Ok((to, events.collect()))
    }

    pub(crate) fn compact(&mut self) {
        // One that compacts the same twice is refused, and that is all.
        let _ = self.state.compact(&CompactionRequest { revision: self.revision(), physical: false });
    }

    pub(crate) fn backup(&self) -> Backup {
        let history = self.state.history();
        let log = history.changes(..).map(|(revision, kv)| (revision, kv.clone())).collect();
        let leases = self.state.leases().leases.iter().map(|lease| lease.id).collect();
        Backup { log, leases, revision: history.revision(), compacted: history.compacted() }
    }

    pub(crate) fn restore(&mut self, backup: &Backup, new_cluster: bool) {
        let leases = backup.leases.iter().map(|id| (*id, TTL));
        self.state = State::restore(backup.log.iter().cloned(), leases, backup.revision, backup.compacted, self.now);
        self.cluster += u64::from(new_cluster);
    }

    /// A transaction; none if a lease is gone that it names.
    pub(crate) fn commit(&mut self, conditions: &[Condition], operations: &[Operation]) -> Option<Committed> {
        let request = TxnRequest {
            compare: conditions.iter().map(compare).collect(),
            success: operations.iter().map(operation).collect(),
            failure: Vec::new(),
        };
        let response = self.state.txn(&request).ok()?;
        let rows = response.responses.into_iter().filter_map(|response| match response.response {
            Some(Response::ResponseRange(range)) => Some(range.kvs),
            _ => None,
        });
        Some(Committed { revision: self.revision(), succeeded: response.succeeded, rows: rows.collect() })
    }
}

fn compare(condition: &Condition) -> Compare {
    let (key, target, result, number) = match condition {
        Condition::Absent(key) => (key, CompareTarget::Create, CompareResult::Equal, TargetUnion::CreateRevision(0)),
        Condition::Present(key) => (key, CompareTarget::Create, CompareResult::Greater, TargetUnion::CreateRevision(0)),
        Condition::Unchanged(key, at) => (key, CompareTarget::Mod, CompareResult::Equal, TargetUnion::ModRevision(*at)),
        Condition::Leased(key, lease) => (key, CompareTarget::Lease, CompareResult::Equal, TargetUnion::Lease(*lease)),
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(number),
        range_end: Bytes::new(),
    }
}

fn operation(operation: &Operation) -> RequestOp {
    let request = match operation {
        Operation::Get(range) => {
            let (key, range_end) = range.to_request();
            Request::RequestRange(RangeRequest { key, range_end, ..RangeRequest::default() })
        }
        Operation::Put(key, value, lease) => Request::RequestPut(PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease: lease.unwrap_or_default(),
            ..PutRequest::default()
        }),
        Operation::Delete(range) => {
            let (key, range_end) = range.to_request();
            Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })
        }
    };
    RequestOp { request: Some(request) }
}
