//! What a node knows of the cluster: the store's rows, and those that the store has no more but that still count.
//!
//! Theory of operation. A lease that ends says that a node does not reach its store, and not that it is gone; a store
//! that forgets says nothing of nodes at all. So a node whose row goes without [`Standing::Left`] becomes *suspect*: it is
//! held as it was, until probes in the data plane fail too, or another node claims its name or its address.
//! A node that claims its name anew publishes its endpoints one after another; until it says that it has
//! [`Standing::Joined`], those that were known before are *held* beside the new ones. The same goes for all nodes when the
//! store turns out to be another one, or one from a backup, until each has claimed its name there.

mod rows;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_encap::{MacAddr, Vni};
use weft_store::proto::mvccpb::event::EventType;
use weft_store::proto::mvccpb::{Event, KeyValue};

use super::keys::{Key, Keys};
use super::record::{self, AddressRange, Attached, Endpoint, ForeignVtep, Network, Node, RecordError, Standing};

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

/// What counts of an endpoint's row, whose node is that under which it stands. There are very many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEndpoint {
    /// The virtual network.
    pub vni: Vni,
    /// The MAC.
    pub mac: MacAddr,
    /// Whose the MAC is.
    pub attached: Attached,
    /// Its addresses.
    pub ips: Box<[IpAddr]>,
    incarnation: i64,
    /// The revision at which its node first published it.
    pub sequence: i64,
}

type EndpointKey = (Vni, MacAddr);
/// Boxed, for half of a tree is empty.
type Endpoints = BTreeMap<EndpointKey, Box<KnownEndpoint>>;

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
    /// As the store has them, by node.
    endpoints: BTreeMap<String, Endpoints>,
    foreign: BTreeMap<IpAddr, Row<ForeignVtep>>,
    /// Foreign VTEPs that a store had which was replaced since: nobody publishes them again by himself.
    held_foreign: BTreeMap<IpAddr, Row<ForeignVtep>>,
    network: Option<Row<Network>>,
    ranges: BTreeMap<IpNet, Row<AddressRange>>,
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

impl KnownEndpoint {
    fn of(Row { record, created, .. }: Row<Endpoint>) -> Self {
        let Endpoint { vni, mac, ips, incarnation, sequence, attached, .. } = record;
        let sequence = if sequence == 0 { created } else { sequence };
        Self { vni, mac, attached, ips: ips.into(), incarnation, sequence }
    }
}

impl Member {
    fn new(row: Row<Node>) -> Self {
        let claims = vec![row.lease];
        Self { row, presence: Presence::Present, held: Endpoints::new(), claims, old_claims: Vec::new() }
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
            self.held.clear();
        }
    }

    /// Its row went, and it did not say that it leaves.
    fn suspect(&mut self, listed: Option<&Endpoints>) {
        self.hold(listed);
        self.presence = Presence::Suspect;
    }

    /// Keeps the endpoints that count now, whatever the store says of them from now on.
    fn hold(&mut self, listed: Option<&Endpoints>) {
        self.held = self.counting(listed).map(|(key, row)| (*key, Box::new(row.clone()))).collect();
    }

    fn counting<'a>(
        &'a self,
        listed: Option<&'a Endpoints>,
    ) -> impl Iterator<Item = (&'a EndpointKey, &'a KnownEndpoint)> {
        let listed = listed.filter(|_| self.presence == Presence::Present);
        let incarnation = self.row.incarnation();
        let valid = move |row: &KnownEndpoint| row.incarnation == incarnation;
        let again = move |key| listed.and_then(|listed| listed.get(key)).is_some_and(|row| valid(row));
        let held = self.held.iter().filter(move |(key, _)| !again(key));
        let listed = listed.into_iter().flatten().filter(move |(_, row)| valid(row));
        listed.chain(held).map(|(key, row)| (key, &**row))
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
            endpoints: BTreeMap::new(),
            foreign: BTreeMap::new(),
            held_foreign: BTreeMap::new(),
            network: None,
            ranges: BTreeMap::new(),
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
    pub fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().map(|(name, member)| (name.as_str(), member))
    }

    /// The node of this name, if it counts.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.get(name)
    }

    /// The endpoints of a member that count.
    pub fn endpoints<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a KnownEndpoint> {
        member.counting(self.endpoints.get(&member.row.record.name)).map(|(_, row)| row)
    }

    /// The foreign VTEPs, by address.
    pub fn foreign(&self) -> impl Iterator<Item = &Row<ForeignVtep>> {
        let held = self.held_foreign.iter().filter(|(address, _)| !self.foreign.contains_key(address));
        self.foreign.iter().chain(held).map(|(_, row)| row)
    }

    /// The network that all pods share, if the cluster has one.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref().map(|row| &row.record)
    }

    /// The ranges of its addresses that nodes have, those included that are not there.
    pub fn ranges(&self) -> impl Iterator<Item = &Row<AddressRange>> {
        self.ranges.values()
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
    /// Rows that are given away are let go of one after another.
    pub fn list(&mut self, revision: i64, rows: impl IntoIterator<Item: Borrow<KeyValue>>, replaced: bool) {
        let listed = std::mem::take(&mut self.endpoints);
        if replaced {
            for (name, member) in &mut self.members {
                member.hold(listed.get(name));
                member.old_claims.clone_from(&member.claims);
            }
            self.held_foreign.append(&mut self.foreign);
        }
        self.foreign.clear();
        self.network = None;
        self.ranges.clear();
        self.refused.clear();
        self.revision = revision;
        let mut nodes = HashSet::new();
        for kv in rows {
            let kv: &KeyValue = kv.borrow();
            match self.read(kv) {
                Ok(Read::Node(row)) => {
                    nodes.insert(row.record.name.clone());
                    self.put_node(row, &listed);
                }
                Ok(other) => self.put(other),
                Err(error) => {
                    self.refuse(kv, error);
                    // Who is refused is there all the same, as he was known before.
                    match self.keys.read(&kv.key) {
                        Some(Key::Node(name)) => _ = nodes.insert(name),
                        Some(Key::Endpoint(node, vni, mac)) => {
                            let known = listed.get(&node).and_then(|endpoints| endpoints.get(&(vni, mac)));
                            if let Some(known) = known.cloned() {
                                self.endpoints.entry(node).or_default().insert((vni, mac), known);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        for (name, member) in &mut self.members {
            if member.presence == Presence::Present && !nodes.contains(name) {
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
                member.held.clear();
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
        match self.read(kv) {
            Ok(read) => {
                self.refused.remove(&*String::from_utf8_lossy(&kv.key));
                match read {
                    Read::Node(row) => {
                        let listed = std::mem::take(&mut self.endpoints);
                        self.put_node(row, &listed);
                        self.endpoints = listed;
                    }
                    other => self.put(other),
                }
            }
            Err(error) => self.refuse(kv, error),
        }
    }

    fn refuse(&mut self, kv: &KeyValue, error: RecordError) {
        self.refusals += 1;
        self.refused.insert(String::from_utf8_lossy(&kv.key).into_owned(), error);
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

    fn put(&mut self, read: Read) {
        match read {
            Read::Node(_) => {}
            Read::Endpoint(mut row) => {
                let endpoints = self.endpoints.entry(std::mem::take(&mut row.record.node)).or_default();
                endpoints.insert((row.record.vni, row.record.mac), Box::new(KnownEndpoint::of(row)));
            }
            Read::Foreign(row) => {
                self.held_foreign.remove(&row.record.address);
                self.foreign.insert(row.record.address, row);
            }
            Read::Network(row) => self.network = Some(row),
            Read::Range(row) => _ = self.ranges.insert(row.record.range, row),
        }
    }

    fn delete(&mut self, kv: &KeyValue) {
        self.refused.remove(&*String::from_utf8_lossy(&kv.key));
        match self.keys.read(&kv.key) {
            Some(Key::Node(name)) => {
                if let Some(member) = self.members.get_mut(&name) {
                    member.suspect(self.endpoints.get(&name));
                }
            }
            Some(Key::Endpoint(node, vni, mac)) => {
                if let Some(endpoints) = self.endpoints.get_mut(&node) {
                    endpoints.remove(&(vni, mac));
                    if endpoints.is_empty() {
                        self.endpoints.remove(&node);
                    }
                }
                if let Some(member) = self.members.get_mut(&node).filter(|member| member.presence == Presence::Present)
                {
                    member.held.remove(&(vni, mac));
                }
            }
            Some(Key::Foreign(address)) => {
                self.foreign.remove(&address);
                self.held_foreign.remove(&address);
            }
            Some(Key::Network) => self.network = None,
            Some(Key::Range(range)) => _ = self.ranges.remove(&range),
            None => {}
        }
    }

    fn read(&self, kv: &KeyValue) -> Result<Read, RecordError> {
        match self.keys.read(&kv.key).ok_or(RecordError::UnknownKey)? {
            Key::Node(name) => {
                let record: Node = record::read(&kv.value)?;
                record.check()?;
                agree(&name, &record.name)?;
                Ok(Read::Node(Row::new(record, kv)))
            }
            Key::Endpoint(node, vni, mac) => {
                let record: Endpoint = record::read(&kv.value)?;
                record.check()?;
                agree(&Key::Endpoint(node, vni, mac), &Key::Endpoint(record.node.clone(), record.vni, record.mac))?;
                Ok(Read::Endpoint(Row::new(record, kv)))
            }
            Key::Foreign(address) => {
                let record: ForeignVtep = record::read(&kv.value)?;
                record.check()?;
                agree(&address, &record.address)?;
                Ok(Read::Foreign(Row::new(record, kv)))
            }
            Key::Network => Ok(Read::Network(Row::new(record::read(&kv.value)?, kv))),
            Key::Range(range) => {
                let record: AddressRange = record::read(&kv.value)?;
                agree(&range, &record.range)?;
                Ok(Read::Range(Row::new(record, kv)))
            }
        }
    }
}

enum Read {
    Node(Row<Node>),
    Endpoint(Row<Endpoint>),
    Foreign(Row<ForeignVtep>),
    Network(Row<Network>),
    Range(Row<AddressRange>),
}

fn agree<T: PartialEq + ToString>(key: &T, row: &T) -> Result<(), RecordError> {
    if key == row {
        return Ok(());
    }
    Err(RecordError::OtherKey { key: key.to_string(), row: row.to_string() })
}
