//! The clamp on TCP's maximum segment size.
//!
//! A host announces in its SYN the longest segment that it takes (RFC 9293 section 3.7.1, RFC 6691), reckoned from
//! its own link. Where the path between two hosts holds less, lowering that number on the way keeps a connection
//! off what would not fit, also when ICMP does not get through.

use crate::bytes::{array, be16, put};
use crate::checksum;
use crate::l4::{L4, TCP_LEN};
use crate::{Checksum, Inner, Offload};

const HEADERS_IPV4: u16 = 40;
const HEADERS_IPV6: u16 = 60;
const SYN: u8 = 0x02;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const MAXIMUM_SEGMENT_SIZE_LEN: usize = 4;
/// TCP's authentication option (RFC 5925): it may cover the other options.
const AUTHENTICATION: u8 = 29;

/// The maximum segment size, in bytes, that fits an MTU, both without options (RFC 6691 section 2): 40 or 60 less.
#[must_use]
pub const fn mss_for(mtu: u16, ipv6: bool) -> u16 {
    mtu.saturating_sub(if ipv6 { HEADERS_IPV6 } else { HEADERS_IPV4 })
}

/// Lowers the maximum segment size in a SYN or SYN-ACK to `max_segment` bytes, and says whether it has changed the
/// frame.
///
/// The checksum is updated and not made anew (RFC 1624), so that a wrong one stays wrong. The Offload says whether
/// the field holds a checksum at all: where it is [`Checksum::Needed`] it does not cover the options as yet, and
/// stays. So a frame from a tunnel socket goes through [`crate::recover::recover`] first.
///
/// Left as they are: SYNs without the option (536 or 1220 bytes are then assumed at the other end, which
/// fit), those whose options are authenticated (RFC 5925), fragments, and what [`L4::of`] refuses. Of several such
/// options each is lowered.
#[inline]
pub fn clamp_mss(frame: &mut [u8], max_segment: u16, offload: &Offload) -> bool {
    let Ok(inner) = Inner::parse(frame) else { return false };
    let Ok(l4) = L4::of(&inner) else { return false };
    if !l4.tcp || array::<1>(frame, l4.start + 13).is_none_or(|[flags]| flags & SYN == 0) {
        return false;
    }
    clamp(frame, &l4, max_segment, offload)
}

fn clamp(frame: &mut [u8], l4: &L4, max_segment: u16, offload: &Offload) -> bool {
    let options = || Options { end: l4.payload, at: l4.start + TCP_LEN };
    let mut walk = options();
    while let Some((kind, _)) = walk.step(frame) {
        if kind == AUTHENTICATION {
            return false;
        }
    }
    let complete = !matches!(offload.checksum, Checksum::Needed { .. });
    let mut changed = false;
    let mut walk = options();
    while let Some((kind, at)) = walk.step(frame) {
        let value = at + 2;
        let before = be16(frame, value).unwrap_or_default();
        if kind != MAXIMUM_SEGMENT_SIZE || walk.at - at != MAXIMUM_SEGMENT_SIZE_LEN || before <= max_segment {
            continue;
        }
        put(frame, value, max_segment.to_be_bytes());
        changed = true;
        let field_at = l4.start + usize::from(checksum::TCP_OFFSET);
        if let Some(field) = be16(frame, field_at).filter(|_| complete) {
            let at_odd_place = (value - l4.start) % 2 == 1;
            let word = |value: u16| if at_odd_place { value.swap_bytes() } else { value };
            put(frame, field_at, checksum::update(field, word(before), word(max_segment)).to_be_bytes());
        }
    }
    changed
}

/// The options of a TCP header, at most 40 bytes of them. What is malformed ends them.
struct Options {
    end: usize,
    at: usize,
}

impl Options {
    /// The next option's kind, and where it starts.
    fn step(&mut self, frame: &[u8]) -> Option<(u8, usize)> {
        loop {
            let at = self.at;
            let &kind = frame.get(..self.end)?.get(at)?;
            match kind {
                END => return None,
                NO_OPERATION => self.at += 1,
                _ => {
                    let len = usize::from(*frame.get(..self.end)?.get(at + 1)?);
                    if len < 2 || at + len > self.end {
                        return None;
                    }
                    self.at += len;
                    return Some((kind, at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mss_is_40_or_60_below_the_mtu() {
        assert_eq!(mss_for(1450, false), 1410);
        assert_eq!(mss_for(1450, true), 1390);
        assert_eq!(mss_for(1280, true), 1220);
        assert_eq!(mss_for(30, false), 0);
    }
}
