//! Which other nodes forward by the store's rows up to a revision: who is asked when, and what is made of the replies. Pure,
//! but for the clock that is handed in (docs/adr/0021-revisions-by-the-data-plane.md).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_bridge::VtepId;

/// Between two rounds, while anybody is asked.
pub(super) const ROUND: Duration = Duration::from_millis(2);
/// Nodes asked in one round at most: with [`ROUND`], 10 Mbit/s of requests with all their headers.
const ASKED_AT_ONCE: usize = 25;
/// After how long a node is asked again that had not come so far.
const AGAIN: Duration = Duration::from_millis(4);
/// After how long a request counts as lost.
const LOST: Duration = Duration::from_millis(100);
/// For how long a node may leave requests without any reply, and how many, and still count as up.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
const UNANSWERED: u32 = 4;

/// Nodes that are asked.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    peers: BTreeMap<VtepId, Peer>,
    /// Who was asked last, so that a round that is full goes on there.
    last: Option<VtepId>,
}

#[derive(Debug)]
struct Peer {
    /// Of all requests to it: a late reply to one says no more than was so.
    nonce: u64,
    /// What somebody waits for.
    wanted: i64,
    /// What it said last.
    revision: i64,
    asked: Option<Instant>,
    heard: Option<Instant>,
    /// Requests since it was heard last, and when the first of them was made.
    unanswered: u32,
    unanswered_since: Option<Instant>,
    /// It is not up any more, by what else is known.
    gone: bool,
}

/// How a node stands to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It forwards by it.
    Known,
    /// It does not count: it went, or is silent.
    Gone,
    /// Not yet.
    NotYet,
}

impl Inquiry {
    /// Whether anybody is asked.
    pub(super) fn is_open(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Somebody waits until this node forwards by that revision. `nonce`: for one that was not asked before.
    pub(super) fn want(&mut self, vtep: VtepId, revision: i64, nonce: impl FnOnce() -> u64) {
        let peer = self.peers.entry(vtep).or_insert_with(|| Peer {
            nonce: nonce(),
            wanted: revision,
            revision: 0,
            asked: None,
            heard: None,
            unanswered: 0,
            unanswered_since: None,
            gone: false,
        });
        peer.wanted = peer.wanted.max(revision);
    }

    /// Nobody waits any more.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// A node has replied.
    pub(super) fn hear(&mut self, vtep: VtepId, nonce: u64, revision: i64, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&vtep).filter(|peer| peer.nonce == nonce) {
            peer.revision = peer.revision.max(revision);
            peer.heard = Some(now);
            (peer.unanswered, peer.unanswered_since) = (0, None);
        }
    }

    /// Only these nodes are up, by what is known of paths and leases.
    pub(super) fn look(&mut self, up: &BTreeSet<VtepId>) {
        for (vtep, peer) in &mut self.peers {
            peer.gone |= !up.contains(vtep);
        }
    }

    /// How a node stands to a revision.
    pub(super) fn answered(&self, vtep: VtepId, revision: i64, now: Instant) -> Answered {
        match self.peers.get(&vtep) {
            Some(peer) if peer.revision >= revision => Answered::Known,
            Some(peer) if !peer.gone && !peer.is_silent(now) => Answered::NotYet,
            _ => Answered::Gone,
        }
    }

    /// Who is to be asked now, with the nonce.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(VtepId, u64)> {
        let last = self.last;
        let is_later = |vtep: &VtepId| last.is_some_and(|last| *vtep > last);
        let due = |peer: &Peer| !peer.gone && peer.is_due(now);
        let ready: Vec<VtepId> = self.peers.iter().filter(|(_, peer)| due(peer)).map(|(vtep, _)| *vtep).collect();
        let (later, earlier): (Vec<_>, Vec<_>) = ready.into_iter().partition(is_later);
        let mut asked = Vec::new();
        for vtep in later.into_iter().chain(earlier).take(ASKED_AT_ONCE) {
            let Some(peer) = self.peers.get_mut(&vtep) else { continue };
            peer.asked = Some(now);
            peer.unanswered += 1;
            peer.unanswered_since.get_or_insert(now);
            asked.push((vtep, peer.nonce));
            self.last = Some(vtep);
        }
        asked
    }
}

impl Peer {
    fn is_silent(&self, now: Instant) -> bool {
        let silent = |since| now.saturating_duration_since(since) >= SILENCE;
        self.unanswered >= UNANSWERED && self.unanswered_since.is_some_and(silent)
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some(asked) = self.asked else { return true };
        let pause = if self.heard >= self.asked { AGAIN } else { LOST };
        self.revision < self.wanted && now.saturating_duration_since(asked) >= pause
    }
}

#[cfg(test)]
mod tests {
    use weft_bridge::Tables;
    use weft_bridge::tables::{Vtep, VtepKind};
    use weft_encap::Encapsulation;

    use super::*;

    fn vteps(count: u8) -> Vec<VtepId> {
        let mut tables = Tables::new(vec!["192.0.2.1".parse().unwrap()], vec![4789]);
        let row = |number: u8| Vtep {
            address: [198, 51, 100, number].into(),
            udp_port: 4789,
            encapsulation: Encapsulation::Vxlan,
            kind: VtepKind::Managed,
            pod_mtu: 1450,
        };
        (0..count).map(|number| tables.add_vtep(row(number), &[]).unwrap()).collect()
    }

    /// Rounds from `now` on, in which nodes reply what `says` has of them; when it is known or gone of all.
    fn settled(
        inquiry: &mut Inquiry,
        vteps: &[VtepId],
        revision: i64,
        now: &mut Instant,
        says: impl Fn(usize, Duration) -> Option<i64>,
    ) -> (Duration, Vec<Answered>, usize) {
        let (began, mut requests) = (*now, 0);
        while *now - began < SILENCE * 5 {
            let answers: Vec<_> = vteps.iter().map(|vtep| inquiry.answered(*vtep, revision, *now)).collect();
            if !answers.contains(&Answered::NotYet) {
                return (*now - began, answers, requests);
            }
            for (vtep, nonce) in inquiry.due(*now) {
                requests += 1;
                let place = vteps.iter().position(|one| *one == vtep).unwrap();
                if let Some(revision) = says(place, *now - began) {
                    inquiry.hear(vtep, nonce, revision, *now);
                }
            }
            *now += ROUND;
        }
        panic!("nothing is settled: {inquiry:?}");
    }

    fn opened(vteps: &[VtepId], revision: i64) -> Inquiry {
        let mut inquiry = Inquiry::default();
        vteps.iter().enumerate().for_each(|(place, vtep)| inquiry.want(*vtep, revision, || 100 + place as u64));
        inquiry
    }

    #[test]
    fn who_has_not_come_so_far_is_asked_again_until_he_has() {
        let (vteps, mut now) = (vteps(3), Instant::now());
        let mut inquiry = opened(&vteps, 9);
        let says = |place: usize, passed: Duration| Some(if passed >= 20 * ROUND * place as u32 { 9 } else { 8 });
        let (took, answers, requests) = settled(&mut inquiry, &vteps, 9, &mut now, says);
        assert_eq!(answers, [Answered::Known; 3]);
        assert!((40 * ROUND..=40 * ROUND + 2 * AGAIN).contains(&took), "{took:?}");
        assert!((20..=40).contains(&requests), "{requests}");
        assert!(inquiry.due(now + SILENCE).is_empty(), "who has answered is left alone");
        // Long after that somebody wants more of those who have been left alone.
        now += SILENCE * 10;
        vteps.iter().for_each(|vtep| inquiry.want(*vtep, 10, || 0));
        assert_eq!(inquiry.answered(vteps[0], 9, now), Answered::Known);
        let (took, answers, _) = settled(&mut inquiry, &vteps, 10, &mut now, |_, _| Some(10));
        assert_eq!((took, answers), (ROUND, vec![Answered::Known; 3]), "nobody counts as silent who was not asked");
    }

    #[test]
    fn who_is_silent_or_goes_is_not_waited_for_and_lost_requests_are_made_again() {
        let (vteps, mut now) = (vteps(4), Instant::now());
        let mut inquiry = opened(&vteps, 9);
        inquiry.look(&vteps[..3].iter().copied().collect());
        // One loses what is said for a while, one is dead, and one is not up.
        let says = |place: usize, passed: Duration| match place {
            0 => Some(9),
            1 => (passed > LOST * 3).then_some(9),
            _ => None,
        };
        let (took, answers, requests) = settled(&mut inquiry, &vteps, 9, &mut now, says);
        assert_eq!(answers, [Answered::Known, Answered::Known, Answered::Gone, Answered::Gone]);
        assert!((SILENCE..SILENCE + 2 * ROUND).contains(&took), "{took:?}");
        assert!((10..=20).contains(&requests), "{requests}");
    }

    #[test]
    fn replies_of_others_and_of_before_say_nothing() {
        let (vteps, now) = (vteps(2), Instant::now());
        let mut inquiry = opened(&vteps, 9);
        let asked = inquiry.due(now);
        inquiry.hear(vteps[0], asked[1].1, 9, now);
        assert_eq!(inquiry.answered(vteps[0], 9, now), Answered::NotYet, "it is not the nonce of its request");
        inquiry.hear(vteps[0], asked[0].1, 9, now);
        inquiry.hear(vteps[0], asked[0].1, 8, now);
        assert_eq!(inquiry.answered(vteps[0], 9, now), Answered::Known, "a late reply takes nothing back");
        inquiry.close();
        assert!(!inquiry.is_open() && inquiry.due(now).is_empty());
        assert_eq!(inquiry.answered(vteps[0], 1, now), Answered::Gone);
    }

    #[test]
    fn rounds_are_bounded_and_each_node_gets_its_turn() {
        let (vteps, mut now) = (vteps(200), Instant::now());
        let mut inquiry = opened(&vteps, 9);
        let mut asked = BTreeSet::new();
        for _ in 0..200 / ASKED_AT_ONCE {
            let round = inquiry.due(now);
            assert_eq!(round.len(), ASKED_AT_ONCE);
            // Those of the first rounds want to be asked again already.
            round.iter().for_each(|(vtep, nonce)| inquiry.hear(*vtep, *nonce, 8, now));
            asked.extend(round.into_iter().map(|(vtep, _)| vtep));
            now += ROUND;
        }
        assert_eq!(asked.len(), 200);
    }
}
