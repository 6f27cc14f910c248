//! What an agent knows that its successor would have to find out again.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_bridge::{Attachment, Learn, PortId, PortMode, Seconds, Tables, VTEP_LEARN_LIMIT};
use weft_encap::outer::{Addresses, Link};
use weft_encap::{MacAddr, Vni};
use weft_store::proto::mvccpb::KeyValue;
use weft_switch::Switch;
use weft_switch::underlay::{NextHop, NextHops};

use crate::agent::Agent;
use crate::cluster::{Keys, View};
use crate::config::Config;

/// All of it. Ids are those of one process: things are named by what they are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct State {
    vteps: Vec<VtepState>,
    learned: Vec<Learned>,
    cluster: Option<Cluster>,
}

/// What is known of a VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct VtepState {
    address: IpAddr,
    /// Longest inner packet to it, in bytes, as probes found out.
    pod_mtu: u16,
    /// Whether packets to it leave one by one.
    ungrouped: bool,
    /// How the uplink reaches it.
    hop: Option<Hop>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Hop {
    own: IpAddr,
    src: MacAddr,
    dst: MacAddr,
    mtu: u16,
}

/// A MAC that was learned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Learned {
    vni: Vni,
    mac: MacAddr,
    /// Seconds since it was seen.
    age: u32,
    behind: Behind,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Behind {
    Port(String),
    Vtep(IpAddr),
}

/// The store's rows that count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Cluster {
    prefix: String,
    revision: i64,
    rows: Vec<StoreRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct StoreRow {
    key: String,
    value: String,
    created: i64,
    modified: i64,
    lease: i64,
}

impl State {
    pub(crate) fn of(agent: &Agent) -> Self {
        let tables = agent.switch.tables();
        let hops = agent.uplink.as_ref().map(|uplink| uplink.state.hops());
        let vteps = tables.vteps().map(|(id, vtep)| VtepState {
            address: vtep.address,
            pod_mtu: vtep.pod_mtu,
            ungrouped: tables.is_ungrouped(id),
            hop: hops.as_ref().and_then(|hops| hops.get(id)).map(Hop::of),
        });
        let view = agent.following.as_ref().map(|following| following.view());
        let prefix = agent.config.control.as_ref().map(|control| control.prefix.clone());
        let cluster = view.zip(prefix).map(|(view, prefix)| Cluster {
            prefix,
            revision: view.revision(),
            rows: view.rows().into_iter().map(|row| StoreRow::of(&row)).collect(),
        });
        Self { vteps: vteps.collect(), learned: learned(&agent.switch, &tables), cluster }
    }

    /// The cluster as the other agent knew it, if it is the same one.
    pub(crate) fn view(&self, config: &Config) -> Option<View> {
        let control = config.control.as_ref()?;
        let Cluster { revision, rows, .. } =
            self.cluster.as_ref().filter(|cluster| cluster.prefix == control.prefix)?;
        Some(View::inherited(Keys::new(&control.prefix), *revision, rows.iter().map(StoreRow::key_value)))
    }

    /// The uplink's next hops, by the ids of these tables.
    pub(crate) fn hops(&self, tables: &Tables) -> NextHops {
        let mut hops = NextHops::default();
        for vtep in &self.vteps {
            if let Some((id, hop)) = tables.vtep_by_address(vtep.address).zip(vtep.hop)
                && let Some(hop) = hop.to(vtep.address)
            {
                hops.insert(id, hop);
            }
        }
        hops
    }

    /// Lets a switch know what the other one knew of VTEPs, and what it had learned.
    pub(crate) fn teach(&self, switch: &Switch) {
        let mut tables = Tables::clone(&switch.tables());
        for vtep in &self.vteps {
            let Some(id) = tables.vtep_by_address(vtep.address) else { continue };
            tables.set_pod_mtu(id, vtep.pod_mtu);
            if vtep.ungrouped {
                tables.set_ungrouped(id);
            }
        }
        let ports: HashMap<&str, PortId> = tables.ports().map(|(id, port)| (port.name.as_str(), id)).collect();
        let now = switch.now();
        for Learned { vni, mac, age, behind } in &self.learned {
            let attachment = match behind {
                Behind::Port(name) => ports.get(name.as_str()).copied().map(Attachment::Port),
                Behind::Vtep(address) => tables.vtep_by_address(*address).map(Attachment::Vtep),
            };
            if let Some((domain, attachment)) = tables.domain(*vni).zip(attachment) {
                let limit = limit(&tables, attachment);
                let learn = Learn { domain: domain.id(), mac: *mac, attachment, limit };
                switch.fdb().learn(&learn, Seconds(now.0.wrapping_sub(*age)));
            }
        }
        switch.publish(tables);
    }
}

fn learned(switch: &Switch, tables: &Tables) -> Vec<Learned> {
    let row = |row: weft_bridge::fdb::Row| {
        let behind = match row.attachment {
            Attachment::Port(id) => Behind::Port(tables.port(id)?.name.clone()),
            Attachment::Vtep(id) => Behind::Vtep(tables.vtep(id)?.address),
        };
        Some(Learned { vni: tables.domain_by_id(row.domain)?.vni(), mac: row.mac, age: row.age, behind })
    };
    switch.fdb().rows(switch.now()).filter_map(row).collect()
}

/// How many MACs may be learned there; none where none is learned any more.
fn limit(tables: &Tables, attachment: Attachment) -> u32 {
    match attachment {
        Attachment::Vtep(_) => VTEP_LEARN_LIMIT,
        Attachment::Port(id) => match tables.port(id).map(|port| &port.mode) {
            Some(PortMode::Learning { limit }) => *limit,
            Some(PortMode::Bound { .. }) | None => 0,
        },
    }
}

impl Hop {
    fn of(hop: &NextHop) -> Self {
        let NextHop { link: Link { dst, src }, addresses, mtu } = *hop;
        let own = match addresses {
            Addresses::V4 { src, .. } => src.into(),
            Addresses::V6 { src, .. } => src.into(),
        };
        Self { own, src, dst, mtu }
    }

    fn to(self, vtep: IpAddr) -> Option<NextHop> {
        let addresses = match (self.own, vtep) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4 { src, dst },
            (IpAddr::V6(src), IpAddr::V6(dst)) => Addresses::V6 { src, dst },
            _ => return None,
        };
        Some(NextHop { link: Link { dst: self.dst, src: self.src }, addresses, mtu: self.mtu })
    }
}

impl StoreRow {
    /// Keys and values are text, for this wrote them.
    fn of(row: &KeyValue) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            key: text(&row.key),
            value: text(&row.value),
            created: row.create_revision,
            modified: row.mod_revision,
            lease: row.lease,
        }
    }

    fn key_value(&self) -> KeyValue {
        KeyValue {
            key: self.key.clone().into(),
            value: self.value.clone().into(),
            create_revision: self.created,
            mod_revision: self.modified,
            lease: self.lease,
            version: 0,
        }
    }
}
