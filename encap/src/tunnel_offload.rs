//! What the kernel says of a frame that has outer headers: `virtio_net_hdr_v1_hash_tunnel`
//! (include/uapi/linux/virtio_net.h, Linux 6.17), as a TAP gives and takes it with a header of that length.

use crate::offload::{Offload, OffloadError, VIRTIO_NET_HDR_LEN};

/// Length of the header in bytes.
pub const VIRTIO_NET_HDR_TUNNEL_LEN: usize = 24;

const F_UDP_TUNNEL_CSUM: u8 = 8;
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
const GSO_UDP_TUNNEL: u8 = GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6;
const OUTER_TRANSPORT: usize = 20;
const INNER_NETWORK: usize = 22;

/// An [`Offload`] of a frame with outer headers. Its offsets count from the start of the whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TunnelOffload {
    /// What is to be done to the frame: to the packet inside where there is a tunnel, to its own otherwise.
    pub offload: Offload,
    /// Present on a superframe inside a UDP tunnel.
    pub tunnel: Option<TunnelGso>,
}

/// Where the headers of a tunnelled superframe lie. Its outer UDP checksum field holds the pseudo-header sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelGso {
    /// Whether the outer header is IPv6.
    pub ipv6: bool,
    /// Whether each segment gets an outer UDP checksum.
    pub checksum: bool,
    /// Bytes from the start of the frame to the outer UDP header.
    pub outer_transport: u16,
    /// Bytes from the start of the frame to the inner IP header.
    pub inner_network: u16,
}

impl TunnelOffload {
    /// Reads a header. The part that older headers have is in the machine's byte order, the rest little-endian.
    ///
    /// # Errors
    /// [`OffloadError`] where the header asks for what we do not know.
    pub fn from_bytes(bytes: &[u8; VIRTIO_NET_HDR_TUNNEL_LEN]) -> Result<Self, OffloadError> {
        let mut plain = [0; VIRTIO_NET_HDR_LEN];
        plain.copy_from_slice(&bytes[..VIRTIO_NET_HDR_LEN]);
        let kind = plain[1] & GSO_UDP_TUNNEL;
        if kind == GSO_UDP_TUNNEL {
            return Err(OffloadError::UnknownGso { seen: plain[1] });
        }
        plain[1] &= !GSO_UDP_TUNNEL;
        let offload = Offload::from_bytes(&plain)?;
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let tunnel = (kind != 0 && offload.gso.is_some()).then(|| TunnelGso {
            ipv6: kind == GSO_UDP_TUNNEL_IPV6,
            checksum: plain[0] & F_UDP_TUNNEL_CSUM != 0,
            outer_transport: field(OUTER_TRANSPORT),
            inner_network: field(INNER_NETWORK),
        });
        Ok(Self { offload, tunnel })
    }

    /// The reverse of [`Self::from_bytes`].
    #[must_use]
    pub fn to_bytes(self) -> [u8; VIRTIO_NET_HDR_TUNNEL_LEN] {
        let mut bytes = [0; VIRTIO_NET_HDR_TUNNEL_LEN];
        bytes[..VIRTIO_NET_HDR_LEN].copy_from_slice(&self.offload.to_bytes());
        if let Some(tunnel) = self.tunnel {
            bytes[0] |= if tunnel.checksum { F_UDP_TUNNEL_CSUM } else { 0 };
            bytes[1] |= if tunnel.ipv6 { GSO_UDP_TUNNEL_IPV6 } else { GSO_UDP_TUNNEL_IPV4 };
            bytes[OUTER_TRANSPORT..OUTER_TRANSPORT + 2].copy_from_slice(&tunnel.outer_transport.to_le_bytes());
            bytes[INNER_NETWORK..INNER_NETWORK + 2].copy_from_slice(&tunnel.inner_network.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checksum, Gso, GsoKind};

    #[test]
    fn round_trips() {
        let checksum = Checksum::Needed { start: 34 + 50, offset: 16 };
        let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1398, header_len: 116, ecn: true });
        let tunnel = TunnelGso { ipv6: true, checksum: true, outer_transport: 54, inner_network: 84 };
        for tunnel in [None, Some(tunnel), Some(TunnelGso { ipv6: false, checksum: false, ..tunnel })] {
            let offload = TunnelOffload { offload: Offload { checksum, gso }, tunnel };
            assert_eq!(TunnelOffload::from_bytes(&offload.to_bytes()), Ok(offload));
        }
    }

    /// A TCP superframe in VXLAN over IPv4 with a checksum outside.
    #[test]
    fn is_laid_out_as_the_kernel_does() {
        let tunnel = TunnelGso { ipv6: false, checksum: true, outer_transport: 34, inner_network: 64 };
        let gso = Some(Gso { kind: GsoKind::Tcp4, size: 0x0578, header_len: 116, ecn: false });
        let offload = Offload { checksum: Checksum::Needed { start: 84, offset: 16 }, gso };
        let bytes = TunnelOffload { offload, tunnel: Some(tunnel) }.to_bytes();
        let expected = [9, 0x21, 116, 0, 0x78, 5, 84, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 34, 0, 64, 0];
        assert_eq!(bytes, if cfg!(target_endian = "little") { expected } else { bytes });
    }

    #[test]
    fn refuses_a_tunnel_of_both_families() {
        let mut bytes = [0; VIRTIO_NET_HDR_TUNNEL_LEN];
        (bytes[0], bytes[1], bytes[4]) = (1, 0x61, 9);
        assert_eq!(TunnelOffload::from_bytes(&bytes), Err(OffloadError::UnknownGso { seen: 0x61 }));
    }
}
