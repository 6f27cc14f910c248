//! The gateway of a virtual network: an address and a MAC that are the same on every node, for which a port of each
//! node's own stands.

use std::net::IpAddr;
use std::sync::Arc;

use weft_encap::MacAddr;

use super::{BridgeDomain, Owner, TableError, Tables};
use crate::id::{Attachment, PortId};

/// What pods send to that leave their network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its MAC, on all nodes.
    pub mac: MacAddr,
    /// Its addresses, on all nodes.
    pub addresses: Vec<IpAddr>,
    /// Who takes what is sent to it on this node.
    pub port: PortId,
}

impl Tables {
    /// Makes a port stand for the gateway of its VNI, as long as the port is there. The gateway's MAC is nobody else's
    /// from then on.
    ///
    /// # Errors
    /// [`TableError::UnknownPort`], or [`TableError::DuplicateMac`] where another port has the gateway's MAC.
    pub fn set_gateway(&mut self, gateway: Gateway) -> Result<(), TableError> {
        let vni = self.port(gateway.port).ok_or(TableError::UnknownPort)?.vni;
        let domain = self.domain_mut(vni).ok_or(TableError::UnknownVni { vni })?;
        let stands = domain.gateway.take();
        if let Some(old) = &stands {
            domain.static_macs.remove(&old.mac);
        }
        if let Some(Attachment::Port(_)) = domain.static_mac(gateway.mac) {
            let mac = gateway.mac;
            if let Some(old) = &stands {
                domain.static_macs.insert(old.mac, Owner::fixed(Attachment::Port(old.port)));
            }
            domain.gateway = stands;
            return Err(TableError::DuplicateMac { mac, vni });
        }
        domain.static_macs.insert(gateway.mac, Owner::fixed(Attachment::Port(gateway.port)));
        domain.gateway = Some(Arc::new(gateway));
        Ok(())
    }
}

impl BridgeDomain {
    /// What pods send to that leave the network, where this node has one.
    #[must_use]
    #[inline]
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateway.as_deref()
    }
}
