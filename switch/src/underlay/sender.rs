//! Hands a lane's groups to the kernel, and reads its answers.
//!
//! A group of equally long packets leaves in one system call. What the kernel answers decides what happens
//! next: a full queue, a missing route or a firewall costs the group, by name. An answer that can mean
//! segmentation costs nothing yet: the group is sent again packet by packet, and only what is refused then is
//! lost. Where all of it goes through singly, and the answer was EIO or the group too small to have too many
//! segments, segmentation itself is at fault: it is switched off, once, visibly.

use std::io;
use std::ops::Range;
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

    /// Sends some of a lane's groups in order. Returns the number of system calls.
    pub(super) fn send(
        &mut self,
        sockets: Sockets<'_>,
        queued: &Lane,
        range: Range<usize>,
        buffers: &Buffers<'_>,
        report: &mut dyn FnMut(usize, Outcome),
    ) -> u64 {
        self.calls = 0;
        let mut next = range.start;
        while let Some(group) = queued.groups()[..range.end].get(next) {
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
                next += self.send_run(socket, queued, next..range.end, buffers, report);
            }
        }
        self.calls
    }

    fn must_be_single(&self, group: &Group) -> bool {
        group.segments > 1 && !self.levels.uses(Level::Segment)
    }

    /// Sends those first groups of a range that one socket can send as they are. Returns how many were dealt with.
    fn send_run(
        &mut self,
        socket: &Socket,
        queued: &Lane,
        range: Range<usize>,
        buffers: &Buffers<'_>,
        report: &mut dyn FnMut(usize, Outcome),
    ) -> usize {
        let first = range.start;
        let groups = &queued.groups()[range];
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use weft_bridge::tables::{DomainOptions, Vtep, VtepKind};
    use weft_bridge::{Tables, VtepId};
    use weft_encap::outer::DEFAULT_TTL;
    use weft_encap::{Encapsulation, Vni};

    use super::*;
    use crate::levels::Off;
    use crate::sys::udp;
    use crate::underlay::Outer;

    const PACKET: usize = 1000;

    fn vtep() -> VtepId {
        let mut tables = Tables::new(Vec::new(), Vec::new());
        tables.add_domain(Vni::MAX, DomainOptions::default()).unwrap();
        let (address, encapsulation, kind) = ([192, 0, 2, 1].into(), Encapsulation::Vxlan, VtepKind::Foreign);
        tables.add_vtep(Vtep { address, udp_port: 4789, encapsulation, kind, pod_mtu: 1450 }, &[Vni::MAX]).unwrap()
    }

    /// A socket that receives, one that sends, and what sends through it.
    fn pair() -> (UdpSocket, Socket, Sender) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        (receiver, sender, Sender::new(Arc::new(Levels::default())))
    }

    /// Sends so many packets as one group, and takes them in.
    fn send(packets: usize, (receiver, socket, sender): &mut (UdpSocket, Socket, Sender)) -> (Vec<Outcome>, u64) {
        let arena: Vec<u8> = (0..packets * PACKET).map(|place| (place / 7) as u8).collect();
        let to: SocketAddr = receiver.local_addr().unwrap();
        let mut lane = Lane::new();
        for frame in 0..packets {
            let range = frame * PACKET..(frame + 1) * PACKET;
            lane.push_frame(Outer { vtep: vtep(), to, tos: 0, ttl: DEFAULT_TTL, alone: false }, &[0; 8], range, &arena);
        }
        let mut outcomes = Vec::new();
        let sockets = Sockets { ipv4: Some(socket), ipv6: None };
        let calls = sender.send(sockets, &lane, 0..lane.groups().len(), &lane.buffers(&arena), &mut |_, outcome| {
            outcomes.push(outcome);
        });
        for frame in arena.chunks(PACKET) {
            let mut buffer = [0; 2 * PACKET];
            let len = receiver.recv(&mut buffer).unwrap();
            assert!(buffer[8..len] == *frame);
        }
        (outcomes, calls)
    }

    #[test]
    fn a_small_group_that_goes_only_singly_costs_the_level_and_no_packet() {
        let mut pair = pair();
        // What the kernel answers EINVAL to, whatever the group: as one that lost its segmentation would.
        udp::send_no_checksums(&pair.1).unwrap();
        let levels = pair.2.levels.clone();
        assert_eq!(send(3, &mut pair), (vec![Outcome::Sent], 2));
        assert!(levels.uses(Level::Segment), "three packets could have been too many");
        assert_eq!(send(2, &mut pair), (vec![Outcome::Sent], 2));
        let Some(Off::Demoted { error, .. }) = levels.off(Level::Segment) else { panic!("{levels:?}") };
        assert!(error.starts_with("the kernel refused 2 packets as a group and took each alone: Invalid"), "{error}");
        assert_eq!(send(40, &mut pair), (vec![Outcome::Sent], 1), "forty packets in one sendmmsg");
        assert!(levels.uses(Level::Gro), "what arrives is another matter");
    }

    #[test]
    fn a_group_that_the_kernel_takes_costs_nothing() {
        let mut pair = pair();
        for packets in [1, 2, MAX_GROUP_SEGMENTS] {
            assert_eq!(send(packets, &mut pair), (vec![Outcome::Sent], 1), "{packets}");
        }
        assert!(pair.2.levels.uses(Level::Segment));
    }

    #[test]
    fn only_two_answers_to_a_group_speak_against_segmentation() {
        let told = |errno, packets| match refusal(&io::Error::from_raw_os_error(errno), packets) {
            Refusal::Segmentation => None,
            Refusal::Packet(reason) => Some(reason),
        };
        for errno in [libc::EIO, libc::EINVAL] {
            assert_eq!(told(errno, 2), None);
            assert!(told(errno, 1).is_some());
        }
        for packets in [1, 2, 64] {
            assert_eq!(told(libc::EMSGSIZE, packets), Some(DropReason::ExceedsPathMtu));
            assert_eq!(told(libc::ENOBUFS, packets), Some(DropReason::UnderlayBusy));
            assert_eq!(told(libc::ENETUNREACH, packets), Some(DropReason::UnderlayUnreachable));
            assert_eq!(told(libc::EPERM, packets), Some(DropReason::UnderlayRefused));
        }
    }
}
