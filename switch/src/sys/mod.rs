//! System calls that no safe library covers: TAP ioctls, and vectored I/O over pieces. The only unsafe code.
#![expect(unsafe_code, reason = "raw system calls")]

pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod device;
mod iovec;
pub(crate) mod netns_cookie;
pub(crate) mod packet;
pub(crate) mod plain_tap;
mod steering;
pub(crate) mod tap;
pub(crate) mod udp;

use std::io;

/// A request about the interface of that name.
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

/// Turns a system call's negative result into its errno.
fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
