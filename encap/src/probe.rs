//! Path probes: the frames by which two nodes find out what size the path between them carries.
//!
//! In the manner of RFC 8899: a request as long as the size under test, and a short echo of its nonce; only the
//! echo counts, and no ICMP is needed. They travel like every other frame, in the same encapsulation and to the
//! same port, in a VNI of their own (compare RFC 8971, which sends BFD through VXLAN so). A receiver that knows
//! nothing of them has no members in that VNI and drops them. In the same way a node asks up to which revision of the
//! store a peer forwards by its rows.
//!
//! The layout, in network byte order:
//!
//! ```text
//!  0  destination  02:57:65:66:74:01, locally administered
//!  6  source       02:57:65:66:74:00, locally administered
//! 12  type         0x88b5, local experimental (IEEE 802)
//! 14  magic        0x57656674
//! 18  version      1
//! 19  kind         1 request, 2 echo, 3 revision request, 4 revision reply
//! 20  length       bytes of this frame
//! 22  size         bytes of the request's outer IP packet: the size under test
//! 24  nonce        64 bits
//! 32  revision     64 bits, of a revision reply alone
//! 32  padding      of both requests: zeros up to the length; of a revision request 8 bytes at least
//! ```

use std::fmt;

use crate::bytes::{array, be16, be32, len16, put};
use crate::mtu::INNER_ETHERNET;
use crate::{MacAddr, Vni};

/// The VNI for management, 16,777,214: no network of pods may use it.
pub const VNI: Vni = match Vni::new(0x00ff_fffe) {
    Ok(vni) => vni,
    Err(_) => Vni::MAX,
};
/// Where probes go: locally administered (IEEE 802), and of no station.
pub const DESTINATION: MacAddr = MacAddr([0x02, 0x57, 0x65, 0x66, 0x74, 0x01]);
/// Where probes come from: the same for every node, for the outer header says which it is.
pub const SOURCE: MacAddr = MacAddr([0x02, 0x57, 0x65, 0x66, 0x74, 0x00]);
/// IEEE 802 Local Experimental EtherType 1.
pub const ETHERTYPE: u16 = 0x88b5;
/// The one version there is.
pub const VERSION: u8 = 1;
/// Bytes of a probe without padding, Ethernet header included: of every echo, and of the shortest request.
pub const LEN: usize = 32;
/// Bytes of a revision reply, and of the shortest revision request: no answer is longer than what it answers.
pub const REVISION_LEN: usize = LEN + 8;

const MAGIC: u32 = 0x5765_6674;
const REQUEST: u8 = 1;
const ECHO: u8 = 2;
const REVISION_REQUEST: u8 = 3;
const REVISION_REPLY: u8 = 4;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As long as the size under test; wants an echo.
    Request,
    /// Says that the request of this nonce and size has arrived.
    Echo,
    /// Wants a [`Kind::RevisionReply`].
    RevisionRequest,
    /// Says by which rows its sender forwards.
    RevisionReply {
        /// The store's revision up to which its tables have all rows; 0 if they have none.
        revision: i64,
    },
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Request => REQUEST,
            Self::Echo => ECHO,
            Self::RevisionRequest => REVISION_REQUEST,
            Self::RevisionReply { .. } => REVISION_REPLY,
        }
    }

    /// Bytes of the shortest frame of this kind, and whether there may be padding behind them.
    const fn lengths(self) -> (usize, bool) {
        match self {
            Self::Request => (LEN, true),
            Self::Echo => (LEN, false),
            Self::RevisionRequest => (REVISION_LEN, true),
            Self::RevisionReply { .. } => (REVISION_LEN, false),
        }
    }
}

/// A probe without its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Request or answer.
    pub kind: Kind,
    /// 64 random bits by which the sender knows its request again. Who can guess them can forge the echo.
    pub nonce: u64,
    /// Bytes of the request's outer IP packet, header included: the path MTU that it proves.
    pub size: u16,
}

/// A frame that is no probe, or a probe that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// Shorter than [`LEN`].
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes needed: [`LEN`].
        need: usize,
    },
    /// Not to [`DESTINATION`].
    Destination {
        /// The address seen.
        seen: MacAddr,
    },
    /// Not of [`ETHERTYPE`]; a VLAN tag included.
    EtherType {
        /// The EtherType seen.
        seen: u16,
    },
    /// Somebody else's experiment.
    Magic {
        /// The 32 bits seen in its place.
        seen: u32,
    },
    /// Of another version than [`VERSION`].
    Version {
        /// The version seen.
        seen: u8,
    },
    /// None of the four kinds.
    Kind {
        /// The byte seen in its place.
        seen: u8,
    },
    /// The frame is not as long as it says, an answer has padding, or a frame is shorter than its kind.
    Length {
        /// Bytes there.
        have: usize,
        /// Bytes that it says.
        claimed: u16,
    },
    /// A size that is no more than the request inside it.
    Size {
        /// The size seen, in bytes.
        seen: u16,
    },
    /// Padding that is not zero.
    Padding,
    /// The size under test leaves no room for the probe.
    TooSmall {
        /// The size asked for, in bytes.
        size: u16,
        /// The smallest that can be tested, in bytes.
        min: usize,
    },
    /// The buffer is too short.
    NoRoom {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
}

impl Probe {
    /// The shortest revision request, to a peer for which [`crate::mtu::overhead`] says this `overhead`.
    #[must_use]
    pub fn revision_request(nonce: u64, overhead: u16) -> Self {
        let size = len16(usize::from(overhead.saturating_sub(INNER_ETHERNET)) + REVISION_LEN);
        Self { kind: Kind::RevisionRequest, nonce, size }
    }

    /// The answer to a request, from a node whose tables have the store's rows up to this revision; none to an answer.
    #[must_use]
    pub const fn answer(&self, revision: i64) -> Option<Self> {
        match self.kind {
            Kind::Request => Some(Self { kind: Kind::Echo, ..*self }),
            Kind::RevisionRequest => Some(Self { kind: Kind::RevisionReply { revision }, ..*self }),
            Kind::Echo | Kind::RevisionReply { .. } => None,
        }
    }

    /// The echo of a request; none of what is no request of an echo.
    #[must_use]
    pub const fn echo(&self) -> Option<Self> {
        match self.kind {
            Kind::Request => self.answer(0),
            Kind::Echo | Kind::RevisionRequest | Kind::RevisionReply { .. } => None,
        }
    }

    /// Bytes of the frame. `overhead`: what [`crate::mtu::overhead`] says for the peer, with the inner Ethernet
    /// header and whatever else is put around a frame, so that a request's outer IP packet has [`Self::size`] bytes.
    ///
    /// # Errors
    /// [`ProbeError::TooSmall`].
    pub fn frame_len(&self, overhead: u16) -> Result<usize, ProbeError> {
        let outside = usize::from(overhead.saturating_sub(INNER_ETHERNET));
        let (len, may_be_longer) = self.kind.lengths();
        let min = outside + len;
        match may_be_longer {
            false => Ok(len),
            true if usize::from(self.size) >= min => Ok(usize::from(self.size) - outside),
            true => Err(ProbeError::TooSmall { size: self.size, min }),
        }
    }

    /// Writes the frame to the start of `out` and returns its length, which is [`Self::frame_len`].
    ///
    /// # Errors
    /// [`ProbeError::TooSmall`], [`ProbeError::NoRoom`]; nothing is written.
    pub fn write(&self, overhead: u16, out: &mut [u8]) -> Result<usize, ProbeError> {
        let need = self.frame_len(overhead)?;
        let have = out.len();
        let frame = out.get_mut(..need).ok_or(ProbeError::NoRoom { have, need })?;
        frame.fill(0);
        put(frame, 0, DESTINATION.0);
        put(frame, 6, SOURCE.0);
        put(frame, 12, ETHERTYPE.to_be_bytes());
        put(frame, 14, MAGIC.to_be_bytes());
        put(frame, 18, [VERSION, self.kind.code()]);
        put(frame, 20, len16(need).to_be_bytes());
        put(frame, 22, self.size.to_be_bytes());
        put(frame, 24, self.nonce.to_be_bytes());
        if let Kind::RevisionReply { revision } = self.kind {
            put(frame, LEN, revision.to_be_bytes());
        }
        Ok(need)
    }

    /// Reads a probe. Only the source address is not looked at.
    ///
    /// # Errors
    /// [`ProbeError`], all but its last two cases, in the order in which they stand there.
    pub fn parse(frame: &[u8]) -> Result<Self, ProbeError> {
        let have = frame.len();
        let truncated = ProbeError::Truncated { have, need: LEN };
        let (head, rest) = frame.split_first_chunk::<LEN>().ok_or(truncated)?;
        let destination = MacAddr(*array(head, 0).ok_or(truncated)?);
        if destination != DESTINATION {
            return Err(ProbeError::Destination { seen: destination });
        }
        match be16(head, 12).ok_or(truncated)? {
            ETHERTYPE => {}
            seen => return Err(ProbeError::EtherType { seen }),
        }
        match be32(head, 14).ok_or(truncated)? {
            MAGIC => {}
            seen => return Err(ProbeError::Magic { seen }),
        }
        let said = rest.first_chunk().map(|bytes| i64::from_be_bytes(*bytes)).unwrap_or_default();
        let kind = match *array(head, 18).ok_or(truncated)? {
            [VERSION, REQUEST] => Kind::Request,
            [VERSION, ECHO] => Kind::Echo,
            [VERSION, REVISION_REQUEST] => Kind::RevisionRequest,
            [VERSION, REVISION_REPLY] => Kind::RevisionReply { revision: said },
            [VERSION, seen] => return Err(ProbeError::Kind { seen }),
            [seen, _] => return Err(ProbeError::Version { seen }),
        };
        let claimed = be16(head, 20).ok_or(truncated)?;
        let (len, may_be_longer) = kind.lengths();
        if usize::from(claimed) != have || have < len || have != len && !may_be_longer {
            return Err(ProbeError::Length { have, claimed });
        }
        let size = be16(head, 22).ok_or(truncated)?;
        if size <= claimed {
            return Err(ProbeError::Size { seen: size });
        }
        if may_be_longer && rest.iter().any(|byte| *byte != 0) {
            return Err(ProbeError::Padding);
        }
        let nonce = u64::from_be_bytes(*array(head, 24).ok_or(truncated)?);
        Ok(Self { kind, nonce, size })
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { have, need } => write!(f, "frame of {have} bytes, a probe has {need}"),
            Self::Destination { seen } => write!(f, "frame to {seen}, probes go to {DESTINATION}"),
            Self::EtherType { seen } => write!(f, "frame of type {seen:#06x}, probes have {ETHERTYPE:#06x}"),
            Self::Magic { seen } => write!(f, "magic {seen:#010x}, probes have {MAGIC:#010x}"),
            Self::Version { seen } => write!(f, "probe of version {seen}, expected {VERSION}"),
            Self::Kind { seen } => write!(f, "probe of kind {seen}, neither request nor answer"),
            Self::Length { have, claimed } => write!(f, "probe of {have} bytes that claims {claimed}"),
            Self::Size { seen } => write!(f, "probe of size {seen}, less than its own length"),
            Self::Padding => f.write_str("probe with padding that is not zero"),
            Self::TooSmall { size, min } => write!(f, "size {size} cannot be tested, {min} is the least"),
            Self::NoRoom { have, need } => write!(f, "probe of {need} bytes, room for {have}"),
        }
    }
}

impl std::error::Error for ProbeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encapsulation, mtu};

    const REQUEST_1500: Probe = Probe { kind: Kind::Request, nonce: 0x0102_0304_0506_0708, size: 1500 };

    fn written(probe: Probe, overhead: u16) -> Vec<u8> {
        let mut out = vec![0xee; 10_000];
        let len = probe.write(overhead, &mut out).unwrap();
        assert!(out[len..].iter().all(|byte| *byte == 0xee));
        out.truncate(len);
        out
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let frame = written(REQUEST_1500, 50);
        let header = [
            0x02, 0x57, 0x65, 0x66, 0x74, 0x01, 0x02, 0x57, 0x65, 0x66, 0x74, 0x00, 0x88, 0xb5, 0x57, 0x65, 0x66, 0x74,
            1, 1, 0x05, 0xb8, 0x05, 0xdc, 1, 2, 3, 4, 5, 6, 7, 8,
        ];
        assert_eq!(frame[..LEN], header);
        assert_eq!(frame[LEN..], [0; 1464 - LEN]);
        let echo = written(REQUEST_1500.echo().unwrap(), 50);
        assert_eq!(echo[..20], [&header[..19], &[2]].concat());
        assert_eq!(echo[20..], [0, 32, 0x05, 0xdc, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(VNI.get(), 0x00ff_fffe);
    }

    #[test]
    fn a_request_fills_the_size_under_test() {
        for (ipv6, headers) in [(false, 20), (true, 40)] {
            for options in [0, 12] {
                let overhead = mtu::overhead(Encapsulation::Geneve, ipv6, options);
                let frame = written(REQUEST_1500, overhead);
                assert_eq!(headers + 8 + 8 + usize::from(options) + frame.len(), 1500);
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for size in [68, 1280, 9000] {
            let probe = Probe { size, ..REQUEST_1500 };
            assert_eq!(Probe::parse(&written(probe, 50)), Ok(probe));
            let echo = probe.echo().unwrap();
            assert_eq!(Probe::parse(&written(echo, 50)), Ok(echo));
            assert_eq!(echo.echo(), None);
        }
    }

    #[test]
    fn a_revision_is_asked_for_and_told_in_frames_of_one_length() {
        for overhead in [50, 70] {
            let request = Probe::revision_request(7, overhead);
            let asked = written(request, overhead);
            assert_eq!((asked.len(), usize::from(request.size)), (40, 40 + usize::from(overhead) - 14));
            assert_eq!((asked[19], &asked[32..]), (3, &[0; 8][..]));
            assert_eq!(Probe::parse(&asked), Ok(request));
            assert_eq!(request.echo(), None, "it is no path that was asked for");
            let reply = request.answer(0x0102_0304_0506_0708).unwrap();
            let told = written(reply, overhead);
            assert_eq!((told.len(), told[19], &told[32..]), (40, 4, &[1, 2, 3, 4, 5, 6, 7, 8][..]));
            assert_eq!(Probe::parse(&told), Ok(reply));
            assert_eq!(reply.answer(9), None);
        }
        let asked = written(Probe::revision_request(7, 50), 50);
        let mut short = asked[..32].to_vec();
        short[21] = 32;
        assert_eq!(Probe::parse(&short), Err(ProbeError::Length { have: 32, claimed: 32 }));
    }

    #[test]
    fn refuses_by_name() {
        let frame = written(Probe { size: 200, ..REQUEST_1500 }, 50);
        let changed = |at: usize, value: u8| {
            let mut frame = frame.clone();
            frame[at] = value;
            Probe::parse(&frame)
        };
        assert_eq!(Probe::parse(&frame[..31]), Err(ProbeError::Truncated { have: 31, need: 32 }));
        let seen = MacAddr([0x02, 0x57, 0x65, 0x66, 0x74, 0x02]);
        assert_eq!(changed(5, 2), Err(ProbeError::Destination { seen }));
        assert_eq!(changed(13, 0xb6), Err(ProbeError::EtherType { seen: 0x88b6 }));
        assert_eq!(changed(14, 0), Err(ProbeError::Magic { seen: 0x0065_6674 }));
        assert_eq!(changed(18, 2), Err(ProbeError::Version { seen: 2 }));
        assert_eq!(changed(19, 5), Err(ProbeError::Kind { seen: 5 }));
        assert_eq!(changed(19, 2), Err(ProbeError::Length { have: 164, claimed: 164 }));
        assert_eq!(changed(21, 0), Err(ProbeError::Length { have: 164, claimed: 0 }));
        assert_eq!(changed(23, 164), Err(ProbeError::Size { seen: 164 }));
        assert_eq!(changed(163, 1), Err(ProbeError::Padding));
        assert!(changed(6, 0xff).is_ok(), "the source may be any");
        assert_eq!(Probe::parse(&frame[..163]), Err(ProbeError::Length { have: 163, claimed: 164 }));
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let mut out = [0xee; 100];
        let small = Probe { size: 67, ..REQUEST_1500 };
        assert_eq!(small.write(50, &mut out), Err(ProbeError::TooSmall { size: 67, min: 68 }));
        assert_eq!(REQUEST_1500.write(50, &mut out), Err(ProbeError::NoRoom { have: 100, need: 1464 }));
        assert_eq!(out, [0xee; 100]);
    }
}
