//! DSCP and ECN between inner and outer header (RFC 6040).
//!
//! Ingress works in *normal mode* (RFC 6040 section 4.1): the outer header gets the ECN field of the inner one.
//! Egress combines both (section 4.2), so that a mark that a router of the underlay made reaches the pod. DSCP is
//! copied out or fixed, and never copied in (the pipe model of RFC 2983 section 3.1). So is the TTL ([`crate::outer::Ttl`]):
//! the inner one is untouched, for to a pod the overlay is one hop.

use crate::bytes::{array, be16, put};
use crate::checksum;
use crate::inner::IPV4_LEN;
use crate::{Inner, Network};

/// The two bits at the low end of TOS or traffic class (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand marks: 0b00.
    #[default]
    NotEct = 0,
    /// ECN-capable, the other codepoint: 0b01, L4S (RFC 9331).
    Ect1 = 1,
    /// ECN-capable: 0b10.
    Ect0 = 2,
    /// Congestion experienced: 0b11.
    Ce = 3,
}

/// Where the outer DSCP comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dscp {
    /// From the inner header; 0 for what is not IP.
    #[default]
    Inherit,
    /// Always this DSCP, 0 to 63 (RFC 2474 section 3); higher bits are left out.
    Fixed(u8),
}

/// What becomes of a frame at the end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decapsulated {
    /// Its ECN field is already what it has to be.
    Keep,
    /// Its ECN field has to be this: [`apply_ecn`].
    Set(Ecn),
    /// It was marked on the way, and its transport would not understand: dropping it is the mark (RFC 6040
    /// section 4.2).
    Drop,
}

impl Ecn {
    /// The field of a TOS or traffic class byte.
    #[inline]
    #[must_use]
    pub const fn of_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The field of a frame's IP header; none if it is not IP.
    #[inline]
    #[must_use]
    pub const fn of(inner: &Inner<'_>) -> Option<Self> {
        match tos(inner) {
            Some(tos) => Some(Self::of_tos(tos)),
            None => None,
        }
    }
}

/// The TOS or traffic class byte of the outer header: DSCP as the knob says, ECN that of the frame. What is not IP
/// is not ECN-capable.
#[inline]
#[must_use]
pub fn outer_tos(inner: &Inner<'_>, dscp: Dscp) -> u8 {
    let tos = tos(inner).unwrap_or(0);
    match dscp {
        Dscp::Inherit => tos,
        Dscp::Fixed(dscp) => dscp << 2 | tos & 3,
    }
}

/// Combines the ECN fields of both headers (RFC 6040 section 4.2, figure 4).
#[inline]
#[must_use]
pub const fn decap_ecn(inner: Ecn, outer: Ecn) -> Decapsulated {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Decapsulated::Drop,
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => Decapsulated::Set(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Decapsulated::Set(Ecn::Ect1),
        (Ecn::NotEct | Ecn::Ce, _) | (Ecn::Ect0 | Ecn::Ect1, Ecn::NotEct | Ecn::Ect0) | (Ecn::Ect1, Ecn::Ect1) => {
            Decapsulated::Keep
        }
    }
}

/// [`decap_ecn`] for a frame and the outer TOS or traffic class byte. What is not IP has no field and is kept.
#[inline]
#[must_use]
pub fn decap_frame(inner: &Inner<'_>, outer_tos: u8) -> Decapsulated {
    match Ecn::of(inner) {
        Some(field) => decap_ecn(field, Ecn::of_tos(outer_tos)),
        None => Decapsulated::Keep,
    }
}

/// Writes the ECN field of a frame's IP header in place, and says whether there is one.
///
/// The IPv4 header checksum is updated and not made anew (RFC 1624 section 3, equation 3): a wrong one stays
/// wrong. TCP's and UDP's do not cover the field. Of a superframe all segments get it. Frames that differ in it do
/// not merge, so that this comes before [`crate::Merger::push`].
#[inline]
pub fn apply_ecn(frame: &mut [u8], ecn: Ecn) -> bool {
    let Ok(inner) = Inner::parse(frame) else { return false };
    let l3 = inner.l3;
    match &inner.network {
        Network::Ipv4(ip) => {
            let tos = ip.tos & !3 | ecn as u8;
            set_tos_v4(frame, l3, tos);
            true
        }
        Network::Ipv6(_) => {
            // Version, class and flow label: the ECN field is the middle of the second byte.
            let Some(&[second]) = array(frame, l3 + 1) else { return false };
            put(frame, l3 + 1, [second & !0x30 | (ecn as u8) << 4]);
            true
        }
        Network::Arp(_) | Network::Other => false,
    }
}

fn set_tos_v4(frame: &mut [u8], l3: usize, tos: u8) {
    let Some(&header) = array::<IPV4_LEN>(frame, l3) else { return };
    let (before, field) = (be16(&header, 0).unwrap_or_default(), be16(&header, 10).unwrap_or_default());
    let after = before & 0xff00 | u16::from(tos);
    put(frame, l3 + 1, [tos]);
    put(frame, l3 + 10, checksum::update(field, before, after).to_be_bytes());
}

const fn tos(inner: &Inner<'_>) -> Option<u8> {
    match &inner.network {
        Network::Ipv4(ip) => Some(ip.tos),
        Network::Ipv6(ip) => Some(ip.traffic_class),
        Network::Arp(_) | Network::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Decapsulated::{Drop, Keep, Set};
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    /// RFC 6040 figure 4, row by row: the outgoing field, or none for a drop. Columns are the outer field.
    #[test]
    fn figure_4_of_rfc_6040() {
        let columns = [NotEct, Ect0, Ect1, Ce];
        let rows = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in rows {
            for (outer, outgoing) in columns.into_iter().zip(row) {
                let wanted = match outgoing {
                    None => Drop,
                    Some(field) if field == inner => Keep,
                    Some(field) => Set(field),
                };
                assert_eq!(decap_ecn(inner, outer), wanted, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn codepoints() {
        for tos in 0..=255 {
            assert_eq!(Ecn::of_tos(tos) as u8, tos & 3);
        }
    }
}
