//! A node's way to its ranges, within one claim of its name: what there is, what it takes of that, and whether it got it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ipnet::IpNet;
use weft_store::KeyRange;
use weft_store::client::{Condition, Operation};
use weft_store::proto::mvccpb::KeyValue;

use super::keys::{Key, Keys};
use super::membership::Stored;
use super::ranges::NoRanges;
use super::record::{self, AddressRange, Network, RECORD_VERSION};

/// What to do next.
pub(super) enum Next {
    /// Nothing more, until the claim is another.
    Settled,
    /// Read this, for [`Grant::read`].
    Read(Vec<Operation>),
    /// Write this, for [`Grant::written`].
    Write(Vec<Condition>, Vec<Operation>),
}

/// What was asked for, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    network: Network,
    /// Those of the last claim: asked for again.
    had: Vec<IpNet>,
    seen: Option<Seen>,
    asked: Vec<IpNet>,
    outcome: Option<Result<Vec<IpNet>, NoRanges>>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    network: Option<(Bytes, i64)>,
    taken: BTreeSet<IpNet>,
    own: BTreeSet<IpNet>,
    /// The cluster's row and our own ranges, as they are in the store.
    stored: BTreeMap<Bytes, Stored>,
}

impl Seen {
    fn of(keys: &Keys, node: &str, rows: &[Vec<KeyValue>]) -> Self {
        let mut seen = Seen::default();
        for kv in rows.iter().flatten() {
            match keys.read(&kv.key) {
                Some(Key::Network) => {
                    seen.network = Some((kv.value.clone(), kv.mod_revision));
                    seen.stored.insert(kv.key.clone(), Stored::of(kv));
                }
                Some(Key::Range(range)) => {
                    seen.taken.insert(range);
                    // A row that cannot be read is another's.
                    if record::read::<AddressRange>(&kv.value).is_ok_and(|row| row.node == node) {
                        seen.own.insert(range);
                        seen.stored.insert(kv.key.clone(), Stored::of(kv));
                    }
                }
                _ => {}
            }
        }
        seen
    }
}

impl Grant {
    /// Nothing is known of the store's rows. `had`: what the node had when it last ran.
    pub(super) fn new(network: Network, had: Vec<IpNet>) -> Self {
        Self { network, had, seen: None, asked: Vec::new(), outcome: None }
    }

    /// What came of it; none while that is not known.
    pub(super) fn outcome(&self) -> Option<&Result<Vec<IpNet>, NoRanges>> {
        self.outcome.as_ref()
    }

    /// The claim is lost: what it was granted has to be granted again.
    pub(super) fn reset(&mut self) {
        if let Some(Ok(ranges)) = self.outcome.take() {
            self.had = ranges;
        }
        self.seen = None;
    }

    /// Looks again where it was refused.
    pub(super) fn retry(&mut self) {
        if matches!(self.outcome, Some(Err(_))) {
            self.reset();
        }
    }

    /// Reads that show whether all is still as it was granted.
    pub(super) fn verification(&self, keys: &Keys) -> Vec<Operation> {
        let Some(Ok(ranges)) = &self.outcome else { return Vec::new() };
        let own = ranges.iter().map(|range| Key::Range(*range)).chain([Key::Network]);
        own.map(|key| Operation::Get(KeyRange::One(keys.write(&key)))).collect()
    }

    /// Whether these rows, which [`Grant::verification`] has read, have all that was granted.
    pub(super) fn is_confirmed(&self, keys: &Keys, node: &str, rows: &[Vec<KeyValue>]) -> bool {
        let Some(Ok(ranges)) = &self.outcome else { return true };
        let seen = Seen::of(keys, node, rows);
        seen.network.is_some() && ranges.iter().all(|range| seen.own.contains(range))
    }

    pub(super) fn next(&mut self, keys: &Keys, node: &str) -> Next {
        if self.outcome.is_some() {
            return Next::Settled;
        }
        let row = keys.write(&Key::Network);
        let Some(seen) = &self.seen else {
            return Next::Read(vec![Operation::Get(KeyRange::One(row)), Operation::Get(keys.ranges())]);
        };
        match self.decide(keys, node, seen) {
            Err(refused) => {
                self.outcome = Some(Err(refused));
                Next::Settled
            }
            Ok((ranges, _, operations)) if operations.is_empty() => {
                self.outcome = Some(Ok(ranges));
                Next::Settled
            }
            Ok((ranges, conditions, operations)) => {
                self.asked = ranges;
                Next::Write(conditions, operations)
            }
        }
    }

    /// The ranges, and what has to be written so that they are the node's.
    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn decide(
        &self,
        keys: &Keys,
        node: &str,
        seen: &Seen,
    ) -> Result<(Vec<IpNet>, Vec<Condition>, Vec<Operation>), NoRanges> {
        let row = keys.write(&Key::Network);
        let text = || String::from_utf8_lossy(&row).into_owned();
        let (mut ranges, mut conditions, mut operations) = (Vec::new(), Vec::new(), Vec::new());
        match &seen.network {
            Some((value, modified)) => {
                let unreadable =
                    |error: record::RecordError| NoRanges::Unreadable { row: text(), reason: error.to_string() };
                let cluster: Network = record::read(value).map_err(unreadable)?;
                if (cluster.vni, &cluster.ranges) != (self.network.vni, &self.network.ranges) {
                    return Err(NoRanges::Disagrees { own: self.network.clone(), cluster, row: text() });
                }
                conditions.push(Condition::Unchanged(row.clone(), *modified));
            }
            None => {
                conditions.push(Condition::Absent(row.clone()));
                operations.push(Operation::Put(row.clone(), record::write(&self.network).into(), None));
            }
        }
        for cluster in &self.network.ranges {
            if let Some(own) = seen.own.iter().find(|own| cluster.has(own)) {
                ranges.push(*own);
                continue;
            }
            let had = self.had.iter().copied().find(|had| cluster.has(had));
            let given = || seen.taken.iter().filter(|taken| cluster.has(taken)).count();
            let chosen = cluster.choose(node, had, &seen.taken);
            let range = chosen.ok_or_else(|| NoRanges::Exhausted { cluster: *cluster, given: given() })?;
            let key = keys.write(&Key::Range(range));
            let record = AddressRange { version: RECORD_VERSION, range, node: node.to_owned() };
            conditions.push(Condition::Absent(key.clone()));
            operations.push(Operation::Put(key, record::write(&record).into(), None));
            ranges.push(range);
        }
        Ok((ranges, conditions, operations))
    }

    /// What [`Next::Read`] has read.
    pub(super) fn read(&mut self, keys: &Keys, node: &str, rows: &[Vec<KeyValue>]) {
        self.seen = Some(Seen::of(keys, node, rows));
    }

    /// Whether [`Next::Write`] was done. If it was not, somebody was faster: look again.
    pub(super) fn written(&mut self, succeeded: bool) {
        if succeeded {
            self.outcome = Some(Ok(std::mem::take(&mut self.asked)));
        } else {
            self.seen = None;
        }
    }

    /// The rows that were there before anything was written: what of them is ours.
    pub(super) fn stored(&self, keys: &Keys) -> BTreeMap<Bytes, Stored> {
        let Some((seen, Ok(ranges))) = self.seen.as_ref().zip(self.outcome.as_ref()) else { return BTreeMap::new() };
        let granted = |key: &Bytes| match keys.read(key) {
            Some(Key::Range(range)) => ranges.contains(&range),
            _ => true,
        };
        seen.stored.iter().filter(|(key, _)| granted(key)).map(|(key, row)| (key.clone(), row.clone())).collect()
    }
}
