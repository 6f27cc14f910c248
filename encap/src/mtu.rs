//! How much of an underlay's MTU is left for a pod behind the headers of a tunnel (RFC 7348 section 4.3, RFC 8926 section 4.4.1).
//!
//! All lengths are bytes. An MTU counts from the IP header on, without Ethernet.

use crate::Encapsulation;

/// Bytes of the inner Ethernet header, which travels inside the tunnel (RFC 7348 section 5, RFC 8926 section 3).
pub const INNER_ETHERNET: u16 = 14;
/// Bytes of one VLAN tag of an inner frame (IEEE 802.1Q section 9): an MTU that must leave room for it is smaller by this.
pub const INNER_TAG: u16 = 4;
/// Bytes of the outer UDP header (RFC 768).
pub const OUTER_UDP: u16 = 8;
/// Bytes of the outer IPv4 header, without options (RFC 791 section 3.1).
pub const OUTER_IPV4: u16 = 20;
/// Bytes of the outer IPv6 header, without extension headers (RFC 8200 section 3).
pub const OUTER_IPV6: u16 = 40;
/// The smallest MTU, in bytes, an IPv4 link may have (RFC 791 section 3.2).
pub const MIN_IPV4: u16 = 68;
/// The smallest MTU, in bytes, an IPv6 link may have (RFC 8200 section 5).
pub const MIN_IPV6: u16 = 1280;

/// Bytes between the underlay's MTU and the pod's: 50 for VXLAN over IPv4, 70 over IPv6. `options_len`, 0 to
/// 252, is what the tunnel header carries besides its fixed part.
#[must_use]
pub const fn overhead(encapsulation: Encapsulation, outer_is_ipv6: bool, options_len: u16) -> u16 {
    let outer_ip = if outer_is_ipv6 { OUTER_IPV6 } else { OUTER_IPV4 };
    let tunnel: u16 = match encapsulation {
        Encapsulation::Vxlan | Encapsulation::Geneve => 8,
    };
    (INNER_ETHERNET + tunnel + OUTER_UDP + outer_ip).saturating_add(options_len)
}

/// The pod's MTU, in bytes, over an underlay; none if less than [`MIN_IPV4`] is left.
#[must_use]
pub const fn pod_mtu(underlay_mtu: u16, overhead: u16) -> Option<u16> {
    match underlay_mtu.checked_sub(overhead) {
        Some(mtu) if mtu >= MIN_IPV4 => Some(mtu),
        Some(_) | None => None,
    }
}

/// The underlay's MTU, in bytes, that a pod's MTU needs; none beyond 65,535.
#[must_use]
pub const fn underlay_mtu(pod_mtu: u16, overhead: u16) -> Option<u16> {
    pod_mtu.checked_add(overhead)
}

/// Whether IPv6 can run on a link of this MTU in bytes (RFC 8200 section 5).
#[must_use]
pub const fn carries_ipv6(mtu: u16) -> bool {
    mtu >= MIN_IPV6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_70_on_ipv6() {
        assert_eq!(overhead(Encapsulation::Vxlan, false, 0), 50);
        assert_eq!(overhead(Encapsulation::Vxlan, true, 0), 70);
        assert_eq!(overhead(Encapsulation::Geneve, false, 0), 50);
        assert_eq!(overhead(Encapsulation::Geneve, true, 12), 82);
    }

    #[test]
    fn mtu_goes_both_ways() {
        assert_eq!(pod_mtu(1500, 50), Some(1450));
        assert_eq!(underlay_mtu(1450, 50), Some(1500));
        assert_eq!(pod_mtu(118, 50), Some(68));
        assert_eq!(pod_mtu(117, 50), None);
        assert_eq!(pod_mtu(40, 50), None);
        assert_eq!(underlay_mtu(65_500, 50), None);
        assert!(!carries_ipv6(1279));
    }
}
