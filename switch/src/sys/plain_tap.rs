//! A TAP device that leaves nothing to its reader: frames as a wire would carry them.

use std::fs::File;
use std::io;

use super::tap::open_device;

/// Makes a TAP device without offloads in the calling thread's network namespace; it goes away with the file.
///
/// Each read gives one frame and each write takes one, whole and without any header before it. The kernel cuts
/// superframes to their segments and fills in checksums before it hands them over (`validate_xmit_skb`,
/// net/core/dev.c). Reads do not block.
///
/// # Errors
/// What the kernel says: without `/dev/net/tun` or CAP_NET_ADMIN, or for a name that is taken.
pub fn open_plain_tap(name: &str) -> io::Result<File> {
    open_device(name, libc::IFF_TUN_EXCL).map(|(file, _)| file)
}
