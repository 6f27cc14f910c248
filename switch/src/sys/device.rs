//! What a network device does by itself (include/uapi/linux/ethtool.h).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use super::check;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the device of that name, in the calling thread's network namespace, fills checksums of what it sends.
///
/// # Errors
/// The kernel's: ENODEV without such a device.
pub(crate) fn fills_checksums(name: &str) -> io::Result<bool> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut value = Value { command: ETHTOOL_GTXCSUM, data: 0 };
    let mut request = super::interface_request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the ifreq that we own, and reads and writes the value that it points to.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }.into())?;
    Ok(value.data != 0)
}
