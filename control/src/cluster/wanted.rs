//! What of the cluster concerns one node, and who has what where several claim it.
//!
//! A VTEP address is the node's that claimed its name last; a MAC of a VNI, and an address of a pod, that of the endpoint
//! published last, for a pod has moved then. Nodes that are present come before suspects, those that claimed their name
//! since the store went back before the others, and whom it brought back then behind all; a pod's own MAC comes before one
//! that was learned. Revisions of the store decide what is last, and names and MACs where they are equal, so that all nodes
//! see the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use weft_bridge::VtepKind;
use weft_encap::{Encapsulation, MacAddr, Vni};

use super::claims::{Claims, Rank};
use super::record::{AddressRange, Attached, Node};
use super::view::{KnownEndpoint, Member, Row, View};
use crate::config::VtepConfig;

/// The node that asks.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its name.
    pub node: String,
    /// Its VTEP addresses.
    pub addresses: Vec<IpAddr>,
    /// Its virtual networks.
    pub vnis: BTreeSet<Vni>,
    /// MTU of its underlay in bytes.
    pub underlay_mtu: u16,
    /// Foreign VTEPs that its own configuration names.
    pub vteps: Vec<VtepConfig>,
}

/// What its tables should have of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The other tunnel ends.
    pub vteps: BTreeMap<IpAddr, WantedVtep>,
    /// MACs behind them.
    pub macs: BTreeMap<(Vni, MacAddr), Behind>,
    /// The MACs that addresses of pods have, those of this node's own pods included.
    pub neighbours: BTreeMap<(Vni, IpAddr), MacAddr>,
    /// MACs that this node has learned and published, and that another has by now.
    pub taken_over: BTreeSet<(Vni, MacAddr)>,
}

/// Where a MAC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The VTEP's address.
    pub address: IpAddr,
    /// Whether it was learned there.
    pub roams: bool,
}

/// A tunnel end, and the virtual networks that it has in common with this node: those whose floods it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedVtep {
    /// Whether its state is published.
    pub kind: VtepKind,
    /// How frames travel to it.
    pub encapsulation: Encapsulation,
    /// UDP destination port.
    pub udp_port: u16,
    /// MTU of the underlay between both in bytes, as far as both know it.
    pub underlay_mtu: u16,
    /// The virtual networks.
    pub vnis: BTreeSet<Vni>,
}

/// Something that several claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// What it is.
    pub what: String,
    /// Who has it.
    pub winner: String,
    /// Who claims it too.
    pub others: Vec<String>,
}

fn address_claims(view: &View) -> Claims<'_, IpAddr, Member> {
    Claims::of(view.members().flat_map(|(name, member)| {
        let (presence, is_sure, was_known) = (member.presence(), !member.is_doubted(), !member.has_come_back());
        let (revision, name, mac) = (member.row().incarnation(), Reverse(name), MacAddr::ZERO);
        let rank = Rank { was_known, presence, is_sure, own: true, revision, name, mac };
        member.row().record.addresses.iter().map(move |address| (*address, rank, member))
    }))
}

fn endpoints(view: &View) -> impl Iterator<Item = (Rank<'_>, &KnownEndpoint)> + Clone {
    let went_back = view.is_doubting();
    view.members().flat_map(move |(name, member)| {
        let (presence, was_known) = (member.presence(), !member.has_come_back());
        view.endpoints(member).map(move |row| {
            let own = row.attached != Attached::Learned;
            let is_sure = !member.is_doubted() && (!went_back || member.has_published(row));
            (Rank { was_known, presence, is_sure, own, revision: row.sequence, name: Reverse(name), mac: row.mac }, row)
        })
    })
}

fn mac_claims(view: &View) -> Claims<'_, (Vni, MacAddr), KnownEndpoint> {
    Claims::of(endpoints(view).map(|(rank, row)| ((row.vni, row.mac), rank, row)))
}

fn ip_claims(view: &View) -> Claims<'_, (Vni, IpAddr), KnownEndpoint> {
    Claims::of(endpoints(view).flat_map(|(rank, row)| {
        let vni = row.vni;
        row.ips.iter().map(move |ip| ((vni, *ip), rank, row))
    }))
}

/// What one node wants of all that is known.
#[must_use]
pub fn wanted(view: &View, local: &Local) -> Wanted {
    let addresses = address_claims(view);
    // Whether the address by which others reach a node is its own.
    let has_address = |name: &str, address| addresses.winner(address).is_some_and(|winner| winner.name() == name);
    let mut wanted = Wanted::default();
    let mut reached: BTreeMap<&str, IpAddr> = BTreeMap::new();
    for (name, member) in view.members().filter(|(name, _)| *name != local.node) {
        let node = &member.row().record;
        let Some(address) = common_address(node, local) else { continue };
        let Some(first) = node.receives.iter().find(|receives| receives.udp_port != 0) else { continue };
        let vnis: BTreeSet<Vni> = node.vnis.iter().copied().filter(|vni| local.vnis.contains(vni)).collect();
        if vnis.is_empty() || local.addresses.contains(&address) || !has_address(name, address) {
            continue;
        }
        reached.insert(name, address);
        let vtep = WantedVtep {
            kind: VtepKind::Managed,
            encapsulation: first.encapsulation,
            udp_port: first.udp_port,
            underlay_mtu: node.underlay_mtu.min(local.underlay_mtu),
            vnis,
        };
        wanted.vteps.insert(address, vtep);
    }
    // One kind of claims after the other, and collected in order: there may be very many.
    let macs = mac_claims(view);
    wanted.macs = macs
        .winners()
        .filter_map(|claim| {
            let address = reached.get(claim.name())?;
            let vtep = wanted.vteps.get(address)?;
            let behind = Behind { address: *address, roams: claim.by.attached == Attached::Learned };
            vtep.vnis.contains(&claim.what.0).then_some((claim.what, behind))
        })
        .collect();
    wanted.taken_over = view
        .member(&local.node)
        .into_iter()
        .flat_map(|member| view.endpoints(member))
        .filter(|row| row.attached == Attached::Learned)
        .map(|row| (row.vni, row.mac))
        .filter(|what| macs.winner(*what).is_some_and(|winner| winner.name() != local.node))
        .collect();
    drop(macs);
    wanted.neighbours = ip_claims(view)
        .winners()
        .filter(|claim| local.vnis.contains(&claim.what.0))
        .map(|claim| (claim.what, claim.by.mac))
        .collect();
    add_foreign(&mut wanted, view, local);
    wanted
}

/// What is in the store and in the node's own configuration, where no node has the address.
fn add_foreign(wanted: &mut Wanted, view: &View, local: &Local) {
    let stored = view.foreign().map(|row| {
        let record = &row.record;
        (record.address, record.encapsulation, record.udp_port, &record.vnis)
    });
    let written = local.vteps.iter().map(|vtep| (vtep.at.ip(), vtep.encapsulation, vtep.at.port(), &vtep.vnis));
    for (address, encapsulation, udp_port, vnis) in written.chain(stored) {
        let vnis: BTreeSet<Vni> = vnis.iter().copied().filter(|vni| local.vnis.contains(vni)).collect();
        let reachable = local.addresses.iter().any(|own| own.is_ipv6() == address.is_ipv6());
        if vnis.is_empty() || !reachable || local.addresses.contains(&address) {
            continue;
        }
        let underlay_mtu = local.underlay_mtu;
        let vtep = WantedVtep { kind: VtepKind::Foreign, encapsulation, udp_port, underlay_mtu, vnis };
        wanted.vteps.entry(address).or_insert(vtep);
    }
}

/// The address by which two nodes reach each other: of IPv4 if both have it, for its headers are shorter. Both choose
/// alike, so that each knows the sender of what the other sends.
fn common_address(node: &Node, local: &Local) -> Option<IpAddr> {
    let both = |ipv6: bool| {
        let has_own = local.addresses.iter().any(|own| own.is_ipv6() == ipv6);
        node.addresses.iter().copied().find(|address| has_own && address.is_ipv6() == ipv6)
    };
    both(false).or_else(|| both(true))
}

/// All that several claim, in order.
#[must_use]
pub fn conflicts(view: &View) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut add = |what: String, names: Vec<&str>| {
        let mut names = names.into_iter().map(str::to_owned);
        conflicts.extend(names.next().map(|winner| Conflict { what, winner, others: names.collect() }));
    };
    let addresses = address_claims(view);
    addresses.contested().for_each(|(address, names)| add(format!("VTEP address {address}"), names));
    for ((vni, mac), names) in mac_claims(view).contested() {
        add(format!("MAC {mac} of VNI {vni}"), names);
    }
    for ((vni, ip), names) in ip_claims(view).contested() {
        add(format!("address {ip} of VNI {vni}"), names);
    }
    for row in view.foreign() {
        let address = row.record.address;
        if let Some(claim) = addresses.winner(address) {
            let winner = claim.name().to_owned();
            let others = vec!["a foreign VTEP".to_owned()];
            conflicts.push(Conflict { what: format!("VTEP address {address}"), winner, others });
        }
    }
    // In order, so that what lies in a range follows it.
    let mut around: Vec<&Row<AddressRange>> = Vec::new();
    for row in view.ranges() {
        let (range, owner) = (row.record.range, &row.record.node);
        around.retain(|outer| outer.record.range.contains(&range));
        for outer in around.iter().filter(|outer| outer.record.node != *owner) {
            let (first, second) = if outer.created <= row.created { (*outer, row) } else { (row, *outer) };
            let what = format!("addresses in both {} and {range}", outer.record.range);
            let (winner, others) = (first.record.node.clone(), vec![second.record.node.clone()]);
            conflicts.push(Conflict { what, winner, others });
        }
        around.push(row);
    }
    conflicts.sort();
    conflicts
}

impl Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} has it, and it is claimed by {} too", self.what, self.winner, self.others.join(", "))
    }
}
