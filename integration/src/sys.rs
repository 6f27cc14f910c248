//! The system calls of which no crate in use has a safe form.

#![expect(unsafe_code, reason = "UDP_SEGMENT and pre_exec have no safe form in std or socket2")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Lets the process be killed with the thread that starts it, so that it outlives no test.
pub(crate) fn die_with_parent(command: &mut Command) {
    let act = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(act) };
}

/// A receive buffer beyond the system's limit, in bytes.
///
/// # Errors
/// The kernel's.
pub fn receive_buffer(socket: impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

/// Lets the kernel cut what is sent at once into datagrams of `size` bytes; 0 ends that.
///
/// # Errors
/// The kernel's.
pub fn segment_size(socket: impl AsFd, size: u16) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size.into())
}

/// Whether what is sent may be fragmented on its way: DF clear and the path's MTU left to others, or DF set whatever
/// the MTU is taken to be.
pub(crate) fn may_fragment(socket: impl AsFd, ipv6: bool, may: bool) -> io::Result<()> {
    let (level, name, value) = match (ipv6, may) {
        (false, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        (false, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (true, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
        (true, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    set_int(socket, level, name, value)
}

/// Bounds what a TCP socket sends, in bytes a second.
pub(crate) fn max_pacing_rate(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, bytes as libc::c_int)
}

fn set_int(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let place = (&raw const value).cast();
    // SAFETY: the kernel reads one int during the call.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, place, len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
