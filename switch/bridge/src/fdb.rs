//! The learned forwarding table, shared by all workers.
//!
//! Theory of operation. A key is a bridge domain (16 bits) and a MAC (48 bits); it may stand in either of
//! two buckets of eight slots. A slot is two words: the key, and a value of attachment, age stamp and
//! version. A value without attachment is vacant, whatever its key says.
//!
//! Readers never wait and never write, but for one stamp a second at most: they load value, key, value,
//! and believe what they saw if both values have the same version and attachment. Whoever removes an entry
//! makes its value vacant under the next version. Only a vacant slot is given to another key: first the key
//! is stored, then the value. So a reader who met the slot in between sees two values that differ and takes
//! it for a miss, and a miss only floods.
//!
//! Writers do not wait either. One at a time may add, move or remove, while stamps come from everybody; a
//! learn that meets another writer is given up, and the flow's next frame offers it again. Everything is
//! bounded: the table, the entries behind one port, and how often a MAC may move.

use weft_encap::MacAddr;

use crate::id::Attachment;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::tables::{DomainId, MAX_PORTS, MAX_VTEPS};

/// Slots in a bucket: their keys fill one cache line. Two are enough to be model-checked.
const BUCKET_SLOTS: usize = if cfg!(loom) { 2 } else { 8 };
/// Seconds for which a MAC that moved stays where it is.
pub const FLAP_HOLD_SECONDS: u32 = 2;

const VERSION_BITS: u32 = 12;
const STAMP_BITS: u32 = 20;
const VERSION_MASK: u64 = (1 << VERSION_BITS) - 1;
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;
/// Ages are told apart up to this many seconds, 12 days.
pub const MAX_AGE_SECONDS: u32 = STAMP_MASK as u32;

/// Seconds on a clock that the caller moves; only differences count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u32);

/// What the table knows of a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it was seen.
    pub attachment: Attachment,
    stamp: u32,
}

impl Entry {
    /// Seconds since it was last seen.
    #[must_use]
    pub fn age(self, now: Seconds) -> u32 {
        now.0.wrapping_sub(self.stamp) & MAX_AGE_SECONDS
    }
}

/// One row of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The domain.
    pub domain: DomainId,
    /// The MAC.
    pub mac: MacAddr,
    /// Where it was seen.
    pub attachment: Attachment,
    /// Seconds since it was last seen.
    pub age: u32,
}

/// Something new about a frame's source, to be applied with [`Fdb::learn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learn {
    /// The domain.
    pub domain: DomainId,
    /// The frame's source.
    pub mac: MacAddr,
    /// Where the frame entered.
    pub attachment: Attachment,
    /// Entries behind this attachment at most, 0 for none.
    pub limit: u32,
}

/// What became of a [`Learn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// A new entry.
    New,
    /// The entry is there and was stamped.
    Refreshed,
    /// The entry has another attachment now.
    Moved,
    /// Refused: it moved less than [`FLAP_HOLD_SECONDS`] ago.
    Damped,
    /// Refused: too many entries behind this attachment.
    LimitReached,
    /// Refused: the table, or both buckets of this key, are full.
    Full,
    /// Not tried: another worker is writing. The next frame brings it again.
    Busy,
}

#[repr(align(64))]
struct Bucket {
    keys: [AtomicU64; BUCKET_SLOTS],
    values: [AtomicU64; BUCKET_SLOTS],
    moved: [AtomicU32; BUCKET_SLOTS],
}

/// The table.
pub struct Fdb {
    buckets: Box<[Bucket]>,
    capacity: u32,
    writing: AtomicBool,
    len: AtomicU32,
    behind_ports: Box<[AtomicU32]>,
    behind_vteps: Box<[AtomicU32]>,
}

#[derive(Clone, Copy)]
struct Value(u64);

impl Value {
    fn new(attachment: Attachment, now: Seconds, version: u64) -> Self {
        let stamp = u64::from(now.0) & STAMP_MASK;
        Self(u64::from(attachment.to_bits()) << 32 | stamp << VERSION_BITS | version & VERSION_MASK)
    }

    fn vacant(version: u64) -> Self {
        Self(version & VERSION_MASK)
    }

    fn attachment(self) -> Option<Attachment> {
        let bits = (self.0 >> 32) as u32;
        (bits != 0).then(|| Attachment::from_bits(bits))
    }

    fn version(self) -> u64 {
        self.0 & VERSION_MASK
    }

    fn entry(self) -> Option<Entry> {
        let stamp = (self.0 >> VERSION_BITS & STAMP_MASK) as u32;
        self.attachment().map(|attachment| Entry { attachment, stamp })
    }

    fn same_but_stamp(self, other: Self) -> bool {
        (self.0 ^ other.0) & !(STAMP_MASK << VERSION_BITS) == 0
    }
}

impl Bucket {
    fn new() -> Self {
        Self {
            keys: std::array::from_fn(|_| AtomicU64::new(0)),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            moved: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    #[inline]
    fn find(&self, key: u64) -> Option<(usize, Value)> {
        (0..BUCKET_SLOTS).find_map(|slot| {
            if self.keys[slot].load(Ordering::Relaxed) != key {
                return None;
            }
            let (seen, value) = self.read(slot)?;
            (seen == key).then_some((slot, value))
        })
    }

    /// Key and value that belong together; none of a slot that is vacant or just changing.
    #[inline]
    fn read(&self, slot: usize) -> Option<(u64, Value)> {
        let before = self.value(slot);
        let key = self.keys[slot].load(Ordering::Acquire);
        let after = self.value(slot);
        (before.same_but_stamp(after) && after.attachment().is_some()).then_some((key, after))
    }

    #[inline]
    fn value(&self, slot: usize) -> Value {
        Value(self.values[slot].load(Ordering::Acquire))
    }

    /// Changes a value unless another change came first, which is returned then. Two threads meet at a value
    /// only so: a plain store could undo a stamp, or a removal, that its writer has not seen.
    fn replace(&self, slot: usize, old: Value, new: Value) -> Result<(), Value> {
        let result = self.values[slot].compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire);
        result.map(|_| ()).map_err(Value)
    }

    fn vacant_slots(&self) -> impl Iterator<Item = usize> {
        (0..BUCKET_SLOTS).filter(|slot| self.value(*slot).attachment().is_none())
    }
}

/// Held while keys change; gives the right to write back on drop.
struct Writing<'a>(&'a AtomicBool);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Fdb {
    /// A table for `capacity` entries, which the configuration holds to 64 to 1,048,576, with a quarter more slots at least, so that two full buckets of a
    /// key stay rare. Memory: 192 bytes for each eight slots.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self::with_limits(capacity, MAX_PORTS, MAX_VTEPS)
    }

    fn with_limits(capacity: u32, ports: usize, vteps: usize) -> Self {
        let slots = (capacity as usize + capacity as usize / 4).next_power_of_two().max(2 * BUCKET_SLOTS);
        let zeros = |len| (0..len).map(|_| AtomicU32::new(0)).collect();
        Self {
            buckets: (0..slots / BUCKET_SLOTS).map(|_| Bucket::new()).collect(),
            capacity,
            writing: AtomicBool::new(false),
            len: AtomicU32::new(0),
            behind_ports: zeros(ports),
            behind_vteps: zeros(vteps),
        }
    }

    /// Entries in it.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that it takes.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Entries behind one port or VTEP.
    #[must_use]
    pub fn len_behind(&self, attachment: Attachment) -> u32 {
        self.behind(attachment).load(Ordering::Relaxed)
    }

    /// Where a MAC was seen last. Ageing is [`Self::sweep`]'s: what it has not removed is found.
    #[must_use]
    #[inline]
    pub fn lookup(&self, domain: DomainId, mac: MacAddr) -> Option<Entry> {
        let key = key(domain, mac);
        self.buckets_of(key).into_iter().find_map(|bucket| bucket.find(key)?.1.entry())
    }

    /// Applies what `forward` found new.
    pub fn learn(&self, learn: &Learn, now: Seconds) -> Learned {
        let key = key(learn.domain, learn.mac);
        for bucket in self.buckets_of(key) {
            if let Some((slot, value)) = bucket.find(key) {
                if value.attachment() == Some(learn.attachment) {
                    let stamped = Value::new(learn.attachment, now, value.version());
                    return match bucket.replace(slot, value, stamped) {
                        Ok(()) => Learned::Refreshed,
                        // Another worker's stamp is as good as ours; anything else took the entry away.
                        Err(seen) if seen.same_but_stamp(value) => Learned::Refreshed,
                        Err(_) => Learned::Busy,
                    };
                }
                return self.relocate(bucket, slot, key, learn, now);
            }
        }
        self.insert(key, learn, now)
    }

    /// Forgets what was silent for `ageing` seconds or more. Returns how many.
    pub fn sweep(&self, now: Seconds, ageing: u32) -> u32 {
        self.remove_if(|entry| entry.age(now) >= ageing)
    }

    /// Forgets all behind one port or VTEP. Returns how many.
    pub fn purge(&self, attachment: Attachment) -> u32 {
        self.remove_if(|entry| entry.attachment == attachment)
    }

    /// Forgets one entry. Returns whether it was there.
    pub fn forget(&self, domain: DomainId, mac: MacAddr) -> bool {
        let key = key(domain, mac);
        let _writing = self.write();
        self.buckets_of(key).into_iter().any(|bucket| {
            // Again after each stamp that came between.
            while let Some((slot, value)) = bucket.find(key) {
                if self.vacate(bucket, slot, value) {
                    return true;
                }
            }
            false
        })
    }

    /// All entries, in no order; each is consistent, the listing as a whole is not.
    pub fn rows(&self, now: Seconds) -> impl Iterator<Item = Row> {
        self.buckets.iter().flat_map(move |bucket| {
            (0..BUCKET_SLOTS).filter_map(move |slot| {
                let (key, value) = bucket.read(slot)?;
                let entry = value.entry()?;
                let domain = DomainId((key >> 48) as u16);
                Some(Row { domain, mac: MacAddr::from_u64(key), attachment: entry.attachment, age: entry.age(now) })
            })
        })
    }

    fn relocate(&self, bucket: &Bucket, slot: usize, key: u64, learn: &Learn, now: Seconds) -> Learned {
        let Some(_writing) = self.try_write() else { return Learned::Busy };
        let value = bucket.value(slot);
        let Some(old) = value.attachment() else { return Learned::Busy };
        if bucket.keys[slot].load(Ordering::Relaxed) != key || old == learn.attachment {
            return Learned::Busy;
        }
        let moved_at = bucket.moved[slot].load(Ordering::Relaxed);
        if moved_at != 0 && now.0.wrapping_sub(moved_at) < FLAP_HOLD_SECONDS {
            return Learned::Damped;
        }
        if self.len_behind(learn.attachment) >= learn.limit {
            return Learned::LimitReached;
        }
        let moved = Value::new(learn.attachment, now, value.version() + 1);
        if bucket.replace(slot, value, moved).is_err() {
            return Learned::Busy;
        }
        bucket.moved[slot].store(now.0.max(1), Ordering::Relaxed);
        self.count(old, -1);
        self.count(learn.attachment, 1);
        Learned::Moved
    }

    fn insert(&self, key: u64, learn: &Learn, now: Seconds) -> Learned {
        let Some(_writing) = self.try_write() else { return Learned::Busy };
        let buckets = self.buckets_of(key);
        if buckets.iter().any(|bucket| bucket.find(key).is_some()) {
            return Learned::Busy;
        }
        if self.len() >= self.capacity {
            return Learned::Full;
        }
        if self.len_behind(learn.attachment) >= learn.limit {
            return Learned::LimitReached;
        }
        let [first, second] = buckets;
        let emptier = if second.vacant_slots().count() > first.vacant_slots().count() { second } else { first };
        let Some(slot) = emptier.vacant_slots().next() else { return Learned::Full };
        let version = emptier.value(slot).version();
        emptier.keys[slot].store(key, Ordering::Release);
        emptier.moved[slot].store(0, Ordering::Relaxed);
        emptier.values[slot].store(Value::new(learn.attachment, now, version).0, Ordering::Release);
        self.len.fetch_add(1, Ordering::Relaxed);
        self.count(learn.attachment, 1);
        Learned::New
    }

    fn remove_if(&self, condition: impl Fn(Entry) -> bool) -> u32 {
        let mut removed = 0;
        for bucket in &self.buckets {
            let doomed = |slot: usize| {
                let value = bucket.value(slot);
                condition(value.entry()?).then_some(value)
            };
            if (0..BUCKET_SLOTS).all(|slot| doomed(slot).is_none()) {
                continue;
            }
            let _writing = self.write();
            for slot in 0..BUCKET_SLOTS {
                // Again after each stamp that came between: there is one a second and worker at most.
                while let Some(value) = doomed(slot) {
                    removed += u32::from(self.vacate(bucket, slot, value));
                }
            }
        }
        removed
    }

    /// Takes an entry away, by whoever holds the right to write, unless it was stamped in between.
    fn vacate(&self, bucket: &Bucket, slot: usize, value: Value) -> bool {
        let vacated = bucket.replace(slot, value, Value::vacant(value.version() + 1)).is_ok();
        if vacated {
            self.len.fetch_sub(1, Ordering::Relaxed);
            value.attachment().inspect(|attachment| self.count(*attachment, -1));
        }
        vacated
    }

    fn try_write(&self) -> Option<Writing<'_>> {
        let free = self.writing.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        free.is_ok().then_some(Writing(&self.writing))
    }

    /// For the control side, which may wait: workers hold the right for some nanoseconds.
    fn write(&self) -> Writing<'_> {
        loop {
            if let Some(writing) = self.try_write() {
                return writing;
            }
            crate::sync::yield_now();
        }
    }

    fn behind(&self, attachment: Attachment) -> &AtomicU32 {
        match attachment {
            Attachment::Port(id) => &self.behind_ports[id.index()],
            Attachment::Vtep(id) => &self.behind_vteps[id.index()],
        }
    }

    fn count(&self, attachment: Attachment, change: i32) {
        self.behind(attachment).fetch_add(change as u32, Ordering::Relaxed);
    }

    #[inline]
    fn buckets_of(&self, key: u64) -> [&Bucket; 2] {
        let hash = mix(key);
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 32) as usize & mask;
        let second = if first == second { first ^ 1 } else { second };
        [&self.buckets[first], &self.buckets[second]]
    }
}

impl std::fmt::Debug for Fdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fdb").field("len", &self.len()).field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

fn key(domain: DomainId, mac: MacAddr) -> u64 {
    u64::from(domain.0) << 48 | mac.to_u64()
}

/// Spreads neighbouring MACs over all 64 bits by folding a full product. Unseeded: what a flood of
/// chosen MACs can fill is bounded by the limits behind each attachment.
#[inline]
fn mix(key: u64) -> u64 {
    let product = u128::from(key ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xd6e8_feb8_6659_fd93_u64);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
#[cfg(loom)]
mod model;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
