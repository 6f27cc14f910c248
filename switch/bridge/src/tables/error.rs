use std::fmt::{Display, Formatter, Result};
use std::net::IpAddr;

use weft_encap::{MacAddr, Vni};

/// Why an edit of the tables was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// No room for another of its kind.
    Full {
        /// What there are too many of.
        what: &'static str,
        /// How many ports, VTEPs or VNIs there may be.
        limit: usize,
    },
    /// A VTEP with this address is there already.
    DuplicateVtep {
        /// The address.
        address: IpAddr,
    },
    /// This MAC is bound to another port of the VNI.
    DuplicateMac {
        /// The MAC.
        mac: MacAddr,
        /// The VNI.
        vni: Vni,
    },
    /// There is no such VTEP, or it is no member of the VNI.
    UnknownVtep,
    /// There is no such port.
    UnknownPort,
    /// The VNI is not on this node.
    UnknownVni {
        /// The VNI.
        vni: Vni,
    },
}

impl Display for TableError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Full { what, limit } => write!(f, "too many {what}: at most {limit} on one node"),
            Self::DuplicateVtep { address } => write!(f, "a VTEP with the address {address} is there already"),
            Self::DuplicateMac { mac, vni } => write!(f, "the MAC {mac} is bound to another port of VNI {vni}"),
            Self::UnknownVtep => write!(f, "there is no such VTEP, or it is no member of the VNI"),
            Self::UnknownPort => write!(f, "there is no such port"),
            Self::UnknownVni { vni } => write!(f, "VNI {vni} is not on this node"),
        }
    }
}

impl std::error::Error for TableError {}
