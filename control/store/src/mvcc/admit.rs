//! What can be refused without a look at the state, in etcd's order (`api/v3rpc/key.go`).

use std::collections::HashSet;

use bytes::Bytes;

use crate::key_range::KeyRange;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::refusal::Refusal;

/// Comparisons, and operations of each branch, in a transaction and those nested in it. etcd's default.
const MAX_OPS: usize = 128;

pub(super) fn range(request: &RangeRequest) -> Result<(), Refusal> {
    key(&request.key)
}

pub(super) fn put(request: &PutRequest) -> Result<(), Refusal> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        Err(Refusal::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Refusal::LeaseProvided)
    } else {
        Ok(())
    }
}

pub(super) fn delete(request: &DeleteRangeRequest) -> Result<(), Refusal> {
    key(&request.key)
}

pub(super) fn txn(request: &TxnRequest) -> Result<(), Refusal> {
    operations(request, MAX_OPS)?;
    Touched::of(&request.success)?;
    Touched::of(&request.failure)?;
    Ok(())
}

fn key(key: &Bytes) -> Result<(), Refusal> {
    if key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

fn operations(request: &TxnRequest, allowed: usize) -> Result<(), Refusal> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = allowed.checked_sub(longest).ok_or(Refusal::TooManyOps)?;
    request.compare.iter().try_for_each(|compare| key(&compare.key))?;
    request.success.iter().chain(&request.failure).try_for_each(|operation| match &operation.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete(request),
        Some(Request::RequestTxn(request)) => operations(request, left),
        None => Err(Refusal::KeyNotFound),
    })
}

/// What the operations of one branch write and delete, those of nested transactions included. No key may be written
/// twice, or written and deleted; but two branches of one transaction exclude each other.
#[derive(Default)]
struct Touched {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Touched {
    fn of(operations: &[RequestOp]) -> Result<Self, Refusal> {
        let mut touched = Self::default();
        for operation in operations {
            if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
                // As in etcd, an end of one zero byte, which deletes all that follows, counts as an end here, before
                // which there is nothing: such a deletion may meet a put.
                touched.deletes.push(match delete.range_end.is_empty() {
                    true => KeyRange::One(delete.key.clone()),
                    false => KeyRange::Span(delete.key.clone(), delete.range_end.clone()),
                });
            }
        }
        for operation in operations {
            let Some(Request::RequestTxn(nested)) = &operation.request else { continue };
            let (success, failure) = (Self::of(&nested.success)?, Self::of(&nested.failure)?);
            let branches = success.puts.union(&failure.puts);
            let puts: Vec<Bytes> = branches.cloned().collect();
            puts.into_iter().try_for_each(|key| touched.put(key))?;
            touched.deletes.extend(success.deletes);
            touched.deletes.extend(failure.deletes);
        }
        for operation in operations {
            if let Some(Request::RequestPut(put)) = &operation.request {
                touched.put(put.key.clone())?;
            }
        }
        Ok(touched)
    }

    fn put(&mut self, key: Bytes) -> Result<(), Refusal> {
        let deleted = self.deletes.iter().any(|range| range.contains(&key));
        if deleted || !self.puts.insert(key) { Err(Refusal::DuplicateKey) } else { Ok(()) }
    }
}
