//! The pcapng format (draft-ietf-opsawg-pcapng): a section, an interface, and a block for each packet, in this
//! machine's byte order.

use weft_switch::SeenFrame;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
/// No bound on the length of packets.
const SNAP_LEN: u32 = 0;

const END_OF_OPTIONS: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// Time stamps in nanoseconds.
const NANOSECONDS: u8 = 9;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What stands before the first packet.
pub(super) fn head(interface: &str) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
    section.extend([1_u16, 0].iter().flat_map(|part| part.to_ne_bytes()));
    // The section's length is not known.
    section.extend((-1_i64).to_ne_bytes());
    option(&mut section, SHB_USERAPPL, b"weft testbed capture");
    option(&mut section, END_OF_OPTIONS, &[]);

    let mut description = Vec::new();
    description.extend([LINKTYPE_ETHERNET, 0].iter().flat_map(|part| part.to_ne_bytes()));
    description.extend(SNAP_LEN.to_ne_bytes());
    option(&mut description, IF_NAME, interface.as_bytes());
    option(&mut description, IF_TSRESOL, &[NANOSECONDS]);
    option(&mut description, END_OF_OPTIONS, &[]);
    [block(SECTION_HEADER, &section), block(INTERFACE_DESCRIPTION, &description)].concat()
}

/// One packet of the interface.
pub(super) fn packet(frame: &SeenFrame) -> Vec<u8> {
    let time = u64::try_from(frame.time.as_nanos()).unwrap_or_default();
    let len = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
    let (high, low) = ((time >> 32) as u32, time as u32);
    let mut body: Vec<u8> = [0, high, low, len, len].iter().flat_map(|part| part.to_ne_bytes()).collect();
    body.extend(&frame.bytes);
    pad(&mut body);
    let direction = if frame.outgoing { OUTBOUND } else { INBOUND };
    option(&mut body, EPB_FLAGS, &direction.to_ne_bytes());
    option(&mut body, END_OF_OPTIONS, &[]);
    block(ENHANCED_PACKET, &body)
}

fn option(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(kind.to_ne_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or_default().to_ne_bytes());
    body.extend(value);
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
