//! An IPv4 packet into fragments (RFC 791 section 3.2), before it is put into a tunnel.
//!
//! For the packet whose sender allows it: DF clear. A superframe is many such packets: it is split first, and each
//! segment that is still too long is fragmented. The tunnel's own packets are never fragmented (RFC 7348 section 4.3),
//! and IPv6 is so by its sender only (RFC 8200 section 4.5). Scatter style: each fragment gets its own finished
//! headers, and its payload stays where it is.

use std::fmt;
use std::ops::Range;

use crate::bytes::{be16, len16, put};
use crate::checksum;
use crate::inner::IPV4_LEN;
use crate::split::{self, SplitError, Splitter};
use crate::{Checksum, Inner, InnerError, Network, Offload};

/// Bytes that [`Fragmenter::next_fragment`] writes at most. The first fragment of a segment has its TCP or UDP header
/// among them.
pub const MAX_HEADER_LEN: usize = split::MAX_HEADER_LEN;
/// The most fragments that one packet, or one segment of a superframe, becomes: enough for 64 KiB at 576 bytes each.
pub const MAX_FRAGMENTS: usize = 128;

const MAX_IPV4_LEN: usize = 60;
/// Fragment offsets count in these (RFC 791 section 3.1), in bytes.
const UNIT: usize = 8;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_COPIED: u8 = 0x80;

/// Cuts one packet, or all the packets that a superframe stands for. Places and lengths are bytes.
#[derive(Clone, Debug)]
pub struct Fragmenter<'a> {
    /// Of a superframe: the packets to come.
    segments: Option<Splitter<'a>>,
    fragments: usize,
    room: Room,
    /// Where the IP header starts.
    l3: usize,
    /// Headers of the packet under way: link and IP, and of a segment TCP or UDP.
    head: [u8; MAX_HEADER_LEN],
    /// The IP header of each fragment but the first: options that are not copied are gone.
    later_header: [u8; MAX_IPV4_LEN],
    /// What of the packet's payload is still to come.
    payload: Range<usize>,
    /// How much IP payload of the packet has been handed out, in [`UNIT`]s.
    done: usize,
}

/// How much goes into one fragment, in bytes.
#[derive(Clone, Copy, Debug)]
struct Room {
    mtu: u16,
    /// The packet's IP header.
    ip_len: usize,
    /// What of the IP payload is written with the headers: the TCP or UDP header of a segment, else nothing.
    lead: usize,
    /// IP payload of the first fragment.
    first: usize,
    /// IP header of the others.
    later_ip_len: usize,
    /// IP payload of the others but the last.
    later: usize,
}

/// One fragment, or a segment of a superframe that fits as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of its headers, from Ethernet on.
    pub header_len: usize,
    /// Where its payload lies, in bytes from the start of the frame.
    pub payload: Range<usize>,
}

/// Why a packet is not fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentError {
    /// Not an Ethernet frame.
    Frame(InnerError),
    /// Not IPv4, or a malformed header of it.
    NotIpv4 {
        /// The frame's EtherType after its tags.
        ethertype: u16,
    },
    /// A superframe that cannot be split.
    Split(SplitError),
    /// The packet, or every packet of a superframe, is no longer than the MTU.
    Fits {
        /// Bytes of the IP packet; of a superframe, of the longest one.
        have: usize,
        /// The MTU, in bytes.
        mtu: u16,
    },
    /// DF is set: the sender wants to be told instead ([`crate::too_big()`]).
    DontFragment,
    /// The L4 checksum is not filled: a receiver could not tell fragments of such a packet from damaged ones. After
    /// [`checksum::complete`] it is.
    PartialChecksum,
    /// The header checksum is wrong, and each fragment would get a right one.
    HeaderChecksum,
    /// An option that overruns the header, so that what is behind it cannot be told.
    Options,
    /// A fragment that ends beyond the 65,535 bytes that a whole packet can have.
    OffsetOverflow,
    /// No eight bytes of payload fit, or of a segment not even its TCP or UDP header.
    MtuTooSmall {
        /// The MTU asked for, in bytes.
        mtu: u16,
        /// The smallest that will do for this packet, in bytes.
        min: usize,
    },
    /// More fragments of one packet than [`MAX_FRAGMENTS`].
    TooManyFragments {
        /// How many fragments there would be.
        seen: usize,
        /// How many fragments are allowed: [`MAX_FRAGMENTS`].
        max: usize,
    },
}

impl<'a> Fragmenter<'a> {
    /// Checks the packet. `mtu`: bytes that each fragment may have, IP header included.
    ///
    /// A packet that is a fragment itself is cut like any other, and its pieces fit in where it would have.
    ///
    /// # Errors
    /// [`FragmentError`]; a packet that is refused here goes on whole or not at all.
    pub fn new(frame: &'a [u8], offload: &Offload, mtu: u16) -> Result<Self, FragmentError> {
        let inner = Inner::parse(frame).map_err(FragmentError::Frame)?;
        let not_ipv4 = FragmentError::NotIpv4 { ethertype: inner.ethertype };
        let Network::Ipv4(ip) = &inner.network else { return Err(not_ipv4) };
        let (l3, start, end) = (inner.l3, ip.l4, ip.end);
        let whole = frame.get(l3..start).ok_or(not_ipv4)?;
        let segments = match offload.gso {
            Some(_) if ip.dont_fragment => return Err(FragmentError::DontFragment),
            Some(_) => Some(Splitter::new(frame, offload).map_err(FragmentError::Split)?),
            None => None,
        };
        let payload = end.saturating_sub(start);
        let lead = segments.as_ref().map_or(0, |segments| segments.header_len().saturating_sub(start));
        let longest = segments.as_ref().map_or(payload, Splitter::longest_payload);
        let have = whole.len() + lead + longest;
        if have <= usize::from(mtu) {
            return Err(FragmentError::Fits { have, mtu });
        }
        if segments.is_none() {
            check_packet(ip.dont_fragment, offload, whole, payload)?;
        }
        let (later_header, later_ip_len) = later_header(whole)?;
        let room = Room::new(mtu, whole.len(), lead, later_ip_len)?;
        let seen = room.fragments(longest);
        if seen > MAX_FRAGMENTS {
            return Err(FragmentError::TooManyFragments { seen, max: MAX_FRAGMENTS });
        }
        let fragments = segments
            .as_ref()
            .map_or(seen, |segments| (segments.segments() - 1) * seen + room.fragments(segments.last_payload()));
        // Of a superframe the first packet is yet to be made.
        let payload = if segments.is_some() { start..start } else { start..end };
        let mut head = [0; MAX_HEADER_LEN];
        put_slice(&mut head, 0, frame.get(..start).ok_or(not_ipv4)?);
        Ok(Self { segments, fragments, room, l3, head, later_header, payload, done: 0 })
    }

    /// How many fragments there are in all, with those segments of a superframe that fit as they are: at least two.
    #[must_use]
    pub const fn fragments(&self) -> usize {
        self.fragments
    }

    /// Writes the next fragment's headers to the start of `headers`; none after the last.
    ///
    /// # Panics
    /// If `headers` is shorter than they are; [`MAX_HEADER_LEN`] bytes always do.
    pub fn next_fragment(&mut self, headers: &mut [u8]) -> Option<Fragment> {
        if self.payload.is_empty() {
            self.payload = self.segments.as_mut()?.next_segment(&mut self.head)?;
            self.done = 0;
        }
        let Room { ip_len, lead, later_ip_len, later, .. } = self.room;
        let head = &self.head[self.l3..];
        let is_first = self.done == 0;
        let (ip_header, lead, size) = if is_first {
            (&head[..ip_len], &head[ip_len..ip_len + lead], self.room.first_of(self.payload.len()))
        } else {
            (&self.later_header[..later_ip_len], &head[..0], later)
        };
        let start = self.payload.start;
        let payload = start..(start + size - lead.len()).min(self.payload.end);
        self.payload.start = payload.end;
        let header_len = self.l3 + ip_header.len() + lead.len();
        let (link, rest) = headers[..header_len].split_at_mut(self.l3);
        let (ip, l4) = rest.split_at_mut(ip_header.len());
        link.copy_from_slice(&self.head[..self.l3]);
        ip.copy_from_slice(ip_header);
        l4.copy_from_slice(lead);
        let [identification, flags] = [4, 6].map(|at| be16(head, at).unwrap_or_default());
        let offset = (flags & OFFSET) + len16(self.done);
        let more = if self.payload.is_empty() { flags & MORE } else { MORE };
        put(ip, 2, len16(ip.len() + lead.len() + payload.len()).to_be_bytes());
        put(ip, 4, identification.to_be_bytes());
        put(ip, 6, (flags & !(MORE | OFFSET) | more | offset).to_be_bytes());
        put(ip, 10, [0, 0]);
        let value = checksum::finish(checksum::sum(ip));
        put(ip, 10, value.to_be_bytes());
        self.done += size / UNIT;
        Some(Fragment { header_len, payload })
    }
}

impl Room {
    fn new(mtu: u16, ip_len: usize, lead: usize, later_ip_len: usize) -> Result<Self, FragmentError> {
        let units = |ip_len: usize| usize::from(mtu).saturating_sub(ip_len) / UNIT * UNIT;
        let (first, later) = (units(ip_len), units(later_ip_len));
        let need = lead.max(UNIT).next_multiple_of(UNIT);
        if first < need {
            return Err(FragmentError::MtuTooSmall { mtu, min: ip_len + need });
        }
        Ok(Self { mtu, ip_len, lead, first, later_ip_len, later })
    }

    /// IP payload of the first fragment of a packet with so many bytes behind its head.
    fn first_of(&self, payload: usize) -> usize {
        let whole = self.lead + payload;
        if self.ip_len + whole <= usize::from(self.mtu) { whole } else { self.first }
    }

    /// How many fragments such a packet becomes; one if it fits.
    fn fragments(&self, payload: usize) -> usize {
        let first = self.first_of(payload);
        1 + (self.lead + payload - first).div_ceil(self.later)
    }
}

/// What is asked of a packet that is no superframe.
fn check_packet(dont_fragment: bool, offload: &Offload, header: &[u8], payload: usize) -> Result<(), FragmentError> {
    if dont_fragment {
        return Err(FragmentError::DontFragment);
    }
    if matches!(offload.checksum, Checksum::Needed { .. }) {
        return Err(FragmentError::PartialChecksum);
    }
    if !checksum::ipv4_header_is_right(header) {
        return Err(FragmentError::HeaderChecksum);
    }
    let flags = be16(header, 6).unwrap_or_default();
    if usize::from(flags & OFFSET) * UNIT + payload > usize::from(u16::MAX) {
        return Err(FragmentError::OffsetOverflow);
    }
    Ok(())
}

/// The header of fragments after the first: with those options only whose copied flag is set (RFC 791 section
/// 3.1), padded with the end of options.
fn later_header(whole: &[u8]) -> Result<([u8; MAX_IPV4_LEN], usize), FragmentError> {
    let mut header = [OPTION_END; MAX_IPV4_LEN];
    let (fixed, mut options) = whole.split_at_checked(IPV4_LEN).ok_or(FragmentError::Options)?;
    put_slice(&mut header, 0, fixed);
    let mut len = IPV4_LEN;
    while let &[kind, ref rest @ ..] = options {
        match kind {
            OPTION_END => break,
            OPTION_NOTHING => options = rest,
            _ => {
                let option_len = rest.first().copied().map_or(0, usize::from);
                let option = options.get(..option_len).filter(|option| option.len() >= 2);
                let option = option.ok_or(FragmentError::Options)?;
                if kind & OPTION_COPIED != 0 {
                    put_slice(&mut header, len, option);
                    len += option.len();
                }
                options = options.get(option_len..).unwrap_or_default();
            }
        }
    }
    let len = len.next_multiple_of(4);
    let [_, words] = len16(len / 4).to_be_bytes();
    put(&mut header, 0, [0x40 | words]);
    Ok((header, len))
}

fn put_slice(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = to.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

impl fmt::Display for FragmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::NotIpv4 { ethertype } => write!(f, "no IPv4 packet (type {ethertype:#06x})"),
            Self::Split(error) => error.fmt(f),
            Self::Fits { have, mtu } => write!(f, "packet of {have} bytes fits the MTU {mtu}"),
            Self::DontFragment => f.write_str("IPv4 packet with DF"),
            Self::PartialChecksum => f.write_str("IPv4 packet whose L4 checksum is not filled"),
            Self::HeaderChecksum => f.write_str("wrong IPv4 header checksum"),
            Self::Options => f.write_str("IPv4 option that overruns its header"),
            Self::OffsetOverflow => f.write_str("fragment that ends beyond 65535 bytes"),
            Self::MtuTooSmall { mtu, min } => write!(f, "MTU {mtu}, a fragment of this packet needs {min}"),
            Self::TooManyFragments { seen, max } => write!(f, "packet of {seen} fragments, at most {max} are made"),
        }
    }
}

impl std::error::Error for FragmentError {}
