//! The first seam: where pods' frames enter and leave.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use weft_bridge::DropReason;
use weft_encap::{Checksum, GsoKind, Offload, OffloadError, VIRTIO_NET_HDR_LEN};

use crate::gather::{Buffers, Piece};
use crate::levels::{Level, Levels};
use crate::sys::tap::TapQueue;

/// Longest frame a port takes, in bytes, with what the kernel puts before it: a 64 KiB IP packet, an Ethernet header and
/// two tags, rounded up.
pub const MAX_FRAME_LEN: usize = 65_536 + 64;
/// Frames read from one port in one turn at most.
pub const BATCH_FRAMES: usize = 128;

/// A frame as it was read.
#[derive(Clone, Debug)]
pub struct PortFrame {
    /// Where it lies, in bytes from the start of the arena.
    pub range: Range<usize>,
    /// What came with it.
    pub offload: Result<Offload, OffloadError>,
}

/// What a port and its pod's stack may leave to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOffloads {
    /// Checksums. Nothing else is to be had without.
    pub checksum: bool,
    /// TCP superframes of IPv4.
    pub tcp4: bool,
    /// TCP superframes of IPv6.
    pub tcp6: bool,
    /// UDP superframes of either.
    pub udp: bool,
}

impl TapOffloads {
    /// Finished frames alone.
    pub const NONE: Self = Self { checksum: false, tcp4: false, tcp6: false, udp: false };
    /// All of it.
    pub const ALL: Self = Self { checksum: true, tcp4: true, tcp6: true, udp: true };

    /// Those of the levels in use.
    #[must_use]
    pub fn of(levels: &Levels) -> Self {
        Self {
            checksum: levels.uses(Level::Checksum),
            tcp4: levels.uses(Level::Tcp4),
            tcp6: levels.uses(Level::Tcp6),
            udp: levels.uses(Level::Udp4) && levels.uses(Level::Udp6),
        }
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            checksum: self.checksum && other.checksum,
            tcp4: self.tcp4 && other.tcp4,
            tcp6: self.tcp6 && other.tcp6,
            udp: self.udp && other.udp,
        }
    }

    /// Whether superframes of this kind may be handed over.
    #[inline]
    #[must_use]
    pub const fn takes(self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::Tcp4 => self.tcp4,
            GsoKind::Tcp6 => self.tcp6,
            GsoKind::Udp => self.udp,
        }
    }

    /// Whether a frame may be handed over as this says of it.
    #[inline]
    #[must_use]
    pub fn carry(self, offload: &Offload) -> bool {
        (self.checksum || offload.checksum == Checksum::Unknown) && offload.gso.is_none_or(|gso| self.takes(gso.kind))
    }

    /// The levels in it, by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (self.checksum, &[Level::Checksum][..]),
            (self.tcp4, &[Level::Tcp4]),
            (self.tcp6, &[Level::Tcp6]),
            (self.udp, &[Level::Udp4, Level::Udp6]),
        ]
        .into_iter()
        .filter(|(used, _)| *used)
        .flat_map(|(_, levels)| levels.iter().map(|level| level.name()))
    }
}

/// Why a port did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// It is lost, for this reason.
    Lost(DropReason),
    /// What it leaves to the kernel, the kernel does not take.
    Offload,
}

impl From<Unsent> for DropReason {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Lost(reason) => reason,
            Unsent::Offload => Self::PortRefused,
        }
    }
}

/// A device to which a pod is attached.
pub trait Port {
    /// Reads what is there into the arena, up to a batch. `reads` counts system calls.
    ///
    /// # Errors
    /// The device is gone.
    fn recv(&mut self, arena: &mut [u8], frames: &mut Vec<PortFrame>, reads: &mut u64) -> io::Result<()>;

    /// What may be left to the pod's stack.
    fn offloads(&self) -> TapOffloads;

    /// Writes one frame, given as pieces; `offload` is one that [`Self::offloads`] carry.
    ///
    /// # Errors
    /// Why it was not delivered.
    fn send(&mut self, offload: Offload, pieces: &[Piece], buffers: &Buffers<'_>) -> Result<(), Unsent>;
}

/// One queue of a TAP device in a pod's network namespace.
pub struct Tap {
    queue: TapQueue,
    offloads: TapOffloads,
}

impl Tap {
    /// Opens the device with this name in the calling thread's network namespace, and makes it,
    /// multi-queue, if there is none. One that this made goes with the `Tap`, unless it is told to [`Self::keep`].
    /// Needs CAP_NET_ADMIN there. A kernel without UDP superframes gives the other offloads asked for.
    ///
    /// # Errors
    /// The kernel's: ENOENT without /dev/net/tun, EPERM, EBUSY for a device of another kind that has the name,
    /// EINVAL for a TAP that was made without multi-queue.
    pub fn open(name: &str, offloads: TapOffloads) -> io::Result<Self> {
        Self::with(TapQueue::open(name)?, offloads)
    }

    /// Takes over a queue that another process opened by [`Self::open`].
    ///
    /// # Errors
    /// The kernel's: EBADFD for one whose device is gone.
    pub fn adopt(queue: OwnedFd, offloads: TapOffloads) -> io::Result<Self> {
        Self::with(TapQueue::adopt(queue)?, offloads)
    }

    /// Its descriptor, to be handed on: the queue stays open as long as somebody has it.
    #[must_use]
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        self.queue.descriptor()
    }

    fn with(queue: TapQueue, offloads: TapOffloads) -> io::Result<Self> {
        let mut tap = Self { queue, offloads: TapOffloads::NONE };
        match tap.set_offloads(offloads) {
            Err(error) if offloads.udp && error.raw_os_error() == Some(libc::EINVAL) => {
                tap.set_offloads(TapOffloads { udp: false, ..offloads })?;
            }
            result => result?,
        }
        Ok(tap)
    }

    /// Lets all frames of one flow come to one of the device's queues, whichever it is, for as long as it exists.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_BPF, ENOSYS without BPF, EINVAL before Linux 4.16.
    pub fn steer_by_flow(&self) -> io::Result<()> {
        self.queue.steer_by_flow()
    }

    /// Says from now on what the pod's stack may leave to us.
    pub(crate) fn set_offloads(&mut self, offloads: TapOffloads) -> io::Result<()> {
        self.queue.set_offloads(offloads)?;
        self.offloads = offloads;
        Ok(())
    }

    /// Lets the device stay when this is dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep(&self) -> io::Result<()> {
        self.queue.keep()
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
            *reads += 1;
            let Some((header, frame)) = self.queue.read(&mut arena[start..start + MAX_FRAME_LEN])? else {
                return Ok(());
            };
            start += VIRTIO_NET_HDR_LEN;
            frames.push(PortFrame { range: start..start + frame.len(), offload: Offload::from_bytes(header) });
            start += frame.len();
        }
        Ok(())
    }

    fn offloads(&self) -> TapOffloads {
        self.offloads
    }

    /// EIO says that the device is down, and EINVAL that the header is not to the kernel's liking (`tun_get_user`,
    /// drivers/net/tun.c).
    fn send(&mut self, offload: Offload, pieces: &[Piece], buffers: &Buffers<'_>) -> Result<(), Unsent> {
        self.queue.write(&offload.to_bytes(), pieces, buffers).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) if offload != Offload::NONE => Unsent::Offload,
            Some(libc::EIO | libc::EBADFD | libc::ENETDOWN) => Unsent::Lost(DropReason::PortDown),
            _ => Unsent::Lost(DropReason::PortRefused),
        })
    }
}
