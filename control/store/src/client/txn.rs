use bytes::Bytes;

use super::{LONGEST_ANSWER, Store, StoreError};
use crate::key_range::KeyRange;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;

/// What has to be so for a transaction to do its first half.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// The key is not there.
    Absent(Bytes),
    /// The key is there.
    Present(Bytes),
    /// The key was last written at this revision: nobody wrote it since it was read.
    Unchanged(Bytes, i64),
    /// The key is there and goes with this lease.
    Leased(Bytes, i64),
}

/// One thing that a transaction does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Reads.
    Get(KeyRange),
    /// Writes a key, and lets it go with a lease.
    Put(Bytes, Bytes, Option<i64>),
    /// Deletes what is there.
    Delete(KeyRange),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The revision after it.
    pub revision: i64,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// The rows of each [`Operation::Get`] that was done, in order.
    pub rows: Vec<Vec<KeyValue>>,
}

impl Store {
    /// Does `then` if all conditions hold, and `otherwise` if not: all of it at once. Up to 128 of each.
    ///
    /// # Errors
    /// [`Refusal`](crate::Refusal) of what cannot be done, and as every request.
    pub async fn commit(
        &self,
        conditions: &[Condition],
        then: &[Operation],
        otherwise: &[Operation],
    ) -> Result<Committed, StoreError> {
        let operations = |all: &[Operation]| all.iter().map(operation).collect();
        let request = TxnRequest {
            compare: conditions.iter().map(compare).collect(),
            success: operations(then),
            failure: operations(otherwise),
        };
        let ask = |channel, request| async {
            KvClient::new(channel).max_decoding_message_size(LONGEST_ANSWER).txn(request).await
        };
        let response: TxnResponse = self.ask(request, ask).await?;
        let rows = response.responses.into_iter().filter_map(|response| match response.response {
            Some(Response::ResponseRange(range)) => Some(range.kvs),
            _ => None,
        });
        Ok(Committed {
            revision: response.header.unwrap_or_default().revision,
            succeeded: response.succeeded,
            rows: rows.collect(),
        })
    }
}

fn compare(condition: &Condition) -> Compare {
    let (key, target, result, number) = match condition {
        Condition::Absent(key) => (key, CompareTarget::Create, CompareResult::Equal, TargetUnion::CreateRevision(0)),
        Condition::Present(key) => (key, CompareTarget::Create, CompareResult::Greater, TargetUnion::CreateRevision(0)),
        Condition::Unchanged(key, revision) => {
            (key, CompareTarget::Mod, CompareResult::Equal, TargetUnion::ModRevision(*revision))
        }
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
