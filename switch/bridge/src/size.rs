use weft_encap::{GsoKind, Inner, Network, Offload};

const UDP_HEADER_LEN: usize = 8;
const TCP_MIN_HEADER_LEN: usize = 20;

/// Length in bytes of the longest network-layer packet that a frame stands for: the superframe's
/// segments where it is one, else the frame without its Ethernet header. What an MTU is compared with.
#[must_use]
pub fn wire_len(inner: &Inner<'_>, offload: &Offload) -> usize {
    let whole = inner.bytes.len() - inner.l3;
    let Some(gso) = offload.gso else { return whole };
    let l4 = match &inner.network {
        Network::Ipv4(ip) => ip.l4,
        Network::Ipv6(ip) => ip.l4,
        Network::Arp(_) | Network::Other => return whole,
    };
    let l4_header = match gso.kind {
        GsoKind::Udp => UDP_HEADER_LEN,
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            let offset = inner.bytes.get(l4 + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
            offset.max(TCP_MIN_HEADER_LEN)
        }
    };
    whole.min(l4 - inner.l3 + l4_header + usize::from(gso.size))
}
