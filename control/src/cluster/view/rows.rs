//! A view as rows again, for another process to begin with.

use serde::Serialize;
use weft_store::proto::mvccpb::KeyValue;

use super::super::keys::Key;
use super::super::record::{self, Endpoint, RECORD_VERSION};
use super::{Member, Row, View};

impl View {
    /// What counts, as rows that another view can list: of suspects too, and of endpoints that are held.
    #[must_use]
    pub fn rows(&self) -> Vec<KeyValue> {
        let mut rows = Vec::new();
        for (name, member) in &self.members {
            rows.push(self.key_value(&Key::Node(name.clone()), &member.row));
            rows.extend(self.endpoint_rows(name, member));
        }
        rows.extend(self.foreign().map(|row| self.key_value(&Key::Foreign(row.record.address), row)));
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
