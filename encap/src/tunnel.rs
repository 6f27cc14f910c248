//! Tunnel headers of either encapsulation: VXLAN (RFC 7348) and Geneve (RFC 8926).

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::{Vni, geneve, vxlan};

/// How inner frames travel inside UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Encapsulation {
    /// RFC 7348.
    #[default]
    Vxlan,
    /// RFC 8926.
    Geneve,
}

/// The header to put before an inner frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TunnelHeader {
    bytes: [u8; Encapsulation::MAX_HEADER_LEN],
    len: u8,
}

/// Why a UDP payload was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecapError {
    /// The tunnel header, options included, is cut off.
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// VXLAN without the I flag: the VNI field holds nothing (RFC 7348 section 5).
    VxlanNoVni,
    /// VXLAN with the generic protocol extension: what is inside need not be an Ethernet frame
    /// (draft-ietf-nvo3-vxlan-gpe section 3).
    VxlanGpe {
        /// The first byte's flags: version, P and O among others.
        flags: u8,
        /// The next protocol field, 0 to 255, which means something where P is set; 3 is Ethernet.
        next_protocol: u8,
    },
    /// VXLAN with a group policy: its sender relies on the receiver to enforce it
    /// (draft-smith-vxlan-group-policy section 2.1).
    VxlanGroupPolicy,
    /// VXLAN with remote checksum offload: the inner checksum is unfilled, and the header says where it belongs
    /// (draft-herbert-vxlan-rco, Linux `VXLAN_HF_RCO`).
    VxlanRemoteChecksum,
    /// VNI 0, in either encapsulation: see [`Vni`].
    VniZero,
    /// Geneve of another version than 0 (RFC 8926 section 3.4).
    GeneveVersion {
        /// The version seen, 0 to 3.
        seen: u8,
    },
    /// A Geneve control packet, O bit set: we speak no control protocol (section 3.4).
    GeneveControl,
    /// Geneve with something else than an Ethernet frame inside (section 3.4).
    GeneveProtocol {
        /// The protocol type seen, an EtherType.
        seen: u16,
    },
    /// A Geneve option that runs over the end of the options (section 3.5).
    GeneveOptionOverrun {
        /// Bytes left in the options.
        have: usize,
        /// Bytes which the option claims, its header included.
        need: usize,
    },
    /// A Geneve option that must be understood and is not (section 3.5.1).
    GeneveCriticalOption {
        /// Option class, 16 bits (section 3.5).
        class: u16,
        /// Option type, 8 bits, the critical one included.
        kind: u8,
    },
}

/// A text that names no encapsulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncapsulationError {
    /// The text seen.
    pub seen: String,
}

impl Encapsulation {
    /// Bytes of the longest header that [`Self::header`] makes.
    pub const MAX_HEADER_LEN: usize = 8;

    /// Checks and removes the tunnel header of a UDP payload. The result is the inner frame, unchecked.
    ///
    /// # Errors
    /// [`DecapError`]; docs/wire.md lists the cases.
    #[inline]
    pub fn decap(self, payload: &[u8]) -> Result<(Vni, &[u8]), DecapError> {
        match self {
            Self::Vxlan => vxlan::decap(payload),
            Self::Geneve => geneve::decap(payload),
        }
    }

    /// The header to send.
    #[inline]
    #[must_use]
    pub const fn header(self, vni: Vni) -> TunnelHeader {
        let bytes = match self {
            Self::Vxlan => vxlan::header(vni),
            Self::Geneve => geneve::header(vni),
        };
        TunnelHeader { bytes, len: 8 }
    }

    /// Bytes of the header that [`Self::header`] makes.
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Vxlan => vxlan::HEADER_LEN,
            Self::Geneve => geneve::BASE_LEN,
        }
    }

    /// The UDP port assigned by IANA: 4789 or 6081.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Vxlan => vxlan::PORT,
            Self::Geneve => geneve::PORT,
        }
    }

    /// The name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

impl TunnelHeader {
    /// The bytes to put before the inner frame.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }
}

impl Deref for TunnelHeader {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for TunnelHeader {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for TunnelHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelHeader({:02x?})", self.as_bytes())
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Encapsulation {
    type Err = EncapsulationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Vxlan, Self::Geneve]
            .into_iter()
            .find(|encapsulation| encapsulation.name() == text)
            .ok_or_else(|| EncapsulationError { seen: text.to_owned() })
    }
}

impl fmt::Display for EncapsulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown encapsulation `{}`: expected vxlan or geneve", self.seen)
    }
}

impl std::error::Error for EncapsulationError {}

impl fmt::Display for DecapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { have, need } => write!(f, "tunnel header needs {need} bytes, there are {have}"),
            Self::VxlanNoVni => f.write_str("VXLAN header without a VNI"),
            Self::VxlanGpe { flags, next_protocol } => {
                write!(f, "VXLAN-GPE, flags {flags:#04x}, next protocol {next_protocol}")
            }
            Self::VxlanGroupPolicy => f.write_str("VXLAN with a group policy"),
            Self::VxlanRemoteChecksum => f.write_str("VXLAN with remote checksum offload"),
            Self::VniZero => f.write_str("VNI 0"),
            Self::GeneveVersion { seen } => write!(f, "Geneve version {seen}, expected 0"),
            Self::GeneveControl => f.write_str("Geneve control packet"),
            Self::GeneveProtocol { seen } => write!(f, "Geneve protocol type {seen:#06x}, expected 0x6558"),
            Self::GeneveOptionOverrun { have, need } => {
                write!(f, "Geneve option of {need} bytes where {have} are left")
            }
            Self::GeneveCriticalOption { class, kind } => {
                write!(f, "unknown critical Geneve option, class {class:#06x} type {kind:#04x}")
            }
        }
    }
}

impl std::error::Error for DecapError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
            assert_eq!(encapsulation.to_string().parse(), Ok(encapsulation));
        }
        assert_eq!("gre".parse::<Encapsulation>(), Err(EncapsulationError { seen: "gre".to_owned() }));
    }

    #[test]
    fn what_is_sent_is_received() {
        for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
            let vni = Vni::new(0x12_3456).unwrap();
            let header = encapsulation.header(vni);
            assert_eq!(header.len(), encapsulation.header_len());
            let packet = [header.as_bytes(), b"frame"].concat();
            assert_eq!(encapsulation.decap(&packet), Ok((vni, &b"frame"[..])));
            for have in 0..8 {
                assert_eq!(encapsulation.decap(&packet[..have]), Err(DecapError::Truncated { have, need: 8 }));
            }
        }
    }
}
