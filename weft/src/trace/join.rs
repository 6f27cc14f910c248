//! What several nodes tell of one frame, joined.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use weft_api::{IdentityRow, TraceRow};
use weft_switch::trace::{Identity, Place};

/// For how long after the last news of a frame more may come: a tunnel's way and both agents' sockets.
pub(super) const SETTLING: Duration = Duration::from_millis(400);
/// For how long a frame is waited for at most, whatever goes on meeting it, such as segments that TCP sends again.
const LONGEST: Duration = Duration::from_secs(2);
/// Frames that are waited for at one time at most; the oldest is told as it is.
const WAITING: usize = 4096;
/// Rows that wait for others at one time at most, of all frames together; the oldest frame is told as it is.
const WAITING_ROWS: usize = 65_536;

/// What became of one frame, on all nodes that told.
pub(super) struct Timeline {
    pub(super) rows: Vec<TraceRow>,
    /// When the first node saw it, in nanoseconds since 1970.
    pub(super) began_ns: u64,
    parts: Vec<Part>,
    /// Since when it waits.
    since: Duration,
    /// Since when nothing was heard of it.
    quiet_since: Duration,
}

/// What one node calls a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    node: String,
    worker: usize,
    frame: u64,
}

/// A frame of one node, which is the one of its timeline, or a part of it.
struct Part {
    key: Key,
    identity: Option<Identity>,
}

/// Frames of which more may be told.
#[derive(Default)]
pub(super) struct Joiner {
    /// By the order in which they came.
    waiting: BTreeMap<u64, Timeline>,
    /// Of each frame on a node, where it is told of.
    frames: HashMap<Key, u64>,
    /// Of all that wait.
    rows: usize,
    next: u64,
}

impl Timeline {
    /// Whether a frame of a node is this one, or a part of it. What a node tells of twice is two frames, unless
    /// another one saw as many equal packets in one.
    fn takes(&self, node: &str, identity: &Identity) -> bool {
        let known = || self.parts.iter().filter_map(|part| Some((part, part.identity.as_ref()?)));
        if !known().any(|(_, own)| own.meets(identity)) {
            return false;
        }
        // What is sent again may have another identification.
        let looks_like = |own: &Identity| (own.flow, &own.place) == (identity.flow, &identity.place);
        let told = known().filter(|(part, own)| part.key.node == node && looks_like(own)).count();
        let others = known().filter(|(part, _)| part.key.node != node);
        let room = others.map(|(_, own)| usize::from(own.packets)).max().unwrap_or_default().max(1);
        told < room
    }

    /// When it is told, whatever else comes.
    fn due(&self) -> Duration {
        (self.quiet_since + SETTLING).min(self.since + LONGEST)
    }
}

impl Joiner {
    /// Takes what one node tells, at a time of any clock.
    pub(super) fn take(&mut self, row: TraceRow, now: Duration) {
        let key = Key { node: row.node.clone(), worker: row.worker, frame: row.frame };
        let known = self.frames.get(&key).copied();
        let place = known.unwrap_or_else(|| {
            let identity = row.identity.as_ref().and_then(identity);
            let place = identity.as_ref().and_then(|identity| self.nearest(&row, identity)).unwrap_or(self.next);
            self.next = self.next.max(place + 1);
            let timeline = self.waiting.entry(place).or_insert_with(|| Timeline {
                rows: Vec::new(),
                began_ns: u64::MAX,
                parts: Vec::new(),
                since: now,
                quiet_since: now,
            });
            timeline.parts.push(Part { key: key.clone(), identity });
            self.frames.insert(key, place);
            place
        });
        let Some(timeline) = self.waiting.get_mut(&place) else { return };
        timeline.began_ns = timeline.began_ns.min(row.entered_ns);
        timeline.quiet_since = now;
        timeline.rows.push(row);
        self.rows += 1;
    }

    /// Of the frames that this may be one with, that which was seen next to it in time: another may look the same.
    fn nearest(&self, row: &TraceRow, identity: &Identity) -> Option<u64> {
        let likely = self.waiting.iter().filter(|(_, timeline)| timeline.takes(&row.node, identity));
        likely.min_by_key(|(_, timeline)| timeline.began_ns.abs_diff(row.entered_ns)).map(|(place, _)| *place)
    }

    /// The frames that are complete: all is quiet around them, they have waited long enough, or there are too many.
    pub(super) fn settled(&mut self, now: Duration) -> Vec<Timeline> {
        let due = self.waiting.iter().filter(|(_, timeline)| timeline.due() <= now);
        let due: Vec<u64> = due.map(|(place, _)| *place).collect();
        let mut given: Vec<Timeline> = due.into_iter().filter_map(|place| self.give(place)).collect();
        while self.waiting.len() > WAITING || self.rows > WAITING_ROWS {
            let oldest = self.waiting.keys().next().copied();
            given.extend(oldest.and_then(|place| self.give(place)));
        }
        given
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Vec<Timeline> {
        let all: Vec<u64> = self.waiting.keys().copied().collect();
        all.into_iter().filter_map(|place| self.give(place)).collect()
    }

    /// How long until something may be settled.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        self.waiting.values().map(|timeline| timeline.due().saturating_sub(now)).min()
    }

    fn give(&mut self, place: u64) -> Option<Timeline> {
        let mut timeline = self.waiting.remove(&place)?;
        self.rows -= timeline.rows.len();
        for part in &timeline.parts {
            self.frames.remove(&part.key);
        }
        timeline.rows.sort_by_key(|row| row.entered_ns);
        Some(timeline)
    }
}

fn identity(row: &IdentityRow) -> Option<Identity> {
    let digest = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let place = match (row.bytes, row.marks.as_slice()) {
        (Some((from, len, flags)), _) => Place::Bytes { from, len, flags },
        (None, [first, others @ ..]) => Place::Marks { first: *first, others: others.into() },
        (None, []) => return None,
    };
    let (hosts, flow) = (digest(&row.hosts)?, digest(&row.flow)?);
    Some(Identity { hosts, flow, ip_id: row.ip_id, fragment: row.fragment, packets: row.packets, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(node: &str, frame: u64, entered_ns: u64, bytes: (u32, u32)) -> TraceRow {
        let digest = "00000000000000ff".to_owned();
        let bytes = Some((bytes.0, bytes.1, 0));
        let ip_id = Some(frame as u16);
        let identity =
            IdentityRow { hosts: digest.clone(), flow: digest, ip_id, bytes, packets: 1, ..IdentityRow::default() };
        TraceRow { node: node.to_owned(), frame, entered_ns, identity: Some(identity), ..TraceRow::default() }
    }

    #[test]
    fn parts_join_their_superframe_and_others_do_not() {
        let (mut joiner, now) = (Joiner::default(), Duration::from_secs(1));
        joiner.take(row("n2", 1, 30, (0, 1000)), now);
        joiner.take(row("n1", 1, 10, (0, 2000)), now);
        joiner.take(row("n2", 2, 40, (1000, 1000)), now);
        joiner.take(row("n1", 2, 50, (2000, 2000)), now);
        assert!(joiner.settled(now).is_empty(), "more may come");
        assert_eq!(joiner.patience(now), Some(SETTLING));
        let settled = joiner.settled(now + SETTLING);
        let told: Vec<_> =
            settled.iter().map(|timeline| timeline.rows.iter().map(|row| row.entered_ns).collect::<Vec<_>>()).collect();
        assert_eq!(told, [vec![10, 30, 40], vec![50]]);
        assert_eq!(settled[0].began_ns, 10);
    }

    fn times(timelines: &[Timeline]) -> Vec<Vec<u64>> {
        timelines.iter().map(|timeline| timeline.rows.iter().map(|row| row.entered_ns).collect()).collect()
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn frames_that_look_the_same_are_told_one_by_one() {
        let (mut joiner, mut told) = (Joiner::default(), Vec::new());
        for frame in 1..=10 {
            let (at, now) = (frame * 100 * MS, Duration::from_millis(frame * 100));
            // The second node's news may come first.
            let (first, second) = if frame % 2 == 0 { ("n1", "n2") } else { ("n2", "n1") };
            let seen = |node: &str| row(node, frame, if node == "n1" { at } else { at + 1 }, (7, 0));
            joiner.take(seen(first), now);
            joiner.take(seen(second), now);
            told.extend(joiner.settled(now));
            assert!(joiner.waiting.len() <= 4, "{} wait", joiner.waiting.len());
        }
        assert_eq!(told.len(), 6, "those before the last 400 ms");
        told.extend(joiner.rest());
        let pairs: Vec<_> = (1..=10).map(|frame| vec![frame * 100 * MS, frame * 100 * MS + 1]).collect();
        assert_eq!(times(&told), pairs);
        assert!(joiner.frames.is_empty() && joiner.rows == 0);
    }

    #[test]
    fn of_frames_that_look_the_same_the_nearest_is_the_one() {
        let (mut joiner, now) = (Joiner::default(), Duration::from_secs(1));
        for (frame, at) in [(1, 100 * MS), (2, 200 * MS), (3, 300 * MS)] {
            joiner.take(row("n1", frame, at, (7, 0)), now);
        }
        for (frame, at) in [(1, 200 * MS + 5), (2, 100 * MS + 5)] {
            joiner.take(row("n2", frame, at, (7, 0)), now);
        }
        let pairs = [vec![100 * MS, 100 * MS + 5], vec![200 * MS, 200 * MS + 5], vec![300 * MS]];
        assert_eq!(times(&joiner.rest()), pairs);
    }

    #[test]
    fn a_frame_that_goes_on_being_met_is_told_all_the_same() {
        let mut joiner = Joiner::default();
        let mut told = Vec::new();
        // Other parts of the same bytes, from one node: TCP sends them again in other segments.
        for frame in 0..30 {
            let now = Duration::from_millis(frame * 100);
            joiner.take(row("n1", frame, frame * 100 * MS, (0, 1000 + frame as u32)), now);
            assert!(joiner.patience(now).is_some_and(|patience| patience <= SETTLING));
            told.extend(joiner.settled(now));
        }
        let [first] = &told[..] else { panic!("{:?}", times(&told)) };
        assert_eq!(first.rows.len(), 21, "2 s and not more");
    }

    #[test]
    fn one_that_waits_holds_up_no_other() {
        let mut joiner = Joiner::default();
        joiner.take(row("n1", 1, 1, (0, 1000)), Duration::ZERO);
        joiner.take(row("n1", 2, 2, (5000, 1000)), Duration::ZERO);
        joiner.take(row("n2", 1, 3, (0, 1000)), Duration::from_millis(300));
        assert_eq!(times(&joiner.settled(SETTLING)), [vec![2]]);
        assert_eq!(times(&joiner.rest()), [vec![1, 3]]);
    }

    #[test]
    fn equal_datagrams_of_one_superframe_stay_together() {
        let (mut joiner, now) = (Joiner::default(), Duration::from_secs(1));
        let datagrams = |node: &str, frame: u64, packets: usize| {
            let mut row = row(node, frame, frame, (0, 0));
            let identity = row.identity.as_mut().unwrap();
            (identity.bytes, identity.marks, identity.packets) = (None, vec![9; packets], packets as u16);
            row
        };
        joiner.take(datagrams("n1", 1, 3), now);
        for frame in 2..=5 {
            joiner.take(datagrams("n2", frame, 1), now);
        }
        assert_eq!(times(&joiner.rest()), [vec![1, 2, 3, 4], vec![5]], "it had three");
    }

    #[test]
    fn what_waits_is_bounded() {
        let (mut joiner, now) = (Joiner::default(), Duration::from_secs(1));
        for frame in 0..WAITING as u64 + 100 {
            joiner.take(row("n1", frame, frame, (frame as u32 * 10, 10)), now);
        }
        assert_eq!(joiner.settled(now).len(), 100);
        // All the others are rows of one frame.
        for _ in 0..WAITING_ROWS {
            joiner.take(row("n2", 0, 1, (1, 0)), now);
        }
        assert_eq!(joiner.settled(now).len(), WAITING, "the older ones");
        assert_eq!(joiner.rest().len(), 1);
    }

    #[test]
    fn a_copy_joins_its_frame_until_that_is_told() {
        let (mut joiner, now) = (Joiner::default(), Duration::from_secs(1));
        for frame in 1..=3 {
            let unknown = TraceRow { node: "n1".to_owned(), frame, ..TraceRow::default() };
            joiner.take(unknown.clone(), now);
            joiner.take(unknown, now);
        }
        assert_eq!(joiner.rest().iter().map(|timeline| timeline.rows.len()).collect::<Vec<_>>(), [2, 2, 2]);
        joiner.take(TraceRow { node: "n1".to_owned(), frame: 3, ..TraceRow::default() }, now);
        assert_eq!(joiner.rest().len(), 1, "it is told again by itself");
    }
}
