//! Hands a lane's groups to the kernel, and reads its answers.
//!
//! A group of equally long packets leaves in one system call. What the kernel answers decides what happens
//! next: a full queue, a missing route or a firewall costs the group, by name. An answer that can mean
//! segmentation costs nothing yet: the group is sent again packet by packet, and only what is refused then is
//! lost. Where all of it goes through singly, and the answer was EIO or the group too small to have too many
//! segments, segmentation itself is at fault: it is switched off, once, visibly.

use std::io;
use std::sync::Arc;

use socket2::Socket;
use weft_bridge::DropReason;

use super::lane::{Group, Lane, MAX_GROUP_SEGMENTS, Outcome};
use crate::gather::{Buffers, Piece, Segments};
use crate::levels::{Level, Levels};
use crate::sys::udp::{Messages, Outgoing};

/// Groups sent in one system call at most.
const SEND_MESSAGES: usize = 64;
/// Pieces in one system call at most.
const SEND_PIECES: usize = 4096;
/// A group that is so small and still refused speaks against segmentation itself.
const PLAIN_GROUP: usize = 2;

/// A lane's sockets, one for each address family that this node has.
#[derive(Clone, Copy)]
pub(super) struct Sockets<'a> {
    pub(super) ipv4: Option<&'a Socket>,
    pub(super) ipv6: Option<&'a Socket>,
}

/// Sends groups.
pub(super) struct Sender {
    messages: Messages,
    segments: Segments,
    levels: Arc<Levels>,
    calls: u64,
}

enum Refusal {
    Segmentation,
    Packet(DropReason),
}

impl Sender {
    pub(super) fn new(levels: Arc<Levels>) -> Self {
        let messages = Messages::with_capacity(SEND_MESSAGES, SEND_PIECES);
        let segments = Segments::with_capacity(MAX_GROUP_SEGMENTS, SEND_PIECES);
        Self { messages, segments, levels, calls: 0 }
    }

    /// Sends a lane's groups in order. Returns the number of system calls.
    pub(super) fn send(
        &mut self,
        sockets: Sockets<'_>,
        queued: &Lane,
        buffers: &Buffers<'_>,
        report: &mut dyn FnMut(usize, Outcome),
    ) -> u64 {
        self.calls = 0;
        let mut next = 0;
        while let Some(group) = queued.groups().get(next) {
            let socket = if group.to.is_ipv6() { sockets.ipv6 } else { sockets.ipv4 };
            let Some(socket) = socket else {
                report(next, Outcome::all_lost(DropReason::NoAddressFamily));
                next += 1;
                continue;
            };
            if self.must_be_single(group) {
                report(next, self.send_singly(socket, group, queued.pieces(group), buffers));
                next += 1;
            } else {
                next += self.send_run(socket, queued, next, buffers, report);
            }
        }
        self.calls
    }

    fn must_be_single(&self, group: &Group) -> bool {
        group.segments > 1 && !self.levels.uses(Level::Segment)
    }

    /// Sends the groups from `first` on that one socket can send as they are. Returns how many were dealt with.
    fn send_run(
        &mut self,
        socket: &Socket,
        queued: &Lane,
        first: usize,
        buffers: &Buffers<'_>,
        report: &mut dyn FnMut(usize, Outcome),
    ) -> usize {
        let groups = &queued.groups()[first..];
        let plain = !self.levels.uses(Level::Segment);
        let alike = |group: &&Group| group.to.is_ipv6() == groups[0].to.is_ipv6() && !(plain && group.segments > 1);
        let messages = groups.iter().take_while(alike).map(|group| Outgoing {
            to: group.to,
            pieces: queued.pieces(group),
            segment: (group.segments > 1).then_some(group.segment as u16),
            tos: group.tos,
            ttl: group.ttl,
        });
        self.calls += 1;
        match self.messages.send(socket, messages, buffers) {
            Ok(sent) => {
                (first..first + sent).for_each(|index| report(index, Outcome::Sent));
                sent
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                let group = &groups[0];
                let outcome = match refusal(&error, group.segments) {
                    Refusal::Packet(reason) => Outcome::all_lost(reason),
                    Refusal::Segmentation => self.retry_singly(socket, queued, group, buffers, &error),
                };
                report(first, outcome);
                1
            }
        }
    }

    fn retry_singly(
        &mut self,
        socket: &Socket,
        queued: &Lane,
        group: &Group,
        buffers: &Buffers<'_>,
        error: &io::Error,
    ) -> Outcome {
        let outcome = self.send_singly(socket, group, queued.pieces(group), buffers);
        let telling = error.raw_os_error() == Some(libc::EIO) || group.segments <= PLAIN_GROUP;
        let packets = group.segments;
        let why = || format!("the kernel refused {packets} packets as a group and took each alone: {error}");
        if outcome == Outcome::Sent && telling && self.levels.demote(Level::Segment, why()) {
            tracing::warn!(%error, "segmentation offload of the underlay is off from now on");
        }
        outcome
    }

    /// The same packets without segmentation offload, as many to a system call as the kernel takes. One that is
    /// refused costs only itself.
    fn send_singly(&mut self, socket: &Socket, group: &Group, pieces: &[Piece], buffers: &Buffers<'_>) -> Outcome {
        self.segments.cut(pieces, group.segment);
        let mut outcome = Outcome::Sent;
        let mut next = 0;
        while next < self.segments.len() {
            let packets = self.segments.from(next);
            let Group { to, tos, ttl, .. } = *group;
            let messages = packets.map(|pieces| Outgoing { to, pieces, segment: None, tos, ttl });
            self.calls += 1;
            match self.messages.send(socket, messages, buffers) {
                Ok(sent) => next += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = match refusal(&error, 1) {
                        Refusal::Packet(reason) => reason,
                        Refusal::Segmentation => DropReason::UnderlayRefused,
                    };
                    let earlier = match outcome {
                        Outcome::Sent => 0,
                        Outcome::Lost { packets, .. } => packets,
                    };
                    outcome = Outcome::Lost { reason, packets: earlier | 1 << next };
                    next += 1;
                }
            }
        }
        outcome
    }
}

/// What the kernel's answer to so many packets says. EINVAL to a single one is the answer of a blackhole route.
fn refusal(error: &io::Error, packets: usize) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EIO | libc::EINVAL) if packets > 1 => Refusal::Segmentation,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Refusal::Packet(DropReason::UnderlayBusy),
        Some(libc::EMSGSIZE) => Refusal::Packet(DropReason::ExceedsPathMtu),
        Some(libc::EINVAL | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL) => {
            Refusal::Packet(DropReason::UnderlayUnreachable)
        }
        _ => Refusal::Packet(DropReason::UnderlayRefused),
    }
}
