//! `Search` against a simulated path, on a clock moved by hand.

use std::time::Duration;

use proptest::prelude::*;
use weft_encap::search::{
    BOUND_RTT, BUSY_INTERVAL, DOWN_AFTER, IDLE_INTERVAL, MAX_OUTSTANDING, MIN_IPV4, MIN_IPV6, ProbeToSend,
    SHRINK_BOUND, Search, State,
};

const SECOND: u64 = 1000;

/// A path, and the node in front of it. Times are milliseconds.
struct Lab {
    search: Search,
    now: u64,
    /// What the path carries; 0: nothing.
    path: u16,
    rtt: u64,
    /// Of 1000 probes or echoes, as many are lost.
    loss: u64,
    busy: bool,
    seed: u64,
    echoes: Vec<(u64, ProbeToSend)>,
    echoes_taken: usize,
    sent: Vec<(u64, ProbeToSend)>,
    /// Each change of the MTU in use.
    changes: Vec<(u64, Option<u16>)>,
    path_changed: u64,
    busy_since: u64,
    /// The longest probe of which an echo came.
    echoed: u16,
    /// The longest time for which the MTU in use was more than the path's, since both the path changed and traffic began.
    exceeded: u64,
}

impl Lab {
    fn new(floor: u16, ceiling: u16, path: u16, rtt: u64) -> Self {
        Self {
            search: Search::new(floor, ceiling),
            now: 5 * SECOND,
            path,
            rtt,
            loss: 0,
            busy: true,
            seed: 1,
            echoes: vec![],
            echoes_taken: 0,
            sent: vec![],
            changes: vec![],
            path_changed: 0,
            busy_since: 0,
            echoed: 0,
            exceeded: 0,
        }
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    fn set_path(&mut self, path: u16) {
        self.path = path;
        self.path_changed = self.now;
    }

    fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
        self.busy_since = self.now;
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    fn step(&mut self) {
        let now = self.time();
        let (arrived, rest): (Vec<_>, _) = self.echoes.iter().partition(|(at, _)| *at <= self.now);
        self.echoes = rest;
        self.echoes_taken += arrived.len();
        for (_, probe) in arrived {
            assert!(self.search.on_echo(probe.nonce, probe.size, now));
            self.echoed = self.echoed.max(probe.size);
            assert!(!self.search.on_echo(probe.nonce, probe.size, now), "an echo counts once");
        }
        if self.search.due(self.busy) <= now {
            loop {
                let nonce = self.random();
                let Some(probe) = self.search.poll(now, self.busy, || nonce) else { break };
                assert!(self.search.outstanding() <= MAX_OUTSTANDING);
                self.sent.push((self.now, probe));
                if probe.size <= self.path && self.random() % 1000 >= self.loss {
                    let jitter = self.random() % (self.rtt / 4 + 1);
                    self.echoes.push((self.now + self.rtt - jitter, probe));
                }
            }
            let promised = self.search.due(self.busy);
            assert!(promised > now, "{promised:?} at {now:?}: {:?}", self.search);
        }
        if self.changes.last().map(|(_, mtu)| *mtu) != Some(self.search.mtu()) {
            self.changes.push((self.now, self.search.mtu()));
        }
        if let State::Up { mtu } = self.search.state() {
            assert_eq!(self.search.mtu(), Some(mtu));
            assert!(self.echoed >= mtu, "up at {mtu} B, and the longest probe that came back had {} B", self.echoed);
        }
        if self.path > 0 && self.search.mtu() > Some(self.path) {
            let since = self.path_changed.max(self.busy_since);
            self.exceeded = self.exceeded.max(self.now - since);
        }
        self.now += 1;
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.step();
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.sent.iter().map(|(_, probe)| u64::from(probe.size)).sum()
    }
}

const BOUND: u64 = SHRINK_BOUND.as_millis() as u64;

fn size() -> impl Strategy<Value = u16> {
    let common = prop::sample::select(vec![1280, 1380, 1400, 1450, 1500, 9000]);
    prop_oneof![common, 1280..9000u16]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Whatever the path does, it is followed downwards within the bound and upwards within a minute, exactly.
    #[test]
    fn follows_a_path_that_changes(
        paths in prop::collection::vec((size(), 2500..30_000u64), 1..5), ceiling in size(),
        rtt in prop_oneof![3 => 0..10u64, 1 => 0..BOUND_RTT.as_millis() as u64], floor in any::<bool>(), seed in 1..u64::MAX,
    ) {
        let mut lab = Lab::new(if floor { MIN_IPV4 } else { MIN_IPV6 }, ceiling, paths[0].0, rtt);
        lab.seed = seed;
        for (path, milliseconds) in &paths {
            lab.set_path(*path);
            lab.run(*milliseconds);
        }
        lab.run(60 * SECOND);
        prop_assert!(lab.exceeded <= BOUND, "{} ms: {:?}", lab.exceeded, lab.changes);
        prop_assert_eq!(lab.search.mtu(), Some(lab.path.min(ceiling)), "{:?}", lab.changes);
        prop_assert_eq!(lab.search.state(), State::Up { mtu: lab.path.min(ceiling) });
        let settled = lab.changes.len();
        lab.run(120 * SECOND);
        prop_assert_eq!(lab.changes.len(), settled);
    }

    /// An idle peer is slower, and is as fast as others once there is traffic again.
    #[test]
    fn idle_peers_shrink_more_slowly(from in 3000..9000u16, to in size(), wait in 0..20_000u64, rtt in 0..100u64) {
        if to >= from {
            return Ok(());
        }
        let mut lab = Lab::new(MIN_IPV4, 9000, from, rtt);
        lab.run(10 * SECOND);
        lab.set_busy(false);
        lab.run(wait);
        lab.set_path(to);
        lab.run(IDLE_INTERVAL.as_millis() as u64 + BOUND);
        prop_assert_eq!(lab.search.mtu() <= Some(to), true, "{:?}", lab.changes);

        lab.set_path(from);
        lab.run(60 * SECOND);
        prop_assert_eq!(lab.search.mtu(), Some(from));
        lab.set_path(to);
        lab.exceeded = 0;
        lab.set_busy(true);
        lab.run(60 * SECOND);
        prop_assert!(lab.exceeded <= BOUND, "{} ms: {:?}", lab.exceeded, lab.changes);
    }

    /// Arbitrary echoes and times do no harm.
    #[test]
    fn nothing_makes_it_panic(
        floor in any::<u16>(), ceiling in any::<u16>(),
        events in prop::collection::vec((0..5u8, any::<u16>(), 0..3000u64, any::<bool>()), 0..300),
    ) {
        let mut search = Search::new(floor, ceiling);
        let (mut now, mut nonce, mut sent) = (0u64, 0u64, vec![]);
        for (what, number, advance, flag) in events {
            now += if what == 4 { 0 } else { advance };
            let time = Duration::from_millis(if flag { now } else { now / 2 });
            match what {
                0 => search.set_ceiling(number),
                1 => {
                    if let Some(ProbeToSend { nonce, size }) = sent.pop() {
                        search.on_echo(nonce, size, time);
                    }
                }
                2 => prop_assert!(!search.on_echo(u64::from(number) << 32 | 1 << 63, number, time)),
                _ => {
                    for _ in 0..10 {
                        nonce += 1;
                        sent.extend(search.poll(time, flag, || nonce));
                        prop_assert!(search.outstanding() <= MAX_OUTSTANDING);
                    }
                }
            }
            let _ = (search.state(), search.due(flag), search.rtt());
        }
    }
}

#[test]
fn the_underlays_mtu_is_found_in_one_round_trip() {
    let mut lab = Lab::new(MIN_IPV4, 9000, 9000, 3);
    assert_eq!(lab.search.state(), State::Unprobed);
    lab.step();
    assert_eq!(lab.search.state(), State::Searching);
    assert_eq!(lab.search.mtu(), None);
    let sizes: Vec<u16> = lab.sent.iter().map(|(_, probe)| probe.size).collect();
    assert_eq!(sizes, [9000, 1500, 1450, 1400, 1280, 576]);
    lab.run(3);
    assert_eq!(lab.search.state(), State::Up { mtu: 9000 });
}

/// One probe in twenty lost, for hours altogether: loss is no black hole. The size in use is asked for in every round of
/// a hunt, or losing it twice would be enough on a path with a long round trip.
#[test]
fn does_not_oscillate_under_loss() {
    for (path, rtt) in [(9000, 1), (9000, 89), (1500, 40), (4321, 89)] {
        for seed in 1..60u64 {
            let mut lab = Lab::new(MIN_IPV4, 9000, path, rtt);
            lab.seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            lab.run(10 * SECOND);
            assert_eq!(lab.search.mtu(), Some(path));
            lab.loss = 50;
            let settled = lab.changes.len();
            lab.run(120 * SECOND);
            assert_eq!(lab.changes[settled..], [], "{path} {rtt} {seed}");
        }
    }
}

/// The changes that the issue trackers report as minutes of loss.
#[test]
fn a_path_of_9000_then_1500_then_1380_then_1450() {
    for (floor, overhead) in [(MIN_IPV4, 50), (MIN_IPV6, 70)] {
        let mut lab = Lab::new(floor, 9000, 9000, 1);
        lab.run(5 * SECOND);
        for path in [1500, 1380, 1450, 1280] {
            lab.set_path(path);
            lab.run(60 * SECOND);
            assert_eq!(lab.search.mtu(), Some(path), "{overhead}");
        }
        assert!(lab.exceeded <= BOUND, "{} ms", lab.exceeded);
        let seen: Vec<u16> = lab.changes.iter().filter_map(|(_, mtu)| *mtu).collect();
        // No step in between: a pod would remember it.
        assert_eq!(seen, [9000, 1500, 1380, 1450, 1280]);
    }
}

/// A TCP stream of which everything is lost sends for the third time after 1.4 s, and then only after 3: by the former the
/// new size has to be known.
#[test]
fn on_a_short_path_the_size_is_known_before_a_stream_sends_for_the_third_time() {
    for from in [1500, 9000] {
        for to in (MIN_IPV4..1500).step_by(7).chain([1280, 1400, 1450, 1499]) {
            let mut lab = Lab::new(MIN_IPV4, from, from, 1);
            lab.run(5 * SECOND + u64::from(to));
            lab.set_path(to);
            lab.run(3 * SECOND);
            assert_eq!(lab.search.mtu(), Some(to));
            assert!(lab.exceeded < 1300, "{from} to {to}: {} ms", lab.exceeded);
        }
    }
}

/// A host that was busy for half a second, two seconds before the path shrinks: its late echo is forgotten by then.
#[test]
fn one_late_echo_does_not_keep_a_stream_waiting() {
    for ago in (2 * SECOND..3 * SECOND).step_by(50) {
        let mut lab = Lab::new(MIN_IPV4, 1500, 1500, 1);
        lab.run(5 * SECOND);
        lab.rtt = 500;
        let before = lab.echoes_taken;
        while lab.echoes_taken == before {
            lab.step();
        }
        lab.rtt = 1;
        lab.run(ago);
        lab.set_path(1311);
        lab.run(3 * SECOND);
        assert_eq!(lab.search.mtu(), Some(1311));
        assert!(lab.exceeded < 1300, "{ago} ms after: {} ms", lab.exceeded);
    }
}

#[test]
fn a_black_hole_is_named_while_it_lasts() {
    let mut lab = Lab::new(MIN_IPV4, 1500, 1500, 1);
    lab.run(5 * SECOND);
    lab.set_path(1311);
    let mut states = vec![];
    for _ in 0..BOUND {
        lab.step();
        if states.last() != Some(&lab.search.state()) {
            states.push(lab.search.state());
        }
    }
    assert_eq!(states, [State::Up { mtu: 1500 }, State::BlackHole, State::Up { mtu: 1311 }]);
}

#[test]
fn a_path_that_carries_nothing_is_down_and_comes_back() {
    let mut lab = Lab::new(MIN_IPV4, 1500, 1500, 1);
    lab.run(5 * SECOND);
    lab.set_path(0);
    lab.run(BUSY_INTERVAL.as_millis() as u64);
    assert_eq!(lab.search.state(), State::Up { mtu: 1500 });
    lab.run(DOWN_AFTER.as_millis() as u64 + SECOND);
    assert_eq!(lab.search.state(), State::Down);
    assert_eq!(lab.search.mtu(), Some(1500), "what is down needs no smaller MTU");
    // Silence does not make us shout.
    let before = lab.sent.len();
    lab.run(10 * SECOND);
    assert!(lab.sent.len() - before <= 2 * 21);

    lab.set_path(1400);
    lab.run(BOUND);
    assert_eq!(lab.search.state(), State::Up { mtu: 1400 });
    lab.set_path(0);
    lab.run(10 * SECOND);
    lab.set_path(1400);
    lab.run(BUSY_INTERVAL.as_millis() as u64 + 5);
    assert_eq!(lab.search.state(), State::Up { mtu: 1400 });
}

#[test]
fn a_short_outage_changes_nothing() {
    let mut lab = Lab::new(MIN_IPV4, 9000, 9000, 1);
    lab.run(5 * SECOND);
    for outage in [100, 700, 2000, 5000, 20_000] {
        lab.set_path(0);
        lab.run(outage);
        lab.set_path(9000);
        lab.run(10 * SECOND);
    }
    assert_eq!(lab.changes.iter().filter_map(|(_, mtu)| *mtu).collect::<Vec<_>>(), [9000]);
}

#[test]
fn a_peer_that_never_answers_is_unprobed_and_asked_seldom() {
    let mut lab = Lab::new(MIN_IPV6, 1500, 0, 1);
    lab.busy = false;
    lab.run(SECOND);
    assert_eq!(lab.search.state(), State::Searching);
    lab.run(9 * SECOND);
    assert_eq!(lab.search.state(), State::Unprobed);
    assert_eq!(lab.search.mtu(), None);
    let before = lab.sent.len();
    lab.run(100 * SECOND);
    assert!(lab.sent.len() - before <= 2 * 11);
}

#[test]
fn steady_paths_cost_little() {
    let mut lab = Lab::new(MIN_IPV4, 1500, 1400, 1);
    lab.run(10 * SECOND);
    let before = lab.bytes_sent();
    lab.run(100 * SECOND);
    // Two confirmations a second, and three probes for more every 20 seconds.
    let busy = lab.bytes_sent() - before;
    assert!(busy <= 1401 * (200 + 3 * 6), "{busy}");
    lab.set_busy(false);
    let before = lab.bytes_sent();
    lab.run(100 * SECOND);
    let idle = lab.bytes_sent() - before;
    assert!(idle <= 1401 * (11 + 3 * 6), "{idle}");
}

#[test]
fn the_underlays_mtu_can_change() {
    let mut lab = Lab::new(MIN_IPV4, 1500, 9000, 1);
    lab.run(5 * SECOND);
    lab.search.set_ceiling(9000);
    lab.run(100);
    assert_eq!(lab.search.state(), State::Up { mtu: 9000 });
    lab.search.set_ceiling(1400);
    assert_eq!(lab.search.mtu(), Some(1400));
    lab.run(5 * SECOND);
    assert_eq!(lab.search.state(), State::Up { mtu: 1400 });
}

#[test]
fn a_slow_path_is_no_black_hole() {
    for rtt in [200, 400, 900] {
        let mut lab = Lab::new(MIN_IPV4, 1500, 1500, rtt);
        lab.run(120 * SECOND);
        assert_eq!(lab.changes.iter().filter_map(|(_, mtu)| *mtu).collect::<Vec<_>>(), [1500], "{rtt}");
    }
}
