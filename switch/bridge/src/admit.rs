use std::net::IpAddr;

use weft_encap::ecn::{Decapsulated, Ecn, decap_frame};
use weft_encap::probe::{self, Probe};
use weft_encap::recover::udp_superframe;
use weft_encap::{DecapError, Encapsulation, Inner, Offload};

use crate::drop_reason::DropReason;
use crate::id::VtepId;
use crate::tables::{BridgeDomain, Tables, VtepKind};

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
    /// Whether the sender is managed and its membership of this VNI has not arrived yet.
    pub early: bool,
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
    /// DSCP and ECN of the outer header, as the byte that holds both (RFC 2474 section 3, RFC 3168 section 5).
    pub tos: u8,
    /// The UDP payload.
    pub payload: &'p [u8],
}

/// What a kernel meant that handed over more bytes than one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Tunnel packets of equal length, the last perhaps shorter.
    Packets,
    /// One tunnel packet with a UDP superframe inside, to whose datagrams the segment size belongs.
    Superframe(Offload),
}

/// Tells what a datagram is that arrived with a segment size. `packet` is all of it.
///
/// Nothing from the kernel tells the two apart: it says the same of tunnel packets that it merged and of the
/// superframe that a kernel tunnel on the same machine handed over whole. Reading the latter as packets would take
/// pods' payload for tunnel headers, and let a pod write frames into any VNI; reading the former as a superframe
/// would hand one pod's frames to another. So what can be read either way is refused.
///
/// # Errors
/// The verdict of the whole where it can be read either way.
pub fn group(tables: &Tables, packet: &TunnelPacket<'_>, segment: usize) -> Result<Group, DropReason> {
    let Ok((_, frame)) = packet.encapsulation.decap(packet.payload) else { return Ok(Group::Packets) };
    let whole = Inner::parse(frame).ok().and_then(|inner| udp_superframe(&inner, segment));
    let Some(offload) = whole else { return Ok(Group::Packets) };
    let mut later = packet.payload.chunks(segment.max(1)).skip(1);
    if later.any(|payload| admit(tables, &TunnelPacket { payload, ..*packet }).is_ok()) {
        return Err(DropReason::AmbiguousGroup);
    }
    Ok(Group::Superframe(offload))
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
    let early = !domain.has_member(vtep);
    if early && tables.vtep(vtep).is_none_or(|row| row.kind != VtepKind::Managed) {
        return Err(DropReason::NotMember);
    }
    let ecn = match Ecn::of_tos(packet.tos) {
        Ecn::NotEct => None,
        Ecn::Ect0 | Ecn::Ect1 | Ecn::Ce => combined_ecn(frame, packet.tos)?,
    };
    Ok(Arrival::Frame(Admitted { vtep, domain, frame, early, ecn }))
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
        DecapError::VxlanGpe { .. } => DropReason::VxlanGpe,
        DecapError::VxlanGroupPolicy => DropReason::VxlanGroupPolicy,
        DecapError::VxlanRemoteChecksum => DropReason::VxlanRemoteChecksum,
        DecapError::VniZero => DropReason::VniZero,
        DecapError::GeneveVersion { .. } => DropReason::GeneveVersion,
        DecapError::GeneveCriticalOption { .. } => DropReason::GeneveCriticalOption,
        DecapError::GeneveOptionOverrun { .. } => DropReason::GeneveOptions,
        DecapError::GeneveControl => DropReason::GeneveControl,
        DecapError::GeneveProtocol { .. } => DropReason::GeneveProtocol,
    }
}
