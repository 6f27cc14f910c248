//! What the control plane publishes of other nodes: edits that keep the ids of what stays.

use std::net::IpAddr;
use std::sync::Arc;

use weft_encap::{MacAddr, Vni};

use super::{BridgeDomain, TableError, Tables};
use crate::id::{Attachment, VtepId};

/// Where a MAC is by configuration or control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Behind what.
    pub attachment: Attachment,
    /// Whether it was learned there, so that a learning port or another node may take it over.
    pub roams: bool,
}

impl Owner {
    pub(super) const fn fixed(attachment: Attachment) -> Self {
        Self { attachment, roams: false }
    }
}

impl Tables {
    /// Makes a VTEP a member of these VNIs and of no others. It keeps its id, and what was learned or is bound behind
    /// it in the VNIs that stay.
    ///
    /// # Errors
    /// [`TableError::UnknownVtep`], or [`TableError::UnknownVni`] where one is not here; nothing has changed then.
    pub fn set_members(&mut self, id: VtepId, vnis: &[Vni]) -> Result<(), TableError> {
        self.vtep(id).ok_or(TableError::UnknownVtep)?;
        if let Some(vni) = vnis.iter().find(|vni| self.domain(**vni).is_none()) {
            return Err(TableError::UnknownVni { vni: *vni });
        }
        for domain in self.domains.iter_mut().flatten() {
            match (domain.has_member(id), vnis.contains(&domain.vni())) {
                (true, false) => Arc::make_mut(domain).leave(id),
                (false, true) => Arc::make_mut(domain).join(id),
                (true, true) | (false, false) => {}
            }
        }
        Ok(())
    }

    /// Puts a MAC behind a VTEP, which has to be a member of the VNI, or moves it there from another VTEP. One that
    /// `roams` was learned there: a learning port of this node that sees it has it, whatever is published.
    ///
    /// # Errors
    /// [`TableError`] when the VTEP or the VNI is not here or they have nothing to do with each other, or when the
    /// MAC is bound to a port of this node.
    pub fn bind_mac(&mut self, vni: Vni, mac: MacAddr, id: VtepId, roams: bool) -> Result<(), TableError> {
        self.vtep(id).ok_or(TableError::UnknownVtep)?;
        let domain = self.domain_mut(vni).ok_or(TableError::UnknownVni { vni })?;
        if !domain.has_member(id) {
            return Err(TableError::UnknownVtep);
        }
        if let Some(Attachment::Port(_)) = domain.static_mac(mac) {
            return Err(TableError::DuplicateMac { mac, vni });
        }
        domain.static_macs.insert(mac, Owner { attachment: Attachment::Vtep(id), roams });
        Ok(())
    }

    /// Takes a MAC away that [`Self::bind_mac`] put behind a VTEP; says whether there was one.
    pub fn unbind_mac(&mut self, vni: Vni, mac: MacAddr) -> bool {
        let bound = self.domain(vni).and_then(|domain| domain.static_mac(mac));
        if !matches!(bound, Some(Attachment::Vtep(_))) {
            return false;
        }
        self.domain_mut(vni).is_some_and(|domain| domain.static_macs.remove(&mac).is_some())
    }

    /// Says which MAC has an address in a VNI, so that questions for it need not be flooded. It is believed as long as
    /// the MAC is bound to a port or VTEP.
    ///
    /// # Errors
    /// [`TableError::UnknownVni`].
    pub fn set_neighbour(&mut self, vni: Vni, address: IpAddr, mac: MacAddr) -> Result<(), TableError> {
        let domain = self.domain_mut(vni).ok_or(TableError::UnknownVni { vni })?;
        domain.neighbours.insert(address, mac);
        Ok(())
    }

    /// Forgets which MAC has an address; says whether that was known.
    pub fn remove_neighbour(&mut self, vni: Vni, address: IpAddr) -> bool {
        let known = self.domain(vni).is_some_and(|domain| domain.neighbours.contains_key(&address));
        known && self.domain_mut(vni).is_some_and(|domain| domain.neighbours.remove(&address).is_some())
    }
}

impl BridgeDomain {
    /// The MAC that has an address, and where it is.
    #[must_use]
    pub fn neighbour(&self, address: IpAddr) -> Option<(MacAddr, Attachment)> {
        let mac = *self.neighbours.get(&address)?;
        Some((mac, self.static_mac(mac)?))
    }

    /// The MAC that an address was said to have, wherever that is.
    #[must_use]
    pub fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.neighbours.get(&address).copied()
    }

    /// All addresses whose MAC is known, in no order.
    pub fn neighbours(&self) -> impl Iterator<Item = (IpAddr, MacAddr)> {
        self.neighbours.iter().map(|(address, mac)| (*address, *mac))
    }

    fn join(&mut self, id: VtepId) {
        if self.members.insert(id) {
            self.flood_list.push(id);
        }
    }

    pub(super) fn leave(&mut self, id: VtepId) {
        self.members.remove(&id);
        self.flood_list.retain(|other| *other != id);
        self.static_macs.retain(|_, owner| owner.attachment != Attachment::Vtep(id));
    }
}

#[cfg(test)]
mod tests {
    use weft_encap::Encapsulation;

    use crate::tables::{DomainOptions, MAX_DOMAINS, Port, PortMode, TableError, Tables, Vtep, VtepKind};
    use crate::{Attachment, VtepId};
    use weft_encap::{MacAddr, Vni};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn vni(id: u32) -> Vni {
        Vni::new(id).unwrap()
    }

    fn tables() -> (Tables, [VtepId; 2]) {
        let mut tables = Tables::new(vec!["192.0.2.1".parse().unwrap()], vec![4789]);
        for id in [1, 2] {
            tables.add_domain(vni(id), DomainOptions::default()).unwrap();
        }
        let vteps = ["192.0.2.2", "192.0.2.3"].map(|address| {
            let row = Vtep {
                address: address.parse().unwrap(),
                udp_port: 4789,
                encapsulation: Encapsulation::Vxlan,
                kind: VtepKind::Managed,
                pod_mtu: 1450,
            };
            tables.add_vtep(row, &[vni(1)]).unwrap()
        });
        (tables, vteps)
    }

    #[test]
    fn members_change_and_the_vtep_keeps_its_id() {
        let (mut tables, [a, b]) = tables();
        tables.bind_mac(vni(1), MAC, a, false).unwrap();
        tables.set_members(a, &[vni(1), vni(2)]).unwrap();
        assert_eq!(tables.domain(vni(1)).unwrap().static_mac(MAC), Some(Attachment::Vtep(a)));
        assert_eq!(tables.domain(vni(2)).unwrap().flood_list(), [a]);
        tables.set_members(a, &[vni(2)]).unwrap();
        assert_eq!(tables.domain(vni(1)).unwrap().flood_list(), [b]);
        assert!(!tables.domain(vni(1)).unwrap().has_member(a));
        assert_eq!(tables.domain(vni(1)).unwrap().static_mac(MAC), None, "a MAC leaves with its VTEP");
        assert!(tables.vtep(a).is_some());
        let unknown = vni(MAX_DOMAINS as u32);
        assert_eq!(tables.set_members(a, &[vni(1), unknown]), Err(TableError::UnknownVni { vni: unknown }));
        assert!(!tables.domain(vni(1)).unwrap().has_member(a), "what is refused changes nothing");
    }

    #[test]
    fn a_mac_is_behind_one_vtep_or_at_a_port() {
        let (mut tables, [a, b]) = tables();
        tables.bind_mac(vni(1), MAC, a, false).unwrap();
        tables.bind_mac(vni(1), MAC, b, false).unwrap();
        assert_eq!(tables.domain(vni(1)).unwrap().static_mac(MAC), Some(Attachment::Vtep(b)));
        assert_eq!(tables.bind_mac(vni(2), MAC, a, false), Err(TableError::UnknownVtep), "it is not a member there");
        let mode = PortMode::Bound { addresses: Vec::new() };
        let port = Port { name: "pod".to_owned(), vni: vni(1), mac: MAC, mtu: 1450, mode };
        let id = tables.add_port(port).unwrap();
        assert_eq!(tables.domain(vni(1)).unwrap().static_mac(MAC), Some(Attachment::Port(id)), "a pod has come here");
        assert_eq!(tables.bind_mac(vni(1), MAC, a, false), Err(TableError::DuplicateMac { mac: MAC, vni: vni(1) }));
        assert!(!tables.unbind_mac(vni(1), MAC), "what is bound to a port is not a VTEP's");
        tables.remove_port(id);
        tables.bind_mac(vni(1), MAC, a, false).unwrap();
        assert!(tables.unbind_mac(vni(1), MAC));
        assert!(!tables.unbind_mac(vni(1), MAC));
    }
}
