//! What a node knows of the cluster: the store's rows, and those that the store has no more but that still count.
//!
//! Theory of operation. A lease that ends says that a node does not reach its store, and not that it is gone; a store
//! that forgets says nothing of nodes at all. So a node whose row goes without [`Standing::Left`] becomes *suspect*: it is
//! held as it was, until probes in the data plane fail too, or another node claims its name or its address.
//! A node that claims its name anew publishes its endpoints one after another; until it says that it has
//! [`Standing::Joined`], those that were known before are *held* beside the new ones. The same goes for all nodes when the
//! store turns out to be another one, or one from a backup, until each has claimed its name there.

mod endpoints;
mod listing;
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

use endpoints::Endpoints;
use listing::{OtherRow, Read, Rows, name};

/// Claims of one node that are remembered, so that one which a backup brings back is not taken for a new one.
const REMEMBERED_CLAIMS: usize = 8;

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

/// Whether a node's row is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It went, and nobody said why.
    Suspect,
    /// It is there.
    Present,
}

/// A node that counts.
#[derive(Clone, Debug)]
pub struct Member {
    row: Row<Node>,
    presence: Presence,
    /// Endpoints that count beside those in the store, until the node has published again.
    held: Endpoints,
    /// The leases of its claims, newest last.
    claims: Vec<i64>,
    /// Claims that do not end what is held: they are of before the store went back.
    old_claims: Vec<i64>,
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

impl Member {
    fn new(row: Row<Node>) -> Self {
        let claims = vec![row.lease];
        Self { row, presence: Presence::Present, held: Endpoints::default(), claims, old_claims: Vec::new() }
    }

    /// The node's row.
    #[must_use]
    pub fn row(&self) -> &Row<Node> {
        &self.row
    }

    /// Whether it is in the store.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// Whether endpoints count that it has to publish again.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.held.is_empty()
    }

    /// A row under the node's name. `listed`: its endpoints in the store until now.
    fn update(&mut self, row: Row<Node>, listed: Option<&Endpoints>) {
        if row.record.instance != self.row.record.instance {
            *self = Self::new(row);
            return;
        }
        if row.lease != self.row.lease || self.presence == Presence::Suspect {
            self.hold(listed);
            self.claims.retain(|claim| *claim != row.lease);
            self.claims.push(row.lease);
            if self.claims.len() > REMEMBERED_CLAIMS {
                self.claims.remove(0);
            }
        }
        self.presence = Presence::Present;
        self.row = row;
        if self.row.record.standing == Standing::Joined && !self.old_claims.contains(&self.row.lease) {
            self.held = Endpoints::default();
        }
    }

    /// Its row went, and it did not say that it leaves.
    fn suspect(&mut self, listed: Option<&Endpoints>) {
        self.hold(listed);
        self.presence = Presence::Suspect;
    }

    /// Keeps the endpoints that count now, whatever the store says of them from now on.
    fn hold(&mut self, listed: Option<&Endpoints>) {
        self.held = self.counting(listed).collect();
    }

    fn counting<'a>(&'a self, listed: Option<&'a Endpoints>) -> impl Iterator<Item = &'a KnownEndpoint> + Clone {
        let listed = listed.filter(|_| self.presence == Presence::Present);
        let incarnation = self.row.incarnation();
        let valid = move |row: &KnownEndpoint| row.incarnation == incarnation;
        let again = move |held: &KnownEndpoint| listed.and_then(|listed| listed.get(held.key())).is_some_and(valid);
        let held = self.held.iter().filter(move |row| !again(row));
        listed.into_iter().flat_map(Endpoints::iter).filter(move |row| valid(row)).chain(held)
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

    /// The foreign VTEPs, by address.
    pub fn foreign(&self) -> impl Iterator<Item = &Row<ForeignVtep>> {
        let held = self.held_foreign.iter().filter(|(address, _)| !self.rows.foreign.contains_key(address));
        self.rows.foreign.iter().chain(held).map(|(_, row)| row)
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
        let Rows { endpoints: listed, mut foreign, .. } = std::mem::replace(&mut self.rows, rows);
        if replaced {
            for (name, member) in &mut self.members {
                member.hold(listed.get(name));
                member.old_claims.clone_from(&member.claims);
            }
            self.held_foreign.append(&mut foreign);
        }
        self.held_foreign.retain(|address, _| !self.rows.foreign.contains_key(address));
        self.refused.clear();
        self.revision = revision;
        let mut names = HashSet::new();
        for row in nodes {
            names.insert(row.record.name.clone());
            self.put_node(row, &listed);
        }
        for (key, error) in refused {
            // Who is refused is there all the same, as he was known before.
            match self.keys.read(key.as_bytes()) {
                Some(Key::Node(name)) => _ = names.insert(name),
                Some(Key::Endpoint(node, vni, mac)) => {
                    let known = listed.get(&node).and_then(|endpoints| endpoints.get((vni, mac)));
                    if let Some(known) = known.cloned() {
                        self.rows.endpoints.entry(node).or_default().insert(known);
                    }
                }
                _ => {}
            }
            self.refuse(key, error);
        }
        for (name, member) in &mut self.members {
            if member.presence == Presence::Present && !names.contains(name) {
                member.suspect(listed.get(name));
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
        self.members.retain(|_, member| member.presence == Presence::Present || !is_silent(&member.row.record));
        before != self.members.len()
    }

    /// Ends what a listing with `replaced` began: whoever is there has had the time to look whether the store has what
    /// it wrote, and to publish again if not.
    pub fn trust(&mut self) {
        for member in self.members.values_mut().filter(|member| member.presence == Presence::Present) {
            member.old_claims.clear();
            if member.row.record.standing == Standing::Joined {
                member.held = Endpoints::default();
            }
        }
    }

    /// Lets go of suspects whose address a node has that is there.
    fn forget_superseded(&mut self) {
        let present = |member: &&Member| member.presence == Presence::Present;
        let addresses = |member: &Member| member.row.record.addresses.clone();
        let taken: HashSet<IpAddr> = self.members.values().filter(present).flat_map(addresses).collect();
        self.members.retain(|_, member| {
            let claimed = member.row.record.addresses.iter().any(|address| taken.contains(address));
            member.presence == Presence::Present || !claimed
        });
    }

    fn take(&mut self, kv: &KeyValue) {
        match Read::of(&self.keys, kv) {
            Ok(read) => {
                self.refused.remove(&name(kv));
                match read {
                    Read::Node(row) => {
                        let listed = std::mem::take(&mut self.rows.endpoints);
                        self.put_node(row, &listed);
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

    fn refuse(&mut self, key: String, error: RecordError) {
        self.refusals += 1;
        self.refused.insert(key, error);
    }

    fn put_node(&mut self, row: Row<Node>, listed: &BTreeMap<String, Endpoints>) {
        let name = row.record.name.clone();
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
                    member.suspect(self.rows.endpoints.get(&name));
                }
            }
            Some(Key::Endpoint(node, vni, mac)) => {
                if let Some(endpoints) = self.rows.endpoints.get_mut(&node) {
                    endpoints.remove((vni, mac));
                    if endpoints.is_empty() {
                        self.rows.endpoints.remove(&node);
                    }
                }
                if let Some(member) = self.members.get_mut(&node).filter(|member| member.presence == Presence::Present)
                {
                    member.held.remove((vni, mac));
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
