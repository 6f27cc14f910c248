//! What stands before a group on its way out: pure.

use weft_bridge::DropReason;
use weft_encap::inner::ETHERNET_LEN;
use weft_encap::l4::UDP_LEN;
use weft_encap::outer::{self, Outer, UdpChecksum};
use weft_encap::{Checksum, Gso, GsoKind, Offload, TunnelGso, TunnelOffload, VIRTIO_NET_HDR_TUNNEL_LEN};

use super::NextHop;
use crate::underlay::Group;

/// Bytes of the kernel's header and all outer headers at most.
const MAX_LEN: usize = VIRTIO_NET_HDR_TUNNEL_LEN + outer::MAX_LEN;
/// Where the checksum lies in a UDP header.
const UDP_CHECKSUM: u16 = 6;

/// The kernel's header and the outer headers of one group.
pub(crate) struct Preamble {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl Preamble {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; MAX_LEN], len: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Writes that of a group.
    ///
    /// The outer checksum is left to the kernel or the NIC in each case. Inner ones are complete, but for that of a
    /// superframe, which each of its segments gets anew.
    ///
    /// # Errors
    /// The reason to count if the group cannot leave this way.
    pub(crate) fn write(&mut self, group: &Group, hop: &NextHop, src_port: u16) -> Result<(), DropReason> {
        let outer = Outer {
            addresses: hop.addresses,
            src_port,
            dst_port: group.to.port(),
            tos: group.tos,
            ttl: group.ttl,
            identification: 0,
        };
        if outer.header_len() + group.segment > usize::from(hop.mtu) {
            return Err(DropReason::ExceedsPathMtu);
        }
        let (header, headers) = self.bytes.split_at_mut(VIRTIO_NET_HDR_TUNNEL_LEN);
        let refused = |_| DropReason::BadSuperframe;
        let link = hop.link.write(headers, &hop.addresses).map_err(refused)?;
        let rest = &mut headers[link..];
        let outer_len = link + outer.write(rest, group.bytes, UdpChecksum::Partial).map_err(refused)?;
        self.len = VIRTIO_NET_HDR_TUNNEL_LEN + outer_len;
        header.copy_from_slice(&offload(group, outer_len, group.to.is_ipv6()).to_bytes());
        Ok(())
    }
}

/// What is to be done to a group behind `outer_len` bytes of outer headers.
fn offload(group: &Group, outer_len: usize, ipv6: bool) -> TunnelOffload {
    let udp = (outer_len - UDP_LEN) as u16;
    let of_udp = Checksum::Needed { start: udp, offset: UDP_CHECKSUM };
    let Some(Offload { checksum: Checksum::Needed { start, offset }, gso: Some(gso) }) = group.superframe else {
        let gso = (group.segments > 1).then_some(Gso {
            kind: GsoKind::Udp,
            size: group.segment as u16,
            header_len: outer_len as u16,
            ecn: false,
        });
        return TunnelOffload { offload: Offload { checksum: of_udp, gso }, tunnel: None };
    };
    let frame = (outer_len + group.bytes - group.frame_bytes as usize) as u16;
    let checksum = Checksum::Needed { start: frame + start, offset };
    let gso = Gso { header_len: frame + gso.header_len, ..gso };
    let tunnel = TunnelGso { ipv6, checksum: true, outer_transport: udp, inner_network: frame + ETHERNET_LEN as u16 };
    TunnelOffload { offload: Offload { checksum, gso: Some(gso) }, tunnel: Some(tunnel) }
}
