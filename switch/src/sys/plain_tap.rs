//! A TAP device that leaves nothing to its reader: frames as a wire would carry them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::check;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Makes a TAP device without offloads in the calling thread's network namespace; it goes away with the file.
///
/// Each read gives one frame and each write takes one, whole and without any header before it. The kernel cuts
/// superframes to their segments and fills in checksums before it hands them over (`validate_xmit_skb`,
/// net/core/dev.c). Reads do not block.
///
/// # Errors
/// What the kernel says: without `/dev/net/tun` or CAP_NET_ADMIN, or for a name that is taken.
pub fn open_plain_tap(name: &str) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq that we own.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) }.into())?;
    Ok(file)
}
