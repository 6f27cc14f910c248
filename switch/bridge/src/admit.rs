use std::net::IpAddr;

use weft_encap::ecn::{Decapsulated, Ecn, decap_frame};
use weft_encap::probe::{self, Probe};
use weft_encap::{DecapError, Encapsulation, Inner};

use crate::drop_reason::DropReason;
use crate::id::VtepId;
use crate::tables::{BridgeDomain, Tables};

/// What a tunnel packet that may enter turns out to be.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'t, 'p> {
    /// A frame for pods.
    Frame(Admitted<'t, 'p>),
    /// A path probe, or the echo of one, in the management VNI. It meets no bridge domain.
    Probe {
        /// Who sent it.
        vtep: VtepId,
        /// What it says.
        probe: Probe,
    },
}

/// A frame that may enter, without its tunnel header.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'t, 'p> {
    /// Who sent it, and in which domain.
    pub vtep: VtepId,
    /// The domain of its VNI.
    pub domain: &'t BridgeDomain,
    /// The inner frame.
    pub frame: &'p [u8],
    /// What the frame's ECN field has to become before it goes on (RFC 6040 section 4.2).
    pub ecn: Option<Ecn>,
}

/// A tunnel packet as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct TunnelPacket<'p> {
    /// Its sender's address.
    pub source: IpAddr,
    /// What the local port it arrived on is for.
    pub encapsulation: Encapsulation,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// The UDP payload.
    pub payload: &'p [u8],
}

/// Checks a tunnel packet's sender and headers, and takes the tunnel header off.
///
/// # Errors
/// The verdict of a packet that may not enter.
pub fn admit<'t, 'p>(tables: &'t Tables, packet: &TunnelPacket<'p>) -> Result<Arrival<'t, 'p>, DropReason> {
    let Some(vtep) = tables.vtep_by_address(packet.source) else {
        let own = tables.local_addresses().contains(&packet.source);
        return Err(if own { DropReason::OwnSource } else { DropReason::UnknownSource });
    };
    let (vni, frame) = packet.encapsulation.decap(packet.payload).map_err(reason)?;
    if vni == probe::VNI {
        let probe = Probe::parse(frame).map_err(|_| DropReason::BadProbe)?;
        return Ok(Arrival::Probe { vtep, probe });
    }
    let domain = tables.domain(vni).ok_or(DropReason::UnknownVni)?;
    if !domain.has_member(vtep) {
        return Err(DropReason::NotMember);
    }
    let ecn = match Ecn::of_tos(packet.tos) {
        Ecn::NotEct => None,
        Ecn::Ect0 | Ecn::Ect1 | Ecn::Ce => combined_ecn(frame, packet.tos)?,
    };
    Ok(Arrival::Frame(Admitted { vtep, domain, frame, ecn }))
}

fn combined_ecn(frame: &[u8], outer_tos: u8) -> Result<Option<Ecn>, DropReason> {
    let Ok(inner) = Inner::parse(frame) else { return Ok(None) };
    match decap_frame(&inner, outer_tos) {
        Decapsulated::Keep => Ok(None),
        Decapsulated::Set(ecn) => Ok(Some(ecn)),
        Decapsulated::Drop => Err(DropReason::EcnNotCapable),
    }
}

fn reason(error: DecapError) -> DropReason {
    match error {
        DecapError::Truncated { .. } => DropReason::TunnelTruncated,
        DecapError::VxlanNoVni => DropReason::VxlanNoVni,
        DecapError::VniZero => DropReason::VniZero,
        DecapError::GeneveVersion { .. } => DropReason::GeneveVersion,
        DecapError::GeneveCriticalOption { .. } => DropReason::GeneveCriticalOption,
        DecapError::GeneveOptionOverrun { .. } => DropReason::GeneveOptions,
        DecapError::GeneveControl => DropReason::GeneveControl,
        DecapError::GeneveProtocol { .. } => DropReason::GeneveProtocol,
    }
}
