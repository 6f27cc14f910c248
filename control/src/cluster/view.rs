//! What a node knows of the cluster: the store's rows, and those that the store has no more but that still count.
//!
//! Theory of operation. A lease that ends says that a node does not reach its store, and not that it is gone; a store
//! that forgets says nothing of nodes at all. So a node whose row goes without [`Standing::Left`] becomes *suspect*: it is
//! held as it was, until probes in the data plane fail too, or another node claims its name or its address.
//! A node that claims its name anew publishes its endpoints one after another; until it says that it has
//! [`Standing::Joined`], those that were known before are *held* beside the new ones. When the store turns out to be
//! another one, or one from a backup, what it says of a node may be of before: then the node is *doubted*, and counts as it
//! was known, until it claims its name there.

mod endpoints;
mod listing;
mod member;
mod rows;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use weft_store::proto::mvccpb::event::EventType;
use weft_store::proto::mvccpb::{Event, KeyValue};

use super::keys::{Key, Keys};
use super::record::{AddressRange, ForeignVtep, Network, Node, RecordError, Standing};

pub use endpoints::{Ips, KnownEndpoint};
pub use listing::Listing;
pub use member::{Member, Presence};

use endpoints::Endpoints;
use listing::{OtherRow, Read, Rows, name};
use member::Heard;

/// A record with what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<T> {
    /// What was written.
    pub record: T,
    /// Revision at which the key came to be.
    pub created: i64,
    /// Revision of the last write.
    pub modified: i64,
    /// The lease that it goes with; 0 for none.
    pub lease: i64,
}

/// The cluster as it is known here.
#[derive(Clone, Debug)]
pub struct View {
    keys: Keys,
    revision: i64,
    members: BTreeMap<String, Member>,
    /// As the store has them.
    rows: Rows,
    /// Foreign VTEPs that a store had which was replaced since: nobody publishes them again by himself.
    held_foreign: BTreeMap<IpAddr, Row<ForeignVtep>>,
    refused: BTreeMap<String, RecordError>,
    refusals: u64,
}

impl<T> Row<T> {
    fn new(record: T, kv: &KeyValue) -> Self {
        Self { record, created: kv.create_revision, modified: kv.mod_revision, lease: kv.lease }
    }
}

impl Row<Node> {
    /// The revision at which its name was claimed.
    #[must_use]
    pub fn incarnation(&self) -> i64 {
        if self.record.incarnation == 0 { self.modified } else { self.record.incarnation }
    }
}

impl View {
    /// Of which nothing is known.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            revision: 0,
            members: BTreeMap::new(),
            rows: Rows::default(),
            held_foreign: BTreeMap::new(),
            refused: BTreeMap::new(),
            refusals: 0,
        }
    }

    /// The store's revision up to which everything is known.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The nodes that count, by name.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Member)> + Clone {
        self.members.iter().map(|(name, member)| (name.as_str(), member))
    }

    /// The node of this name, if it counts.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.get(name)
    }

    /// The endpoints of a member that count.
    pub fn endpoints<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a KnownEndpoint> + Clone {
        member.counting(self.rows.endpoints.get(&member.row.record.name))
    }

    /// The foreign VTEPs, by address, but for those that were removed.
    pub fn foreign(&self) -> impl Iterator<Item = &Row<ForeignVtep>> {
        let held = self.held_foreign.iter().filter(|(address, _)| !self.rows.foreign.contains_key(address));
        self.rows.foreign.iter().chain(held).map(|(_, row)| row).filter(|row| !row.record.vnis.is_empty())
    }

    /// The network that all pods share, if the cluster has one.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        self.rows.network.as_ref().map(|row| &row.record)
    }

    /// The ranges of its addresses that nodes have, those included that are not there.
    pub fn ranges(&self) -> impl Iterator<Item = &Row<AddressRange>> {
        self.rows.ranges.values()
    }

    /// Rows that are refused, by key, with the reason.
    pub fn refused(&self) -> impl Iterator<Item = (&str, &RecordError)> {
        self.refused.iter().map(|(key, error)| (key.as_str(), error))
    }

    /// How often a row was refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Takes what the store lists at a revision. `replaced`: it is not the store it was, or went back since it was last
    /// listened to.
    pub fn list(&mut self, revision: i64, rows: impl IntoIterator<Item: Borrow<KeyValue>>, replaced: bool) {
        let mut listing = self.listing();
        rows.into_iter().for_each(|kv| listing.add(kv.borrow()));
        self.take_listing(revision, listing, replaced);
    }

    /// The same, of rows that were read already.
    pub fn take_listing(&mut self, revision: i64, listing: Listing, replaced: bool) {
        let Listing { nodes, rows, refused, .. } = listing;
        let before = std::mem::replace(&mut self.rows, rows);
        for (key, _) in &refused {
            self.keep(key, &before);
        }
        let Rows { endpoints: listed, mut foreign, .. } = before;
        if replaced {
            self.members.iter_mut().for_each(|(name, member)| member.doubt(listed.get(name)));
            self.held_foreign.append(&mut foreign);
        }
        self.held_foreign.retain(|address, _| !self.rows.foreign.contains_key(address));
        self.refused.clear();
        self.revision = revision;
        let mut names = HashSet::new();
        for row in nodes {
            let name = row.record.name.clone();
            if replaced && !self.members.contains_key(&name) && row.record.standing != Standing::Left {
                let member = Member::restored(row, self.rows.endpoints.get(&name));
                self.members.insert(name.clone(), member);
            } else {
                self.put_node(row, &listed, Heard::Listed);
            }
            names.insert(name);
        }
        for (key, error) in refused {
            if let Some(Key::Node(name)) = self.keys.read(key.as_bytes()) {
                names.insert(name);
            }
            self.refuse(key, error);
        }
        for (name, member) in &mut self.members {
            if !names.contains(name) {
                member.lapse(listed.get(name));
            }
        }
        self.forget_superseded();
    }

    /// Takes what was written since, in order: whole revisions, none of them in part.
    pub fn watch(&mut self, revision: i64, events: &[Event]) {
        let news = events.iter().filter_map(|event| Some((event.r#type(), event.kv.as_ref()?)));
        let news: Vec<_> = news.filter(|(_, kv)| kv.mod_revision > self.revision).collect();
        for write in news.chunk_by(|(_, one), (_, next)| one.mod_revision == next.mod_revision) {
            // When a lease ends, a node's row goes together with its endpoints: then these are held.
            let is_node = |kv: &KeyValue| matches!(self.keys.read(&kv.key), Some(Key::Node(_)));
            let (nodes, others): (Vec<_>, Vec<_>) = write.iter().copied().partition(|(_, kv)| is_node(kv));
            for (kind, kv) in nodes.into_iter().chain(others) {
                match kind {
                    EventType::Put => self.take(kv),
                    EventType::Delete => self.delete(kv),
                }
            }
        }
        self.revision = self.revision.max(revision);
        self.forget_superseded();
    }

    /// Lets go of suspects to which the data plane has no path any more; says whether there were any.
    pub fn forget_suspects(&mut self, is_silent: impl Fn(&Node) -> bool) -> bool {
        let before = self.members.len();
        self.members.retain(|_, member| !member.is_gone() || !is_silent(&member.row.record));
        before != self.members.len()
    }

    /// Ends what a listing with `replaced` began: whoever is there has had the time to look whether the store has what
    /// it wrote, and to publish again if not.
    pub fn trust(&mut self) {
        self.members.retain(|_, member| member.trust());
    }

    /// Lets go of suspects whose address a node has that is there.
    fn forget_superseded(&mut self) {
        let present = |member: &&Member| member.presence == Presence::Present;
        let addresses = |member: &Member| member.row.record.addresses.clone();
        let taken: HashSet<IpAddr> = self.members.values().filter(present).flat_map(addresses).collect();
        self.members.retain(|_, member| {
            let claimed = member.row.record.addresses.iter().any(|address| taken.contains(address));
            !member.is_gone() || !claimed
        });
    }

    fn take(&mut self, kv: &KeyValue) {
        match Read::of(&self.keys, kv) {
            Ok(read) => {
                self.refused.remove(&name(kv));
                match read {
                    Read::Node(row) => {
                        let listed = std::mem::take(&mut self.rows.endpoints);
                        self.put_node(row, &listed, Heard::News);
                        self.rows.endpoints = listed;
                    }
                    Read::Other(row) => {
                        if let OtherRow::Foreign(row) = &row {
                            self.held_foreign.remove(&row.record.address);
                        }
                        self.rows.put(row);
                    }
                }
            }
            Err(error) => self.refuse(name(kv), error),
        }
    }

    /// What is refused is there all the same, as it was known before.
    fn keep(&mut self, key: &str, before: &Rows) {
        match self.keys.read(key.as_bytes()) {
            Some(Key::Endpoint(node, vni, mac)) => {
                let known = before.endpoints.get(&node).and_then(|endpoints| endpoints.get((vni, mac)));
                if let Some(known) = known.cloned() {
                    self.rows.endpoints.entry(node).or_default().insert(known);
                }
            }
            Some(Key::Foreign(address)) => {
                let known = before.foreign.get(&address).or_else(|| self.held_foreign.get(&address));
                self.rows.foreign.extend(known.cloned().map(|known| (address, known)));
            }
            Some(Key::Network) => self.rows.network = before.network.clone(),
            Some(Key::Range(range)) => {
                self.rows.ranges.extend(before.ranges.get(&range).cloned().map(|known| (range, known)));
            }
            // Its member stays.
            Some(Key::Node(_)) | None => {}
        }
    }

    fn refuse(&mut self, key: String, error: RecordError) {
        self.refusals += 1;
        self.refused.insert(key, error);
    }

    fn put_node(&mut self, row: Row<Node>, listed: &BTreeMap<String, Endpoints>, heard: Heard) {
        let name = row.record.name.clone();
        if self.members.get_mut(&name).is_some_and(|member| !member.believes(&row, heard)) {
            return;
        }
        if row.record.standing == Standing::Left {
            self.members.remove(&name);
            return;
        }
        match self.members.get_mut(&name) {
            Some(member) => member.update(row, listed.get(&name)),
            None => _ = self.members.insert(name, Member::new(row)),
        }
    }

    fn delete(&mut self, kv: &KeyValue) {
        self.refused.remove(&name(kv));
        match self.keys.read(&kv.key) {
            Some(Key::Node(name)) => {
                if let Some(member) = self.members.get_mut(&name) {
                    member.lapse(self.rows.endpoints.get(&name));
                }
            }
            Some(Key::Endpoint(node, vni, mac)) => {
                let Some(endpoints) = self.rows.endpoints.get_mut(&node) else { return };
                let gone = endpoints.remove((vni, mac));
                if endpoints.is_empty() {
                    self.rows.endpoints.remove(&node);
                }
                // One of an earlier claim may have gone with that claim's lease, before it was published again.
                if let Some((member, gone)) = self.members.get_mut(&node).zip(gone) {
                    member.withdraw(&gone);
                }
            }
            Some(Key::Foreign(address)) => {
                self.rows.foreign.remove(&address);
                self.held_foreign.remove(&address);
            }
            Some(Key::Network) => self.rows.network = None,
            Some(Key::Range(range)) => _ = self.rows.ranges.remove(&range),
            None => {}
        }
    }
}
