//! Geneve (RFC 8926 section 3).

use crate::{DecapError, Vni};

/// Bytes of the header without options (section 3.4).
pub const BASE_LEN: usize = 8;
/// Bytes that all options together can take (section 3.4: six bits, in units of four bytes).
pub const MAX_OPTIONS_LEN: usize = 63 * 4;
/// Bytes of an option's own header (section 3.5).
pub const OPTION_HEADER_LEN: usize = 4;
/// The UDP port assigned by IANA (section 3.3).
pub const PORT: u16 = 6081;
/// Protocol type of an Ethernet frame, an EtherType (section 3.4).
pub const PROTOCOL_ETHERNET: u16 = 0x6558;

const FLAG_CONTROL: u8 = 0x80;
const CRITICAL: u8 = 0x80;

/// One option (section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneveOption<'a> {
    /// Option class, 16 bits: whose type it is (section 3.5).
    pub class: u16,
    /// Option type, 8 bits, the critical one included.
    pub kind: u8,
    /// Whether a receiver that does not know it must drop the packet: the type's highest bit.
    pub critical: bool,
    /// The option's data: 0 to 124 bytes, a multiple of four.
    pub data: &'a [u8],
}

/// The options of a header, one after the other: at most 63. After an error it ends.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

/// A header taken apart; [`decap`] is this and the refusal of what we do not understand.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a> {
    /// The VNI field, zero included.
    pub vni: [u8; 3],
    /// The O bit: a control packet (section 3.4).
    pub control: bool,
    /// The C bit: there are critical options (section 3.4).
    pub critical: bool,
    /// The EtherType of what is inside (section 3.4).
    pub protocol: u16,
    /// The options, unchecked as yet.
    pub options: Options<'a>,
    /// What follows the options.
    pub payload: &'a [u8],
}

/// The header to send: no options, everything but protocol type and VNI zero.
#[inline]
#[must_use]
pub const fn header(vni: Vni) -> [u8; BASE_LEN] {
    let [p0, p1] = PROTOCOL_ETHERNET.to_be_bytes();
    let [a, b, c] = vni.to_bytes();
    [0, 0, p0, p1, a, b, c, 0]
}

/// Takes a header apart without judging what it says.
///
/// # Errors
/// [`DecapError::Truncated`], [`DecapError::GeneveVersion`]: the layout of another version is not known.
#[inline]
pub fn parse(payload: &[u8]) -> Result<Parsed<'_>, DecapError> {
    let have = payload.len();
    let Some((&[first, flags, p0, p1, a, b, c, _], rest)) = payload.split_first_chunk::<BASE_LEN>() else {
        return Err(DecapError::Truncated { have, need: BASE_LEN });
    };
    if first >> 6 != 0 {
        return Err(DecapError::GeneveVersion { seen: first >> 6 });
    }
    let options_len = usize::from(first & 0x3f) * 4;
    let Some((options, payload)) = rest.split_at_checked(options_len) else {
        return Err(DecapError::Truncated { have, need: BASE_LEN + options_len });
    };
    Ok(Parsed {
        vni: [a, b, c],
        control: flags & FLAG_CONTROL != 0,
        critical: flags & 0x40 != 0,
        protocol: u16::from_be_bytes([p0, p1]),
        options: Options { rest: options },
        payload,
    })
}

/// Checks and removes the header and its options.
///
/// We know no option. Each is walked, and one with the critical bit is refused, whatever the C bit of the
/// header says: a sender that forgot the C bit still meant the option's. A C bit without a critical option
/// asks for nothing we could fail to do, and is let through. Reserved bits are ignored.
///
/// # Errors
/// [`DecapError`], each of its Geneve cases, [`DecapError::Truncated`] and [`DecapError::VniZero`].
#[inline]
pub fn decap(payload: &[u8]) -> Result<(Vni, &[u8]), DecapError> {
    let parsed = parse(payload)?;
    if parsed.control {
        return Err(DecapError::GeneveControl);
    }
    if parsed.protocol != PROTOCOL_ETHERNET {
        return Err(DecapError::GeneveProtocol { seen: parsed.protocol });
    }
    for option in parsed.options {
        let GeneveOption { class, kind, critical, .. } = option?;
        if critical {
            return Err(DecapError::GeneveCriticalOption { class, kind });
        }
    }
    let vni = Vni::from_bytes(parsed.vni).map_err(|_| DecapError::VniZero)?;
    Ok((vni, parsed.payload))
}

impl<'a> Options<'a> {
    /// The options as they stand in the header, back to back. Beyond [`MAX_OPTIONS_LEN`] bytes nothing is read.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes.get(..MAX_OPTIONS_LEN).unwrap_or(bytes) }
    }

    /// The bytes not walked yet.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<GeneveOption<'a>, DecapError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let have = self.rest.len();
        if have == 0 {
            return None;
        }
        let Some((&[c0, c1, kind, len], rest)) = self.rest.split_first_chunk::<OPTION_HEADER_LEN>() else {
            self.rest = &[];
            return Some(Err(DecapError::GeneveOptionOverrun { have, need: OPTION_HEADER_LEN }));
        };
        let data_len = usize::from(len & 0x1f) * 4;
        let Some((data, rest)) = rest.split_at_checked(data_len) else {
            self.rest = &[];
            return Some(Err(DecapError::GeneveOptionOverrun { have, need: OPTION_HEADER_LEN + data_len }));
        };
        self.rest = rest;
        let class = u16::from_be_bytes([c0, c1]);
        Some(Ok(GeneveOption { class, kind, critical: kind & CRITICAL != 0, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, flags: u8, options: &[u8]) -> Vec<u8> {
        [&[first, flags, 0x65, 0x58, 0, 0, 7, 0], options, b"frame"].concat()
    }

    #[test]
    fn unknown_options_are_stepped_over() {
        let options = [0x01, 0x02, 0x7f, 1, 9, 9, 9, 9, 0xff, 0xfe, 3, 0xe0];
        let bytes = packet(3, 0, &options);
        assert_eq!(decap(&bytes), Ok((Vni::new(7).unwrap(), &b"frame"[..])));
        let seen: Vec<_> = parse(&bytes).unwrap().options.map(Result::unwrap).collect();
        let data = &[9, 9, 9, 9][..];
        assert_eq!(
            seen,
            [
                GeneveOption { class: 0x0102, kind: 0x7f, critical: false, data },
                GeneveOption { class: 0xfffe, kind: 3, critical: false, data: &[] },
            ]
        );
    }

    #[test]
    fn refuses_by_name() {
        assert_eq!(decap(&packet(0x40, 0, &[])), Err(DecapError::GeneveVersion { seen: 1 }));
        assert_eq!(decap(&packet(0, 0x80, &[])), Err(DecapError::GeneveControl));
        assert_eq!(decap(&[0, 0, 8, 0, 0, 0, 7, 0]), Err(DecapError::GeneveProtocol { seen: 0x0800 }));
        assert_eq!(decap(&[0, 0, 0x65, 0x58, 0, 0, 0, 0]), Err(DecapError::VniZero));
        assert_eq!(decap(&packet(2, 0, &[])), Err(DecapError::Truncated { have: 13, need: 16 }));
    }

    #[test]
    fn an_option_decides_whether_it_is_critical_and_not_the_header() {
        let critical = [0, 1, 0x82, 0];
        for flags in [0, 0x40] {
            assert_eq!(
                decap(&packet(1, flags, &critical)),
                Err(DecapError::GeneveCriticalOption { class: 1, kind: 0x82 })
            );
        }
        assert!(decap(&packet(1, 0x40, &[0, 1, 2, 0])).is_ok());
        assert!(decap(&packet(0, 0x7f, &[])).is_ok());
    }

    #[test]
    fn at_most_63_options_are_walked_whatever_follows() {
        let empty = [0, 1, 2, 0];
        assert_eq!(Options::new(&empty.repeat(100)).filter(Result::is_ok).count(), 63);
        let bytes = packet(63, 0, &empty.repeat(63));
        assert_eq!(parse(&bytes).unwrap().options.count(), 63);
        assert_eq!(decap(&bytes), Ok((Vni::new(7).unwrap(), &b"frame"[..])));
        // Of bytes that look like options only those in the header's length are.
        let bytes = packet(1, 0, &[empty, [0, 1, 0x82, 0]].concat());
        assert_eq!(decap(&bytes).unwrap().1[..4], [0, 1, 0x82, 0]);
    }

    #[test]
    fn an_option_longer_than_the_options_is_refused() {
        assert_eq!(decap(&packet(1, 0, &[0, 1, 2, 1])), Err(DecapError::GeneveOptionOverrun { have: 4, need: 8 }));
        let mut options = Options::new(&[0, 1]);
        assert_eq!(options.next(), Some(Err(DecapError::GeneveOptionOverrun { have: 2, need: 4 })));
        assert_eq!(options.next(), None);
    }
}
