//! The start-up self-test: every level of offload does, on a small scale, what traffic will ask of it, and each byte,
//! size and checksum that comes of it is compared with what was expected. A level that fails is not used.
//!
//! Ports are tested on a TAP of their own in a network namespace of its own, with real sockets there: it speaks for
//! the kernel, whose code all TAPs share. The underlay's sockets are tested between an address of this node and
//! itself: the kernel cuts, carries and joins a group there with the code that it uses on any device. The uplink is
//! tested between its own kind of device and another one that stands for the NIC, joined as an agent joins them. None
//! sees what a network card does; [`devices`] looks at the one thing that differs from card to card and matters.

mod failure;
mod frames;
mod ports;
mod sockets;
mod uplink;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use weft_encap::MacAddr;
use weft_encap::outer::DEFAULT_TTL;

use crate::gather::{Buffer, Buffers, Piece};
use crate::levels::{Level, Levels, Off};
use crate::sys::device;
use crate::sys::udp::{Messages, Outgoing};
use failure::Failure;
pub use ports::ports;
pub use sockets::sockets;
pub use uplink::{tunnel_ends, uplink};

/// Name of the scratch device.
pub const DEVICE: &str = "scratch0";
/// Its MAC. The device resolves no neighbours (IFF_NOARP): what it sends goes to that MAC too.
pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Addresses for documentation (RFC 5737, RFC 3849); in a namespace of its own any would do.
const NEAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))];
const PREFIX: [u8; 2] = [24, 64];

/// L4 payload of each packet of a group, in bytes.
const SIZE: u16 = 1000;
/// Payload of a group, in bytes: the last packet is shorter, and of an odd length.
const GROUP_BYTES: usize = 4 * SIZE as usize + 333;
/// How long something may take that the kernel does, as a rule, before the call returns that causes it.
const WAIT: Duration = Duration::from_millis(200);

/// For which devices the kernel cuts groups of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// For all.
    AllDevices,
    /// For those that fill checksums: before Linux 6.11 (`udp_send_skb`, net/ipv4/udp.c).
    ChecksummingDevices,
}

/// The addresses, with prefix lengths, that the scratch device needs.
pub fn addresses() -> impl Iterator<Item = (IpAddr, u8)> {
    NEAR.into_iter().zip(PREFIX).filter(|(address, _)| address.is_ipv4() || has_ipv6())
}

/// Looks at the devices through which tunnel packets leave, by name, in the calling thread's network namespace.
pub fn devices(levels: &Levels, segmentation: Segmentation, devices: &[String]) {
    if segmentation == Segmentation::AllDevices {
        return;
    }
    let plain = devices.iter().find(|name| matches!(device::fills_checksums(name), Ok(false)));
    if let Some(name) = plain {
        let why = format!("{name} fills no checksums, and this kernel cuts groups only for devices that do");
        levels.turn_off(Level::Segment, Off::Failed(why));
    }
}

/// Whether this kernel has IPv6 at all. Where it has not, there is nothing of it to test.
fn has_ipv6() -> bool {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP));
    !matches!(socket, Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()))
}

/// Notes what came of a test.
fn note(levels: &Levels, level: Level, outcome: Result<(), Failure>) {
    match outcome {
        Ok(()) => levels.prove(level),
        Err(failure) => {
            levels.turn_off(level, Off::Failed(failure.to_string()));
        }
    }
}

/// Bytes of which each tells its place.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Sends one datagram, or a group of datagrams of `segment` bytes each.
fn send(socket: impl AsFd, to: SocketAddr, bytes: &[u8], segment: Option<u16>) -> io::Result<()> {
    let pieces = [Piece::new(Buffer::Arena, 0..bytes.len())];
    let outgoing = Outgoing { to, pieces: &pieces, segment, tos: 0, ttl: DEFAULT_TTL };
    let buffers = Buffers { arena: bytes, headers: &[] };
    Messages::with_capacity(1, pieces.len()).send(socket, std::iter::once(outgoing), &buffers)?;
    Ok(())
}

/// Waits until something can be read.
fn wait(source: impl AsFd, what: &'static str, until: Instant) -> Result<(), Failure> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&source, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(Failure::Missing { what }),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::call("waiting", error.into())),
        }
    }
}

const _: () = assert!(WAIT.as_secs() == 0);
