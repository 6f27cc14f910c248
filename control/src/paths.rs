//! The path to every VTEP: which MTU it carries, found out by probes that the peers' data planes echo.
//!
//! A peer that never echoes one is foreign to probes and keeps the configured MTU. For the others the MTU in use
//! follows what was proven, and the tables with it. See docs/adr/0006-path-probes.md. Where a path is up, now and then
//! some probes leave as a group: see `grouping`.

mod grouping;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use weft_bridge::{Attachment, Tables, Vtep, VtepId};
use weft_encap::mtu::{MIN_IPV4, overhead, pod_mtu};
use weft_encap::probe::{Kind, Probe};
use weft_encap::search::{self, BUSY_INTERVAL, Search, State};
use weft_switch::Switch;
use weft_switch::levels::{Level, Levels};
use weft_switch::underlay::LANES;

use self::grouping::{Due, Grouping};

/// What all probes of a node together may take, in bits of outer IP packets a second.
const BUDGET_BITS_PER_SECOND: u64 = 10_000_000;
/// How much of the budget may be saved up, as time.
const BUDGET_BURST: Duration = Duration::from_millis(500);
/// How often paths are looked at.
const TICK: Duration = Duration::from_millis(50);
/// And while echoes are waited for: a hunt has a handful of rounds, and each costs this besides the round trip.
const ECHO_TICK: Duration = Duration::from_millis(20);

/// Why packets to a VTEP leave one by one.
pub(crate) const GROUPS_GIVEN_UP: &str =
    "groups of probes did not arrive whole 16 times in a row, while the same probes one by one did";
const _: () = assert!(grouping::MAX_AGAINST == 16);

/// All paths of a node.
pub(crate) struct Paths {
    started: Instant,
    peers: Vec<Peer>,
    /// Who is asked first in the next round, so that a budget that runs out is not always missed by the same.
    first: usize,
    budget: Budget,
}

/// What probes may take, and have taken.
struct Budget {
    /// Bits that may be sent now. Below zero after a round that took more than was left, which is paid back first.
    bits: i64,
    earned: Duration,
}

struct Peer {
    vtep: VtepId,
    search: Search,
    grouping: Grouping,
    /// Bytes of the tunnel's headers.
    overhead: u16,
    sent_frames: u64,
    sent_at: Option<Duration>,
}

/// What is known of a path, for showing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathState {
    pub(crate) state: State,
    /// Bytes of the longest outer IP packet in use; none until one is proven.
    pub(crate) mtu: Option<u16>,
    pub(crate) rtt: Option<Duration>,
}

impl Paths {
    /// Paths to the VTEPs of these tables.
    pub(crate) fn new(tables: &Tables, underlay_mtu: u16) -> Self {
        let peers = tables.vteps().map(|(vtep, row)| Peer::new(vtep, row, underlay_mtu)).collect();
        Self { started: Instant::now(), peers, first: 0, budget: Budget::new() }
    }

    /// VTEPs have come and gone: what is known of those that stay is kept.
    pub(crate) fn follow(&mut self, tables: &Tables, underlay_mtu: u16) {
        self.peers.retain(|peer| tables.vtep(peer.vtep).is_some());
        let known: HashSet<VtepId> = self.peers.iter().map(|peer| peer.vtep).collect();
        let new = tables.vteps().filter(|(vtep, _)| !known.contains(vtep));
        self.peers.extend(new.map(|(vtep, row)| Peer::new(vtep, row, underlay_mtu)));
        self.first = 0;
    }

    /// One round: takes echoes, sends what is due, and publishes what has changed. Returns how soon to come back.
    pub(crate) fn tick(&mut self, switch: &Switch) -> Duration {
        let now = self.started.elapsed();
        for echo in switch.probe_echoes() {
            // How late this thread is belongs to no round trip: timeouts would grow with it, and stay long for seconds.
            let at = echo.at.saturating_duration_since(self.started);
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.vtep == echo.vtep)
                && !peer.search.on_echo(echo.nonce, echo.size, at)
            {
                peer.grouping.on_echo(echo.nonce, echo.size, at);
            }
        }
        self.judge_groups(switch, now);
        self.send_due(switch, now);
        self.publish(switch);
        if self.peers.iter().any(Peer::waits_for_echoes) { ECHO_TICK } else { TICK }
    }

    /// What is known of the path to a VTEP.
    pub(crate) fn of(&self, vtep: VtepId) -> Option<PathState> {
        let search = &self.peers.iter().find(|peer| peer.vtep == vtep)?.search;
        Some(PathState { state: search.state(), mtu: search.mtu(), rtt: search.rtt() })
    }

    /// How the path to each VTEP is.
    pub(crate) fn states(&self) -> impl Iterator<Item = (VtepId, State)> {
        self.peers.iter().map(|peer| (peer.vtep, peer.search.state()))
    }

    fn send_due(&mut self, switch: &Switch, now: Duration) {
        self.budget.earn(now);
        let count = self.peers.len();
        for place in 0..count {
            let index = (self.first + place) % count;
            let peer = &mut self.peers[index];
            let busy = peer.is_busy(switch, now);
            while let Some(due) = peer.search.poll(now, busy, nonce) {
                switch.probe(peer.vtep, Probe { kind: Kind::Request, nonce: due.nonce, size: due.size });
                self.budget.spend(due.size);
            }
            if let State::Up { mtu } = peer.search.state()
                && uses_groups(switch.levels())
                && let Some(due) = peer.grouping.poll(now, mtu, LANES as u64, nonce)
            {
                send_trial(switch, peer.vtep, due);
                (0..2 * grouping::PACKETS).for_each(|_| self.budget.spend(due.size));
            }
            if self.budget.is_spent() {
                self.first = (index + 1) % count;
                return;
            }
        }
    }

    fn judge_groups(&mut self, switch: &Switch, now: Duration) {
        for peer in &mut self.peers {
            if !peer.grouping.judge(now) {
                continue;
            }
            let mut tables = Tables::clone(&switch.tables());
            tables.set_ungrouped(peer.vtep);
            if let Some(row) = tables.vtep(peer.vtep) {
                tracing::warn!(vtep = %row.address, "packets to it leave one by one from now on: {GROUPS_GIVEN_UP}");
            }
            switch.publish(tables);
        }
    }

    fn publish(&self, switch: &Switch) {
        let tables = switch.tables();
        let news: Vec<_> = self
            .peers
            .iter()
            .filter_map(|peer| {
                let proven = pod_mtu(peer.search.mtu()?, peer.overhead).unwrap_or(MIN_IPV4);
                let row = tables.vtep(peer.vtep).filter(|row| row.pod_mtu != proven)?;
                tracing::info!(vtep = %row.address, pod_mtu = proven, was = row.pod_mtu, "path MTU changed");
                Some((peer.vtep, proven))
            })
            .collect();
        if !news.is_empty() {
            let mut tables = Tables::clone(&tables);
            for (vtep, proven) in news {
                tables.set_pod_mtu(vtep, proven);
            }
            switch.publish(tables);
        }
    }
}

impl Budget {
    const fn new() -> Self {
        Self { bits: 0, earned: Duration::ZERO }
    }

    fn earn(&mut self, now: Duration) {
        let bits = |time: Duration| (BUDGET_BITS_PER_SECOND * time.as_micros() as u64 / 1_000_000) as i64;
        self.bits = (self.bits + bits(now.saturating_sub(self.earned))).min(bits(BUDGET_BURST));
        self.earned = now;
    }

    /// Takes a probe whose outer IP packet has so many bytes.
    fn spend(&mut self, size: u16) {
        self.bits -= i64::from(size) * 8;
    }

    const fn is_spent(&self) -> bool {
        self.bits <= 0
    }
}

impl Peer {
    fn new(vtep: VtepId, row: &Vtep, underlay_mtu: u16) -> Self {
        let ipv6 = row.address.is_ipv6();
        let floor = if ipv6 { search::MIN_IPV6 } else { search::MIN_IPV4 };
        Self {
            vtep,
            search: Search::new(floor, underlay_mtu),
            grouping: Grouping::default(),
            overhead: overhead(row.encapsulation, ipv6, 0),
            sent_frames: 0,
            sent_at: None,
        }
    }

    /// Whether frames went to it of late.
    fn is_busy(&mut self, switch: &Switch, now: Duration) -> bool {
        let sent = switch.link_totals(Attachment::Vtep(self.vtep)).tx_frames;
        if sent != self.sent_frames {
            self.sent_frames = sent;
            self.sent_at = Some(now);
        }
        self.sent_at.is_some_and(|at| now - at <= 2 * BUSY_INTERVAL)
    }

    /// Of a peer that does echo, as far as is known.
    fn waits_for_echoes(&self) -> bool {
        self.grouping.is_waiting()
            || match self.search.state() {
                State::Searching | State::Up { .. } | State::BlackHole => self.search.outstanding() > 0,
                State::Unprobed | State::Down => false,
            }
    }
}

/// Whether there is anything that a trial could speak against.
fn uses_groups(levels: &Levels) -> bool {
    levels.uses(Level::Segment) || levels.uses(Level::Uplink)
}

fn send_trial(switch: &Switch, vtep: VtepId, due: Due) {
    let probe = |nonce| Probe { kind: Kind::Request, nonce, size: due.size };
    let group = || switch.probe_group(vtep, due.group.map(probe));
    if due.group_first {
        group();
    }
    due.singles.map(probe).into_iter().for_each(|probe| switch.probe(vtep, probe));
    if !due.group_first {
        group();
    }
}

/// A number that nobody on the way can guess.
pub(crate) fn nonce() -> u64 {
    let mut bytes = [0; 8];
    // A kernel that has no random numbers yet leaves zeros: probes of the first seconds could then be guessed.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of six long probes, as often as there is anything to spend: over ten seconds no more than the budget, what
    /// may be saved up, and one round; and no less than the budget.
    #[test]
    fn probes_take_no_more_than_their_budget() {
        let mut budget = Budget::new();
        let mut bits = 0;
        for tick in 0..=500 {
            budget.earn(tick * ECHO_TICK);
            while !budget.is_spent() {
                for _ in 0..search::MAX_OUTSTANDING {
                    budget.spend(9000);
                    bits += 9000 * 8;
                }
            }
        }
        let round = 9000 * 8 * search::MAX_OUTSTANDING as u64;
        assert!((100_000_000..=105_000_000 + round).contains(&bits), "{bits}");
    }
}
