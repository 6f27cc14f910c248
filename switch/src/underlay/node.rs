//! The underlay of a node: its sockets, and before them the uplink where there is one.

use std::io;
use std::os::fd::BorrowedFd;

use weft_bridge::{DropReason, VtepId};

use super::uplink::Carrier;
use super::{Datagram, Lane, Listen, Outcome, ReceiveCounts, SocketOptions, SocketUnderlay, Underlay, Uplink};

/// Both, as one. The sockets' sources come first, the uplink's last.
pub(crate) struct NodeUnderlay {
    socket: SocketUnderlay,
    sockets: usize,
    uplink: Option<Carrier>,
}

impl NodeUnderlay {
    pub(crate) fn new(
        socket: SocketUnderlay,
        uplink: Option<Uplink>,
        listen: &[Listen],
        options: &SocketOptions,
    ) -> Self {
        let uplink = uplink.map(|uplink| Carrier::new(uplink, listen, options, &socket));
        Self { sockets: socket.descriptors().count(), socket, uplink }
    }

    /// The descriptors to wait on; their places are the `source` of [`Underlay::recv`].
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.socket.descriptors().chain(self.uplink.as_ref().and_then(Carrier::descriptor))
    }
}

impl Underlay for NodeUnderlay {
    fn recv(
        &mut self,
        source: usize,
        arena: &mut [u8],
        datagrams: &mut Vec<Datagram>,
        counts: &mut ReceiveCounts,
    ) -> io::Result<()> {
        match &mut self.uplink {
            Some(uplink) if source == self.sockets => {
                uplink.recv(arena, datagrams, counts);
                Ok(())
            }
            _ => self.socket.recv(source, arena, datagrams, counts),
        }
    }

    fn begin_turn(&mut self) {
        if let Some(uplink) = &mut self.uplink {
            uplink.begin_turn();
        }
    }

    fn carries_superframes(&self, vtep: VtepId) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.reaches(vtep))
    }

    fn send(&mut self, lane: usize, queued: &Lane, arena: &[u8], report: &mut dyn FnMut(usize, Outcome)) -> u64 {
        let Self { socket, uplink, .. } = self;
        let groups = queued.groups();
        let Some(uplink) = uplink else { return socket.send(lane, queued, arena, report) };
        let (mut calls, mut next) = (0, 0);
        while let Some(group) = groups.get(next) {
            if let Some(outcome) = uplink.send(lane, queued, group, arena) {
                report(next, outcome);
                (calls, next) = (calls + 1, next + 1);
            } else if group.superframe.is_some() {
                // The uplink was there when this was queued.
                report(next, Outcome::all_lost(DropReason::UnderlayRefused));
                next += 1;
            } else {
                let others = groups[next..].iter();
                let run = others.take_while(|group| group.superframe.is_none() && !uplink.reaches(group.vtep)).count();
                let end = next + run.max(1);
                calls += socket.send_some(lane, queued, next..end, arena, report);
                next = end;
            }
        }
        calls
    }
}
