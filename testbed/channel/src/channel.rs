//! One direction of a link: frames go in, and come out late, damaged, twice or never. No clock, no I/O.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use weft_encap::Inner;
use weft_encap::inner::ETHERNET_LEN;

use crate::impairment::{Burst, Impairment, Probability, QUEUE_DEFAULT};

/// Bytes of frames that one direction holds at most, waiting or on their way.
pub const HELD_MAX: usize = 64 << 20;

/// Why a frame did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Longer than the MTU.
    TooBig,
    /// By chance, for itself.
    Random,
    /// By chance, in a burst.
    Burst,
    /// Too many waited already.
    QueueFull,
}

/// What became of the frames of one direction: those that came in, and the copies of them, all either went
/// out, were lost by name, or are still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChannelCounters {
    /// Frames that came in.
    pub frames: u64,
    /// Bytes of these frames, Ethernet header included.
    pub bytes: u64,
    /// Frames that went out.
    pub delivered: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Frames lost by chance in bursts.
    pub lost_in_bursts: u64,
    /// Frames lost because too many waited.
    pub queue_full: u64,
    /// Frames lost because they were longer than the MTU.
    pub too_big: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Frames that overtook.
    pub reordered: u64,
    /// Frames in which a bit was turned over.
    pub corrupted: u64,
    /// Frames that are held at this moment.
    pub held: u64,
}

/// One direction of a link, with the frames that are on their way. Times count from any fixed moment on.
#[derive(Debug)]
pub struct Channel {
    impairment: Impairment,
    chance: Xoshiro256PlusPlus,
    /// Whether losses come in a burst now.
    bad: bool,
    /// When those that wait for the rate will have left, in order.
    leaving: VecDeque<Duration>,
    /// When the last one that kept its place arrives.
    last: Duration,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    /// Keeps the order of those that arrive at one moment.
    number: u64,
    counters: ChannelCounters,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: Duration,
    number: u64,
    frame: Vec<u8>,
}

impl Channel {
    /// An empty one, whose chances follow from a seed.
    #[must_use]
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            chance: Xoshiro256PlusPlus::seed_from_u64(seed),
            bad: false,
            leaving: VecDeque::new(),
            last: Duration::ZERO,
            held: BinaryHeap::new(),
            held_bytes: 0,
            number: 0,
            counters: ChannelCounters::default(),
        }
    }

    /// Treats the frames that come from now on differently; those on their way arrive as they would have.
    pub fn change(&mut self, impairment: Impairment) {
        self.bad &= impairment.burst.is_some();
        if impairment.rate != self.impairment.rate {
            self.leaving.clear();
        }
        self.impairment = impairment;
    }

    /// Begins another sequence of chances, which follows from a seed.
    pub fn seed(&mut self, seed: u64) {
        self.chance = Xoshiro256PlusPlus::seed_from_u64(seed);
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// [`Loss`] for one that never arrives.
    pub fn offer(&mut self, frame: &[u8], now: Duration) -> Result<(), Loss> {
        self.counters.frames += 1;
        self.counters.bytes += frame.len() as u64;
        let fate = self.decide(frame, now);
        match fate {
            Ok(()) => {}
            Err(Loss::TooBig) => self.counters.too_big += 1,
            Err(Loss::Random) => self.counters.lost += 1,
            Err(Loss::Burst) => self.counters.lost_in_bursts += 1,
            Err(Loss::QueueFull) => self.counters.queue_full += 1,
        }
        fate
    }

    /// The next frame that has arrived by now.
    pub fn take(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        let Reverse(held) = self.held.pop()?;
        self.held_bytes -= held.frame.len();
        self.counters.delivered += 1;
        Some(held.frame)
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.held.peek().map(|Reverse(held)| held.at)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ChannelCounters {
        ChannelCounters { held: self.held.len() as u64, ..self.counters }
    }

    /// What it does to frames.
    #[must_use]
    pub const fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    fn decide(&mut self, frame: &[u8], now: Duration) -> Result<(), Loss> {
        if self.impairment.mtu.is_some_and(|mtu| packet_len(frame) > usize::from(mtu)) {
            return Err(Loss::TooBig);
        }
        if self.happens(self.impairment.loss) {
            return Err(Loss::Random);
        }
        if let Some(burst) = self.impairment.burst
            && self.lost_in_burst(&burst)
        {
            return Err(Loss::Burst);
        }
        let left = self.leave(frame.len(), now)?;
        let at = self.arrive(left);
        let mut frame = frame.to_vec();
        if self.happens(self.impairment.corrupt) {
            self.corrupt(&mut frame);
        }
        if self.happens(self.impairment.duplicate) {
            self.counters.duplicated += 1;
            self.hold(at, frame.clone());
        }
        self.hold(at, frame);
        Ok(())
    }

    /// The model's step, then the loss in the state reached (Elliott, 1963).
    fn lost_in_burst(&mut self, burst: &Burst) -> bool {
        let turn = if self.bad { burst.leave } else { burst.enter };
        self.bad ^= self.happens(turn);
        let loss = if self.bad { burst.bad } else { burst.good };
        self.happens(loss)
    }

    /// When the frame has left, if there is room for it to wait.
    fn leave(&mut self, len: usize, now: Duration) -> Result<Duration, Loss> {
        if self.held_bytes + len > HELD_MAX {
            return Err(Loss::QueueFull);
        }
        let Some(rate) = self.impairment.rate else { return Ok(now) };
        while self.leaving.front().is_some_and(|left| *left <= now) {
            self.leaving.pop_front();
        }
        // The first one is on the wire, and waits no more.
        let waiting = self.leaving.len().saturating_sub(1);
        if waiting >= self.impairment.queue.unwrap_or(QUEUE_DEFAULT) as usize {
            return Err(Loss::QueueFull);
        }
        let left = self.leaving.back().copied().unwrap_or(now) + rate.time_of(len);
        self.leaving.push_back(left);
        Ok(left)
    }

    /// When a frame that has left arrives.
    fn arrive(&mut self, left: Duration) -> Duration {
        let Impairment { delay, jitter, reorder, .. } = self.impairment;
        if self.happens(reorder) {
            self.counters.reordered += 1;
            return left;
        }
        // Evenly from `delay - jitter` to `delay + jitter`; a jitter is no longer than its delay.
        let spread = (2 * jitter).as_nanos();
        let extra = if spread == 0 { 0 } else { (u128::from(self.chance.next_u64()) * spread) >> 64 };
        let extra = Duration::from_nanos(u64::try_from(extra).unwrap_or(u64::MAX));
        self.last = self.last.max(left + delay.saturating_sub(jitter) + extra);
        self.last
    }

    fn corrupt(&mut self, frame: &mut [u8]) {
        let Some(behind) = frame.get_mut(ETHERNET_LEN..).filter(|behind| !behind.is_empty()) else { return };
        let bits = behind.len() as u128 * 8;
        let bit = usize::try_from((u128::from(self.chance.next_u64()) * bits) >> 64).unwrap_or_default();
        behind[bit / 8] ^= 1 << (bit % 8);
        self.counters.corrupted += 1;
    }

    fn hold(&mut self, at: Duration, frame: Vec<u8>) {
        self.held_bytes += frame.len();
        self.number += 1;
        self.held.push(Reverse(Held { at, number: self.number, frame }));
    }

    /// Asks chance only where there is a choice, so that one impairment does not shift the chances of another.
    fn happens(&mut self, probability: Probability) -> bool {
        probability != Probability::NEVER && probability.happens(self.chance.next_u64())
    }
}

/// Bytes that the frame carries behind its Ethernet header and VLAN tags.
fn packet_len(frame: &[u8]) -> usize {
    Inner::parse(frame).map_or(0, |inner| frame.len() - inner.l3)
}
