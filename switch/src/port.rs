//! The first seam: where pods' frames enter and leave.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use weft_bridge::DropReason;
use weft_encap::{Offload, OffloadError, VIRTIO_NET_HDR_LEN};

use crate::gather::{Buffers, Piece};
pub use crate::sys::tap::TapOffloads;
use crate::sys::tap::TapQueue;

/// Longest frame a port takes, in bytes: a 64 KiB IP packet, an Ethernet header and two tags, rounded up.
pub const MAX_FRAME_LEN: usize = 65_536 + 64;
/// Frames read from one port in one turn at most.
pub const BATCH_FRAMES: usize = 128;

/// A frame as it was read.
#[derive(Clone, Debug)]
pub struct PortFrame {
    /// Where it lies in the arena.
    pub range: Range<usize>,
    /// What came with it.
    pub offload: Result<Offload, OffloadError>,
}

/// A device to which a pod is attached.
pub trait Port {
    /// Reads what is there into the arena, up to a batch. `reads` counts system calls.
    ///
    /// # Errors
    /// The device is gone.
    fn recv(&mut self, arena: &mut [u8], frames: &mut Vec<PortFrame>, reads: &mut u64) -> io::Result<()>;

    /// Whether UDP superframes may be written: not before Linux 6.2.
    fn takes_udp_superframes(&self) -> bool;

    /// Writes one frame, given as pieces.
    ///
    /// # Errors
    /// The reason to count for the copy that was not delivered.
    fn send(&mut self, offload: Offload, pieces: &[Piece], buffers: &Buffers<'_>) -> Result<(), DropReason>;
}

/// One queue of a TAP device in a pod's network namespace.
pub struct Tap {
    queue: TapQueue,
    offloads: TapOffloads,
}

impl Tap {
    /// Opens the device with this name in the calling thread's network namespace, and makes it,
    /// multi-queue, if there is none. One that this made goes with the `Tap`, unless it is told to [`Self::keep`].
    /// Needs CAP_NET_ADMIN there.
    ///
    /// # Errors
    /// The kernel's: ENOENT without /dev/net/tun, EPERM, EBUSY for a device of another kind that has the name,
    /// EINVAL for a TAP that was made without multi-queue.
    pub fn open(name: &str) -> io::Result<Self> {
        let (queue, offloads) = TapQueue::open(name)?;
        Ok(Self { queue, offloads })
    }

    /// Lets the device stay when this is dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep(&self) -> io::Result<()> {
        self.queue.keep()
    }

    /// What the device does for the pod's stack.
    #[must_use]
    pub fn offloads(&self) -> TapOffloads {
        self.offloads
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Port for Tap {
    fn recv(&mut self, arena: &mut [u8], frames: &mut Vec<PortFrame>, reads: &mut u64) -> io::Result<()> {
        let mut start = 0;
        while frames.len() < BATCH_FRAMES && arena.len() - start >= MAX_FRAME_LEN {
            let mut header = [0; VIRTIO_NET_HDR_LEN];
            *reads += 1;
            let Some(len) = self.queue.read(&mut header, &mut arena[start..start + MAX_FRAME_LEN])? else {
                return Ok(());
            };
            frames.push(PortFrame { range: start..start + len, offload: Offload::from_bytes(&header) });
            start += len;
        }
        Ok(())
    }

    fn takes_udp_superframes(&self) -> bool {
        self.offloads.uso
    }

    fn send(&mut self, offload: Offload, pieces: &[Piece], buffers: &Buffers<'_>) -> Result<(), DropReason> {
        self.queue.write(&offload.to_bytes(), pieces, buffers).map_err(|error| match error.raw_os_error() {
            Some(libc::EIO | libc::EBADFD | libc::ENETDOWN) => DropReason::PortDown,
            _ => DropReason::PortRefused,
        })
    }
}
