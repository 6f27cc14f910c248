//! Readers of what stands in `/proc`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Address and inode of each socket in a text like `/proc/net/udp`, or `/proc/net/udp6`.
#[must_use]
pub fn udp_sockets(text: &str) -> Vec<(SocketAddr, u64)> {
    text.lines().skip(1).filter_map(udp_socket).collect()
}

fn udp_socket(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    // After two addresses: state, queues, timer, retransmissions, user, timeout, inode.
    let inode = words.nth(7)?.parse().ok()?;
    Some((SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?), inode))
}

/// Words of 32 bits, each in this machine's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |place: usize| Some(u32::from_str_radix(hex.get(8 * place..8 * place + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

/// The inode of a socket, from where its descriptor leads: `socket:[123]`.
#[must_use]
pub fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
        let line = "  812: 010200C0:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 26043 2 0000000000000000 0\n";
        let line6 = "  813: B80D0120000000000000000001000000:17C1 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 26044 2 0000000000000000 0\n";
        let sockets = udp_sockets(&[head, line, line6, "nonsense\n"].concat());
        if cfg!(target_endian = "little") {
            assert_eq!(
                sockets,
                [("192.0.2.1:4789".parse().unwrap(), 26043), ("[2001:db8::1]:6081".parse().unwrap(), 26044)]
            );
        }
        assert_eq!(sockets.len(), 2);
    }

    #[test]
    fn a_descriptor_leads_to_its_socket() {
        assert_eq!(socket_inode("socket:[26043]"), Some(26043));
        assert_eq!(socket_inode("/dev/null"), None);
    }
}
