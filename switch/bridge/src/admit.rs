use std::net::IpAddr;

use weft_encap::{DecapError, Encapsulation};

use crate::drop_reason::DropReason;
use crate::forward::Ingress;
use crate::tables::Tables;

/// Checks a tunnel packet's sender and header, and takes the header off. `payload` is the UDP payload,
/// `encapsulation` what the local port it arrived on is for.
///
/// # Errors
/// The verdict of a packet that may not enter.
pub fn admit<'t, 'p>(
    tables: &'t Tables,
    source: IpAddr,
    encapsulation: Encapsulation,
    payload: &'p [u8],
) -> Result<(Ingress<'t>, &'p [u8]), DropReason> {
    let Some(vtep) = tables.vtep_by_address(source) else {
        let own = tables.local_addresses().contains(&source);
        return Err(if own { DropReason::OwnSource } else { DropReason::UnknownSource });
    };
    let (vni, frame) = encapsulation.decap(payload).map_err(reason)?;
    let domain = tables.domain(vni).ok_or(DropReason::UnknownVni)?;
    if !domain.has_member(vtep) {
        return Err(DropReason::NotMember);
    }
    Ok((Ingress::Vtep(vtep, domain), frame))
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
