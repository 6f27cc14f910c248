//! What it says of the kernel that it refused a frame and took the same one finished.

use weft_encap::{Checksum, Inner, L4, Offload};

use crate::levels::Level;

/// Frames in a superframe that no kernel finds too many.
const PLAIN_SEGMENTS: usize = 2;
/// Where the checksum field lies in a TCP header and in a UDP header, in bytes.
const CHECKSUM_AT: [u16; 2] = [16, 6];

/// The level that is not to be had, after all: that of a frame so plain that nothing else about it can have been too
/// much. A stranger decides what his frames are like, and must not decide what the kernel does for others.
pub(super) fn refused_level(frame: &[u8], offload: &Offload) -> Option<Level> {
    let l4 = L4::of(&Inner::parse(frame).ok()?).ok()?;
    let start = u16::try_from(l4.start).ok()?;
    let offset = CHECKSUM_AT[usize::from(!l4.tcp)];
    if offload.checksum != (Checksum::Needed { start, offset }) {
        return None;
    }
    let Some(gso) = offload.gso else { return Some(Level::Checksum) };
    let segments = (l4.end - l4.payload).div_ceil(gso.size.into());
    (segments <= PLAIN_SEGMENTS).then_some(match (l4.tcp, l4.ipv6) {
        (true, false) => Level::Tcp4,
        (true, true) => Level::Tcp6,
        (false, false) => Level::Udp4,
        (false, true) => Level::Udp6,
    })
}

#[cfg(test)]
mod tests {
    use weft_encap::{Gso, GsoKind};

    use super::*;

    /// A frame of TCP or UDP over either, with so much payload, and what a kernel says of it.
    fn frame(tcp: bool, ipv6: bool, payload: usize) -> (Vec<u8>, Checksum) {
        use etherparse::PacketBuilder;
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip =
            if ipv6 { ethernet.ipv6([1; 16], [2; 16], 64) } else { ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
        let (mut frame, payload) = (Vec::new(), vec![0; payload]);
        let written =
            if tcp { ip.tcp(1, 2, 3, 4).write(&mut frame, &payload) } else { ip.udp(1, 2).write(&mut frame, &payload) };
        written.unwrap();
        let start = if ipv6 { 54 } else { 34 };
        (frame, Checksum::Needed { start, offset: if tcp { 16 } else { 6 } })
    }

    #[test]
    fn a_plain_frame_tells_of_its_level() {
        for (tcp, ipv6, kind, level) in [
            (true, false, GsoKind::Tcp4, Level::Tcp4),
            (true, true, GsoKind::Tcp6, Level::Tcp6),
            (false, false, GsoKind::Udp, Level::Udp4),
            (false, true, GsoKind::Udp, Level::Udp6),
        ] {
            let (bytes, checksum) = frame(tcp, ipv6, 2000);
            let told = |gso| refused_level(&bytes, &Offload { checksum, gso });
            let gso = |size| Some(Gso { kind, size, header_len: 0, ecn: false });
            assert_eq!(told(None), Some(Level::Checksum));
            assert_eq!(told(gso(1000)), Some(level));
            assert_eq!(told(gso(999)), None, "three could be too many");
        }
    }

    #[test]
    fn a_strange_frame_tells_nothing() {
        let (bytes, checksum) = frame(true, false, 2000);
        let told = |bytes: &[u8], checksum| refused_level(bytes, &Offload { checksum, gso: None });
        assert_eq!(told(&bytes, Checksum::Needed { start: 1500, offset: 16 }), None);
        assert_eq!(told(&bytes, Checksum::Needed { start: 34, offset: 6 }), None);
        assert_eq!(told(&bytes, Checksum::Unknown), None);
        assert_eq!(told(&bytes[..40], checksum), None);
    }
}
