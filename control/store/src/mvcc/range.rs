use crate::key_range::KeyRange;
use crate::mvcc::history::History;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;

/// Answers a range request.
pub(super) fn read(history: &History, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
    let at = history.readable(request.revision)?;
    let range = KeyRange::of_request(&request.key, &request.range_end);
    let header = Some(super::state::header(history.visible()));
    if request.count_only {
        let count = history.range(&range, at).count() as i64;
        return Ok(RangeResponse { header, count, ..RangeResponse::default() });
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // Only what is neither sorted nor filtered can be cut off while it is collected.
    let all = sorting(request).is_some() || filters(request);
    let mut count = 0;
    let mut kvs: Vec<KeyValue> = Vec::new();
    for found in history.range(&range, at) {
        count += 1;
        if passes(request, found) && (all || kvs.len() <= limit) {
            kvs.push(found.clone());
        }
    }
    if let Some((order, target)) = sorting(request) {
        sort(&mut kvs, order, target);
    }
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if request.keys_only {
        kvs.iter_mut().for_each(|found| found.value.clear());
    }
    Ok(RangeResponse { header, kvs, more, count })
}

fn filters(request: &RangeRequest) -> bool {
    request.max_mod_revision != 0
        || request.min_mod_revision != 0
        || request.max_create_revision != 0
        || request.min_create_revision != 0
}

/// 0 in a bound is none.
fn passes(request: &RangeRequest, found: &KeyValue) -> bool {
    let within = |value, min, max| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(found.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(found.create_revision, request.min_create_revision, request.max_create_revision)
}

/// What to sort by, where keys do not come in the right order anyway. Targets and orders that do not exist count as
/// their first, as in etcd.
fn sorting(request: &RangeRequest) -> Option<(SortOrder, SortTarget)> {
    let target = request.sort_target();
    match request.sort_order() {
        SortOrder::None if target == SortTarget::Key => None,
        SortOrder::None => Some((SortOrder::Ascend, target)),
        order => Some((order, target)),
    }
}

fn sort(kvs: &mut [KeyValue], order: SortOrder, target: SortTarget) {
    let compare = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match order {
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
        SortOrder::Ascend | SortOrder::None => kvs.sort_by(compare),
    }
}
