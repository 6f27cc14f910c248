//! Requests as they come in: lines, and descriptors that come along with them (unix(7), SCM_RIGHTS).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

/// Bytes taken from the socket at once.
const CHUNK: usize = 16 * 1024;
/// Descriptors that come with one request at most; the kernel closes what is more.
const DESCRIPTORS: usize = 1;

/// What one client sends.
pub(super) struct Requests {
    stream: OwnedReadHalf,
    /// What came after the last line.
    rest: Vec<u8>,
}

/// One request.
#[derive(Default)]
pub(super) struct Received {
    /// The line with its end, where it has one.
    pub(super) line: Vec<u8>,
    /// What came with it.
    pub(super) descriptor: Option<OwnedFd>,
}

impl Requests {
    pub(super) fn new(stream: OwnedReadHalf) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// The next line, of `limit` bytes at most; an empty one when there are no more.
    pub(super) async fn next(&mut self, limit: usize) -> io::Result<Received> {
        let mut received = Received { line: std::mem::take(&mut self.rest), descriptor: None };
        let mut searched = 0;
        loop {
            let end = received.line[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|at| searched + at + 1).filter(|end| *end <= limit) {
                self.rest = received.line.split_off(end);
                return Ok(received);
            }
            if received.line.len() >= limit {
                received.line.truncate(limit);
                return Ok(received);
            }
            searched = received.line.len();
            let stream: &UnixStream = self.stream.as_ref();
            let (bytes, descriptor) = stream.async_io(Interest::READABLE, || receive(stream)).await?;
            if bytes.is_empty() {
                return Ok(received);
            }
            received.line.extend_from_slice(&bytes);
            received.descriptor = received.descriptor.or(descriptor);
        }
    }
}

fn receive(stream: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; CHUNK];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    bytes.truncate(received.bytes);
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok((bytes, descriptors.next()))
}
