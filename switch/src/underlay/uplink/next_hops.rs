use weft_bridge::VtepId;
use weft_encap::outer::{Addresses, Link};

/// How tunnel packets to one VTEP leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The uplink's MAC, and that of the next hop.
    pub link: Link,
    /// Between which VTEP addresses.
    pub addresses: Addresses,
    /// MTU of the uplink in bytes.
    pub mtu: u16,
}

/// The published snapshot: the VTEPs that are reached through the uplink. All others are the sockets' business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    rows: Vec<Option<(VtepId, NextHop)>>,
}

impl NextHops {
    /// Says how a VTEP is reached.
    pub fn insert(&mut self, vtep: VtepId, hop: NextHop) {
        if self.rows.len() <= vtep.index() {
            self.rows.resize(vtep.index() + 1, None);
        }
        self.rows[vtep.index()] = Some((vtep, hop));
    }

    /// How a VTEP is reached.
    #[must_use]
    #[inline]
    pub fn get(&self, vtep: VtepId) -> Option<&NextHop> {
        self.rows.get(vtep.index())?.as_ref().filter(|(id, _)| *id == vtep).map(|(_, hop)| hop)
    }

    /// How many VTEPs are reached through the uplink.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rows.iter().flatten().count()
    }
}
