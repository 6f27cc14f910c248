//! Frames and tunnel packets, right and wrong ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use weft_encap::MacAddr;

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
const ETHERTYPE_ARP: u16 = 0x0806;
const HOPS: u8 = 64;

/// MAC, address and UDP port of one end of a flow.
pub type End<T> = (MacAddr, T, u16);

/// A Geneve packet, whose every part can be wrong.
#[derive(Clone, Debug)]
pub struct Geneve {
    /// The version, 0.
    pub version: u8,
    /// The length field of the options, in units of four bytes; what `options` has where it is none.
    pub options_len: Option<u8>,
    /// The options as they stand in the header.
    pub options: Vec<u8>,
    /// The O and C bits and the reserved ones behind them.
    pub flags: u8,
    /// EtherType of what is inside: 0x6558 for an Ethernet frame (RFC 8926 section 3.4).
    pub protocol: u16,
    /// The VNI, 0 to 16,777,215: wrong ones are sent too.
    pub vni: u32,
}

/// A MAC of the locally administered range that ends in this number.
#[must_use]
pub const fn mac_of(number: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0xaa, number])
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(dst: MacAddr, src: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &kind.to_be_bytes(), payload].concat()
}

/// A broadcast ARP request, 42 bytes long and not padded.
#[must_use]
pub fn arp_request(mac: MacAddr, own: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    let arp = [&fixed[..], &mac.0, &own.octets(), &[0; 6], &wanted.octets()].concat();
    ethernet(MacAddr([0xff; 6]), mac, ETHERTYPE_ARP, &arp)
}

/// A UDP datagram in IPv4, with checksums.
///
/// # Panics
/// If it is too long.
#[must_use]
pub fn udp_over_ipv4(from: End<Ipv4Addr>, to: End<Ipv4Addr>, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0.0, to.0.0).ipv4(from.1.octets(), to.1.octets(), HOPS);
    let mut frame = Vec::new();
    builder.udp(from.2, to.2).write(&mut frame, payload).unwrap();
    frame
}

/// A UDP datagram in IPv6, with its checksum.
///
/// # Panics
/// If it is too long.
#[must_use]
pub fn udp_over_ipv6(from: End<Ipv6Addr>, to: End<Ipv6Addr>, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0.0, to.0.0).ipv6(from.1.octets(), to.1.octets(), HOPS);
    let mut frame = Vec::new();
    builder.udp(from.2, to.2).write(&mut frame, payload).unwrap();
    frame
}

/// The frame with VLAN tags put in, the outermost first, each as its type and value.
#[must_use]
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(ETHERNET_LEN - 2);
    let tags: Vec<u8> =
        tags.iter().flat_map(|(kind, value)| [kind.to_be_bytes(), value.to_be_bytes()].concat()).collect();
    [addresses, &tags, rest].concat()
}

/// The frame in VXLAN, as the payload of UDP.
#[must_use]
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0], frame].concat()
}

impl Geneve {
    /// A right one of this VNI: version 0, no options.
    #[must_use]
    pub const fn new(vni: u32) -> Self {
        Self { version: 0, options_len: None, options: Vec::new(), flags: 0, protocol: 0x6558, vni }
    }

    /// An option; a `kind` from 0x80 on is critical.
    ///
    /// # Panics
    /// If the data is no multiple of four bytes.
    #[must_use]
    pub fn option(mut self, class: u16, kind: u8, data: &[u8]) -> Self {
        assert_eq!(data.len() % 4, 0);
        self.options.extend(class.to_be_bytes());
        self.options.extend([kind, (data.len() / 4) as u8]);
        self.options.extend_from_slice(data);
        self
    }

    /// The frame in it, as the payload of UDP.
    #[must_use]
    pub fn around(&self, frame: &[u8]) -> Vec<u8> {
        let options_len = self.options_len.unwrap_or((self.options.len() / 4) as u8);
        let [p0, p1] = self.protocol.to_be_bytes();
        let [_, a, b, c] = self.vni.to_be_bytes();
        let header = [self.version << 6 | options_len, self.flags, p0, p1, a, b, c, 0];
        [&header[..], &self.options, frame].concat()
    }
}

/// Bytes that look random and are the same in every run.
#[must_use]
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len).collect()
}
