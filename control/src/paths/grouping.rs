//! Whether groups of tunnel packets get to a peer as well as the same packets one by one do. Pure: time is an argument.
//!
//! A trial is four probes: two that leave as one group, and two alike that leave one by one. It speaks for groups if both
//! of the group are echoed, and against them if only both of the others are; otherwise it says nothing. Whatever loses
//! packets without looking at groups does the one as easily as the other, so what is counted is
//! trials against groups in a row: see docs/adr/0015-trials-of-groups.md for how often chance makes so many.

use std::time::Duration;

/// Packets in a trial's group, and besides.
pub(super) const PACKETS: usize = 2;
/// After so many trials against groups, and none for them in between, groups are given up.
pub(super) const MAX_AGAINST: u8 = 16;
/// From one trial to the next, where the last one spoke for groups.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// The same where it did not.
const DOUBT_INTERVAL: Duration = Duration::from_millis(250);
/// How long echoes are waited for.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// How long those of the group are waited for at least after those of the others: what may overtake on the way does.
const REORDERING: Duration = Duration::from_millis(100);

/// What is known of groups to one peer.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    trial: Option<Trial>,
    against: u8,
    next: Duration,
}

/// Probes to be sent, all of one size in bytes of the outer IP packet, by their nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) size: u16,
    pub(super) group: [u64; PACKETS],
    pub(super) singles: [u64; PACKETS],
    /// Which of them leave first: as often these as those.
    pub(super) group_first: bool,
}

#[derive(Debug)]
struct Trial {
    sent: Duration,
    due: Due,
    group: [Option<Duration>; PACKETS],
    singles: [Option<Duration>; PACKETS],
}

impl Grouping {
    /// Whether groups are given up.
    pub(super) const fn is_given_up(&self) -> bool {
        self.against >= MAX_AGAINST
    }

    /// Whether echoes are waited for.
    pub(super) const fn is_waiting(&self) -> bool {
        self.trial.is_some()
    }

    /// What to send, if it is time for a trial. All nonces are the same modulo `lanes`, so that all four take one way.
    pub(super) fn poll(&mut self, now: Duration, size: u16, lanes: u64, nonce: impl Fn() -> u64) -> Option<Due> {
        if self.is_given_up() || self.trial.is_some() || now < self.next {
            return None;
        }
        let first = nonce();
        let alike = |nonce: u64| nonce - nonce % lanes + first % lanes;
        let [second, third, fourth] = [nonce(), nonce(), nonce()].map(alike);
        let group_first = (first / lanes).is_multiple_of(2);
        let due = Due { size, group: [first, second], singles: [third, fourth], group_first };
        self.trial = Some(Trial { sent: now, due, group: [None; PACKETS], singles: [None; PACKETS] });
        Some(due)
    }

    /// An echo has arrived from the peer.
    pub(super) fn on_echo(&mut self, nonce: u64, size: u16, now: Duration) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.due.size == size) else { return };
        let of_group = trial.due.group.into_iter().zip(&mut trial.group);
        let of_singles = trial.due.singles.into_iter().zip(&mut trial.singles);
        for (_, echoed) in of_group.chain(of_singles).filter(|(asked, _)| *asked == nonce) {
            *echoed = echoed.or(Some(now));
        }
    }

    /// Judges the trial under way, if it can be judged by now. Says whether groups are given up for it.
    pub(super) fn judge(&mut self, now: Duration) -> bool {
        let Some(trial) = &self.trial else { return false };
        let latest = |echoes: &[Option<Duration>; PACKETS]| {
            echoes.iter().copied().try_fold(Duration::ZERO, |latest, echoed| Some(latest.max(echoed?)))
        };
        // The group is waited for twice as long as the others took.
        let patience = |singles: Duration| singles + (singles - trial.sent).max(REORDERING);
        if latest(&trial.group).is_some() {
            (self.against, self.next) = (0, trial.sent + INTERVAL);
        } else if let Some(singles) = latest(&trial.singles) {
            if now < patience(singles) {
                return false;
            }
            (self.against, self.next) = (self.against + 1, now + DOUBT_INTERVAL);
        } else if now.saturating_sub(trial.sent) >= MAX_WAIT {
            self.next = now + DOUBT_INTERVAL;
        } else {
            return false;
        }
        self.trial = None;
        self.is_given_up()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SIZE: u16 = 1500;
    const LANES: u64 = 16;
    const TICK: Duration = Duration::from_millis(20);
    const RTT: Duration = Duration::from_millis(40);

    /// Numbers by chance (SplitMix64; Steele, Lea, Flood 2014).
    struct Chance(Cell<u64>);

    impl Chance {
        fn next(&self) -> u64 {
            self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let mixed = (self.0.get() ^ self.0.get() >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        }

        fn is(&self, percent: u64) -> bool {
            self.next() % 100 < percent
        }
    }

    /// Goes on until groups are given up or there were so many trials; `arrives` says of each probe, in the order of
    /// sending, whether its echo comes, being told which of its group or of the others it is.
    fn run(trials: u32, chance: &Chance, mut arrives: impl FnMut(&Chance, bool, usize) -> bool) -> (u32, Duration) {
        let (mut grouping, mut now, mut tried) = (Grouping::default(), Duration::ZERO, 0);
        let mut echoes: Vec<(Duration, u64)> = Vec::new();
        while tried < trials {
            for (_, nonce) in echoes.extract_if(.., |(at, _)| *at <= now) {
                grouping.on_echo(nonce, SIZE, now);
            }
            if grouping.judge(now) {
                return (tried, now);
            }
            if let Some(due) = grouping.poll(now, SIZE, LANES, || chance.next()) {
                tried += 1;
                let order = if due.group_first { [true, false] } else { [false, true] };
                for of_group in order {
                    let nonces = if of_group { due.group } else { due.singles };
                    for (place, nonce) in nonces.into_iter().enumerate() {
                        if arrives(chance, of_group, place) {
                            echoes.push((now + RTT, nonce));
                        }
                    }
                }
            }
            now += TICK;
        }
        assert!(!grouping.is_given_up());
        (tried, now)
    }

    fn chance() -> Chance {
        Chance(Cell::new(20_261_123))
    }

    #[test]
    fn groups_that_never_arrive_whole_are_given_up_soon() {
        // Lost as a whole; all but the first; the last; with loss besides.
        for (lost, loss) in [([true, true], 0), ([false, true], 0), ([false, true], 5), ([true, false], 20)] {
            let arrives =
                |chance: &Chance, of_group: bool, place: usize| !(chance.is(2 * loss) || of_group && lost[place]);
            let (tried, took) = run(1000, &chance(), arrives);
            assert!(tried < 100 && took < Duration::from_secs(if loss == 20 { 80 } else { 12 }), "{tried} {took:?}");
            assert!(loss > 0 || tried == u32::from(MAX_AGAINST), "{tried}");
        }
    }

    #[test]
    fn loss_does_not_look_like_groups_that_are_lost() {
        for percent in [0, 1, 5, 10, 20] {
            run(10_000, &chance(), |chance, _, _| !chance.is(percent) && !chance.is(percent));
        }
    }

    /// A state of the path that comes and goes (Gilbert): in it half of the packets are lost.
    #[test]
    fn loss_in_bursts_does_not_either() {
        let bad = Cell::new(false);
        run(10_000, &chance(), |chance, _, _| {
            bad.set(if bad.get() { !chance.is(30) } else { chance.is(3) });
            !(bad.get() && chance.is(50))
        });
    }

    /// Where a whole group is lost at once, as a link does that takes it for one packet.
    #[test]
    fn nor_does_loss_of_a_group_at_once() {
        let lost = Cell::new(false);
        run(10_000, &chance(), |chance, of_group, place| {
            if place == 0 || !of_group {
                lost.set(chance.is(10));
            }
            !lost.get()
        });
    }

    #[test]
    fn a_path_that_is_down_says_nothing_of_groups() {
        run(2000, &chance(), |_, _, _| false);
    }

    #[test]
    fn all_four_take_one_way() {
        let chance = chance();
        let mut first = 0;
        for _ in 0..1000 {
            let due = Grouping::default().poll(Duration::ZERO, SIZE, LANES, || chance.next()).unwrap();
            let nonces = [due.group, due.singles].concat();
            assert!(nonces.iter().all(|nonce| nonce % LANES == nonces[0] % LANES));
            first += u32::from(due.group_first);
        }
        assert!((400..600).contains(&first), "{first} of 1000 groups leave first");
    }
}
