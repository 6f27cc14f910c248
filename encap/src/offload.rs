//! What `virtio_net_hdr` says of a frame (include/uapi/linux/virtio_net.h).

use std::fmt;

/// Length of the plain `virtio_net_hdr` in bytes.
pub const VIRTIO_NET_HDR_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How far the inner checksum of a frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The field holds what the sender put there; nobody has verified it.
    #[default]
    Unknown,
    /// Somebody on the way has verified it (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// The field holds the pseudo-header sum only: whoever takes the frame off the machine must fill it
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Needed {
        /// Where summing starts, in bytes from the start of the frame: the L4 header.
        start: u16,
        /// Where the result goes, in bytes from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// What a superframe stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// The segmentation a superframe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocol to segment.
    pub kind: GsoKind,
    /// L4 payload bytes in each segment; the last may be shorter. Never zero.
    pub size: u16,
    /// Bytes from the start of the frame to the L4 payload, as a hint; zero if unknown.
    pub header_len: u16,
    /// CWR is set on the first segment only (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
}

/// What travels with a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// State of the inner checksum.
    pub checksum: Checksum,
    /// Present on a superframe.
    pub gso: Option<Gso>,
}

/// A `virtio_net_hdr` that we cannot follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadError {
    /// A segmentation type we never asked the kernel for.
    UnknownGso {
        /// The type byte, `gso_type`.
        seen: u8,
    },
    /// A superframe with a segment size of zero.
    ZeroSegment,
    /// A superframe whose checksum is not marked as needed: it could not be segmented.
    SuperframeWithoutChecksum,
}

impl Offload {
    /// A frame to be taken as its bytes say.
    pub const NONE: Self = Self { checksum: Checksum::Unknown, gso: None };

    /// Reads a header in the machine's byte order, as TUN/TAP gives it unless told otherwise.
    ///
    /// # Errors
    /// [`OffloadError`] where the header asks for what we do not know.
    pub fn from_bytes(bytes: &[u8; VIRTIO_NET_HDR_LEN]) -> Result<Self, OffloadError> {
        let [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        let checksum = if flags & F_NEEDS_CSUM != 0 {
            Checksum::Needed { start: u16::from_ne_bytes([c0, c1]), offset: u16::from_ne_bytes([o0, o1]) }
        } else if flags & F_DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Unknown
        };
        let kind = match gso_type & !GSO_ECN {
            GSO_NONE => return Ok(Self { checksum, gso: None }),
            GSO_TCPV4 => GsoKind::Tcp4,
            GSO_TCPV6 => GsoKind::Tcp6,
            GSO_UDP_L4 => GsoKind::Udp,
            _ => return Err(OffloadError::UnknownGso { seen: gso_type }),
        };
        let size = u16::from_ne_bytes([s0, s1]);
        if size == 0 {
            return Err(OffloadError::ZeroSegment);
        }
        if !matches!(checksum, Checksum::Needed { .. }) {
            return Err(OffloadError::SuperframeWithoutChecksum);
        }
        let header_len = u16::from_ne_bytes([h0, h1]);
        Ok(Self { checksum, gso: Some(Gso { kind, size, header_len, ecn: gso_type & GSO_ECN != 0 }) })
    }

    /// The reverse of [`Self::from_bytes`].
    #[must_use]
    pub fn to_bytes(self) -> [u8; VIRTIO_NET_HDR_LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Unknown => (0, 0, 0),
            Checksum::Valid => (F_DATA_VALID, 0, 0),
            Checksum::Needed { start, offset } => (F_NEEDS_CSUM, start, offset),
        };
        let (gso_type, header_len, size) = match self.gso {
            None => (GSO_NONE, 0, 0),
            Some(gso) => {
                let kind = match gso.kind {
                    GsoKind::Tcp4 => GSO_TCPV4,
                    GsoKind::Tcp6 => GSO_TCPV6,
                    GsoKind::Udp => GSO_UDP_L4,
                };
                (kind | if gso.ecn { GSO_ECN } else { 0 }, gso.header_len, gso.size)
            }
        };
        let ([h0, h1], [s0, s1]) = (header_len.to_ne_bytes(), size.to_ne_bytes());
        let ([c0, c1], [o0, o1]) = (start.to_ne_bytes(), offset.to_ne_bytes());
        [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownGso { seen } => write!(f, "unknown segmentation type {seen:#04x}"),
            Self::ZeroSegment => f.write_str("superframe with a segment size of zero"),
            Self::SuperframeWithoutChecksum => f.write_str("superframe whose checksum is not marked as needed"),
        }
    }
}

impl std::error::Error for OffloadError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let checksum = Checksum::Needed { start: 34, offset: 16 };
        for offload in [
            Offload::NONE,
            Offload { checksum: Checksum::Valid, gso: None },
            Offload { checksum, gso: None },
            Offload { checksum, gso: Some(Gso { kind: GsoKind::Tcp4, size: 1398, header_len: 66, ecn: true }) },
            Offload { checksum, gso: Some(Gso { kind: GsoKind::Udp, size: 1200, header_len: 42, ecn: false }) },
        ] {
            assert_eq!(Offload::from_bytes(&offload.to_bytes()), Ok(offload));
        }
    }

    #[test]
    fn refuses_what_cannot_be_segmented() {
        let header = |flags, gso_type, size: u8| [flags, gso_type, 0, 0, size, 0, 34, 0, 16, 0];
        assert_eq!(Offload::from_bytes(&header(1, 3, 9)), Err(OffloadError::UnknownGso { seen: 3 }));
        assert_eq!(Offload::from_bytes(&header(1, 1, 0)), Err(OffloadError::ZeroSegment));
        assert_eq!(Offload::from_bytes(&header(0, 1, 9)), Err(OffloadError::SuperframeWithoutChecksum));
    }
}
