use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::refusal::Refusal;

/// Seconds; who asks for less gets this. etcd's, with its default election timeout.
pub const MIN_TTL: i64 = 2;
/// Seconds; who asks for more is refused. etcd's.
pub const MAX_TTL: i64 = 9_000_000_000;

/// Leases and the keys that go with them. Times are since any fixed moment.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: BTreeMap<i64, Lease>,
    /// When each ends, the next first.
    ends: BTreeSet<(Duration, i64)>,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    end: Duration,
    keys: BTreeSet<Bytes>,
}

/// What is left of a lease.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Remaining {
    pub(crate) granted: i64,
    pub(crate) left: Duration,
    pub(crate) keys: Vec<Bytes>,
}

impl LeaseTable {
    /// Grants a lease and says for how many seconds.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Duration) -> Result<i64, Refusal> {
        if ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        } else if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let ttl = ttl.max(MIN_TTL);
        let end = now + seconds(ttl);
        self.ends.insert((end, id));
        self.leases.insert(id, Lease { ttl, end, keys: BTreeSet::new() });
        Ok(ttl)
    }

    /// Begins its time anew and says how many seconds that are.
    pub(crate) fn renew(&mut self, id: i64, now: Duration) -> Result<i64, Refusal> {
        let lease = self.leases.get_mut(&id).ok_or(Refusal::LeaseNotFound)?;
        self.ends.remove(&(lease.end, id));
        lease.end = now + seconds(lease.ttl);
        self.ends.insert((lease.end, id));
        Ok(lease.ttl)
    }

    /// Forgets it, and hands over its keys.
    pub(crate) fn remove(&mut self, id: i64) -> Result<BTreeSet<Bytes>, Refusal> {
        let lease = self.leases.remove(&id).ok_or(Refusal::LeaseNotFound)?;
        self.ends.remove(&(lease.end, id));
        Ok(lease.keys)
    }

    pub(crate) fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn remaining(&self, id: i64, now: Duration) -> Result<Remaining, Refusal> {
        let lease = self.leases.get(&id).ok_or(Refusal::LeaseNotFound)?;
        let left = lease.end.saturating_sub(now);
        Ok(Remaining { granted: lease.ttl, left, keys: lease.keys.iter().cloned().collect() })
    }

    /// All of them, the one that ends next first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> {
        self.ends.iter().map(|(_, id)| *id)
    }

    /// When the next one ends, and which.
    pub(crate) fn next_end(&self) -> Option<(Duration, i64)> {
        self.ends.first().copied()
    }

    /// Moves a key from one lease to another; 0 is none.
    pub(crate) fn attach(&mut self, key: &Bytes, from: i64, to: i64) {
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }
}

/// TTLs are positive once granted.
fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}
