//! The frame that comes next most often: one more full segment of the group that the last two joined.

use super::candidate::{First, is_plain};
use super::flows::NONE;
use super::offset;
use crate::bytes::{array, be16, be32, len16, put};
use crate::checksum::{self, UDP_OFFSET, fold};
use crate::l4::L4;
use crate::{Checksum, Offload};

/// Bytes that are compared, in one go: TCP with timestamps over IPv6 with two tags. Frames with longer headers, or shorter
/// than that as a whole, are not expected, and go the longer way.
const COMPARED: usize = 96;

/// What that frame looks like: every bit of its headers is known but for the L4 checksum.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// [`NONE`] while no frame is expected.
    pub(super) group: u32,
    pub(super) egress: u32,
    /// Payload bytes.
    pub(super) size: usize,
    /// How many more may come, by their number and by the length of a packet.
    left: usize,
    l4: L4,
    /// Headers as the last frame had them.
    headers: [u8; COMPARED],
    /// Which bits of them are compared: not those that differ from frame to frame, and none behind the headers.
    mask: [u8; COMPARED],
    /// By how much the IPv4 identification grows.
    step: u16,
    identification: u16,
    /// The sum of the identification and the IPv4 header's checksum: the same for all, if all are right.
    varying: u16,
    sequence: u32,
}

impl Expected {
    pub(super) const NOTHING: Self = Self {
        group: NONE,
        egress: 0,
        size: 0,
        left: 0,
        l4: L4 { l3: 0, start: 0, payload: 0, end: 0, ipv6: false, tcp: false, pseudo: 0 },
        headers: [0; COMPARED],
        mask: [0; COMPARED],
        step: 0,
        identification: 0,
        varying: 0,
        sequence: 0,
    };

    /// Expects what comes after `last`, a full segment of the group whose first frame's facts are these, or nothing.
    #[inline]
    pub(super) fn prepare(&mut self, last: &[u8], facts: &First, step: u16, group: u32, egress: u32, left: usize) {
        self.group = NONE;
        let l4 = &facts.l4;
        let Some(headers) = last.first_chunk::<COMPARED>().filter(|_| l4.payload <= COMPARED) else { return };
        let layout = |l4: &L4| (l4.l3, l4.start, l4.payload, l4.ipv6, l4.tcp);
        if layout(l4) != layout(&self.l4) {
            self.mask = mask(l4);
        }
        let varying =
            u32::from(be16(headers, l4.l3 + 4).unwrap_or(0)) + u32::from(be16(headers, l4.l3 + 10).unwrap_or(0));
        self.identification = be16(headers, l4.l3 + 4).unwrap_or(0);
        self.sequence = be32(headers, l4.start + 4).unwrap_or(0);
        self.varying = fold(varying);
        self.headers = *headers;
        self.l4 = *l4;
        (self.group, self.egress, self.size, self.left, self.step) = (group, egress, l4.payload_len(), left, step);
        self.step();
    }

    /// Whether a frame is the one, its checksums included.
    #[inline]
    pub(super) fn is(&self, bytes: &[u8], egress: u32, offload: &Offload) -> bool {
        let l4 = &self.l4;
        let (Some(headers), Some(covered)) = (bytes.first_chunk::<COMPARED>(), bytes.get(l4.start..l4.end)) else {
            return false;
        };
        let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
        let ((theirs, _), (ours, _), (masks, _)) =
            (headers.as_chunks(), self.headers.as_chunks(), self.mask.as_chunks());
        let words = theirs.iter().zip(ours).zip(masks);
        let differ = words.fold(0, |all, ((theirs, ours), mask)| all | (word(theirs) ^ word(ours)) & word(mask));
        if differ != 0 || self.left == 0 || self.egress != egress || !is_plain(offload) {
            return false;
        }
        let ip_is_it = l4.ipv6
            || match (be16(headers, l4.l3 + 4), be16(headers, l4.l3 + 10)) {
                (Some(identification), Some(field)) => {
                    identification == self.identification
                        && fold(u32::from(identification) + u32::from(field)) == self.varying
                }
                _ => false,
            };
        let l4_is_it = if l4.tcp {
            be32(headers, l4.start + 4) == Some(self.sequence)
        } else {
            array(headers, l4.start + usize::from(UDP_OFFSET)) != Some(&[0; 2])
        };
        if !ip_is_it || !l4_is_it {
            return false;
        }
        let pseudo = l4.pseudo_header(len16(covered.len()));
        offload.checksum == Checksum::Valid || fold(checksum::sum(covered) + pseudo) == 0xffff
    }

    /// It has come: on to the next.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.left -= 1;
        self.step();
    }

    #[inline]
    fn step(&mut self) {
        self.identification = self.identification.wrapping_add(self.step);
        self.sequence = self.sequence.wrapping_add(offset(self.size));
    }
}

/// Which bits of a header are the same in all full segments.
fn mask(l4: &L4) -> [u8; COMPARED] {
    let mut mask = [0; COMPARED];
    if let Some(headers) = mask.get_mut(..l4.payload) {
        headers.fill(0xff);
    }
    put(&mut mask, l4.start + usize::from(l4.checksum_offset()), [0; 2]);
    if !l4.ipv6 {
        put(&mut mask, l4.l3 + 4, [0; 2]);
        put(&mut mask, l4.l3 + 10, [0; 2]);
    }
    if l4.tcp {
        put(&mut mask, l4.start + 4, [0; 4]);
    }
    mask
}
