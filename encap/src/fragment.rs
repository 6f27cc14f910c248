//! An IPv4 packet into fragments (RFC 791 section 3.2), before it is put into a tunnel.
//!
//! For the packet whose sender allows it: DF clear. The tunnel's own packets are never fragmented (RFC 7348 section
//! 4.3), and IPv6 is so by its sender only (RFC 8200 section 4.5). Scatter style: each fragment gets its own
//! finished headers, and its payload stays where it is.

use std::fmt;
use std::ops::Range;

use crate::bytes::{be16, len16, put};
use crate::checksum;
use crate::inner::{ETHERNET_LEN, IPV4_LEN, MAX_TAGS, TAG_LEN};
use crate::{Checksum, Inner, InnerError, Network, Offload};

/// Bytes that [`Fragmenter::next_fragment`] writes at most: Ethernet, two tags, and IPv4 with all options.
pub const MAX_HEADER_LEN: usize = ETHERNET_LEN + MAX_TAGS * TAG_LEN + MAX_IPV4_LEN;
/// The most fragments that one packet becomes: enough for 64 KiB at 576 bytes each.
pub const MAX_FRAGMENTS: usize = 128;

const MAX_IPV4_LEN: usize = 60;
/// Fragment offsets count in these (RFC 791 section 3.1), in bytes.
const UNIT: usize = 8;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_COPIED: u8 = 0x80;

/// Cuts one packet.
#[derive(Clone, Debug)]
pub struct Fragmenter<'a> {
    frame: &'a [u8],
    /// Where the IP header starts, in bytes from the start of the frame, as all places here.
    l3: usize,
    /// Where the next payload starts.
    at: usize,
    /// Where the packet's payload starts.
    start: usize,
    /// Where the packet ends.
    end: usize,
    /// Payload bytes of the first fragment.
    first: usize,
    /// Payload bytes of each that follows but the last.
    later: usize,
    /// Flags and offset as the packet has them.
    flags: u16,
    /// The IP header of each fragment but the first: options that are not copied are gone.
    header: [u8; MAX_IPV4_LEN],
    header_len: usize,
}

/// One fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of its headers, Ethernet to IPv4.
    pub header_len: usize,
    /// Where its payload lies in the frame.
    pub payload: Range<usize>,
}

/// Why a packet is not fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentError {
    /// Not an Ethernet frame.
    Frame(InnerError),
    /// Not IPv4, or a malformed header of it.
    NotIpv4 {
        /// The frame's type after its tags.
        ethertype: u16,
    },
    /// A superframe: [`crate::Splitter`] is for those.
    Superframe,
    /// The packet is no longer than the MTU.
    Fits {
        /// Bytes of the IP packet.
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
    /// No eight bytes of payload fit.
    MtuTooSmall {
        /// The MTU asked for, in bytes.
        mtu: u16,
        /// The smallest that will do for this packet, in bytes.
        min: usize,
    },
    /// More fragments than [`MAX_FRAGMENTS`].
    TooManyFragments {
        /// How many there would be.
        seen: usize,
        /// How many are allowed.
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
        if offload.gso.is_some() {
            return Err(FragmentError::Superframe);
        }
        let (l3, start, end) = (inner.l3, ip.l4, ip.end);
        let have = end.saturating_sub(l3);
        if have <= usize::from(mtu) {
            return Err(FragmentError::Fits { have, mtu });
        }
        if ip.dont_fragment {
            return Err(FragmentError::DontFragment);
        }
        if matches!(offload.checksum, Checksum::Needed { .. }) {
            return Err(FragmentError::PartialChecksum);
        }
        let whole = frame.get(l3..start).ok_or(not_ipv4)?;
        if !checksum::ipv4_header_is_right(whole) {
            return Err(FragmentError::HeaderChecksum);
        }
        let (header, header_len) = later_header(whole)?;
        let flags = be16(whole, 6).unwrap_or_default();
        let payload = end.saturating_sub(start);
        if usize::from(flags & OFFSET) * UNIT + payload > usize::from(u16::MAX) {
            return Err(FragmentError::OffsetOverflow);
        }
        let units = |header_len: usize| usize::from(mtu).saturating_sub(header_len) / UNIT * UNIT;
        let (first, later) = (units(whole.len()), units(header_len));
        if first == 0 {
            return Err(FragmentError::MtuTooSmall { mtu, min: whole.len() + UNIT });
        }
        let fragmenter = Self { frame, l3, at: start, start, end, first, later, flags, header, header_len };
        let seen = fragmenter.fragments();
        if seen > MAX_FRAGMENTS {
            return Err(FragmentError::TooManyFragments { seen, max: MAX_FRAGMENTS });
        }
        Ok(fragmenter)
    }

    /// How many fragments there are in all: at least two.
    #[must_use]
    pub fn fragments(&self) -> usize {
        1 + self.end.saturating_sub(self.start + self.first).div_ceil(self.later)
    }

    /// Writes the next fragment's headers to the start of `headers`.
    ///
    /// # Panics
    /// If `headers` is shorter than they are; [`MAX_HEADER_LEN`] bytes always do.
    pub fn next_fragment(&mut self, headers: &mut [u8]) -> Option<Fragment> {
        if self.at >= self.end {
            return None;
        }
        let is_first = self.at == self.start;
        let (ip_len, size) = if is_first { (self.start - self.l3, self.first) } else { (self.header_len, self.later) };
        let payload = self.at..(self.at + size).min(self.end);
        self.at = payload.end;
        let header_len = self.l3 + ip_len;
        let headers = &mut headers[..header_len];
        let (link, ip) = headers.split_at_mut(self.l3);
        link.copy_from_slice(&self.frame[..self.l3]);
        ip.copy_from_slice(if is_first { &self.frame[self.l3..self.start] } else { &self.header[..ip_len] });
        let offset = (self.flags & OFFSET) + len16((payload.start - self.start) / UNIT);
        let more = if payload.end == self.end { self.flags & MORE } else { MORE };
        put(ip, 2, len16(ip_len + payload.len()).to_be_bytes());
        put(ip, 6, (self.flags & !(MORE | OFFSET) | more | offset).to_be_bytes());
        put(ip, 10, [0, 0]);
        let value = checksum::finish(checksum::sum(ip));
        put(ip, 10, value.to_be_bytes());
        Some(Fragment { header_len, payload })
    }
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
            Self::Superframe => f.write_str("a superframe, which is split and not fragmented"),
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
