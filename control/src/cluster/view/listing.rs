//! What a store lists, read row by row: the text of a row is far longer than what counts of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_store::proto::mvccpb::KeyValue;

use super::endpoints::{Endpoints, KnownEndpoint};
use super::{Row, View};
use crate::cluster::keys::{Key, Keys};
use crate::cluster::record::{self, AddressRange, Endpoint, ForeignVtep, Network, Node, RecordError};

/// The rows of a cluster at one revision, as far as they were added.
#[derive(Clone, Debug)]
pub struct Listing {
    pub(super) keys: Keys,
    pub(super) nodes: Vec<Row<Node>>,
    pub(super) rows: Rows,
    /// Those that are refused, by key.
    pub(super) refused: Vec<(String, RecordError)>,
}

/// What the store has beside nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// By node.
    pub(super) endpoints: BTreeMap<String, Endpoints>,
    pub(super) foreign: BTreeMap<IpAddr, Row<ForeignVtep>>,
    pub(super) network: Option<Row<Network>>,
    pub(super) ranges: BTreeMap<IpNet, Row<AddressRange>>,
}

/// One row.
pub(super) enum Read {
    Node(Row<Node>),
    Other(OtherRow),
}

/// One that is no node's.
pub(super) enum OtherRow {
    Endpoint(Row<Endpoint>),
    Foreign(Row<ForeignVtep>),
    Network(Row<Network>),
    Range(Row<AddressRange>),
}

impl Listing {
    /// An empty one.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self { keys, nodes: Vec::new(), rows: Rows::default(), refused: Vec::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, kv: &KeyValue) {
        match Read::of(&self.keys, kv) {
            Ok(Read::Node(row)) => self.nodes.push(row),
            Ok(Read::Other(row)) => self.rows.put(row),
            Err(error) => self.refused.push((name(kv), error)),
        }
    }
}

impl Rows {
    pub(super) fn put(&mut self, row: OtherRow) {
        match row {
            OtherRow::Endpoint(mut row) => {
                let node = std::mem::take(&mut row.record.node);
                self.endpoints.entry(node).or_default().insert(KnownEndpoint::of(row));
            }
            OtherRow::Foreign(row) => _ = self.foreign.insert(row.record.address, row),
            OtherRow::Network(row) => self.network = Some(row),
            OtherRow::Range(row) => _ = self.ranges.insert(row.record.range, row),
        }
    }
}

impl Read {
    pub(super) fn of(keys: &Keys, kv: &KeyValue) -> Result<Self, RecordError> {
        let other = match keys.read(&kv.key).ok_or(RecordError::UnknownKey)? {
            Key::Node(name) => {
                let record: Node = record::read(&kv.value)?;
                record.check()?;
                agree(&name, &record.name)?;
                return Ok(Self::Node(Row::new(record, kv)));
            }
            Key::Endpoint(node, vni, mac) => {
                let record: Endpoint = record::read(&kv.value)?;
                record.check()?;
                agree(&Key::Endpoint(node, vni, mac), &Key::Endpoint(record.node.clone(), record.vni, record.mac))?;
                OtherRow::Endpoint(Row::new(record, kv))
            }
            Key::Foreign(address) => {
                let record: ForeignVtep = record::read(&kv.value)?;
                record.check()?;
                agree(&address, &record.address)?;
                OtherRow::Foreign(Row::new(record, kv))
            }
            Key::Network => OtherRow::Network(Row::new(record::read(&kv.value)?, kv)),
            Key::Range(range) => {
                let record: AddressRange = record::read(&kv.value)?;
                agree(&range, &record.range)?;
                OtherRow::Range(Row::new(record, kv))
            }
        };
        Ok(Self::Other(other))
    }
}

impl View {
    /// A listing to be taken here.
    #[must_use]
    pub fn listing(&self) -> Listing {
        Listing::new(self.keys.clone())
    }
}

/// A row's key as text.
pub(super) fn name(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.key).into_owned()
}

fn agree<T: PartialEq + ToString>(key: &T, row: &T) -> Result<(), RecordError> {
    if key == row {
        return Ok(());
    }
    Err(RecordError::OtherKey { key: key.to_string(), row: row.to_string() })
}
