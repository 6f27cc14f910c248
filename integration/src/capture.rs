//! What arrives at an interface, kept in memory and written as a capture file for dissectors.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io::write;
use weft_encap::inner::PROTOCOL_TCP;
use weft_encap::{Encapsulation, Inner, Network, Outer};

use crate::host::Host;
use crate::packet::PacketSocket;
use crate::wait::BOUND;

/// Longest frame there is: a superframe of 64 KiB and its headers.
const FRAME_MAX: usize = 1 << 17;
/// A capture file of Ethernet frames, microseconds, little-endian.
const MAGIC: u32 = 0xa1b2_c3d4;
const LINK_ETHERNET: u32 = 1;
/// A link type of the user's own (LINKTYPE_USER0): the kernel's header of a TAP, and then an Ethernet frame.
const LINK_TAP: u32 = 147;
/// Bytes of a superframe off a TAP that is kept, at most: two TCP segments.
const SUPERFRAME_MAX: usize = 3500;
/// Bytes of a frame that is kept as a vector, at most.
const VECTOR_MAX: usize = 300;
/// Frames of one capture that are kept, at most.
const VECTORS: usize = 16;

/// One frame, tags included.
pub type Frame = Vec<u8>;

/// A capture under way, from the moment it exists.
#[derive(Debug)]
pub struct Capture {
    stop: OwnedFd,
    frames: mpsc::Receiver<Frame>,
    kept: Vec<Frame>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Keeps what arrives at an interface of a host; not what the host sends.
    ///
    /// # Panics
    /// If the interface cannot be listened to.
    #[must_use]
    pub fn start(host: &Host, interface: &str) -> Self {
        Self::start_where(host, interface, |_| true)
    }

    /// The same of those frames only of which `wanted` says yes; it is asked of all.
    ///
    /// # Panics
    /// If the interface cannot be listened to.
    #[must_use]
    pub fn start_where(host: &Host, interface: &str, mut wanted: impl FnMut(&[u8]) -> bool + Send + 'static) -> Self {
        let socket = PacketSocket::open(host, interface);
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (sender, frames) = mpsc::channel();
        let until = stop.try_clone().unwrap();
        let thread = std::thread::spawn(move || keep(&socket, &until, &sender, &mut wanted));
        Self { stop, frames, kept: Vec::new(), thread: Some(thread) }
    }

    /// Waits until `count` frames came of which `wanted` says yes, and returns all such so far.
    ///
    /// # Panics
    /// If they do not come.
    #[track_caller]
    pub fn wait_for(&mut self, count: usize, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let deadline = std::time::Instant::now() + BOUND;
        loop {
            let found: Vec<_> = self.kept.iter().filter(|frame| wanted(frame)).cloned().collect();
            if found.len() >= count {
                return found;
            }
            match self.frames.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
                Ok(frame) => self.kept.push(frame),
                Err(_) => panic!("{} of {count} frames came, {} others", found.len(), self.kept.len() - found.len()),
            }
        }
    }

    /// Ends the capture: everything that has arrived until now.
    ///
    /// # Panics
    /// If the capture itself failed.
    #[must_use]
    pub fn stop(mut self) -> Vec<Frame> {
        self.end();
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend(self.frames.try_iter());
        kept
    }

    /// Ends the capture, writes what came to a file, and returns it.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn save(self, path: &Path) -> Vec<Frame> {
        let frames = self.stop();
        write_frames(path, LINK_ETHERNET, &frames);
        frames
    }

    fn end(&mut self) {
        let _ = write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the capture failed");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keeps some tunnel packets of a capture beside encap's tests, as vectors and as seeds for the fuzz targets, where
/// WEFT_WRITE_CAPTURES is set: the first short one of each kind.
///
/// # Panics
/// If the file cannot be written.
pub fn keep_as_vectors(name: &str, encapsulation: Encapsulation, frames: &[Frame]) {
    if std::env::var_os("WEFT_WRITE_CAPTURES").is_none() {
        return;
    }
    let kinds = frames.iter().filter(|frame| frame.len() <= VECTOR_MAX).filter_map(|frame| {
        let payload = Outer::read(frame).ok()?.payload;
        let (vni, inner) = encapsulation.decap(payload).ok()?;
        let inner = Inner::parse(inner).ok()?;
        let l4 = match &inner.network {
            Network::Ipv4(ip) => ip.l4,
            Network::Ipv6(ip) => ip.l4,
            Network::Arp(_) | Network::Other => inner.l3,
        };
        // TCP's flags, or the type of ICMP.
        let at = if inner.network.protocol() == Some(PROTOCOL_TCP) { l4 + 13 } else { l4 };
        Some(((vni, inner.ethertype, inner.network.protocol(), inner.bytes.get(at).copied()), frame.clone()))
    });
    let mut kept: Vec<(_, Frame)> = Vec::new();
    for (kind, frame) in kinds {
        if kept.len() < VECTORS && kept.iter().all(|(other, _)| *other != kind) {
            kept.push((kind, frame));
        }
    }
    let frames: Vec<_> = kept.into_iter().map(|(_, frame)| frame).collect();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../encap/tests/vectors");
    write_frames(&vectors.join(format!("{name}.pcap")), LINK_ETHERNET, &frames);
}

/// Keeps some of what was read from a TAP, each with the kernel's header of `header_len` bytes before it, as seeds for
/// the fuzz targets, where WEFT_WRITE_CAPTURES is set: the shortest of each kind, which its flags and its type say.
///
/// # Panics
/// If the file cannot be written.
pub fn keep_as_taps(name: &str, header_len: usize, packets: &[Frame]) {
    if std::env::var_os("WEFT_WRITE_CAPTURES").is_none() {
        return;
    }
    let mut shortest: BTreeMap<[u8; 2], &Frame> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| (header_len..=SUPERFRAME_MAX).contains(&packet.len())) {
        let kept = shortest.entry([packet[0], packet[1]]).or_insert(packet);
        if packet.len() < kept.len() {
            *kept = packet;
        }
    }
    let kept: Vec<_> = shortest.into_values().cloned().collect();
    let taps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../encap/tests/taps");
    fs::create_dir_all(&taps).unwrap();
    write_frames(&taps.join(format!("{name}.pcap")), LINK_TAP, &kept);
}

fn write_frames(path: &Path, link: u32, frames: &[Frame]) {
    let mut file = Vec::new();
    file.extend(MAGIC.to_le_bytes());
    file.extend([2_u16, 4].iter().flat_map(|part| part.to_le_bytes()));
    file.extend([0, 0, FRAME_MAX as u32, link].iter().flat_map(|part| part.to_le_bytes()));
    for (number, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        file.extend([number as u32, 0, len, len].iter().flat_map(|part| part.to_le_bytes()));
        file.extend_from_slice(frame);
    }
    fs::write(path, file).unwrap();
}

fn keep(socket: &PacketSocket, until: &OwnedFd, sender: &mpsc::Sender<Frame>, wanted: &mut impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let mut fds = [PollFd::new(&socket.tap, PollFlags::IN), PollFd::from_borrowed_fd(until.as_fd(), PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        let ending = !fds[1].revents().is_empty();
        while let Some(seen) = socket.tap.receive(&mut buffer).unwrap_or_else(|error| panic!("capturing: {error}")) {
            if !seen.outgoing && wanted(&seen.bytes) {
                // Nobody listens any more once the capture is dropped.
                let _ = sender.send(seen.bytes);
            }
        }
        if ending {
            return;
        }
    }
}
