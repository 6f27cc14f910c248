//! What tells a network namespace from every other since the machine started (SO_NETNS_COOKIE, Linux 5.14): inodes of
//! namespaces are used again, cookies are not.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// From include/uapi/asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the namespace in which a socket was opened (`sk_getsockopt`, net/core/sock.c): above 0, and of no other
/// namespace until the machine starts again.
///
/// # Errors
/// The kernel's: ENOPROTOOPT before Linux 5.14.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to `cookie`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    super::check(result.into())?;
    Ok(cookie)
}
