//! Drops of late: what a total since the agent's start does not tell.

use std::time::{Duration, Instant};

use weft_bridge::DropReason;
use weft_switch::Switch;

/// How long counts stand before they are taken anew. What is recent is at least as old, and twice as old at most.
pub(crate) const SPAN: Duration = Duration::from_secs(5);
/// How long an agent has run when what its start brought is recent no more, in whole seconds: two spans, each of which
/// may last a second longer, for counts are looked at once a second.
pub const SETTLED: Duration = Duration::from_secs(2 * SPAN.as_secs() + 2);

type Counts = Vec<(DropReason, u64)>;

/// Counts of a while ago.
#[derive(Debug)]
pub(crate) struct RecentDrops {
    /// Those to compare with.
    before: Counts,
    /// Those that come after them.
    next: Counts,
    taken: Instant,
}

impl RecentDrops {
    /// Nothing has happened yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { before: Counts::new(), next: Counts::new(), taken: now }
    }

    /// Takes the counts if that is due.
    pub(crate) fn look(&mut self, switch: &Switch, now: Instant) {
        if now.duration_since(self.taken) >= SPAN {
            self.take(switch.totals().drops, now);
        }
    }

    fn take(&mut self, counts: Counts, now: Instant) {
        self.before = std::mem::replace(&mut self.next, counts);
        self.taken = now;
    }

    /// How many of these were dropped of late.
    pub(crate) fn of(&self, reason: DropReason, count: u64) -> u64 {
        let before = self.before.iter().find(|(known, _)| *known == reason).map_or(0, |(_, before)| *before);
        count.saturating_sub(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_recent_for_two_spans() {
        let start = Instant::now();
        let mut recent = RecentDrops::new(start);
        let counts = |count| vec![(DropReason::Runt, count)];
        assert_eq!((recent.of(DropReason::Runt, 3), recent.of(DropReason::Hairpin, 0)), (3, 0));
        recent.take(counts(3), start + SPAN);
        assert_eq!(recent.of(DropReason::Runt, 4), 4);
        recent.take(counts(4), start + 2 * SPAN);
        assert_eq!(recent.of(DropReason::Runt, 4), 1);
        recent.take(counts(4), start + 3 * SPAN);
        assert_eq!(recent.of(DropReason::Runt, 4), 0);
    }

    #[test]
    fn what_a_start_brought_is_not_recent_once_it_has_settled() {
        let start = Instant::now();
        let mut recent = RecentDrops::new(start);
        // The latest looks that there can be: almost a second after they are due.
        let late = SPAN + Duration::from_millis(999);
        recent.take(vec![(DropReason::Runt, 3)], start + late);
        recent.take(vec![(DropReason::Runt, 3)], start + 2 * late);
        assert!(recent.taken <= start + SETTLED);
        assert_eq!(recent.of(DropReason::Runt, 3), 0);
    }
}
