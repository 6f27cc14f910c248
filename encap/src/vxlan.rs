//! VXLAN (RFC 7348 section 5), and how its extensions are told from it.
//!
//! An extension claims bits that the RFC reserves, and then means something else by the payload or by the rest of the
//! header. Those bits are known and refused by name; all others are ignored, as section 5 asks. Which they are:
//! draft-ietf-nvo3-vxlan-gpe section 3, draft-smith-vxlan-group-policy section 2.1, and `VXLAN_HF_*` in Linux
//! include/net/vxlan.h.

use crate::{DecapError, Vni};

/// Bytes of the header (RFC 7348 section 5).
pub const HEADER_LEN: usize = 8;
/// The UDP port assigned by IANA (RFC 7348 section 8).
pub const PORT: u16 = 4789;
/// The UDP port that Linux uses unless told otherwise (`vxlan_port`, drivers/net/vxlan/vxlan_core.c).
pub const PORT_LINUX: u16 = 8472;

const FLAG_VNI: u8 = 0x08;
/// First byte: GPE's version, which is not zero where the header is another one.
const GPE_VERSION: u8 = 0x30;
/// First byte: GPE's P, by which the fourth byte says what is inside.
const GPE_NEXT_PROTOCOL: u8 = 0x04;
/// First byte: GPE's O, by which no frame of a pod is inside.
const GPE_OAM: u8 = 0x01;
const GPE: u8 = GPE_VERSION | GPE_NEXT_PROTOCOL | GPE_OAM;
/// First byte: G, by which the third and fourth byte are a policy group.
const GROUP_POLICY: u8 = 0x80;
/// Second byte: by which the last byte says where an unfilled checksum inside is to be filled.
const REMOTE_CHECKSUM: u8 = 0x20;

/// The header to send: I flag and VNI, everything else zero.
#[inline]
#[must_use]
pub const fn header(vni: Vni) -> [u8; HEADER_LEN] {
    let [a, b, c] = vni.to_bytes();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

/// Checks and removes the header. The I flag is required, the extensions' flags are refused, and all other bits are
/// ignored. The errors are looked for in the order in which they are listed.
///
/// # Errors
/// [`DecapError::Truncated`], [`DecapError::VxlanNoVni`], [`DecapError::VxlanGpe`], [`DecapError::VxlanGroupPolicy`],
/// [`DecapError::VxlanRemoteChecksum`], [`DecapError::VniZero`].
#[inline]
pub fn decap(payload: &[u8]) -> Result<(Vni, &[u8]), DecapError> {
    let Some((&[flags, more, _, next, a, b, c, _], frame)) = payload.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecapError::Truncated { have: payload.len(), need: HEADER_LEN });
    };
    if flags & (FLAG_VNI | GPE | GROUP_POLICY) != FLAG_VNI || more & REMOTE_CHECKSUM != 0 {
        return Err(extension(flags, next));
    }
    let vni = Vni::from_bytes([a, b, c]).map_err(|_| DecapError::VniZero)?;
    Ok((vni, frame))
}

/// What a header is that is not plain VXLAN.
#[cold]
const fn extension(flags: u8, next: u8) -> DecapError {
    if flags & FLAG_VNI == 0 {
        DecapError::VxlanNoVni
    } else if flags & GPE != 0 {
        DecapError::VxlanGpe { flags, next_protocol: next }
    } else if flags & GROUP_POLICY != 0 {
        DecapError::VxlanGroupPolicy
    } else {
        DecapError::VxlanRemoteChecksum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_nobody_claims_are_ignored_and_sent_as_zero() {
        let vni = Vni::new(7).unwrap();
        assert_eq!(decap(&[0x4a, 0xdf, 0xff, 0xff, 0, 0, 7, 0xff, 1]), Ok((vni, &[1][..])));
        assert_eq!(header(vni), [8, 0, 0, 0, 0, 0, 7, 0]);
    }

    #[test]
    fn refuses_by_name() {
        assert_eq!(decap(&[0xf7, 0, 0, 0, 0, 0, 7, 0]), Err(DecapError::VxlanNoVni));
        assert_eq!(decap(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(DecapError::VniZero));
    }

    #[test]
    fn each_extension_is_refused_by_its_own_name() {
        let of = |flags, more| decap(&[flags, more, 0, 3, 0, 0, 7, 0]).unwrap_err();
        for flags in [0x0c, 0x09, 0x18, 0x28, 0x38, 0x8c, 0xff] {
            assert_eq!(of(flags, 0), DecapError::VxlanGpe { flags, next_protocol: 3 }, "{flags:#x}");
        }
        assert_eq!(of(0x88, 0), DecapError::VxlanGroupPolicy);
        assert_eq!(of(0x88, 0x48), DecapError::VxlanGroupPolicy);
        assert_eq!(of(0x08, 0x20), DecapError::VxlanRemoteChecksum);
    }

    #[test]
    fn what_is_accepted_is_the_i_flag_and_bits_without_a_meaning() {
        for word in 0..=u16::MAX {
            let [flags, more] = word.to_be_bytes();
            let plain = flags & !0x42 == 0x08 && more & 0x20 == 0;
            assert_eq!(decap(&[flags, more, 0, 0, 0, 0, 7, 0]).is_ok(), plain, "{word:#06x}");
        }
    }
}
