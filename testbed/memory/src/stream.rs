//! A TCP connection from one pod to another, with bytes that are told from all others.

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

use crate::lab::PodId;

/// Bytes of a socket's buffer in each direction.
const BUFFER: usize = 1 << 18;
/// Bytes read or written in one call.
const CHUNK: usize = 4096;

/// A connection of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub(crate) usize);

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) from: (PodId, SocketHandle),
    pub(crate) to: (PodId, SocketHandle),
    seed: u64,
    bytes: u64,
    written: u64,
    pub(crate) read: u64,
}

pub(crate) fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

impl Stream {
    pub(crate) const fn new(from: (PodId, SocketHandle), to: (PodId, SocketHandle), seed: u64, bytes: u64) -> Self {
        Self { from, to, seed, bytes, written: 0, read: 0 }
    }

    /// Every byte has come.
    pub(crate) const fn is_done(&self) -> bool {
        self.read == self.bytes
    }

    /// Writes what the socket takes. Whether it took anything.
    pub(crate) fn write(&mut self, sockets: &mut SocketSet<'_>) -> bool {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(self.from.1);
        let before = self.written;
        while socket.can_send() && self.written < self.bytes {
            let end = self.bytes.min(self.written + CHUNK as u64);
            let chunk: Vec<u8> = (self.written..end).map(|place| byte(self.seed, place)).collect();
            self.written += socket.send_slice(&chunk).unwrap_or_default() as u64;
        }
        self.written > before
    }

    /// Compares what has come. Whether anything had.
    ///
    /// # Panics
    /// If a byte is another than was sent.
    pub(crate) fn read(&mut self, sockets: &mut SocketSet<'_>) -> bool {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(self.to.1);
        let before = self.read;
        let mut chunk = [0; CHUNK];
        while socket.can_recv() {
            let count = socket.recv_slice(&mut chunk).unwrap_or_default();
            for seen in &chunk[..count] {
                assert_eq!(*seen, byte(self.seed, self.read), "byte {} of a stream is another", self.read);
                self.read += 1;
            }
        }
        self.read > before
    }
}

/// The byte at that place: the high bits of a multiplication by the golden ratio (Knuth, volume 3, section 6.4).
fn byte(seed: u64, place: u64) -> u8 {
    ((seed ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}
