//! Whether a worker that has nothing to do looks again at once, or sleeps until the kernel wakes it.
//!
//! Waking a sleeping processor takes tens of microseconds, in virtual machines most of all. While a conversation goes
//! to and fro, the next frame comes sooner than that. So a worker looks again for a while after each frame; where
//! frames come too seldom for it, it soon sleeps at once. Between two looks it gives up the processor, so that a pod
//! that has something to do never waits for one that is only looking.

use std::time::Duration;

/// How long `auto` looks after a frame: a sender's turn on the processor that both want, about.
const AUTO_BUDGET: Duration = Duration::from_millis(1);
/// A gap that `auto` takes for a short one: some conversations' way there and back.
const AUTO_GAP: Duration = Duration::from_micros(100);
/// The longest time that may be asked for.
pub const MAX_POLLING: Duration = Duration::from_millis(10);
/// One gap's weight in the share of short ones: 1 of so many.
const WEIGHT: u32 = 8;
const WHOLE: u32 = 1 << 16;
/// Up to this share of short gaps `auto` sleeps at once. A gap that turns out long costs the budget; a short one saves
/// a wake-up, which takes the other side's time as well.
const WORTH_IT: u32 = WHOLE / 4;

/// For how long after a frame a worker looks for the next one before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polling {
    /// A short time, where frames have lately come in such a time.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// So long, [`MAX_POLLING`] at most.
    For(Duration),
}

/// One worker's decision. Times are those of one clock that never goes back.
#[derive(Debug)]
pub(crate) struct Poller {
    polling: Polling,
    budget: Duration,
    idle_since: Duration,
    /// The share of gaps that were shorter than [`AUTO_GAP`], of [`WHOLE`].
    short: u32,
}

impl Poller {
    pub(crate) fn new(polling: Polling) -> Self {
        let budget = match polling {
            Polling::Auto => AUTO_BUDGET,
            Polling::Off => Duration::ZERO,
            Polling::For(time) => time.min(MAX_POLLING),
        };
        Self { polling, budget, idle_since: Duration::ZERO, short: 0 }
    }

    /// Notes that frames came.
    pub(crate) fn came(&mut self, now: Duration) {
        let gap = if now.saturating_sub(self.idle_since) < AUTO_GAP { WHOLE } else { 0 };
        self.short = self.short - self.short / WEIGHT + gap / WEIGHT;
    }

    /// Notes that they were served.
    pub(crate) fn served(&mut self, now: Duration) {
        self.idle_since = now;
    }

    /// Whether to look again at once.
    pub(crate) fn looks(&self, now: Duration) -> bool {
        let worth_it = match self.polling {
            Polling::Auto => self.short > WORTH_IT,
            Polling::Off => false,
            Polling::For(_) => true,
        };
        worth_it && now.saturating_sub(self.idle_since) < self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Frames every `gap`; whether it looks right after the last one.
    fn after(poller: &mut Poller, start: Duration, frames: u32, gap: Duration) -> (Duration, bool) {
        let mut now = start;
        for _ in 0..frames {
            now += gap;
            poller.came(now);
            poller.served(now);
        }
        (now, poller.looks(now + us(1)))
    }

    #[test]
    fn auto_looks_while_frames_follow_each_other_and_sleeps_when_they_do_not() {
        let mut poller = Poller::new(Polling::Auto);
        assert!(!poller.looks(us(1)), "nothing came yet");
        let (now, looks) = after(&mut poller, us(1_000_000), 4, us(50));
        assert!(looks);
        assert!(poller.looks(now + us(999)));
        assert!(!poller.looks(now + us(1000)), "for a time, not for ever");
        let (now, looks) = after(&mut poller, now, 30, us(1000));
        assert!(!looks, "a frame a millisecond is not worth a processor");
        let (now, looks) = after(&mut poller, now, 30, us(100));
        assert!(!looks, "nor are ten, whatever the time to look");
        let (_, looks) = after(&mut poller, now, 4, us(50));
        assert!(looks, "a conversation is noticed soon");
    }

    #[test]
    fn one_long_pause_in_a_conversation_changes_nothing() {
        let mut poller = Poller::new(Polling::Auto);
        let (now, _) = after(&mut poller, us(1_000_000), 20, us(50));
        let (_, looks) = after(&mut poller, now, 1, us(500_000));
        assert!(looks);
    }

    #[test]
    fn a_given_time_is_kept_and_none_is_none() {
        let mut fixed = Poller::new(Polling::For(us(30)));
        let (now, looks) = after(&mut fixed, us(1_000_000), 1, us(1000));
        assert!(looks && fixed.looks(now + us(29)) && !fixed.looks(now + us(30)));
        let mut off = Poller::new(Polling::Off);
        assert!(!after(&mut off, us(1_000_000), 9, us(1)).1);
        let mut greedy = Poller::new(Polling::For(Duration::from_secs(5)));
        let (now, _) = after(&mut greedy, us(1_000_000), 1, us(1000));
        assert!(!greedy.looks(now + MAX_POLLING));
    }
}
