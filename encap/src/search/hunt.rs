//! One hunt: what is proven, what is lost, and which sizes to ask for next.

use std::time::Duration;

use super::MAX_OUTSTANDING;
#[cfg(doc)]
use super::{DOWN_AFTER, SEARCH_LIMIT};

/// Sizes that paths often have, largest first.
const COMMON: [u16; 5] = [9000, 1500, 1450, 1400, 1280];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    First,
    Shrink,
    Grow,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Hunt {
    pub(super) why: Why,
    /// From when [`DOWN_AFTER`] counts.
    pub(super) began: Duration,
    /// From when [`SEARCH_LIMIT`] counts.
    pub(super) since: Duration,
    /// The largest size proven.
    pub(super) low: Option<u16>,
    /// When that probe was sent.
    pub(super) low_sent: Duration,
    /// The smallest size lost, or `top`.
    pub(super) high: u32,
    /// One more than the largest size looked for.
    pub(super) top: u32,
    pub(super) rounds: u8,
    /// Rounds without any answer.
    pub(super) silent: u8,
    /// Whether the round asks for `low` and `high` once more.
    pub(super) verifying: bool,
    /// How often `low` was not proven again.
    pub(super) unverified: u8,
    /// No round before this.
    pub(super) resume: Duration,
}

/// A few sizes, first in, first out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    sizes: [u16; MAX_OUTSTANDING],
    len: usize,
    next: usize,
}

impl Hunt {
    pub(super) fn answered(&mut self, size: u16, sent: Duration, now: Duration) {
        // An echo of more than is looked for proves all of it.
        let most = u16::try_from(self.top - 1).unwrap_or(u16::MAX);
        let size = size.min(most);
        if self.low.is_none() && self.silent > 0 {
            self.since = now;
            self.resume = now;
        }
        if Some(size) >= self.low {
            self.low = Some(size);
            self.low_sent = self.low_sent.max(sent);
        }
        if self.low.is_some_and(|low| u32::from(low) >= self.high) {
            self.high = self.top;
        }
    }

    /// Whether there is nothing between what is proven and what is lost.
    pub(super) fn is_narrow(&self) -> bool {
        self.low.is_some_and(|low| u32::from(low) + 1 >= self.high)
    }

    /// Whether all is proven that is looked for.
    pub(super) fn is_at_top(&self) -> bool {
        self.low.is_some_and(|low| u32::from(low) + 1 >= self.top)
    }

    /// What the next round asks for.
    pub(super) fn sizes(&self, mtu: Option<u16>, floor: u16, sizes: &mut Sizes) {
        let high = u16::try_from(self.high).unwrap_or(u16::MAX);
        let most = u16::try_from(self.top - 1).unwrap_or(u16::MAX);
        let Some(low) = self.low else {
            sizes.push_new(most.min(high));
            if self.silent == 0 {
                let common = COMMON.into_iter().filter(|size| (floor..high).contains(size));
                common.for_each(|size| sizes.push_new(size));
            }
            sizes.push_last(floor);
            return;
        };
        // What is in use is asked for in every round: going on while more is looked for, and coming back after a loss
        // by chance.
        sizes.push(mtu.filter(|_| self.why == Why::Grow).unwrap_or(most));
        if self.verifying {
            sizes.push_new(low);
            sizes.push(high);
            sizes.push(high);
            return;
        }
        let between = |size: &u16| *size > low && u32::from(*size) < self.high;
        if between(&most) {
            sizes.push_new(most);
        }
        if COMMON.contains(&low) && between(&(low + 1)) {
            sizes.push_new(low + 1);
        }
        let room = sizes.room();
        COMMON.into_iter().filter(between).for_each(|size| sizes.push_new(size));
        if sizes.room() < room {
            return;
        }
        let span = self.high - u32::from(low);
        let parts = span.min(u32::try_from(room).unwrap_or(0) + 1);
        for part in 1..parts {
            sizes.push(low + u16::try_from(span * part / parts).unwrap_or(0));
        }
    }
}

impl Sizes {
    pub(super) const fn new() -> Self {
        Self { sizes: [0; MAX_OUTSTANDING], len: 0, next: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.next >= self.len
    }

    pub(super) const fn room(&self) -> usize {
        MAX_OUTSTANDING.saturating_sub(self.len)
    }

    /// Appends a size; beyond the room it is left out.
    pub(super) fn push(&mut self, size: u16) {
        if let Some(place) = self.sizes.get_mut(self.len) {
            *place = size;
            self.len += 1;
        }
    }

    /// Appends a size that is not there yet.
    pub(super) fn push_new(&mut self, size: u16) {
        if !self.sizes.iter().take(self.len).any(|there| *there == size) {
            self.push(size);
        }
    }

    /// Appends a size that must be there, in place of the last one if there is no room.
    pub(super) fn push_last(&mut self, size: u16) {
        if self.room() == 0 {
            self.len -= 1;
        }
        self.push_new(size);
    }

    pub(super) fn pop(&mut self) -> Option<u16> {
        let size = *self.sizes.get(self.next).filter(|_| self.next < self.len)?;
        self.next += 1;
        Some(size)
    }
}
