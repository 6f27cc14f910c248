//! ICMP echo, version 4 (RFC 792) and 6 (RFC 4443 section 4).

use std::net::IpAddr;

/// Bytes of an echo message before its payload.
pub(crate) const HEADER: usize = 8;

const V4_REQUEST: u8 = 8;
const V4_REPLY: u8 = 0;
const V6_REQUEST: u8 = 128;
const V6_REPLY: u8 = 129;
/// Shortest IPv4 header, in bytes.
const IPV4_HEADER_MIN: usize = 20;

/// An echo request. Of version 6 the kernel fills the checksum in, since it covers the addresses.
pub(crate) fn request(to: IpAddr, identifier: u16, sequence: u16, payload: usize) -> Vec<u8> {
    let kind = if to.is_ipv4() { V4_REQUEST } else { V6_REQUEST };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend((0..payload).map(filler));
    if to.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// The sequence number of an echo reply to us, out of what a raw socket delivers: of IPv4 with its header,
/// of IPv6 without.
pub(crate) fn reply(from: IpAddr, packet: &[u8], identifier: u16, payload: usize) -> Option<u16> {
    let message = if from.is_ipv4() { packet.get(ipv4_header(packet)?..)? } else { packet };
    let (header, rest) = message.split_first_chunk::<HEADER>()?;
    let [kind, code, _, _, id_high, id_low, sequence_high, sequence_low] = *header;
    let expected = if from.is_ipv4() { V4_REPLY } else { V6_REPLY };
    let ours = kind == expected && code == 0 && u16::from_be_bytes([id_high, id_low]) == identifier;
    let whole = rest.len() == payload && rest.iter().copied().eq((0..payload).map(filler));
    // The kernel verified version 6 only.
    let intact = !from.is_ipv4() || checksum(message) == 0;
    (ours && whole && intact).then(|| u16::from_be_bytes([sequence_high, sequence_low]))
}

fn ipv4_header(packet: &[u8]) -> Option<usize> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    (length >= IPV4_HEADER_MIN).then_some(length)
}

#[expect(clippy::cast_possible_truncation, reason = "the filler repeats every 256 bytes")]
const fn filler(index: usize) -> u8 {
    index as u8
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const IPV6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    /// What a raw socket delivers when the request is answered.
    fn answered(to: IpAddr, sequence: u16) -> Vec<u8> {
        let mut message = request(to, 0x1234, sequence, 57);
        message[0] = if to.is_ipv4() { V4_REPLY } else { V6_REPLY };
        if to.is_ipv6() {
            return message;
        }
        message[2..4].fill(0);
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut packet = vec![0x45];
        packet.resize(IPV4_HEADER_MIN, 0);
        packet.extend(message);
        packet
    }

    #[test]
    fn an_answer_is_recognised() {
        for to in [IPV4, IPV6] {
            assert_eq!(reply(to, &answered(to, 0xabcd), 0x1234, 57), Some(0xabcd));
        }
    }

    #[test]
    fn a_strange_or_damaged_answer_is_not() {
        for to in [IPV4, IPV6] {
            assert_eq!(reply(to, &answered(to, 1), 0x1235, 57), None);
            assert_eq!(reply(to, &answered(to, 1), 0x1234, 56), None);
            assert_eq!(reply(to, &request(to, 0x1234, 1, 57), 0x1234, 57), None);
            let mut damaged = answered(to, 1);
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(reply(to, &damaged, 0x1234, 57), None);
            for length in 0..answered(to, 1).len() {
                assert_eq!(reply(to, &answered(to, 1)[..length], 0x1234, 57), None);
            }
        }
        let mut damaged = answered(IPV4, 1);
        damaged[IPV4_HEADER_MIN + 7] ^= 1;
        assert_eq!(reply(IPV4, &damaged, 0x1234, 57), None);
    }
}
