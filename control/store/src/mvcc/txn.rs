use std::cmp::Ordering;

use crate::key_range::KeyRange;
use crate::mvcc::history::History;
use crate::mvcc::lease::LeaseTable;
use crate::mvcc::range;
use crate::mvcc::state::header;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RequestOp, ResponseOp, TxnRequest,
    TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;

/// A transaction whose branches are chosen, nested ones included: all of them by what was there before its first
/// operation.
pub(super) struct Path<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Operation(&'a RequestOp),
    Nested(Path<'a>),
}

impl<'a> Path<'a> {
    pub(super) fn choose(history: &History, request: &'a TxnRequest) -> Self {
        let succeeded = request.compare.iter().all(|compare| holds(history, compare));
        let branch = if succeeded { &request.success } else { &request.failure };
        let steps = branch.iter().map(|operation| match &operation.request {
            Some(Request::RequestTxn(nested)) => Step::Nested(Self::choose(history, nested)),
            _ => Step::Operation(operation),
        });
        Self { succeeded, steps: steps.collect() }
    }

    /// Whether its operations can be done; puts are looked at before ranges.
    pub(super) fn check(&self, history: &History, leases: &LeaseTable) -> Result<(), Refusal> {
        self.each(&mut |request| match request {
            Request::RequestPut(put) => check_put(history, leases, put),
            _ => Ok(()),
        })?;
        self.each(&mut |request| match request {
            Request::RequestRange(range) if range.revision > history.revision() => Err(Refusal::FutureRevision),
            Request::RequestRange(range) if range.revision != 0 && range.revision < history.compacted() => {
                Err(Refusal::Compacted)
            }
            _ => Ok(()),
        })
    }

    fn each(&self, look: &mut impl FnMut(&Request) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.steps.iter().try_for_each(|step| match step {
            Step::Operation(RequestOp { request: Some(request) }) => look(request),
            Step::Operation(RequestOp { request: None }) => Ok(()),
            Step::Nested(path) => path.each(look),
        })
    }

    pub(super) fn apply(&self, history: &mut History) -> Result<TxnResponse, Refusal> {
        let responses = self.steps.iter().map(|step| {
            let response = match step {
                Step::Nested(path) => Some(Response::ResponseTxn(path.apply(history)?)),
                Step::Operation(RequestOp { request }) => match request {
                    Some(Request::RequestRange(request)) => {
                        Some(Response::ResponseRange(range::read(history, request)?))
                    }
                    Some(Request::RequestPut(request)) => Some(Response::ResponsePut(put(history, request)?)),
                    Some(Request::RequestDeleteRange(request)) => {
                        Some(Response::ResponseDeleteRange(delete(history, request)))
                    }
                    Some(Request::RequestTxn(_)) | None => None,
                },
            };
            Ok(ResponseOp { response })
        });
        let responses = responses.collect::<Result<_, _>>()?;
        // As etcd: only the outermost header is filled, by whoever ends the write.
        Ok(TxnResponse { header: Some(header(0)), succeeded: self.succeeded, responses })
    }
}

/// Whether the lease is there, and the old value where the put keeps part of it.
pub(super) fn check_put(history: &History, leases: &LeaseTable, request: &PutRequest) -> Result<(), Refusal> {
    let keeps = request.ignore_value || request.ignore_lease;
    if keeps && history.get(&request.key, history.revision()).is_none() {
        Err(Refusal::KeyNotFound)
    } else if request.lease != 0 && !leases.contains(request.lease) {
        Err(Refusal::LeaseNotFound)
    } else {
        Ok(())
    }
}

pub(super) fn put(history: &mut History, request: &PutRequest) -> Result<PutResponse, Refusal> {
    let wanted = request.prev_kv || request.ignore_value || request.ignore_lease;
    let old = wanted.then(|| history.get(&request.key, history.visible()).cloned()).flatten();
    let kept = |ignore: bool| if ignore { old.as_ref().ok_or(Refusal::KeyNotFound).map(Some) } else { Ok(None) };
    let value = kept(request.ignore_value)?.map_or(&request.value, |old| &old.value);
    let lease = kept(request.ignore_lease)?.map_or(request.lease, |old| old.lease);
    history.put(&request.key, value, lease);
    let prev_kv = old.clone().filter(|_| request.prev_kv);
    Ok(PutResponse { header: Some(header(history.visible())), prev_kv })
}

pub(super) fn delete(history: &mut History, request: &DeleteRangeRequest) -> DeleteRangeResponse {
    let range = KeyRange::of_request(&request.key, &request.range_end);
    let prev_kvs = match request.prev_kv {
        true => history.range(&range, history.visible()).cloned().collect(),
        false => Vec::new(),
    };
    let deleted = history.delete(&range);
    DeleteRangeResponse { header: Some(header(history.visible())), deleted, prev_kvs }
}

/// Whether a comparison holds for all keys of its range. Where there is none, it is made with a key that has nothing
/// but zeros, and fails if it is about the value.
fn holds(history: &History, compare: &Compare) -> bool {
    let range = KeyRange::of_request(&compare.key, &compare.range_end);
    let mut found = history.range(&range, history.visible()).peekable();
    if found.peek().is_none() {
        return compare.target() != CompareTarget::Value && matches(compare, &KeyValue::default());
    }
    found.all(|found| matches(compare, found))
}

fn matches(compare: &Compare, found: &KeyValue) -> bool {
    // A number for another target than the one that is named counts as 0, and so does one that is missing.
    let ordering = match (compare.target(), &compare.target_union) {
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => found.value.cmp(value),
        (CompareTarget::Value, _) => found.value.as_ref().cmp(&[]),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(number))) => found.create_revision.cmp(number),
        (CompareTarget::Create, _) => found.create_revision.cmp(&0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(number))) => found.mod_revision.cmp(number),
        (CompareTarget::Mod, _) => found.mod_revision.cmp(&0),
        (CompareTarget::Version, Some(TargetUnion::Version(number))) => found.version.cmp(number),
        (CompareTarget::Version, _) => found.version.cmp(&0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(number))) => found.lease.cmp(number),
        (CompareTarget::Lease, _) => found.lease.cmp(&0),
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}
