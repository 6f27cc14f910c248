//! The `uplink` underlay: tunnelled superframes through a TAP in the node's namespace, which a tc redirect joins to
//! the NIC. Linux 6.17.
//!
//! Theory of operation. What is written to the device leaves by the NIC, and what arrives at the NIC for our
//! addresses and ports is read from the device; the agent sets both redirects up. Packets carry their outer headers,
//! which are written here, and the kernel's word on what is left to do: a TCP superframe goes as one packet that the
//! NIC, or the kernel just before it, segments; equal small packets as one UDP superframe. Next hops come as a
//! snapshot from the agent, which follows routes and neighbours. A VTEP that is not in it is none of the uplink's
//! business: the sockets carry it, and the kernel holds what waits for an address.

mod incoming;
mod next_hops;
mod outgoing;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use weft_bridge::{DropReason, VtepId};
use weft_encap::VIRTIO_NET_HDR_TUNNEL_LEN;

pub use next_hops::{NextHop, NextHops};
pub use state::UplinkState;

pub(crate) use self::incoming::Accepted;
pub(crate) use self::outgoing::Preamble;
use super::socket::{Listen, SocketOptions, SocketUnderlay};
use super::{Datagram, Group, LANES, Lane, Outcome, ReceiveCounts};
use crate::port::{BATCH_FRAMES, MAX_FRAME_LEN};
use crate::sys::tap::TapQueue;

/// The name of the device; the kernel puts the first free number in place of `%d`.
const NAME: &str = "weft-up%d";

/// The device. It goes when this is dropped, and with the process.
pub struct UplinkDevice {
    pub(crate) queue: TapQueue,
    name: String,
}

/// What a switch needs for an uplink.
pub struct Uplink {
    /// The device, joined to the NIC.
    pub device: UplinkDevice,
    /// What is shared with the agent.
    pub state: Arc<UplinkState>,
}

/// The worker's end.
pub(super) struct Carrier {
    /// None once it cannot be read any more.
    device: Option<UplinkDevice>,
    state: Arc<UplinkState>,
    published: Arc<ArcSwap<NextHops>>,
    /// Those of this turn.
    hops: Arc<NextHops>,
    accepted: Accepted,
    /// Source port of each lane, in IPv4 and IPv6.
    source_ports: [[Option<u16>; LANES]; 2],
    preamble: Preamble,
}

impl UplinkDevice {
    /// Makes the device in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's: EINVAL before Linux 6.17, EPERM without CAP_NET_ADMIN, ENOENT without /dev/net/tun.
    pub fn make() -> io::Result<Self> {
        let (queue, name) = TapQueue::make_for_tunnels(NAME)?;
        Ok(Self { queue, name })
    }

    /// Goes on with a device that another process made.
    ///
    /// # Errors
    /// The kernel's: EBADFD for one that is gone.
    pub fn adopt(queue: OwnedFd) -> io::Result<Self> {
        let (queue, name) = TapQueue::adopt_for_tunnels(queue)?;
        Ok(Self { queue, name })
    }

    /// Its descriptor, to be handed on: the device stays as long as somebody has it.
    #[must_use]
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        self.queue.descriptor()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for UplinkDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Carrier {
    /// Packets leave from the same source ports as by the sockets.
    pub(super) fn new(uplink: Uplink, listen: &[Listen], options: &SocketOptions, socket: &SocketUnderlay) -> Self {
        let Uplink { device, state } = uplink;
        let ports = |ipv6| std::array::from_fn(|lane| socket.source_port(lane, ipv6));
        Self {
            device: Some(device),
            published: state.source(),
            hops: Arc::default(),
            state,
            accepted: Accepted { listen: listen.to_vec(), zero_checksums_over_ipv6: options.zero_checksums_over_ipv6 },
            source_ports: [ports(false), ports(true)],
            preamble: Preamble::new(),
        }
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn begin_turn(&mut self) {
        let published = self.published.load();
        if !Arc::ptr_eq(&published, &self.hops) {
            self.hops = Guard::into_inner(published);
        }
    }

    /// Whether packets to a VTEP leave here in this turn.
    pub(super) fn reaches(&self, vtep: VtepId) -> bool {
        self.device.is_some() && self.hops.get(vtep).is_some()
    }

    pub(super) fn recv(&mut self, arena: &mut [u8], datagrams: &mut Vec<Datagram>, counts: &mut ReceiveCounts) {
        let Some(device) = &self.device else { return };
        let (mut start, mut packets) = (0, 0);
        while packets < BATCH_FRAMES && arena.len() - start >= MAX_FRAME_LEN {
            counts.receives += 1;
            match device.queue.read(&mut arena[start..start + MAX_FRAME_LEN]) {
                Ok(None) => return,
                Ok(Some((header, packet))) => {
                    start += VIRTIO_NET_HDR_TUNNEL_LEN;
                    let datagram = self.accepted.read(header, packet, start);
                    datagrams.push(datagram.unwrap_or_else(|| self.accepted.malformed(packet, start)));
                    start += packet.len();
                    packets += 1;
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOMEM)) => return,
                Err(error) => {
                    let reason = format!("{} cannot be read: {error}", device.name);
                    self.give_up(reason);
                    self.device = None;
                    return;
                }
            }
        }
    }

    /// Sends one group. None if the uplink is none any more.
    pub(super) fn send(&mut self, lane: usize, queued: &Lane, group: &Group, arena: &[u8]) -> Option<Outcome> {
        let device = self.device.as_mut()?;
        let lost = |reason| Some(Outcome::all_lost(reason));
        let hop = self.hops.get(group.vtep)?;
        let Some(src_port) = self.source_ports[usize::from(group.to.is_ipv6())][lane] else {
            return lost(DropReason::NoAddressFamily);
        };
        if let Err(reason) = self.preamble.write(group, hop, src_port) {
            return lost(reason);
        }
        match device.queue.write(self.preamble.bytes(), queued.pieces(group), &queued.buffers(arena)) {
            Ok(()) => Some(Outcome::Sent),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)) => {
                lost(DropReason::UnderlayBusy)
            }
            Err(error) => {
                let reason = format!("{} refused a packet: {error}", device.name);
                self.give_up(reason);
                None
            }
        }
    }

    fn give_up(&mut self, reason: String) {
        tracing::warn!(reason, "the uplink is given up: sockets carry everything from now on");
        self.state.give_up(reason);
        // What arrives until the redirect is taken away is still read.
        self.hops = Arc::default();
    }
}
