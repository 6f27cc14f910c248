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
    let mut edits = Vec::new();
    for (id, vtep) in tables.vteps() {
        match wanted.vteps.get(&vtep.address).filter(|wanted| is_same(vtep, wanted)) {
            None => edits.push(Edit::RemoveVtep(id)),
            Some(wanted) => {
                let domains = tables.domains().filter(|domain| domain.has_member(id));
                let members: BTreeSet<Vni> = domains.map(weft_bridge::BridgeDomain::vni).collect();
                if members != wanted.vnis {
                    edits.push(Edit::SetMembers(id, wanted.vnis.iter().copied().collect()));
                }
            }
        }
    }
    for domain in tables.domains() {
        for (mac, attachment) in domain.static_macs() {
            let Attachment::Vtep(_) = attachment else { continue };
            if !wanted.macs.contains_key(&(domain.vni(), mac)) {
                edits.push(Edit::UnbindMac(domain.vni(), mac));
            }
        }
    }
    for (address, vtep) in &wanted.vteps {
        let known = tables.vtep_by_address(*address).and_then(|id| tables.vtep(id));
        if !known.is_some_and(|known| is_same(known, vtep)) {
            edits.push(Edit::AddVtep(Box::new(row(*address, vtep)), vtep.vnis.iter().copied().collect()));
        }
    }
    for ((vni, mac), behind) in &wanted.macs {
        let owner = tables.domain(*vni).and_then(|domain| domain.owner(*mac));
        let is_there = owner.is_some_and(|owner| match owner.attachment {
            // A pod of this node has it: what others say of it is a conflict, and shown as one.
            Attachment::Port(_) => true,
            Attachment::Vtep(id) => tables.vtep(id).is_some_and(|vtep| {
                let wanted = wanted.vteps.get(&behind.address);
                (vtep.address, owner.roams) == (behind.address, behind.roams)
                    && wanted.is_some_and(|wanted| is_same(vtep, wanted))
            }),
        });
        if !is_there {
            edits.push(Edit::BindMac(*vni, *mac, *behind));
        }
    }
    reconcile_neighbours(tables, wanted, &mut edits);
    edits
}

fn reconcile_neighbours(tables: &Tables, wanted: &Wanted, edits: &mut Vec<Edit>) {
    for domain in tables.domains() {
        let vni = domain.vni();
        let gone = domain.neighbours().filter(|(address, _)| !wanted.neighbours.contains_key(&(vni, *address)));
        edits.extend(gone.map(|(address, _)| Edit::RemoveNeighbour(vni, address)));
    }
    for ((vni, address), mac) in &wanted.neighbours {
        if tables.domain(*vni).and_then(|domain| domain.mac_of(*address)) != Some(*mac) {
            edits.push(Edit::SetNeighbour(*vni, *address, *mac));
        }
    }
}

/// Makes the edits. What is refused does not keep the rest from being made.
///
/// # Errors
/// The first refusal, and how many there were.
pub fn apply(tables: &mut Tables, edits: Vec<Edit>) -> Result<(), (TableError, usize)> {
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
