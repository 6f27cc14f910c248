//! The published snapshot: everything `forward` decides by, except what was learned.
//!
//! The control side edits its own copy and publishes it whole; nobody changes a published one. Cloning
//! is cheap where nothing changes: domains are shared until they are edited.

mod error;
mod gateway;
mod managed;
mod ungrouped;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::FixedState;
use weft_encap::ecn::Dscp;
use weft_encap::outer::Ttl;
use weft_encap::{Encapsulation, MacAddr, Vni};

use crate::id::{Attachment, PortId, Slab, VtepId};

pub use error::TableError;
pub use gateway::Gateway;
pub use managed::Owner;

/// Ports on one node at most.
pub const MAX_PORTS: usize = 4096;
/// VTEPs that one node knows at most.
pub const MAX_VTEPS: usize = 8192;
/// VNIs on one node at most.
pub const MAX_DOMAINS: usize = 4096;

type Map<K, V> = HashMap<K, V, FixedState>;
type Set<T> = HashSet<T, FixedState>;

/// What a port may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// Only its own MAC, and only its own addresses unless there are none.
    Bound {
        /// Addresses it may send from, besides the unspecified one and its link-local one.
        addresses: Vec<IpAddr>,
    },
    /// Any MAC; what is behind it is learned.
    Learning {
        /// MACs learned behind it at most.
        limit: u32,
    },
}

/// A pod's or the host's device.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name on this node.
    pub name: String,
    /// The virtual network it belongs to.
    pub vni: Vni,
    /// Its own MAC.
    pub mac: MacAddr,
    /// Longest IP packet it sends or receives, in bytes.
    pub mtu: u16,
    /// What it may send.
    pub mode: PortMode,
}

/// Whether a VTEP's state reaches us through the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VtepKind {
    /// All behind it is published; nothing is learned from its frames.
    Managed,
    /// Flooded to and learned from.
    Foreign,
}

/// Another node's tunnel end. Identified by IP address: the UDP source port is entropy.
#[derive(Clone, Debug)]
pub struct Vtep {
    /// Its address.
    pub address: IpAddr,
    /// UDP destination port, 1 to 65,535.
    pub udp_port: u16,
    /// How frames travel to it.
    pub encapsulation: Encapsulation,
    /// Where its state comes from.
    pub kind: VtepKind,
    /// Longest inner IP packet that fits through the tunnel to it, in bytes.
    pub pod_mtu: u16,
}

impl Vtep {
    /// Where tunnel packets to it go.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.udp_port)
    }
}

/// A small stable number for a VNI on this node, as the FDB's keys carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub(crate) u16);

impl DomainId {
    /// Its index, dense from 0 and below [`MAX_DOMAINS`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How many frames of one port may be flooded, each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// Frames a second towards a MAC that nobody knows.
    pub unknown: u32,
    /// Frames a second towards a group or all.
    pub group: u32,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self { unknown: 1000, group: 10_000 }
    }
}

/// What a VNI does beyond forwarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainOptions {
    /// Carry tagged frames unchanged instead of dropping them.
    pub vlan_transparent: bool,
    /// Lower TCP's maximum segment size, in SYNs that cross a tunnel, to what the tunnel carries.
    pub clamp_mss: bool,
    /// How much a port may flood.
    pub flood_limits: FloodLimits,
}

/// One VNI on this node: its ports, its flood list and its static MACs.
#[derive(Clone, Debug)]
pub struct BridgeDomain {
    id: DomainId,
    vni: Vni,
    options: DomainOptions,
    ports: Vec<PortId>,
    flood_list: Vec<VtepId>,
    members: Set<VtepId>,
    static_macs: Map<MacAddr, Owner>,
    neighbours: Map<IpAddr, MacAddr>,
    gateway: Option<Arc<Gateway>>,
}

impl BridgeDomain {
    /// Its number on this node.
    #[must_use]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// Its VNI.
    #[must_use]
    pub fn vni(&self) -> Vni {
        self.vni
    }

    /// Whether tagged frames pass unchanged.
    #[must_use]
    pub fn vlan_transparent(&self) -> bool {
        self.options.vlan_transparent
    }

    /// Whether TCP's maximum segment size is lowered to what the tunnel carries.
    #[must_use]
    pub fn clamp_mss(&self) -> bool {
        self.options.clamp_mss
    }

    /// How much a port may flood.
    #[must_use]
    pub fn flood_limits(&self) -> FloodLimits {
        self.options.flood_limits
    }

    /// The ports of this node in it.
    #[must_use]
    pub fn ports(&self) -> &[PortId] {
        &self.ports
    }

    /// The VTEPs that get a copy of each flooded frame.
    #[must_use]
    pub fn flood_list(&self) -> &[VtepId] {
        &self.flood_list
    }

    /// Whether a VTEP takes part in it.
    #[must_use]
    #[inline]
    pub fn has_member(&self, vtep: VtepId) -> bool {
        self.members.contains(&vtep)
    }

    /// Where a MAC was put by configuration or control plane.
    #[must_use]
    #[inline]
    pub fn static_mac(&self, mac: MacAddr) -> Option<Attachment> {
        self.owner(mac).map(|owner| owner.attachment)
    }

    /// The same, and whether it may turn up elsewhere.
    #[must_use]
    #[inline]
    pub fn owner(&self, mac: MacAddr) -> Option<Owner> {
        self.static_macs.get(&mac).copied()
    }

    /// All static MACs, in no order.
    pub fn static_macs(&self) -> impl Iterator<Item = (MacAddr, Attachment)> {
        self.static_macs.iter().map(|(mac, owner)| (*mac, owner.attachment))
    }
}

/// The snapshot.
#[derive(Clone, Debug)]
pub struct Tables {
    ports: Slab<Arc<Port>>,
    vteps: Slab<Arc<Vtep>>,
    domains: Vec<Option<Arc<BridgeDomain>>>,
    by_vni: Map<Vni, DomainId>,
    by_address: Map<IpAddr, VtepId>,
    local_addresses: Vec<IpAddr>,
    local_udp_ports: Vec<u16>,
    outer_dscp: Dscp,
    outer_ttl: Ttl,
    /// Hardly ever any.
    ungrouped: Vec<VtepId>,
    revision: i64,
}

impl Tables {
    /// Tables of a node that knows only itself: its VTEP addresses and the UDP ports it listens on.
    #[must_use]
    pub fn new(local_addresses: Vec<IpAddr>, local_udp_ports: Vec<u16>) -> Self {
        Self {
            ports: Slab::with_capacity(MAX_PORTS),
            vteps: Slab::with_capacity(MAX_VTEPS),
            domains: Vec::new(),
            by_vni: Map::default(),
            by_address: Map::default(),
            local_addresses,
            local_udp_ports,
            outer_dscp: Dscp::Fixed(0),
            outer_ttl: Ttl::default(),
            ungrouped: Vec::new(),
            revision: 0,
        }
    }

    /// Adds a virtual network.
    ///
    /// # Errors
    /// [`TableError::Full`].
    pub fn add_domain(&mut self, vni: Vni, options: DomainOptions) -> Result<DomainId, TableError> {
        if let Some(id) = self.by_vni.get(&vni) {
            return Ok(*id);
        }
        let index = self.domains.iter().position(Option::is_none).unwrap_or(self.domains.len());
        let full = TableError::Full { what: "VNIs", limit: MAX_DOMAINS };
        let id = match u16::try_from(index) {
            Ok(id) if index < MAX_DOMAINS => DomainId(id),
            _ => return Err(full),
        };
        let domain = BridgeDomain {
            id,
            vni,
            options,
            ports: Vec::new(),
            flood_list: Vec::new(),
            members: Set::default(),
            static_macs: Map::default(),
            neighbours: Map::default(),
            gateway: None,
        };
        if index == self.domains.len() {
            self.domains.push(None);
        }
        self.domains[index] = Some(Arc::new(domain));
        self.by_vni.insert(vni, id);
        Ok(id)
    }

    /// Adds a port to its VNI. A bound port's MAC becomes static; from a VTEP it is taken.
    ///
    /// # Errors
    /// [`TableError`] when full, when the VNI is not here or when the MAC is bound already.
    pub fn add_port(&mut self, port: Port) -> Result<PortId, TableError> {
        let domain = self.domain(port.vni).ok_or(TableError::UnknownVni { vni: port.vni })?;
        if let Some(Attachment::Port(_)) = domain.static_mac(port.mac) {
            return Err(TableError::DuplicateMac { mac: port.mac, vni: port.vni });
        }
        let (vni, mac, bound) = (port.vni, port.mac, matches!(port.mode, PortMode::Bound { .. }));
        let full = TableError::Full { what: "ports", limit: MAX_PORTS };
        let id: PortId = self.ports.insert(Arc::new(port)).ok_or(full)?;
        if let Some(domain) = self.domain_mut(vni) {
            domain.ports.push(id);
            if bound {
                domain.static_macs.insert(mac, Owner::fixed(Attachment::Port(id)));
            }
        }
        Ok(id)
    }

    /// Removes a port and what is bound to it. Learned MACs behind it resolve to nothing from then on. None
    /// if it was removed before.
    pub fn remove_port(&mut self, id: PortId) -> Option<Arc<Port>> {
        let port = self.ports.remove(id)?;
        if let Some(domain) = self.domain_mut(port.vni) {
            domain.ports.retain(|other| *other != id);
            domain.gateway = domain.gateway.take().filter(|gateway| gateway.port != id);
            domain.static_macs.retain(|_, owner| owner.attachment != Attachment::Port(id));
        }
        Some(port)
    }

    /// Adds a VTEP as a member of some VNIs.
    ///
    /// # Errors
    /// [`TableError`] when full, when the address is known already or a VNI is not here.
    pub fn add_vtep(&mut self, vtep: Vtep, vnis: &[Vni]) -> Result<VtepId, TableError> {
        let address = vtep.address;
        if self.by_address.contains_key(&address) {
            return Err(TableError::DuplicateVtep { address });
        }
        if let Some(vni) = vnis.iter().find(|vni| !self.by_vni.contains_key(vni)) {
            return Err(TableError::UnknownVni { vni: *vni });
        }
        let full = TableError::Full { what: "VTEPs", limit: MAX_VTEPS };
        let id = self.vteps.insert(Arc::new(vtep)).ok_or(full)?;
        self.by_address.insert(address, id);
        for vni in vnis {
            if let Some(domain) = self.domain_mut(*vni)
                && domain.members.insert(id)
            {
                domain.flood_list.push(id);
            }
        }
        Ok(id)
    }

    /// Removes a VTEP from everywhere. Learned MACs behind it resolve to nothing from then on. None if it
    /// was removed before.
    pub fn remove_vtep(&mut self, id: VtepId) -> Option<Arc<Vtep>> {
        let vtep = self.vteps.remove(id)?;
        self.by_address.remove(&vtep.address);
        self.ungrouped.retain(|other| *other != id);
        for domain in self.domains.iter_mut().flatten().filter(|domain| domain.members.contains(&id)) {
            Arc::make_mut(domain).leave(id);
        }
        Some(vtep)
    }

    /// Sets the longest inner IP packet, in bytes, that fits through the tunnel to a VTEP; nothing happens if that was
    /// removed.
    pub fn set_pod_mtu(&mut self, id: VtepId, pod_mtu: u16) {
        if let Some(vtep) = self.vteps.get_mut(id) {
            Arc::make_mut(vtep).pod_mtu = pod_mtu;
        }
    }

    /// The port, unless it was removed.
    #[must_use]
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id).map(Arc::as_ref)
    }

    /// The VTEP, unless it was removed.
    #[must_use]
    #[inline]
    pub fn vtep(&self, id: VtepId) -> Option<&Vtep> {
        self.vteps.get(id).map(Arc::as_ref)
    }

    /// Whether the port or VTEP is still there.
    #[must_use]
    #[inline]
    pub fn has(&self, attachment: Attachment) -> bool {
        match attachment {
            Attachment::Port(id) => self.ports.get(id).is_some(),
            Attachment::Vtep(id) => self.vteps.get(id).is_some(),
        }
    }

    /// The VTEP with this address.
    #[must_use]
    #[inline]
    pub fn vtep_by_address(&self, address: IpAddr) -> Option<VtepId> {
        self.by_address.get(&address).copied()
    }

    /// The VNI's domain on this node.
    #[must_use]
    #[inline]
    pub fn domain(&self, vni: Vni) -> Option<&BridgeDomain> {
        self.domain_by_id(*self.by_vni.get(&vni)?)
    }

    /// The domain with this number.
    #[must_use]
    #[inline]
    pub fn domain_by_id(&self, id: DomainId) -> Option<&BridgeDomain> {
        self.domains.get(id.index())?.as_deref()
    }

    /// All ports.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.ports.iter().map(|(id, port)| (id, port.as_ref()))
    }

    /// All VTEPs.
    pub fn vteps(&self) -> impl Iterator<Item = (VtepId, &Vtep)> {
        self.vteps.iter().map(|(id, vtep)| (id, vtep.as_ref()))
    }

    /// All domains.
    pub fn domains(&self) -> impl Iterator<Item = &BridgeDomain> {
        self.domains.iter().flatten().map(Arc::as_ref)
    }

    /// This node's own VTEP addresses.
    #[must_use]
    pub fn local_addresses(&self) -> &[IpAddr] {
        &self.local_addresses
    }

    /// The UDP ports on which this node receives tunnel packets.
    #[must_use]
    pub fn local_udp_ports(&self) -> &[u16] {
        &self.local_udp_ports
    }

    /// The store's revision up to which all its rows are in here, as far as they concern this node; 0 if none are.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Says up to which revision of the store all its rows are in here.
    pub fn set_revision(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Where the DSCP of outer headers comes from (RFC 2983 section 3).
    #[must_use]
    pub fn outer_dscp(&self) -> Dscp {
        self.outer_dscp
    }

    /// Sets where the DSCP of outer headers comes from; zero until then.
    pub fn set_outer_dscp(&mut self, dscp: Dscp) {
        self.outer_dscp = dscp;
    }

    /// Where the TTL, or hop limit, of outer headers comes from.
    #[must_use]
    pub fn outer_ttl(&self) -> Ttl {
        self.outer_ttl
    }

    /// Sets where the TTL of outer headers comes from; [`Ttl::default`] until then.
    pub fn set_outer_ttl(&mut self, ttl: Ttl) {
        self.outer_ttl = ttl;
    }

    fn domain_mut(&mut self, vni: Vni) -> Option<&mut BridgeDomain> {
        let id = *self.by_vni.get(&vni)?;
        self.domains.get_mut(id.index())?.as_mut().map(Arc::make_mut)
    }
}
