use crate::{Inner, MacAddr, Network};

/// A flow in 32 bits, for spreading flows over source ports (RFC 7348 section 5, RFC 8926 section 3.3), sockets and
/// queues.
///
/// Made of MAC and IP addresses, protocol and ports; fragments go by addresses and protocol alone, so that
/// all pieces of a datagram agree. Both directions of a flow have the same hash. The IPv6 flow label does not
/// count, because it differs by direction. There is no seed: the same frame has the same hash on every node
/// and in every release, so this is no protection against somebody who chooses addresses to collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowHash(u32);

// Odd numbers with bits evenly spread: the fractional digits of pi.
const MAC: u64 = 0x243f_6a88_85a3_08d3;
const ADDRESS: u64 = 0x1319_8a2e_0370_7345;
const HIGH: u64 = 0xa409_3822_299f_31d1;
const LOW: u64 = 0x082e_fa98_ec4e_6c89;
const BOTH: u64 = 0x4528_21e6_38d0_1377;

impl FlowHash {
    /// The hash of a frame's flow.
    #[inline]
    #[must_use]
    pub fn of(inner: &Inner<'_>) -> Self {
        let (from, to, kind) = match &inner.network {
            Network::Ipv4(ip) => (u64::from(ip.src.to_bits()), u64::from(ip.dst.to_bits()), u64::from(ip.protocol)),
            Network::Ipv6(ip) => (halves(ip.src.to_bits()), halves(ip.dst.to_bits()), u64::from(ip.protocol)),
            Network::Arp(arp) => (u64::from(arp.sender_ip.to_bits()), u64::from(arp.target_ip.to_bits()), 0x0806),
            Network::Other => (0, 0, u64::from(inner.ethertype)),
        };
        let (from_port, to_port) = inner.ports().unwrap_or((0, 0));
        let near = side(inner.src, from, from_port);
        let far = side(inner.dst, to, to_port);
        let hash = multiply(near.wrapping_add(far) ^ kind, BOTH);
        let [_, _, _, _, bytes @ ..] = hash.to_be_bytes();
        Self(u32::from_be_bytes(bytes))
    }

    /// The hash as a number, all of 32 bits.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// An index below `n`, each equally likely, whether or not `n` is a power of two; 0 for an `n` of 0.
    /// `n` counts up to 2^32.
    #[inline]
    #[must_use]
    pub const fn index(self, n: usize) -> usize {
        ((self.0 as u64).wrapping_mul(n as u64) >> 32) as usize
    }
}

/// One end of the flow, its three parts bound together.
#[inline]
fn side(mac: MacAddr, address: u64, port: u16) -> u64 {
    multiply(mac.to_u64() << 16 ^ u64::from(port) ^ MAC, address ^ ADDRESS)
}

#[inline]
fn halves(address: u128) -> u64 {
    let [high, low] = words(address);
    multiply(high ^ HIGH, low ^ LOW)
}

/// The full product's two halves on each other: each bit of either factor reaches all of the result.
#[inline]
fn multiply(a: u64, b: u64) -> u64 {
    let [high, low] = words(u128::from(a) * u128::from(b));
    high ^ low
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
const fn words(value: u128) -> [u64; 2] {
    [(value >> 64) as u64, value as u64]
}
