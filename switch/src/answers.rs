//! Answers to pods: to packets that are too long, bounded, so that answering cannot be made to cost more than
//! forwarding; and to questions for neighbours, one for one.

use weft_bridge::Seconds;
use weft_encap::Inner;
use weft_encap::too_big::{MAX_LEN, NoReply, Source, too_big};
use weft_encap::{MacAddr, neighbour};

use crate::budget::Budget;

/// Answers to one port in one second at most (RFC 1812 section 4.3.2.8 and RFC 4443 section 2.4 (f) ask for a
/// limit and leave its size open): some hundred flows learn a new MTU at once, a loop costs little.
pub(crate) const ANSWERS_PER_SECOND: u32 = 200;

/// Room for one answer.
pub(crate) struct Answer {
    bytes: Box<[u8]>,
    len: usize,
}

/// What became of the wish to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It is written and may be sent.
    Written,
    /// There was one too many in this second.
    Suppressed,
    /// None may be sent.
    No(NoReply),
}

impl Answer {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; MAX_LEN].into_boxed_slice(), len: 0 }
    }

    /// Writes the ICMP answer that tells the sender of a frame which MTU fits.
    pub(crate) fn write(&mut self, frame: &Inner<'_>, mtu: u16, budget: &mut Budget, now: Seconds) -> Answered {
        match too_big(frame, mtu, Source::Destination, &mut self.bytes) {
            Ok(_) if !budget.take(ANSWERS_PER_SECOND, now) => Answered::Suppressed,
            Ok(len) => {
                self.len = len;
                Answered::Written
            }
            Err(reason) => Answered::No(reason),
        }
    }

    /// Writes the answer to a question for a neighbour. False if the frame asks nothing.
    pub(crate) fn write_neighbour(&mut self, frame: &Inner<'_>, mac: MacAddr) -> bool {
        self.len = neighbour::answer(frame, mac, &mut self.bytes).unwrap_or_default();
        self.len > 0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
