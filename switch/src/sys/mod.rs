//! System calls that no safe library covers: TAP ioctls, and vectored I/O over pieces. The only unsafe code.
#![expect(unsafe_code, reason = "raw system calls")]

mod iovec;
pub(crate) mod tap;
pub(crate) mod udp;

use std::io;

/// Turns a system call's negative result into its errno.
fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
