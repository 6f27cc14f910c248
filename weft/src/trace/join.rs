//! What several nodes tell of one frame, joined.

use std::collections::HashMap;
use std::time::Duration;

use weft_api::{IdentityRow, TraceRow};
use weft_switch::trace::{Identity, Place};

/// For how long after the last news of a frame more may come: a tunnel's way and both agents' sockets.
pub(super) const SETTLING: Duration = Duration::from_millis(400);
/// Frames that are waited for at one time at most; the oldest is told as it is.
const WAITING: usize = 4096;

/// What became of one frame, on all nodes that told.
pub(super) struct Timeline {
    pub(super) rows: Vec<TraceRow>,
    /// When the first node saw it, in nanoseconds since 1970.
    pub(super) began_ns: u64,
    identities: Vec<Identity>,
    /// Since when nothing was heard of it.
    quiet_since: Duration,
}

/// Frames of which more may be told.
#[derive(Default)]
pub(super) struct Joiner {
    waiting: Vec<Timeline>,
    /// Of each frame on a node, where it is told of.
    frames: HashMap<(String, usize, u64), usize>,
    told: usize,
}

impl Joiner {
    /// Takes what one node tells, at a time of any clock.
    pub(super) fn take(&mut self, row: TraceRow, now: Duration) {
        let identity = row.identity.as_ref().and_then(identity);
        let key = (row.node.clone(), row.worker, row.frame);
        let known = self.frames.get(&key).and_then(|place| place.checked_sub(self.told));
        let place = known.or_else(|| {
            let identity = identity.as_ref()?;
            // A node tells of one frame once: what comes from it again is another, or another part.
            self.waiting.iter().rposition(|timeline| timeline.identities.iter().any(|own| own.meets(identity)))
        });
        let place = place.unwrap_or_else(|| {
            self.waiting.push(Timeline {
                rows: Vec::new(),
                began_ns: u64::MAX,
                identities: Vec::new(),
                quiet_since: now,
            });
            self.waiting.len() - 1
        });
        let Some(timeline) = self.waiting.get_mut(place) else { return };
        self.frames.insert(key, self.told + place);
        timeline.began_ns = timeline.began_ns.min(row.entered_ns);
        timeline.quiet_since = now;
        timeline.identities.extend(identity.filter(|identity| !timeline.identities.contains(identity)));
        timeline.rows.push(row);
    }

    /// The frames that are complete: all is quiet around them, or there are too many.
    pub(super) fn settled(&mut self, now: Duration) -> Vec<Timeline> {
        let is_quiet = |timeline: &Timeline| timeline.quiet_since + SETTLING <= now;
        let quiet = self.waiting.iter().take_while(|timeline| is_quiet(timeline)).count();
        self.give(quiet.max(self.waiting.len().saturating_sub(WAITING)))
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Vec<Timeline> {
        self.give(self.waiting.len())
    }

    /// How long until something may be settled.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        self.waiting.first().map(|timeline| (timeline.quiet_since + SETTLING).saturating_sub(now))
    }

    fn give(&mut self, count: usize) -> Vec<Timeline> {
        self.told += count;
        let told = self.told;
        self.frames.retain(|_, place| *place >= told);
        let mut given: Vec<Timeline> = self.waiting.drain(..count).collect();
        for timeline in &mut given {
            timeline.rows.sort_by_key(|row| row.entered_ns);
        }
        given
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
        let identity = IdentityRow { hosts: digest.clone(), flow: digest, bytes, packets: 1, ..IdentityRow::default() };
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
