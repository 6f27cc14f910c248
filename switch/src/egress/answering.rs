//! What the switch itself says to pods.

use weft_bridge::{Attachment, DropReason, PortId};
use weft_encap::mtu::MIN_IPV6;
use weft_encap::too_big::NoReply;
use weft_encap::{FragmentError, Inner, MacAddr, Offload};

use super::{Copy, Egress};
use crate::answers::Answered;
use crate::gather::{Buffer, Buffers, Piece};
use crate::port::Port;
use crate::underlay::Underlay;

impl<P: Port, U: Underlay> Egress<P, U> {
    /// Tells the pod that sent a frame which MTU would have fitted, as far as that may be told and is not told too
    /// often. Returns the reason to count.
    pub(crate) fn too_long(&mut self, reason: DropReason, mtu: u16, copy: &Copy, arena: &[u8]) -> DropReason {
        let Attachment::Port(id) = copy.ingress else { return reason };
        let Ok(inner) = Inner::parse(&arena[copy.range.clone()]) else { return reason };
        let Some((_, budgets)) = self.ports.get_mut_with_budgets(id) else { return reason };
        match self.answer.write(&inner, mtu, &mut budgets.answers, copy.now) {
            Answered::Written => {
                self.send_answer(id, arena);
                self.counters.answers_sent.add(1);
            }
            Answered::Suppressed => self.counters.answers_suppressed.add(1),
            Answered::No(NoReply::MtuTooSmall { min: MIN_IPV6, .. }) => return DropReason::BelowIpv6Minimum,
            Answered::No(_) => {}
        }
        reason
    }

    /// What is counted of a frame that cannot be cut; its sender is told where that helps.
    pub(super) fn not_cut(
        &mut self,
        why: FragmentError,
        reason: DropReason,
        mtu: u16,
        copy: &Copy,
        arena: &[u8],
    ) -> DropReason {
        match why {
            FragmentError::Split(_) => DropReason::BadSuperframe,
            _ => self.too_long(reason, mtu, copy, arena),
        }
    }

    /// Answers a port's question for a neighbour.
    pub(crate) fn answer_neighbour(&mut self, mac: MacAddr, copy: &Copy, arena: &[u8]) {
        let Attachment::Port(id) = copy.ingress else { return };
        let Ok(inner) = Inner::parse(&arena[copy.range.clone()]) else { return };
        if self.answer.write_neighbour(&inner, mac) {
            self.send_answer(id, arena);
        }
    }

    /// Hands a port the answer that was written last. A pod that cannot be told is a pod that sends again.
    fn send_answer(&mut self, id: PortId, arena: &[u8]) {
        let Some(device) = self.ports.get_mut(id) else { return };
        let headers = self.answer.bytes();
        let piece = Piece::new(Buffer::Headers, 0..headers.len());
        let _ = device.send(Offload::NONE, &[piece], &Buffers { arena, headers });
        self.counters.port_writes.add(1);
    }
}
