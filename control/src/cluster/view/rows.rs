//! A view as rows again, for another process to begin with.
//!
//! All that counts is among them, also what the store has not. What a store that went back may not have is marked by the one
//! thing that every row of a store has, and these have not: a node's by a lease, a foreign VTEP's by a revision.

use std::net::IpAddr;

use serde::Serialize;
use weft_store::proto::mvccpb::KeyValue;

use super::super::keys::Key;
use super::super::record::{self, Endpoint, ForeignVtep, RECORD_VERSION};
use super::{Keys, Member, Row, View};

/// Of no row of a node in a store.
const NO_LEASE: i64 = 0;
/// Of no row in a store.
const NO_REVISION: i64 = 0;

impl View {
    /// What counts, by the rows of another one that knew it up to a revision.
    #[must_use]
    pub fn inherited(keys: Keys, revision: i64, rows: impl IntoIterator<Item = KeyValue>) -> Self {
        let mut view = Self::new(keys);
        view.list(revision, rows, false);
        for (name, member) in &mut view.members {
            let listed = view.rows.endpoints.get(name);
            if member.row.lease == NO_LEASE { member.doubt(listed) } else { member.hold(listed) }
        }
        let held = |_: &IpAddr, row: &mut Row<ForeignVtep>| row.created == NO_REVISION;
        view.held_foreign.extend(view.rows.foreign.extract_if(.., held));
        view
    }

    /// Whether it knows more of some node than a store says that went back.
    #[must_use]
    pub fn is_doubting(&self) -> bool {
        self.members.values().any(Member::is_doubted)
    }

    /// What counts, as rows for [`View::inherited`]: of suspects too, and of endpoints that are held.
    #[must_use]
    pub fn rows(&self) -> Vec<KeyValue> {
        let mut rows = Vec::new();
        for (name, member) in &self.members {
            let lease = if member.is_doubted() { NO_LEASE } else { member.row.lease };
            rows.push(self.key_value(&Key::Node(name.clone()), &Row { lease, ..member.row.clone() }));
            rows.extend(self.endpoint_rows(name, member));
        }
        rows.extend(self.foreign().map(|row| {
            let address = row.record.address;
            let created = if self.rows.foreign.contains_key(&address) { row.created } else { NO_REVISION };
            self.key_value(&Key::Foreign(address), &Row { created, ..row.clone() })
        }));
        rows.extend(self.rows.network.iter().map(|row| self.key_value(&Key::Network, row)));
        rows.extend(self.ranges().map(|row| self.key_value(&Key::Range(row.record.range), row)));
        rows
    }

    fn endpoint_rows<'a>(&'a self, name: &'a str, member: &'a Member) -> impl Iterator<Item = KeyValue> + use<'a> {
        let Row { modified, lease, .. } = member.row;
        self.endpoints(member).map(move |known| {
            let record = Endpoint {
                version: RECORD_VERSION,
                vni: known.vni,
                mac: known.mac,
                ips: known.ips.to_vec(),
                node: name.to_owned(),
                // Those that are held are of an earlier claim, and count all the same.
                incarnation: member.row.incarnation(),
                sequence: known.sequence,
                // Of no interest to others.
                port: String::new(),
                attached: known.attached,
            };
            let row = Row { record, created: known.sequence, modified, lease };
            self.key_value(&Key::Endpoint(name.to_owned(), known.vni, known.mac), &row)
        })
    }

    fn key_value<T: Serialize>(&self, key: &Key, row: &Row<T>) -> KeyValue {
        KeyValue {
            key: self.keys.write(key),
            value: record::write(&row.record).into(),
            create_revision: row.created,
            mod_revision: row.modified,
            lease: row.lease,
            version: 0,
        }
    }
}
