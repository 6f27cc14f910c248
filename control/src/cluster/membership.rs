//! A node's own rows: what to ask of the store, one request after another, until it has them all and no others.
//!
//! The name is claimed by a transaction, and its revision is the node's incarnation. Every later write holds only while
//! the node's row goes with the lease of that claim, so whoever lost the name cannot write any more. A claim is never
//! renewed: when anything of it is in doubt, a new one is made, with a new lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use weft_encap::{MacAddr, Vni};
use weft_store::KeyRange;
use weft_store::client::{Committed, Condition, Operation};
use weft_store::proto::mvccpb::KeyValue;

use super::grant::{Grant, Next};
use super::keys::{Key, Keys};
use super::ranges::{NoRanges, overlay_address};
use super::record::{self, Attached, Endpoint, Network, Node, RECORD_VERSION, Standing};

/// Rows written by one transaction at most; etcd allows 128.
const ROWS_AT_ONCE: usize = 100;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its row. Incarnation, standing, ranges and overlay addresses are filled in.
    pub node: Node,
    /// The network that it is to have ranges of, and those that it had when it last ran.
    pub network: Option<(Network, Vec<IpNet>)>,
    /// Its endpoints.
    pub endpoints: BTreeMap<(Vni, MacAddr), OwnEndpoint>,
}

/// What a node says of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnEndpoint {
    /// Its addresses. Those of [`Attached::Host`] are filled in; without any it is not published.
    pub ips: Vec<IpAddr>,
    /// Its port.
    pub port: String,
    /// Whether the MAC is the port's own.
    pub attached: Attached,
}

/// What to do next. The answer goes to the method of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Nothing, until [`Membership::retry`]: another has the name.
    Refused(Holder),
    /// Do this as one transaction, without conditions, and give what it reads to [`Membership::read`].
    Read(Vec<Operation>),
    /// Get a new lease in place of any older one, and give it to [`Membership::leased`].
    Lease,
    /// Do this as one transaction, and give what comes of it to [`Membership::written`].
    Write(Vec<Condition>, Vec<Operation>),
}

/// Who has the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The lease under which it claims: a running holder keeps it.
    pub lease: i64,
}

impl Holder {
    /// Whether it may be the claim of an agent that ran on the same node before, and that another instance made: two
    /// nodes that run have no address in common. Without that, and a row that can be read, it is another node.
    #[must_use]
    pub fn may_be_predecessor(&self, own: &[IpAddr]) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|address| own.contains(address))
    }
}

/// A row of ours in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    value: Bytes,
    created: i64,
    modified: i64,
    lease: i64,
}

impl Stored {
    pub(super) fn of(kv: &KeyValue) -> Self {
        Self { value: kv.value.clone(), created: kv.create_revision, modified: kv.mod_revision, lease: kv.lease }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    incarnation: i64,
    lease: i64,
}

#[derive(Clone, Debug)]
enum Asked {
    Claim,
    /// What ranges there are.
    Ranges,
    Grant(Vec<Operation>),
    Publish(Vec<Operation>),
}

/// A node's rows on their way into the store.
#[derive(Clone, Debug)]
pub struct Membership {
    keys: Keys,
    own: Own,
    lease: Option<i64>,
    claim: Option<Claim>,
    /// What of us is in the store; none until it was read.
    stored: Option<BTreeMap<Bytes, Stored>>,
    /// Whether that has to be looked at again.
    in_doubt: bool,
    refused: Option<Holder>,
    asked: Option<Asked>,
    grant: Option<Grant>,
    /// Which endpoints may not be as the store has them; none: any.
    unsettled: Option<BTreeSet<(Vni, MacAddr)>>,
    /// Whether nothing has changed since there was nothing to do.
    at_rest: bool,
    /// When each endpoint was first published.
    sequences: BTreeMap<(Vni, MacAddr), i64>,
    written_at: i64,
    /// The highest revision that was seen, of whatever store, and the highest epoch of a claim of the name.
    highest: i64,
}

impl Membership {
    /// A node of which nothing is in the store yet, as far as is known.
    #[must_use]
    pub fn new(keys: Keys, mut own: Own) -> Self {
        Self {
            grant: own.network.take().map(|(network, had)| Grant::new(network, had)),
            keys,
            own,
            lease: None,
            claim: None,
            stored: None,
            in_doubt: true,
            refused: None,
            asked: None,
            unsettled: None,
            at_rest: false,
            sequences: BTreeMap::new(),
            written_at: 0,
            highest: 0,
        }
    }

    /// What the node says of itself.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Says something else of its endpoints from now on.
    pub fn set_endpoints(&mut self, endpoints: BTreeMap<(Vni, MacAddr), OwnEndpoint>) {
        let before = std::mem::replace(&mut self.own.endpoints, endpoints);
        let now = &self.own.endpoints;
        let changed = now.iter().filter(|(key, endpoint)| before.get(key) != Some(endpoint)).map(|(key, _)| *key);
        let gone = before.keys().filter(|key| !now.contains_key(key)).copied();
        let changed: BTreeSet<(Vni, MacAddr)> = changed.chain(gone).collect();
        self.sequences.retain(|key, _| now.contains_key(key));
        self.at_rest &= changed.is_empty();
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.extend(changed);
        }
    }

    /// The revision at which the name was claimed, as long as the claim holds as far as is known.
    #[must_use]
    pub fn incarnation(&self) -> Option<i64> {
        self.claim.map(|claim| claim.incarnation)
    }

    /// The revision at which the store has what is there of the node's rows: that of the last write, as far as is known.
    #[must_use]
    pub fn written_at(&self) -> i64 {
        self.written_at
    }

    /// The ranges that the node has by its claim, or why it has none; none while that is not known, or no network is
    /// wanted.
    #[must_use]
    pub fn ranges(&self) -> Option<&Result<Vec<IpNet>, NoRanges>> {
        self.grant.as_ref()?.outcome()
    }

    /// The lease is gone, or may be.
    pub fn lease_lost(&mut self) {
        self.lose_claim();
        self.in_doubt = true;
    }

    /// A write may have been done or not.
    pub fn uncertain(&mut self) {
        (self.stored, self.asked) = (None, None);
        self.in_doubt = true;
    }

    /// Looks whether all is still there.
    pub fn verify(&mut self) {
        self.in_doubt = true;
        if let Some(grant) = &mut self.grant {
            grant.retry();
        }
    }

    /// It is another store, or one that went back: what was written may be gone, and its revisions say nothing.
    pub fn replaced(&mut self) {
        self.lease_lost();
        self.stored = None;
        self.written_at = 0;
        self.sequences.clear();
    }

    /// Tries again after [`Step::Refused`].
    pub fn retry(&mut self) {
        self.refused = None;
        self.in_doubt = true;
    }

    /// What to do next.
    pub fn step(&mut self) -> Step {
        if self.at_rest && !self.in_doubt && self.refused.is_none() && self.lease.is_some() {
            return Step::Rest;
        }
        self.at_rest = false;
        if let Some(holder) = &self.refused {
            return Step::Refused(holder.clone());
        }
        let Some(stored) = self.stored.as_ref().filter(|_| !self.in_doubt) else {
            let own = [KeyRange::One(self.node_key()), self.keys.endpoints(&self.own.node.name)].map(Operation::Get);
            let granted = self.grant.as_ref().map_or_else(Vec::new, |grant| grant.verification(&self.keys));
            return Step::Read(own.into_iter().chain(granted).collect());
        };
        let Some(lease) = self.lease else { return Step::Lease };
        let key = self.node_key();
        let Some(claim) = self.claim else {
            let condition = match stored.get(&key) {
                Some(row) => Condition::Unchanged(key.clone(), row.modified),
                None => Condition::Absent(key.clone()),
            };
            self.asked = Some(Asked::Claim);
            self.own.node.epoch = self.highest + 1;
            return Step::Write(vec![condition], vec![self.put_node(0, Standing::Joining, lease)]);
        };
        if let Some(grant) = &mut self.grant {
            match grant.next(&self.keys, &self.own.node.name) {
                Next::Read(operations) => {
                    self.asked = Some(Asked::Ranges);
                    return Step::Read(operations);
                }
                Next::Write(mut conditions, operations) => {
                    conditions.push(Condition::Leased(key, lease));
                    self.asked = Some(Asked::Grant(operations.clone()));
                    return Step::Write(conditions, operations);
                }
                Next::Settled => self.take_granted(),
            }
        }
        let Some(stored) = &self.stored else { return Step::Rest };
        let mut operations = match &self.unsettled {
            None => self.changes(stored, claim),
            Some(unsettled) => unsettled.iter().filter_map(|key| self.change(stored, claim, *key)).collect(),
        };
        // What is more than fits into one transaction begins with what goes.
        operations.sort_by_key(|operation| matches!(operation, Operation::Put(..)));
        if operations.is_empty() {
            self.unsettled = Some(BTreeSet::new());
            let joined = self.put_node(claim.incarnation, Standing::Joined, lease);
            if !is_done(stored, &joined) {
                operations.push(joined);
            }
        }
        if operations.is_empty() {
            self.at_rest = true;
            return Step::Rest;
        }
        operations.truncate(ROWS_AT_ONCE);
        self.asked = Some(Asked::Publish(operations.clone()));
        Step::Write(vec![Condition::Leased(key, lease)], operations)
    }

    /// What [`Step::Read`] has read, at this revision.
    pub fn read(&mut self, revision: i64, rows: &[Vec<KeyValue>]) {
        if let (Some(Asked::Ranges), Some(grant)) = (self.asked.take(), &mut self.grant) {
            grant.read(&self.keys, &self.own.node.name, rows);
            return;
        }
        let found: BTreeMap<Bytes, Stored> = rows.iter().flatten().map(|kv| (kv.key.clone(), Stored::of(kv))).collect();
        self.in_doubt = false;
        let held = found.get(&self.node_key());
        let epoch = held.and_then(|row| record::read::<Node>(&row.value).ok()).map_or(0, |node| node.epoch);
        self.highest = self.highest.max(revision).max(epoch);
        self.refused = held.and_then(|row| self.another(row));
        let claimed = self.claim.map(|claim| claim.lease);
        let lost = self.refused.is_some() || claimed.is_some() && held.map(|row| row.lease) != claimed;
        // Nobody else writes them: it is not the history that we wrote into.
        let differs = self.stored.as_ref().is_some_and(|known| *known != found);
        let granted = self.grant.as_ref().is_none_or(|grant| grant.is_confirmed(&self.keys, &self.own.node.name, rows));
        let other = claimed.is_some() && (differs || !granted);
        if !lost && other {
            self.sequences.clear();
        }
        self.sequences.retain(|_, sequence| *sequence <= revision);
        for (key, row) in &found {
            let Some(Key::Endpoint(_, vni, mac)) = self.keys.read(key) else { continue };
            let Ok(record) = record::read::<Endpoint>(&row.value) else { continue };
            if self.own.endpoints.contains_key(&(vni, mac)) {
                let sequence = if record.sequence == 0 { row.created } else { record.sequence };
                self.sequences.entry((vni, mac)).or_insert(sequence);
            }
        }
        self.written_at = found.values().map(|row| row.modified).fold(self.written_at, i64::max);
        self.stored = Some(found);
        self.unsettled = None;
        if lost || other {
            self.lose_claim();
        }
    }

    /// The lease that [`Step::Lease`] got.
    pub fn leased(&mut self, lease: i64) {
        self.lease = Some(lease);
    }

    /// What came of [`Step::Write`].
    pub fn written(&mut self, committed: &Committed) {
        self.highest = self.highest.max(committed.revision);
        let (Some(asked), Some(lease)) = (self.asked.take(), self.lease) else { return };
        if let (Asked::Grant(_), Some(grant)) = (&asked, &mut self.grant) {
            grant.written(committed.succeeded);
            // Perhaps it was not a range that was lost, but the name.
            self.in_doubt |= !committed.succeeded;
            if !committed.succeeded {
                return;
            }
        }
        if !committed.succeeded {
            self.lose_claim();
            self.in_doubt = true;
            return;
        }
        let operations = match asked {
            Asked::Claim => {
                self.claim = Some(Claim { incarnation: committed.revision, lease });
                self.highest = self.highest.max(self.own.node.epoch);
                vec![self.put_node(0, Standing::Joining, lease)]
            }
            Asked::Grant(operations) | Asked::Publish(operations) => operations,
            Asked::Ranges => Vec::new(),
        };
        self.written_at = committed.revision;
        for operation in operations {
            self.note(operation, committed.revision);
        }
    }

    fn lose_claim(&mut self) {
        (self.claim, self.lease, self.unsettled) = (None, None, None);
        (self.own.node.pod_ranges, self.own.node.overlay_addresses) = (Vec::new(), Vec::new());
        if let Some(grant) = &mut self.grant {
            grant.reset();
        }
        let of_grant = |key: &Bytes| matches!(self.keys.read(key), Some(Key::Network | Key::Range(_)));
        if let Some(stored) = &mut self.stored {
            stored.retain(|key, _| !of_grant(key));
        }
    }

    /// What was granted is part of what the node says of itself, and of what is looked after.
    fn take_granted(&mut self) {
        let Some(grant) = &self.grant else { return };
        let Some(Ok(ranges)) = grant.outcome() else { return };
        if self.own.node.pod_ranges == *ranges {
            return;
        }
        self.unsettled = None;
        self.own.node.pod_ranges.clone_from(ranges);
        self.own.node.overlay_addresses = ranges.iter().map(|range| overlay_address(*range)).collect();
        if let Some(stored) = &mut self.stored {
            for (key, row) in grant.stored(&self.keys) {
                stored.insert(key, row);
            }
        }
    }

    fn node_key(&self) -> Bytes {
        self.keys.write(&Key::Node(self.own.node.name.clone()))
    }

    /// Who has the name by this row, if that is not us. A row that cannot be read is nobody's that we know.
    fn another(&self, row: &Stored) -> Option<Holder> {
        let Ok(node) = record::read::<Node>(&row.value) else {
            return Some(Holder { addresses: Vec::new(), lease: row.lease });
        };
        let ours = node.instance == self.own.node.instance || node.standing == Standing::Left;
        (!ours).then_some(Holder { addresses: node.addresses, lease: row.lease })
    }

    fn put_node(&self, incarnation: i64, standing: Standing, lease: i64) -> Operation {
        let node = Node { version: RECORD_VERSION, incarnation, standing, ..self.own.node.clone() };
        Operation::Put(self.node_key(), record::write(&node).into(), Some(lease))
    }

    /// What has to be written and deleted so that the store has our endpoints and no others.
    fn changes(&self, stored: &BTreeMap<Bytes, Stored>, claim: Claim) -> Vec<Operation> {
        let strange = |key: &&Bytes| match self.keys.read(key) {
            Some(Key::Endpoint(_, vni, mac)) => self.published((vni, mac)).is_none(),
            Some(Key::Node(_) | Key::Network | Key::Range(_)) => false,
            _ => true,
        };
        let gone = stored.keys().filter(strange).map(|key| Operation::Delete(KeyRange::One(key.clone())));
        let own = self.own.endpoints.keys().filter(|key| self.published(**key).is_some());
        gone.chain(own.filter_map(|key| self.change(stored, claim, *key))).collect()
    }

    /// What has to be written or deleted so that the store has this endpoint as it is.
    fn change(&self, stored: &BTreeMap<Bytes, Stored>, claim: Claim, of: (Vni, MacAddr)) -> Option<Operation> {
        let Node { name, overlay_addresses, .. } = &self.own.node;
        let (vni, mac) = of;
        let key = self.keys.write(&Key::Endpoint(name.clone(), vni, mac));
        let Some(endpoint) = self.published(of) else {
            return stored.contains_key(&key).then(|| Operation::Delete(KeyRange::One(key)));
        };
        let ips = if endpoint.attached == Attached::Host { overlay_addresses } else { &endpoint.ips };
        let first = self.sequences.get(&of).copied().unwrap_or_default();
        let goes_without_saying = stored.get(&key).is_some_and(|row| row.created == first);
        let record = Endpoint {
            version: RECORD_VERSION,
            vni,
            mac,
            ips: ips.clone(),
            node: name.clone(),
            incarnation: claim.incarnation,
            sequence: if goes_without_saying { 0 } else { first },
            port: endpoint.port.clone(),
            attached: endpoint.attached,
        };
        let put = Operation::Put(key, record::write(&record).into(), Some(claim.lease));
        (!is_done(stored, &put)).then_some(put)
    }

    /// An endpoint that there is, if others are to know of it.
    fn published(&self, of: (Vni, MacAddr)) -> Option<&OwnEndpoint> {
        let is_published = |endpoint: &&OwnEndpoint| {
            endpoint.attached != Attached::Host || !self.own.node.overlay_addresses.is_empty()
        };
        self.own.endpoints.get(&of).filter(is_published)
    }

    /// Something of ours was written.
    fn note(&mut self, operation: Operation, revision: i64) {
        let Some(stored) = &mut self.stored else { return };
        match operation {
            Operation::Get(_) => {}
            Operation::Put(key, value, lease) => {
                let created = stored.get(&key).map_or(revision, |row| row.created);
                if let Some(Key::Endpoint(_, vni, mac)) = self.keys.read(&key) {
                    self.sequences.entry((vni, mac)).or_insert(created);
                }
                stored.insert(key, Stored { value, created, modified: revision, lease: lease.unwrap_or_default() });
            }
            Operation::Delete(range) => stored.retain(|key, _| !range.contains(key)),
        }
    }
}

fn is_done(stored: &BTreeMap<Bytes, Stored>, operation: &Operation) -> bool {
    let Operation::Put(key, value, lease) = operation else { return false };
    stored.get(key).is_some_and(|row| row.value == value && row.lease == lease.unwrap_or_default())
}
