//! The path MTU of one peer, found by probes (RFC 8899) and by nothing else.
//!
//! A pure state machine: time comes in as an argument, and what it wants sent goes out. Sizes are bytes of the
//! outer IP packet, header included, so that the underlay's MTU is the largest.
//!
//! * The MTU in use is confirmed over and over by a probe of that length: every [`BUSY_INTERVAL`] where there was
//!   traffic, every [`IDLE_INTERVAL`] where there was none. So "up" means that a packet of full length arrives.
//! * A confirmation that is lost starts a hunt, which asks for the same size again and for smaller ones at once. If only
//!   smaller ones arrive it narrows down what the path carries, and ends when the next larger size was lost
//!   three times. After [`SEARCH_LIMIT`] it lowers the MTU in use to what it has proven by then and goes on.
//! * Every [`RAISE_INTERVAL`] one byte more is tried, and if that arrives, the hunt is for what is above.
//!
//! Each round of a hunt sends up to [`MAX_OUTSTANDING`] probes and waits until each is answered or lost: first of
//! common sizes, then of sizes that cut what is left into equal parts. What is in use is asked for in each, so that a few losses by chance
//! do not look like a black hole. A smaller MTU is taken into use only at the end or at the limit, and not step by step,
//! because a pod remembers for ten minutes what it was told; with round trips of 100 ms and more it may be two steps.
//!
//! When the path comes to carry less, the MTU in use follows within [`SHRINK_BOUND`], if there is traffic, the round
//! trip takes no more than [`BOUND_RTT`], [`Search::poll`] is called when [`Search::due`] says so, and the path does not
//! change again meanwhile. RFC 8899 section 5.1.1 wants a probe timer of no less than one second and 600 seconds
//! before more is tried; these timers are shorter, because both ends are ours and pods do not wait that long.

mod hunt;

use std::time::Duration;

use hunt::{Hunt, Sizes, Why};

/// The smallest size tried on IPv4: what every host takes (RFC 791 section 3.1), in bytes.
pub const MIN_IPV4: u16 = 576;
/// The smallest size tried on IPv6: what every link carries (RFC 8200 section 5), in bytes.
pub const MIN_IPV6: u16 = 1280;
/// Probes under way at any time, at most.
pub const MAX_OUTSTANDING: usize = 6;
/// Between confirmations where there was traffic.
pub const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// Between confirmations where there was none.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Between attempts at more.
pub const RAISE_INTERVAL: Duration = Duration::from_secs(20);
/// How long a hunt may take before the MTU in use follows what is proven.
pub const SEARCH_LIMIT: Duration = Duration::from_secs(1);
/// How long nothing at all may arrive before the path is down.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);
/// A probe counts as lost after twice the round trip, but not before this.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(150);
/// And no later than after this.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(1);
/// It counts as lost too when another of its round was answered so long ago, or half the round trip if that is longer:
/// they left together, and so much later than the first none comes (as in RFC 8985, by time and not by count).
pub const REORDERING: Duration = Duration::from_millis(40);
/// How long the MTU in use may be more than what the path carries.
pub const SHRINK_BOUND: Duration = Duration::from_secs(2);
/// Up to which round trip [`SHRINK_BOUND`] holds.
pub const BOUND_RTT: Duration = Duration::from_millis(150);

/// An echo that comes later than this after its request proves nothing any more.
pub const MAX_RTT: Duration = Duration::from_secs(3);

/// What the round trip is taken to be before the first echo.
const INITIAL_RTT: Duration = Duration::from_millis(250);
/// Probes remembered after they were lost, so that a late echo still counts.
const HISTORY: usize = 16;
/// Bounds a hunt on a path that answers at random.
const MAX_ROUNDS: u8 = 40;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The peer has never echoed a probe, for [`DOWN_AFTER`] and since: it takes no part. Or nobody has asked it.
    Unprobed,
    /// The first hunt is on.
    Searching,
    /// Packets of this length arrive.
    Up {
        /// Bytes of an outer IP packet.
        mtu: u16,
    },
    /// Packets of the length in use are lost, and shorter ones arrive.
    BlackHole,
    /// Nothing arrives any more, not even the smallest probe.
    Down,
}

/// A probe to be sent: a request with this nonce, as long as this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeToSend {
    /// 64 bits from the caller's generator: [`crate::probe::Probe::nonce`].
    pub nonce: u64,
    /// Bytes of the outer IP packet.
    pub size: u16,
}

/// The search on one path.
#[derive(Clone, Debug)]
pub struct Search {
    floor: u16,
    ceiling: u16,
    mtu: Option<u16>,
    phase: Phase,
    /// Sizes of the round that are not sent yet.
    queue: Sizes,
    round: u32,
    /// Whether the round has an outcome to come.
    open: bool,
    /// When the first echo of the round came.
    echoed: Option<Duration>,
    probes: [Sent; HISTORY],
    rtt: Option<Duration>,
    /// When the last probe that proves the MTU in use was sent.
    proven: Option<Duration>,
    /// When more was last tried.
    raised: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Unprobed,
    Steady,
    Hunt(Hunt),
    Down { probed: Option<Duration> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Lost,
    Answered,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    size: u16,
    at: Duration,
    fate: Fate,
    round: u32,
}

impl Search {
    /// A path of which nothing is known. `floor`: [`MIN_IPV4`] or [`MIN_IPV6`]; `ceiling`: the underlay's MTU; both in
    /// bytes.
    #[must_use]
    pub const fn new(floor: u16, ceiling: u16) -> Self {
        let never = Sent { nonce: 0, size: 0, at: Duration::ZERO, fate: Fate::Answered, round: 0 };
        Self {
            floor: if floor < ceiling { floor } else { ceiling },
            ceiling,
            mtu: None,
            phase: Phase::Unprobed,
            queue: Sizes::new(),
            round: 0,
            open: false,
            echoed: None,
            probes: [never; HISTORY],
            rtt: None,
            proven: None,
            raised: None,
        }
    }

    /// What is known.
    #[must_use]
    pub const fn state(&self) -> State {
        match (self.phase, self.mtu) {
            // A peer that never echoed cannot be told from one that takes no part.
            (Phase::Unprobed, _) | (Phase::Down { .. }, None) => State::Unprobed,
            (Phase::Down { .. }, Some(_)) => State::Down,
            (Phase::Hunt(Hunt { why: Why::Shrink, low: Some(_), rounds: 1.., .. }), _) => State::BlackHole,
            (Phase::Steady | Phase::Hunt(_), Some(mtu)) => State::Up { mtu },
            (Phase::Steady | Phase::Hunt(_), None) => State::Searching,
        }
    }

    /// The MTU in use, in bytes: the last that was taken, whatever the state is now. None until the first is found:
    /// the configured one has to do until then.
    #[must_use]
    pub const fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The round trip as last seen, slow to fall.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Probes under way: sent, neither answered nor given up; at most [`MAX_OUTSTANDING`].
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.probes.iter().filter(|probe| probe.fate == Fate::Waiting).count()
    }

    /// The underlay's MTU has changed. A smaller one is taken into use at once, and a larger one looked for.
    pub fn set_ceiling(&mut self, ceiling: u16) {
        if ceiling == self.ceiling {
            return;
        }
        self.ceiling = ceiling;
        self.floor = self.floor.min(ceiling);
        self.mtu = self.mtu.map(|mtu| mtu.min(ceiling));
        (self.proven, self.raised) = (None, None);
        self.cancel_round();
        self.phase = if self.mtu.is_some() { Phase::Steady } else { Phase::Unprobed };
    }

    /// What to send now, if anything: to be called again until there is nothing. A probe that is returned counts as
    /// sent; one that could not be sent is lost like any other.
    ///
    /// `recent_traffic`: whether frames went to the peer since about [`BUSY_INTERVAL`]. `nonce` is asked for one
    /// number for each probe; who can guess them can forge echoes.
    ///
    /// Whoever limits what probes may cost, calls later: everything then takes longer, and nothing else changes.
    pub fn poll(&mut self, now: Duration, recent_traffic: bool, nonce: impl FnOnce() -> u64) -> Option<ProbeToSend> {
        if matches!(self.phase, Phase::Unprobed) {
            self.hunt(Why::First, now);
        }
        self.advance(now);
        if !self.open {
            self.plan(now, recent_traffic);
        }
        if self.outstanding() >= MAX_OUTSTANDING {
            return None;
        }
        let size = self.queue.pop()?;
        let probe = Sent { nonce: nonce(), size, at: now, fate: Fate::Waiting, round: self.round };
        let oldest = self.probes.iter_mut().filter(|probe| probe.fate != Fate::Waiting).min_by_key(|probe| probe.at)?;
        *oldest = probe;
        Some(ProbeToSend { nonce: probe.nonce, size })
    }

    /// When to poll next if no echo arrives before. Later does no harm beyond the delay.
    #[must_use]
    pub fn due(&self, recent_traffic: bool) -> Duration {
        let waiting = self.probes.iter().filter(|probe| probe.fate == Fate::Waiting);
        let given_up = waiting.map(|probe| self.given_up(probe)).min();
        if self.open {
            let limit = match &self.phase {
                Phase::Hunt(hunt) if hunt.why != Why::Grow && hunt.low.is_some() => Some(hunt.since + SEARCH_LIMIT),
                Phase::Unprobed | Phase::Steady | Phase::Hunt(_) | Phase::Down { .. } => None,
            };
            let unsent = (!self.queue.is_empty() && self.outstanding() < MAX_OUTSTANDING).then_some(Duration::ZERO);
            return [given_up, limit, unsent].into_iter().flatten().min().unwrap_or_default();
        }
        let interval = interval(recent_traffic);
        match &self.phase {
            Phase::Unprobed => Duration::ZERO,
            Phase::Hunt(hunt) => hunt.resume,
            Phase::Down { probed } => probed.map_or(Duration::ZERO, |probed| probed + interval),
            Phase::Steady => {
                let confirm = self.proven.map_or(Duration::ZERO, |proven| proven + interval);
                let raise = self.raised.map_or(Duration::ZERO, |raised| raised + RAISE_INTERVAL);
                if self.mtu < Some(self.ceiling) { confirm.min(raise) } else { confirm }
            }
        }
    }

    /// An echo has arrived from the peer. Says whether it answers a probe that was sent. One whose probe was given up
    /// does, up to [`MAX_RTT`]; one that comes twice does not.
    pub fn on_echo(&mut self, nonce: u64, size: u16, now: Duration) -> bool {
        let mut probes = self.probes.iter_mut();
        let found = probes.find(|probe| (probe.nonce, probe.size) == (nonce, size) && probe.fate != Fate::Answered);
        let Some(probe) = found.filter(|probe| now.saturating_sub(probe.at) <= MAX_RTT) else { return false };
        probe.fate = Fate::Answered;
        let (sent, round) = (probe.at, probe.round);
        let rtt = now.saturating_sub(sent);
        if round == self.round && self.open {
            self.echoed = self.echoed.or(Some(now));
        }
        self.rtt = Some(self.rtt.map_or(rtt, |before| rtt.max(before - before / 4)));
        if self.mtu.is_some_and(|mtu| size >= mtu) {
            self.proven = self.proven.max(Some(sent));
        }
        if matches!(self.phase, Phase::Down { .. }) {
            self.hunt(if self.mtu.is_some() { Why::Shrink } else { Why::First }, now);
        }
        if let Phase::Hunt(hunt) = &mut self.phase {
            hunt.answered(size, sent, now);
            if hunt.is_at_top() {
                self.settle(now);
            }
        }
        self.advance(now);
        true
    }

    /// How long a probe is waited for.
    fn timeout(&self) -> Duration {
        (self.rtt.unwrap_or(INITIAL_RTT) * 2).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
    }

    /// When a probe that is waited for counts as lost.
    fn given_up(&self, probe: &Sent) -> Duration {
        let late = probe.at + self.timeout();
        let Some(echoed) = self.echoed.filter(|_| probe.round == self.round) else { return late };
        let reordering = REORDERING.max(self.rtt.unwrap_or(INITIAL_RTT) / 2);
        late.min(echoed.max(probe.at) + reordering)
    }

    fn advance(&mut self, now: Duration) {
        for place in 0..HISTORY {
            let probe = self.probes[place];
            if probe.fate == Fate::Waiting && now >= self.given_up(&probe) {
                self.probes[place].fate = Fate::Lost;
            }
        }
        let round = self.round;
        let is_waiting = |probe: &Sent| probe.round == round && probe.fate == Fate::Waiting;
        if self.open && self.queue.is_empty() && !self.probes.iter().any(is_waiting) {
            self.open = false;
            self.evaluate(now);
        }
        if let Phase::Hunt(hunt) = &mut self.phase
            && let Some(low) = hunt.low
            && hunt.why != Why::Grow
            && now.saturating_sub(hunt.since) >= SEARCH_LIMIT
        {
            hunt.why = Why::Grow;
            self.proven = Some(hunt.low_sent);
            self.raised = Some(now);
            self.mtu = Some(low);
        }
    }

    /// Judges a round of which each probe is answered or lost.
    fn evaluate(&mut self, now: Duration) {
        let of_round = || self.probes.iter().filter(|probe| probe.round == self.round);
        let with = |fate: Fate| of_round().filter(move |probe| probe.fate == fate).map(|probe| probe.size);
        let answered = with(Fate::Answered).max();
        let asked_for_mtu = of_round().any(|probe| Some(probe.size) <= self.mtu);
        let Phase::Hunt(mut hunt) = self.phase else {
            if matches!(self.phase, Phase::Steady) && answered.is_none() {
                self.hunt(Why::Shrink, now);
            }
            return;
        };
        let lost = with(Fate::Lost).filter(|size| Some(*size) > hunt.low).min();
        hunt.rounds = hunt.rounds.saturating_add(1);
        if hunt.why == Why::Grow && asked_for_mtu && answered < self.mtu {
            self.hunt(Why::Shrink, now);
            return;
        }
        if hunt.verifying {
            if answered >= hunt.low && hunt.is_narrow() {
                self.settle(now);
                return;
            }
            hunt.unverified += u8::from(hunt.is_narrow());
            hunt.verifying = hunt.is_narrow() && hunt.unverified < 2;
            if hunt.unverified >= 2 {
                // What was proven is lost by now: the path has changed again.
                hunt.high = hunt.low.map_or(hunt.high, u32::from);
                hunt.low = self.mtu.filter(|_| hunt.why == Why::Grow);
                hunt.unverified = 0;
            }
        } else if hunt.low.is_none() {
            if now.saturating_sub(hunt.began) >= DOWN_AFTER {
                self.phase = Phase::Down { probed: Some(now) };
                return;
            }
            hunt.silent = hunt.silent.saturating_add(1);
            hunt.resume = now + BUSY_INTERVAL;
        } else if let Some(lost) = lost {
            hunt.high = hunt.high.min(lost.into());
        }
        hunt.verifying |= hunt.is_narrow();
        let nothing_new = hunt.why == Why::Grow && hunt.low == self.mtu && hunt.is_narrow();
        let is_over = nothing_new || hunt.rounds >= MAX_ROUNDS && hunt.low.is_some();
        self.phase = Phase::Hunt(hunt);
        if is_over {
            self.settle(now);
        }
    }

    /// Takes what was proven into use.
    fn settle(&mut self, now: Duration) {
        let Phase::Hunt(Hunt { why, low: Some(low), low_sent, .. }) = self.phase else { return };
        if why == Why::Grow || self.mtu != Some(low) {
            self.raised = Some(now);
        }
        if self.mtu != Some(low) {
            self.proven = Some(low_sent);
        }
        self.mtu = Some(low);
        self.phase = Phase::Steady;
        self.cancel_round();
    }

    fn hunt(&mut self, why: Why, now: Duration) {
        self.cancel_round();
        let mtu = self.mtu.unwrap_or(self.ceiling);
        let top = u32::from(if why == Why::Shrink { mtu } else { self.ceiling }) + 1;
        self.phase = Phase::Hunt(Hunt {
            why,
            began: now,
            since: now,
            low: self.mtu.filter(|_| why == Why::Grow),
            low_sent: Duration::ZERO,
            high: top,
            top,
            rounds: 0,
            silent: 0,
            verifying: false,
            unverified: 0,
            resume: now,
        });
    }

    /// Begins the next round, if it is time for one.
    fn plan(&mut self, now: Duration, recent_traffic: bool) {
        let is_due = |last: Option<Duration>, interval| last.is_none_or(|last| now.saturating_sub(last) >= interval);
        let mtu = self.mtu.unwrap_or(self.ceiling);
        let mut sizes = Sizes::new();
        match &mut self.phase {
            Phase::Unprobed => {}
            Phase::Down { probed } => {
                if is_due(*probed, interval(recent_traffic)) {
                    *probed = Some(now);
                    sizes.push(mtu);
                    sizes.push_new(self.floor);
                }
            }
            Phase::Steady => {
                if mtu < self.ceiling && is_due(self.raised, RAISE_INTERVAL) {
                    self.hunt(Why::Grow, now);
                    sizes.push(mtu);
                    sizes.push(mtu + 1);
                    sizes.push(mtu + 1);
                } else if is_due(self.proven, interval(recent_traffic)) {
                    sizes.push(mtu);
                }
            }
            Phase::Hunt(hunt) => {
                if now >= hunt.resume {
                    hunt.sizes(self.mtu, self.floor, &mut sizes);
                }
            }
        }
        if !sizes.is_empty() {
            self.queue = sizes;
            self.round = self.round.wrapping_add(1);
            (self.open, self.echoed) = (true, None);
        }
    }

    fn cancel_round(&mut self) {
        self.queue = Sizes::new();
        self.open = false;
    }
}

const fn interval(recent_traffic: bool) -> Duration {
    if recent_traffic { BUSY_INTERVAL } else { IDLE_INTERVAL }
}
