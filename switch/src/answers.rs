//! Answers to pods whose packets are too long: bounded, so that answering cannot be made to cost more than
//! forwarding.

use weft_bridge::Seconds;
use weft_encap::Inner;
use weft_encap::too_big::{MAX_LEN, NoReply, Source, too_big};

/// Answers to one port in one second at most (RFC 1812 section 4.3.2.8 and RFC 4443 section 2.4 (f) ask for a
/// limit and leave its size open): some hundred flows learn a new MTU at once, a loop costs little.
pub(crate) const ANSWERS_PER_SECOND: u32 = 200;

/// How many answers one port had in this second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerBudget {
    second: Seconds,
    used: u32,
}

impl AnswerBudget {
    pub(crate) const fn new() -> Self {
        Self { second: Seconds(0), used: 0 }
    }

    fn take(&mut self, now: Seconds) -> bool {
        if self.second != now {
            *self = Self { second: now, used: 0 };
        }
        let granted = self.used < ANSWERS_PER_SECOND;
        self.used += u32::from(granted);
        granted
    }
}

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
    pub(crate) fn write(&mut self, frame: &Inner<'_>, mtu: u16, budget: &mut AnswerBudget, now: Seconds) -> Answered {
        match too_big(frame, mtu, Source::Destination, &mut self.bytes) {
            Ok(_) if !budget.take(now) => Answered::Suppressed,
            Ok(len) => {
                self.len = len;
                Answered::Written
            }
            Err(reason) => Answered::No(reason),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_gets_so_many_answers_a_second() {
        let mut budget = AnswerBudget::new();
        let granted = |budget: &mut AnswerBudget, now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(granted(&mut budget, Seconds(7)), 200);
        assert_eq!(granted(&mut budget, Seconds(7)), 0);
        assert_eq!(granted(&mut budget, Seconds(8)), 200);
    }
}
