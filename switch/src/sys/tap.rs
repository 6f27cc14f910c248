//! TAP devices (drivers/net/tun.c, include/uapi/linux/if_tun.h).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use rustix::io::{Errno, read};
use weft_encap::{VIRTIO_NET_HDR_LEN, VIRTIO_NET_HDR_TUNNEL_LEN};

use super::iovec::IoVecs;
use super::{check, interface_request, steering};
use crate::gather::{Buffers, Piece};
use crate::port::TapOffloads;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETVNETLE: libc::c_ulong = 0x4004_54dc;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
/// Linux 5.2.
const TUNGETDEVNETNS: libc::c_ulong = 0x54e3;

const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;
const TUN_F_UDP_TUNNEL_GSO: libc::c_ulong = 0x80;
const TUN_F_UDP_TUNNEL_GSO_CSUM: libc::c_ulong = 0x100;

/// Pieces in one write at most (UIO_MAXIOV, include/uapi/linux/uio.h).
pub(crate) const MAX_PIECES: usize = 1024;

/// One queue of a TAP device. It is closed with the last of its owners.
pub(crate) struct TapQueue {
    file: Arc<OwnedFd>,
    iovecs: IoVecs,
}

impl TapQueue {
    /// Opens a queue of the device with this name in the calling thread's network namespace; makes the
    /// device if there is none. What an earlier owner left set on a device that stayed, this sets anew.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let (file, _) = open(name, libc::IFF_MULTI_QUEUE, VIRTIO_NET_HDR_LEN)?;
        Ok(Self::new(file.into()))
    }

    /// A queue of a device with such headers that another process opened.
    pub(crate) fn adopt(file: OwnedFd) -> io::Result<Self> {
        set_header(&file, VIRTIO_NET_HDR_LEN)?;
        Ok(Self::new(file))
    }

    /// The same of a device for tunnels; returns its name too.
    pub(crate) fn adopt_for_tunnels(file: OwnedFd) -> io::Result<(Self, String)> {
        let name = device_name(&file)?;
        Ok((Self::new(file), name))
    }

    /// The descriptor, with another owner.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        self.file.clone()
    }

    /// Makes a device in the calling thread's network namespace that takes and gives superframes inside UDP tunnels;
    /// it goes with this descriptor. The kernel puts a number in place of `%d`; the name it chose is returned.
    ///
    /// # Errors
    /// EINVAL before Linux 6.17; those of [`Self::open`].
    pub(crate) fn make_for_tunnels(template: &str) -> io::Result<(Self, String)> {
        let (file, name) = open(template, 0, VIRTIO_NET_HDR_TUNNEL_LEN)?;
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        let tunnels = TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM;
        set_offload_bits(&file, tcp | TUN_F_USO4 | TUN_F_USO6 | tunnels)?;
        Ok((Self::new(file.into()), name))
    }

    /// Says what the pod's stack may leave to us.
    pub(crate) fn set_offloads(&self, offloads: TapOffloads) -> io::Result<()> {
        set_offload_bits(&*self.file, bits(offloads))
    }

    fn new(file: OwnedFd) -> Self {
        Self { file: Arc::new(file), iovecs: IoVecs::with_capacity(MAX_PIECES + 1) }
    }

    /// Lets all frames of one flow come to one queue, whichever it is.
    pub(crate) fn steer_by_flow(&self) -> io::Result<()> {
        steering::by_flow(self.file.as_fd())
    }

    /// Lets the device outlive its queues.
    pub(crate) fn keep(&self) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes its argument by value.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETPERSIST, 1 as libc::c_ulong) }.into())?;
        Ok(())
    }

    /// Reads one frame: the header, whose length is the device's, and right behind it the frame. None when the queue is
    /// empty.
    pub(crate) fn read<'a, const N: usize>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(&'a [u8; N], &'a [u8])>> {
        match read(&*self.file, &mut *buffer) {
            Ok(len) => buffer[..len].split_first_chunk().map(Some).ok_or(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one frame: the header that the device wants, with the frame's first bytes behind it if need be, and
    /// pieces.
    pub(crate) fn write(&mut self, header: &[u8], pieces: &[Piece], buffers: &Buffers<'_>) -> io::Result<()> {
        self.iovecs.clear();
        self.iovecs.push(header);
        self.iovecs.extend(pieces, buffers);
        let iovecs = self.iovecs.as_slice();
        let count = libc::c_int::try_from(iovecs.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the iovecs were filled from `header` and `buffers`, which are borrowed for the whole call,
        // and the kernel only reads them.
        check(unsafe { libc::writev(self.file.as_raw_fd(), iovecs.as_ptr(), count) } as libc::c_long)?;
        Ok(())
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens a device whose frames have a `virtio_net_hdr` of that length before them, or makes it; returns its name too.
fn open(name: &str, flags: libc::c_int, header_len: usize) -> io::Result<(File, String)> {
    let (file, name) = open_device(name, libc::IFF_VNET_HDR | flags)?;
    set_header(&file, header_len)?;
    Ok((file, name))
}

fn set_header(file: &impl AsRawFd, header_len: usize) -> io::Result<()> {
    let header_len = header_len as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads the int that we own.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const header_len) }.into())?;
    let little_endian = libc::c_int::from(cfg!(target_endian = "little"));
    // SAFETY: TUNSETVNETLE reads the int that we own.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETLE, &raw const little_endian) }.into())?;
    Ok(())
}

/// The device that a descriptor is a queue of: its name, and the network namespace that it is in now.
///
/// # Errors
/// The kernel's: EBADFD for one without a device, ENOTTY or EINVAL for no TAP and before Linux 5.2, EPERM without
/// CAP_NET_ADMIN in the namespace.
pub fn device_of(file: impl AsFd) -> io::Result<(String, OwnedFd)> {
    let file = file.as_fd();
    let name = device_name(&file)?;
    // SAFETY: TUNGETDEVNETNS takes no argument.
    let netns = check(unsafe { libc::ioctl(file.as_raw_fd(), TUNGETDEVNETNS) }.into())?;
    // SAFETY: the call made this descriptor for us alone.
    Ok((name, unsafe { OwnedFd::from_raw_fd(netns as libc::c_int) }))
}

fn device_name(file: &impl AsRawFd) -> io::Result<String> {
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes the ifreq that we own.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, &raw mut request) }.into())?;
    Ok(name_in(&request))
}

fn name_in(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect()
}

/// Opens a TAP device in the calling thread's network namespace, or makes it; returns its name too. Reads and writes do
/// not block.
pub(super) fn open_device(name: &str, flags: libc::c_int) -> io::Result<(File, String)> {
    let how = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(how).open("/dev/net/tun")?;
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq that we own.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) }.into())?;
    Ok((file, name_in(&request)))
}

/// The argument of TUNSETOFFLOAD. Superframes without checksums, and one family of UDP superframes without the other,
/// are not to be had.
fn bits(offloads: TapOffloads) -> libc::c_ulong {
    let TapOffloads { checksum, tcp4, tcp6, udp } = offloads;
    if !checksum {
        return 0;
    }
    [(tcp4, TUN_F_TSO4), (tcp6, TUN_F_TSO6), (tcp4 || tcp6, TUN_F_TSO_ECN), (udp, TUN_F_USO4 | TUN_F_USO6)]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(TUN_F_CSUM, |bits, (_, bit)| bits | bit)
}

fn set_offload_bits(file: &impl AsRawFd, bits: libc::c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, bits) }.into())?;
    Ok(())
}
