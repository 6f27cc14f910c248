//! From the tables as they are to the tables as they should be: what is missing is added, what has changed is changed
//! in place, and what is not wanted is removed. Ports are not looked at, nor is anything that was learned: a learned
//! MAC never stands in for a published one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_bridge::tables::TableError;
use weft_bridge::{Attachment, Tables, Vtep, VtepId};
use weft_encap::{MacAddr, Vni};

use super::wanted::{Behind, Wanted, WantedVtep};
use crate::desired::inner_mtu;

/// One step.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Removes a VTEP and all that is behind it.
    RemoveVtep(VtepId),
    /// Takes a MAC from the VTEP that it was behind.
    UnbindMac(Vni, MacAddr),
    /// Changes the virtual networks that a VTEP takes part in.
    SetMembers(VtepId, Vec<Vni>),
    /// Adds a VTEP.
    AddVtep(Box<Vtep>, Vec<Vni>),
    /// Puts a MAC behind a VTEP.
    BindMac(Vni, MacAddr, Behind),
    /// Says which MAC an address has.
    SetNeighbour(Vni, IpAddr, MacAddr),
    /// Forgets which MAC an address has.
    RemoveNeighbour(Vni, IpAddr),
}

/// The steps from these tables to what is wanted; none when they have it.
#[must_use]
pub fn reconcile(tables: &Tables, wanted: &Wanted) -> Vec<Edit> {
    edits(tables, wanted).collect()
}

/// The same, one after another: at first they are as many as the cluster has MACs and addresses.
pub fn edits<'a>(tables: &'a Tables, wanted: &'a Wanted) -> impl Iterator<Item = Edit> + 'a {
    // A VTEP is added when the one that had its address is gone, and a MAC bound when its VTEP is there.
    let changed = changed_vteps(tables, wanted).chain(gone_macs(tables, wanted));
    changed.chain(new_vteps(tables, wanted)).chain(new_macs(tables, wanted)).chain(neighbours(tables, wanted))
}

fn changed_vteps<'a>(tables: &'a Tables, wanted: &'a Wanted) -> impl Iterator<Item = Edit> + 'a {
    tables.vteps().filter_map(|(id, vtep)| {
        let Some(wanted) = wanted.vteps.get(&vtep.address).filter(|wanted| is_same(vtep, wanted)) else {
            return Some(Edit::RemoveVtep(id));
        };
        let domains = tables.domains().filter(|domain| domain.has_member(id));
        let members: BTreeSet<Vni> = domains.map(weft_bridge::BridgeDomain::vni).collect();
        (members != wanted.vnis).then(|| Edit::SetMembers(id, wanted.vnis.iter().copied().collect()))
    })
}

fn gone_macs<'a>(tables: &'a Tables, wanted: &'a Wanted) -> impl Iterator<Item = Edit> + 'a {
    tables.domains().flat_map(move |domain| {
        let vni = domain.vni();
        let elsewhere = domain.static_macs().filter(|(_, attachment)| matches!(attachment, Attachment::Vtep(_)));
        let gone = elsewhere.filter(move |(mac, _)| !wanted.macs.contains_key(&(vni, *mac)));
        gone.map(move |(mac, _)| Edit::UnbindMac(vni, mac))
    })
}

fn new_vteps<'a>(tables: &'a Tables, wanted: &'a Wanted) -> impl Iterator<Item = Edit> + 'a {
    let is_new = |(address, vtep): &(&IpAddr, &WantedVtep)| {
        let known = tables.vtep_by_address(**address).and_then(|id| tables.vtep(id));
        !known.is_some_and(|known| is_same(known, vtep))
    };
    let new = wanted.vteps.iter().filter(is_new);
    new.map(|(address, vtep)| Edit::AddVtep(Box::new(row(*address, vtep)), vtep.vnis.iter().copied().collect()))
}

fn new_macs<'a>(tables: &'a Tables, wanted: &'a Wanted) -> impl Iterator<Item = Edit> + 'a {
    let is_there = |vni: Vni, mac: MacAddr, behind: &Behind| {
        let owner = tables.domain(vni).and_then(|domain| domain.owner(mac));
        owner.is_some_and(|owner| match owner.attachment {
            // A pod of this node has it: what others say of it is a conflict, and shown as one.
            Attachment::Port(_) => true,
            Attachment::Vtep(id) => tables.vtep(id).is_some_and(|vtep| {
                let wanted = wanted.vteps.get(&behind.address);
                (vtep.address, owner.roams) == (behind.address, behind.roams)
                    && wanted.is_some_and(|wanted| is_same(vtep, wanted))
            }),
        })
    };
    let new = wanted.macs.iter().filter(move |((vni, mac), behind)| !is_there(*vni, *mac, behind));
    new.map(|((vni, mac), behind)| Edit::BindMac(*vni, *mac, *behind))
}

fn neighbours<'a>(tables: &'a Tables, wanted: &'a Wanted) -> impl Iterator<Item = Edit> + 'a {
    let gone = tables.domains().flat_map(move |domain| {
        let vni = domain.vni();
        let gone = domain.neighbours().filter(move |(address, _)| !wanted.neighbours.contains_key(&(vni, *address)));
        gone.map(move |(address, _)| Edit::RemoveNeighbour(vni, address))
    });
    let known = |vni, address| tables.domain(vni).and_then(|domain| domain.mac_of(address));
    let new = wanted.neighbours.iter().filter(move |((vni, address), mac)| known(*vni, *address) != Some(**mac));
    gone.chain(new.map(|((vni, address), mac)| Edit::SetNeighbour(*vni, *address, *mac)))
}

/// Makes the edits. What is refused does not keep the rest from being made.
///
/// # Errors
/// The first refusal, and how many there were.
pub fn apply(tables: &mut Tables, edits: impl IntoIterator<Item = Edit>) -> Result<(), (TableError, usize)> {
    let mut refused = Vec::new();
    for edit in edits {
        let made = match edit {
            Edit::RemoveVtep(id) => {
                tables.remove_vtep(id);
                Ok(())
            }
            Edit::UnbindMac(vni, mac) => {
                tables.unbind_mac(vni, mac);
                Ok(())
            }
            Edit::SetMembers(id, vnis) => tables.set_members(id, &vnis),
            Edit::AddVtep(vtep, vnis) => tables.add_vtep(*vtep, &vnis).map(drop),
            Edit::BindMac(vni, mac, Behind { address, roams }) => match tables.vtep_by_address(address) {
                Some(id) => tables.bind_mac(vni, mac, id, roams),
                None => Err(TableError::UnknownVtep),
            },
            Edit::SetNeighbour(vni, address, mac) => tables.set_neighbour(vni, address, mac),
            Edit::RemoveNeighbour(vni, address) => {
                tables.remove_neighbour(vni, address);
                Ok(())
            }
        };
        refused.extend(made.err());
    }
    let count = refused.len();
    refused.into_iter().next().map_or(Ok(()), |first| Err((first, count)))
}

/// Whether it is the same VTEP as before. Its MTU is not part of that: probes change it.
fn is_same(vtep: &Vtep, wanted: &WantedVtep) -> bool {
    (vtep.kind, vtep.encapsulation, vtep.udp_port) == (wanted.kind, wanted.encapsulation, wanted.udp_port)
}

fn row(address: IpAddr, wanted: &WantedVtep) -> Vtep {
    Vtep {
        address,
        udp_port: wanted.udp_port,
        encapsulation: wanted.encapsulation,
        kind: wanted.kind,
        pod_mtu: inner_mtu(wanted.encapsulation, address.is_ipv6(), wanted.underlay_mtu),
    }
}
