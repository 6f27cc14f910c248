//! How an operator takes a node or a foreign VTEP out of the cluster.

use std::net::IpAddr;

use weft_encap::Encapsulation;
use weft_store::KeyRange;
use weft_store::client::{Condition, Operation};
use weft_store::proto::mvccpb::KeyValue;

use super::keys::{Key, Keys};
use super::record::{self, AddressRange, ForeignVtep, Node, RECORD_VERSION, Standing};

/// What removes a node from the cluster at once, in place of its lease's end: all agents let go of it when they hear of it,
/// and its ranges can be given to others. `row`: the node's row, if there is one; `ranges`: the rows of all ranges;
/// `lease`: the row that says so goes with it.
#[must_use]
pub fn removal(
    keys: &Keys,
    name: &str,
    row: Option<&KeyValue>,
    ranges: &[KeyValue],
    lease: i64,
) -> (Vec<Condition>, Vec<Operation>) {
    let key = keys.write(&Key::Node(name.to_owned()));
    let mut conditions = vec![match row {
        Some(row) => Condition::Unchanged(key.clone(), row.mod_revision),
        None => Condition::Absent(key.clone()),
    }];
    let is_own = |kv: &&KeyValue| record::read::<AddressRange>(&kv.value).is_ok_and(|range| range.node == name);
    let own: Vec<&KeyValue> = ranges.iter().filter(is_own).collect();
    conditions.extend(own.iter().map(|kv| Condition::Unchanged(kv.key.clone(), kv.mod_revision)));
    let left = Node {
        version: RECORD_VERSION,
        name: name.to_owned(),
        instance: String::new(),
        incarnation: 0,
        epoch: 0,
        standing: Standing::Left,
        addresses: Vec::new(),
        receives: Vec::new(),
        underlay_mtu: 0,
        vnis: Vec::new(),
        pod_ranges: Vec::new(),
        overlay_addresses: Vec::new(),
        capabilities: Vec::new(),
    };
    let put = Operation::Put(key, record::write(&left).into(), Some(lease));
    let given_back = own.iter().map(|kv| KeyRange::One(kv.key.clone()));
    let deleted = given_back.chain([keys.endpoints(name)]).map(Operation::Delete);
    (conditions, [put].into_iter().chain(deleted).collect())
}

/// What removes a foreign VTEP: a row in its place that names no virtual network, and goes with this lease. So those let go of
/// it too who hold it since a store went back in which it is not.
#[must_use]
pub fn foreign_removal(keys: &Keys, address: IpAddr, lease: i64) -> Operation {
    let encapsulation = Encapsulation::Vxlan;
    let udp_port = encapsulation.default_port();
    let removed = ForeignVtep { version: RECORD_VERSION, address, encapsulation, udp_port, vnis: Vec::new() };
    Operation::Put(keys.write(&Key::Foreign(address)), record::write(&removed).into(), Some(lease))
}
