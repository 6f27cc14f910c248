//! Counters: one set a worker, written by it alone, summed by whoever reads.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use weft_bridge::tables::{MAX_PORTS, MAX_VTEPS};
use weft_bridge::{Attachment, DropReason, Learned, PortId, Stage, VtepId};

#[cfg(test)]
mod tests;

/// Frames in a turn at most, for each class of turns; one more class is for longer ones.
pub const BATCH_CLASSES: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
const REASONS: usize = DropReason::ALL.len();
/// How often a worker that is in the middle of a turn is looked at again, at most. A turn is over sooner by far;
/// the bound is for one whose thread does not run.
const LOOKS: u32 = 1 << 16;
/// Every so many looks the reader gives up its processor, which the worker may be waiting for.
const LOOKS_PER_YIELD: u32 = 64;

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one writer only.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// How often it was counted until now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What went through one port or to and from one VTEP. rx and tx as the switch sees it.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Of the id that they count for; a place's next user begins from zero.
    generation: AtomicU16,
    pub(crate) rx_frames: Counter,
    pub(crate) rx_bytes: Counter,
    pub(crate) tx_frames: Counter,
    pub(crate) tx_bytes: Counter,
    pub(crate) drops: Counter,
}

impl LinkCounters {
    /// For the one writer only.
    #[inline]
    fn of(&self, generation: u16) -> &Self {
        if self.generation.load(Ordering::Relaxed) != generation {
            for counter in [&self.rx_frames, &self.rx_bytes, &self.tx_frames, &self.tx_bytes, &self.drops] {
                counter.0.store(0, Ordering::Relaxed);
            }
            self.generation.store(generation, Ordering::Release);
        }
        self
    }

    /// What was counted for an id with this generation; none if it is another's.
    fn counted_for(&self, generation: u16) -> Option<&Self> {
        (self.generation.load(Ordering::Acquire) == generation).then_some(self)
    }
}

/// One worker's counters.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    /// Turns begun and ended: odd during a turn, when the laws do not hold yet.
    turns: AtomicU64,
    /// `frames_in` as the turn began.
    frames_before: Counter,
    batches: [Counter; BATCH_CLASSES.len() + 1],
    pub(crate) frames_in: Counter,
    pub(crate) unicast: Counter,
    pub(crate) flood: Counter,
    pub(crate) answered: Counter,
    pub(crate) early: Counter,
    pub(crate) copies: Counter,
    pub(crate) sent: Counter,
    pub(crate) probes_sent: Counter,
    pub(crate) probes_received: Counter,
    pub(crate) answers_sent: Counter,
    pub(crate) answers_suppressed: Counter,
    pub(crate) sleeps: Counter,
    pub(crate) looks: Counter,
    pub(crate) port_reads: Counter,
    pub(crate) port_writes: Counter,
    pub(crate) underlay_datagrams_in: Counter,
    pub(crate) underlay_datagrams_out: Counter,
    pub(crate) underlay_receives: Counter,
    pub(crate) underlay_sends: Counter,
    pub(crate) underlay_overflow: Counter,
    drops: [Counter; REASONS],
    learned: [Counter; LEARNED.len()],
    ports: Box<[LinkCounters]>,
    vteps: Box<[LinkCounters]>,
}

const LEARNED: [(Learned, &str); 7] = [
    (Learned::New, "learned"),
    (Learned::Refreshed, "refreshed"),
    (Learned::Moved, "moved"),
    (Learned::Damped, "damped"),
    (Learned::LimitReached, "limit_reached"),
    (Learned::Full, "full"),
    (Learned::Busy, "busy"),
];

impl WorkerCounters {
    pub(crate) fn new() -> CachePadded<Self> {
        let links = |len| (0..len).map(|_| LinkCounters::default()).collect();
        CachePadded::new(Self {
            turns: AtomicU64::new(0),
            frames_before: Counter::default(),
            batches: std::array::from_fn(|_| Counter::default()),
            frames_in: Counter::default(),
            unicast: Counter::default(),
            flood: Counter::default(),
            answered: Counter::default(),
            early: Counter::default(),
            copies: Counter::default(),
            sent: Counter::default(),
            probes_sent: Counter::default(),
            probes_received: Counter::default(),
            answers_sent: Counter::default(),
            answers_suppressed: Counter::default(),
            sleeps: Counter::default(),
            looks: Counter::default(),
            port_reads: Counter::default(),
            port_writes: Counter::default(),
            underlay_datagrams_in: Counter::default(),
            underlay_datagrams_out: Counter::default(),
            underlay_receives: Counter::default(),
            underlay_sends: Counter::default(),
            underlay_overflow: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            learned: std::array::from_fn(|_| Counter::default()),
            ports: links(MAX_PORTS),
            vteps: links(MAX_VTEPS),
        })
    }

    /// Says that a turn begins; for the one writer only.
    pub(crate) fn begin_turn(&self) {
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // Whoever sees a number of this turn sees that the turn has begun.
        fence(Ordering::Release);
        self.frames_before.0.store(self.frames_in.get(), Ordering::Relaxed);
    }

    /// Says that the turn is over; for the one writer only.
    pub(crate) fn end_turn(&self) {
        let frames = self.frames_in.get().wrapping_sub(self.frames_before.get());
        if frames > 0 {
            self.batches[batch_class(frames)].add(1);
        }
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// What `read` returns for numbers that all stood between the same two turns. None if the worker was in the
    /// middle of a turn at every look.
    fn between_turns<T>(&self, mut read: impl FnMut() -> T) -> Option<T> {
        for look in 1..=LOOKS {
            let before = self.turns.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let numbers = read();
                fence(Ordering::Acquire);
                if self.turns.load(Ordering::Relaxed) == before {
                    return Some(numbers);
                }
            }
            if look.is_multiple_of(LOOKS_PER_YIELD) { std::thread::yield_now() } else { spin_loop() }
        }
        None
    }

    #[inline]
    pub(crate) fn dropped(&self, reason: DropReason, n: u64) {
        self.drops[reason as usize].add(n);
    }

    pub(crate) fn learned(&self, outcome: Learned) {
        if let Some(index) = LEARNED.iter().position(|(kind, _)| *kind == outcome) {
            self.learned[index].add(1);
        }
    }

    /// A port's, for the one writer only.
    #[inline]
    pub(crate) fn port(&self, id: PortId) -> &LinkCounters {
        self.ports[id.index()].of(id.generation())
    }

    /// A VTEP's, for the one writer only.
    #[inline]
    pub(crate) fn vtep(&self, id: VtepId) -> &LinkCounters {
        self.vteps[id.index()].of(id.generation())
    }

    /// What was counted for a port or VTEP; for anyone.
    pub(crate) fn link(&self, attachment: Attachment) -> Option<&LinkCounters> {
        match attachment {
            Attachment::Port(id) => self.ports[id.index()].counted_for(id.generation()),
            Attachment::Vtep(id) => self.vteps[id.index()].counted_for(id.generation()),
        }
    }
}

/// What went through one port or to and from one VTEP, summed over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTotals {
    /// Frames that entered here.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that left here.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that entered here and were dropped, and copies that should have left here and did not.
    pub drops: u64,
}

/// What one worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTotals {
    /// Frames that it took in.
    pub frames: u64,
    /// How often it slept until something came.
    pub sleeps: u64,
    /// How often it looked again instead, see [`crate::polling`].
    pub looks: u64,
    /// Turns with frames, by how many it took in: for each of [`BATCH_CLASSES`] those with no more than that and more
    /// than the one before, and in the end longer ones.
    pub batches: [u64; BATCH_CLASSES.len() + 1],
}

/// All counters, summed over all workers. Two laws hold between two turns of every worker; see [`Totals::check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Whether every worker's numbers stood between two of its turns. If not, the frames of one turn may be
    /// counted in part, and the laws say nothing.
    pub between_turns: bool,
    /// Frames that entered.
    pub frames_in: u64,
    /// Frames with the verdict unicast.
    pub unicast: u64,
    /// Frames with the verdict flood.
    pub flood: u64,
    /// Questions for neighbours that the switch answered.
    pub answered: u64,
    /// Frames of managed VTEPs that came before their membership of the VNI, and were let in.
    pub early: u64,
    /// Copies that verdicts asked for.
    pub copies: u64,
    /// Copies handed to the kernel.
    pub sent: u64,
    /// Path probes, questions for revisions, and answers to both, sent.
    pub probes_sent: u64,
    /// Path probes, questions for revisions, and answers to both, received.
    pub probes_received: u64,
    /// ICMP answers to packets that were too long.
    pub answers_sent: u64,
    /// Such answers that were not sent because there were too many in one second.
    pub answers_suppressed: u64,
    /// How often a worker slept until something came.
    pub sleeps: u64,
    /// How often one looked again instead, see [`crate::polling`].
    pub looks: u64,
    /// System calls that read a port.
    pub port_reads: u64,
    /// System calls that wrote a port; fewer than frames where frames were merged.
    pub port_writes: u64,
    /// Tunnel packets received.
    pub underlay_datagrams_in: u64,
    /// Tunnel packets sent.
    pub underlay_datagrams_out: u64,
    /// System calls that received from the underlay.
    pub underlay_receives: u64,
    /// System calls that sent to the underlay.
    pub underlay_sends: u64,
    /// Tunnel packets that the kernel dropped before us because a receive buffer was full (SO_RXQ_OVFL).
    pub underlay_overflow: u64,
    /// Drops by reason, in the order of [`DropReason::ALL`].
    pub drops: Vec<(DropReason, u64)>,
    /// How often each outcome of learning came about, by name.
    pub learned: Vec<(&'static str, u64)>,
}

/// A counting law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LawBroken {
    /// The law.
    pub law: &'static str,
    /// Its left side, in frames or copies.
    pub left: u64,
    /// Its right side, in frames or copies.
    pub right: u64,
}

impl Totals {
    pub(crate) fn sum<'a>(workers: impl Iterator<Item = &'a WorkerCounters>) -> Self {
        let mut totals = Self {
            between_turns: true,
            drops: DropReason::ALL.iter().map(|reason| (*reason, 0)).collect(),
            learned: LEARNED.iter().map(|(_, name)| (*name, 0)).collect(),
            ..Self::default()
        };
        for worker in workers {
            let whole = worker.between_turns(|| totals.with(worker));
            totals = whole.unwrap_or_else(|| Self { between_turns: false, ..totals.with(worker) });
        }
        totals
    }

    fn with(&self, worker: &WorkerCounters) -> Self {
        let mut totals = self.clone();
        totals.frames_in += worker.frames_in.get();
        totals.unicast += worker.unicast.get();
        totals.flood += worker.flood.get();
        totals.answered += worker.answered.get();
        totals.early += worker.early.get();
        totals.copies += worker.copies.get();
        totals.sent += worker.sent.get();
        totals.probes_sent += worker.probes_sent.get();
        totals.probes_received += worker.probes_received.get();
        totals.answers_sent += worker.answers_sent.get();
        totals.answers_suppressed += worker.answers_suppressed.get();
        totals.sleeps += worker.sleeps.get();
        totals.looks += worker.looks.get();
        totals.port_reads += worker.port_reads.get();
        totals.port_writes += worker.port_writes.get();
        totals.underlay_datagrams_in += worker.underlay_datagrams_in.get();
        totals.underlay_datagrams_out += worker.underlay_datagrams_out.get();
        totals.underlay_receives += worker.underlay_receives.get();
        totals.underlay_sends += worker.underlay_sends.get();
        totals.underlay_overflow += worker.underlay_overflow.get();
        for ((_, total), counter) in totals.drops.iter_mut().zip(&worker.drops) {
            *total += counter.get();
        }
        for ((_, total), counter) in totals.learned.iter_mut().zip(&worker.learned) {
            *total += counter.get();
        }
        totals
    }

    /// Frames or copies dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count)
    }

    /// Frames, or copies, dropped at one stage.
    #[must_use]
    pub fn dropped_at(&self, stage: Stage) -> u64 {
        self.drops.iter().filter(|(reason, _)| reason.stage() == stage).map(|(_, count)| count).sum()
    }

    /// Checks that every frame got a verdict and every copy was sent or dropped by name. Means something only
    /// for numbers taken [between turns](Self::between_turns).
    ///
    /// # Errors
    /// The first law that does not hold.
    pub fn check(&self) -> Result<(), LawBroken> {
        let law = |law, left, right| if left == right { Ok(()) } else { Err(LawBroken { law, left, right }) };
        law(
            "frames in = unicast + flood + answered + drop",
            self.frames_in,
            self.unicast + self.flood + self.answered + self.dropped_at(Stage::Verdict),
        )?;
        law("copies = sent + egress drops", self.copies, self.sent + self.dropped_at(Stage::Egress))
    }
}

impl WorkerTotals {
    pub(crate) fn of(worker: &WorkerCounters) -> Self {
        Self {
            frames: worker.frames_in.get(),
            sleeps: worker.sleeps.get(),
            looks: worker.looks.get(),
            batches: std::array::from_fn(|class| worker.batches[class].get()),
        }
    }
}

/// The place in [`WorkerTotals::batches`] of a turn with so many frames, one at least.
fn batch_class(frames: u64) -> usize {
    BATCH_CLASSES.iter().position(|most| frames <= *most).unwrap_or(BATCH_CLASSES.len())
}

impl LinkTotals {
    pub(crate) fn sum<'a>(links: impl Iterator<Item = &'a LinkCounters>) -> Self {
        links.fold(Self::default(), |total, link| Self {
            rx_frames: total.rx_frames + link.rx_frames.get(),
            rx_bytes: total.rx_bytes + link.rx_bytes.get(),
            tx_frames: total.tx_frames + link.tx_frames.get(),
            tx_bytes: total.tx_bytes + link.tx_bytes.get(),
            drops: total.drops + link.drops.get(),
        })
    }
}

impl std::fmt::Display for LawBroken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} is not {}", self.law, self.left, self.right)
    }
}

impl std::error::Error for LawBroken {}
