//! VXLAN (RFC 7348 section 5).

use crate::{DecapError, Vni};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The UDP port assigned by IANA.
pub const PORT: u16 = 4789;
/// The UDP port that Linux uses unless told otherwise.
pub const PORT_LINUX: u16 = 8472;

const FLAG_VNI: u8 = 0x08;

/// The header to send: I flag and VNI, everything else zero.
#[inline]
#[must_use]
pub const fn header(vni: Vni) -> [u8; HEADER_LEN] {
    let [a, b, c] = vni.to_bytes();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

/// Checks and removes the header. The I flag is required; all other bits are ignored.
///
/// # Errors
/// [`DecapError::Truncated`], [`DecapError::VxlanNoVni`], [`DecapError::VniZero`].
#[inline]
pub fn decap(payload: &[u8]) -> Result<(Vni, &[u8]), DecapError> {
    let Some((&[flags, _, _, _, a, b, c, _], frame)) = payload.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecapError::Truncated { have: payload.len(), need: HEADER_LEN });
    };
    if flags & FLAG_VNI == 0 {
        return Err(DecapError::VxlanNoVni);
    }
    let vni = Vni::from_bytes([a, b, c]).map_err(|_| DecapError::VniZero)?;
    Ok((vni, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_are_ignored_and_sent_as_zero() {
        let vni = Vni::new(7).unwrap();
        assert_eq!(decap(&[0xff, 0xff, 0xff, 0xff, 0, 0, 7, 0xff, 1]), Ok((vni, &[1][..])));
        assert_eq!(header(vni), [8, 0, 0, 0, 0, 0, 7, 0]);
    }

    #[test]
    fn refuses_by_name() {
        assert_eq!(decap(&[0xf7, 0, 0, 0, 0, 0, 7, 0]), Err(DecapError::VxlanNoVni));
        assert_eq!(decap(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(DecapError::VniZero));
    }
}
