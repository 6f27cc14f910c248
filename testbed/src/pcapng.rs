//! The pcapng format (draft-ietf-opsawg-pcapng): a section, its interfaces, a block for each packet, and at the end what was
//! counted; in this machine's byte order.

use std::time::Duration;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// No bound on the length of packets.
const SNAP_LEN: u32 = 0;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// Time stamps in nanoseconds.
const NANOSECONDS: u8 = 9;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What packets of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// An IP header, of either version.
    Ip,
}

impl LinkType {
    /// Its number (LINKTYPE_ETHERNET, LINKTYPE_RAW).
    const fn number(self) -> u16 {
        match self {
            Self::Ethernet => 1,
            Self::Ip => 101,
        }
    }
}

/// One packet of an interface.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The interface, by its index in the section, from 0.
    pub interface: u32,
    /// When it passed, since 1970.
    pub time: Duration,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether it leaves.
    pub outgoing: bool,
    /// What is said of it.
    pub comment: Option<&'a str>,
}

/// What a file begins with; the interfaces come next.
#[must_use]
pub fn section(program: &str) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
    section.extend([1_u16, 0].iter().flat_map(|part| part.to_ne_bytes()));
    // The section's length is not known.
    section.extend((-1_i64).to_ne_bytes());
    option(&mut section, SHB_USERAPPL, program.as_bytes());
    option(&mut section, END_OF_OPTIONS, &[]);
    block(SECTION_HEADER, &section)
}

/// An interface; the first one is number 0.
#[must_use]
pub fn interface(name: &str, link: LinkType) -> Vec<u8> {
    let mut description = Vec::new();
    description.extend([link.number(), 0].iter().flat_map(|part| part.to_ne_bytes()));
    description.extend(SNAP_LEN.to_ne_bytes());
    option(&mut description, IF_NAME, name.as_bytes());
    option(&mut description, IF_TSRESOL, &[NANOSECONDS]);
    option(&mut description, END_OF_OPTIONS, &[]);
    block(INTERFACE_DESCRIPTION, &description)
}

/// One packet.
#[must_use]
pub fn packet(packet: &Packet<'_>) -> Vec<u8> {
    let Packet { interface, time, bytes, outgoing, comment } = *packet;
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let [high, low] = halves(time);
    let mut body: Vec<u8> = [interface, high, low, len, len].iter().flat_map(|part| part.to_ne_bytes()).collect();
    body.extend(bytes);
    pad(&mut body);
    if let Some(comment) = comment {
        option(&mut body, COMMENT, comment.as_bytes());
    }
    let direction = if outgoing { OUTBOUND } else { INBOUND };
    option(&mut body, EPB_FLAGS, &direction.to_ne_bytes());
    option(&mut body, END_OF_OPTIONS, &[]);
    block(ENHANCED_PACKET, &body)
}

/// What was counted at an interface until now: packets, and those of them that are not in the file.
#[must_use]
pub fn statistics(interface: u32, time: Duration, received: u64, dropped: u64) -> Vec<u8> {
    let [high, low] = halves(time);
    let mut body: Vec<u8> = [interface, high, low].iter().flat_map(|part| part.to_ne_bytes()).collect();
    option(&mut body, ISB_IFRECV, &received.to_ne_bytes());
    option(&mut body, ISB_IFDROP, &dropped.to_ne_bytes());
    option(&mut body, END_OF_OPTIONS, &[]);
    block(INTERFACE_STATISTICS, &body)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
fn halves(time: Duration) -> [u32; 2] {
    let time = u64::try_from(time.as_nanos()).unwrap_or_default();
    [(time >> 32) as u32, time as u32]
}

fn option(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(kind.to_ne_bytes());
    body.extend(len.to_ne_bytes());
    body.extend(&value[..usize::from(len)]);
    pad(body);
}

/// Bodies of blocks are padded to whole words, and so is what stands in them.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(size_of::<u32>()), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    /// The type, and the length before and after the body.
    const AROUND: usize = 3 * size_of::<u32>();
    let len = u32::try_from(AROUND + body.len()).unwrap_or(u32::MAX).to_ne_bytes();
    [&kind.to_ne_bytes()[..], &len, body, &len].concat()
}
