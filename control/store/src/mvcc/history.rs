use std::collections::BTreeMap;
use std::ops::RangeBounds;

use bytes::Bytes;

use crate::key_range::KeyRange;
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;

/// What the store holds for a version beside its key and value, in memory; estimated: two tree entries.
const VERSION_OVERHEAD: u64 = 200; // bytes

/// Which change of which write: writes count from 2, the changes in one from 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Revision {
    /// Revision of the write, as clients see it, from 2.
    pub main: i64,
    /// Index of the change within the write, from 0.
    pub sub: i64,
}

/// Every version of every key, back to the last compaction.
///
/// A deletion is a version too: one whose `version` is 0, with no value.
#[derive(Debug)]
pub struct History {
    log: BTreeMap<Revision, KeyValue>,
    keys: BTreeMap<Bytes, Vec<Revision>>,
    revision: i64,
    compacted: i64,
    /// Changes of the write that is going on.
    open: i64,
    bytes: u64,
}

impl Default for History {
    fn default() -> Self {
        // As in etcd, the empty store is at revision 1, and -1 has been compacted.
        Self { log: BTreeMap::new(), keys: BTreeMap::new(), revision: 1, compacted: -1, open: 0, bytes: 0 }
    }
}

/// Whether this version says that the key is gone.
pub(crate) fn is_deletion(version: &KeyValue) -> bool {
    version.version == 0
}

fn size(version: &KeyValue) -> u64 {
    (version.key.len() + version.value.len()) as u64 + VERSION_OVERHEAD
}

impl History {
    /// Revision of the last complete write.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Before this revision nothing can be read; -1 if nothing was compacted.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Memory that it takes, in bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The revision that a reader inside the write that is going on sees.
    pub(crate) fn visible(&self) -> i64 {
        self.revision + i64::from(self.open > 0)
    }

    /// The revision to read at, for a request that asks for one (0 or less: for the newest).
    pub(crate) fn readable(&self, asked: i64) -> Result<i64, Refusal> {
        if asked > self.visible() {
            Err(Refusal::FutureRevision)
        } else if asked > 0 && asked < self.compacted {
            Err(Refusal::Compacted)
        } else {
            Ok(if asked > 0 { asked } else { self.visible() })
        }
    }

    /// The key as it was after that write, if it was there.
    #[must_use]
    pub fn get(&self, key: &[u8], at: i64) -> Option<&KeyValue> {
        self.newest(self.keys.get(key)?, at)
    }

    /// All that was there after that write, in the order of keys.
    pub fn range<'a>(&'a self, range: &'a KeyRange, at: i64) -> impl Iterator<Item = &'a KeyValue> {
        let found = range.bounds().map(|bounds| self.keys.range::<[u8], _>(bounds));
        found.into_iter().flatten().filter_map(move |(_, revisions)| self.newest(revisions, at))
    }

    fn newest(&self, revisions: &[Revision], at: i64) -> Option<&KeyValue> {
        let count = revisions.partition_point(|revision| revision.main <= at);
        let version = self.log.get(revisions.get(count.checked_sub(1)?)?)?;
        (!is_deletion(version)).then_some(version)
    }

    /// The version before this one, deletions included.
    pub(crate) fn previous(&self, key: &[u8], before: Revision) -> Option<&KeyValue> {
        let revisions = self.keys.get(key)?;
        let count = revisions.partition_point(|revision| *revision < before);
        self.log.get(revisions.get(count.checked_sub(1)?)?)
    }

    /// All changes in that range of revisions, in their order.
    pub fn changes(&self, range: impl RangeBounds<Revision>) -> impl Iterator<Item = (Revision, &KeyValue)> {
        self.log.range(range).map(|(revision, version)| (*revision, version))
    }

    /// Writes a key, as a part of the write that is going on.
    pub(crate) fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64) {
        let main = self.revision + 1;
        let old = self.get(key, main);
        let (create_revision, version) = old.map_or((main, 1), |old| (old.create_revision, old.version + 1));
        let (key, value) = (self.own_key(key), Bytes::copy_from_slice(value));
        self.append(KeyValue { key, value, create_revision, mod_revision: main, version, lease });
    }

    /// Deletes what is there of a range, as a part of the write that is going on; how many keys that were.
    pub(crate) fn delete(&mut self, range: &KeyRange) -> i64 {
        let keys: Vec<Bytes> = self.range(range, self.visible()).map(|found| found.key.clone()).collect();
        let main = self.revision + 1;
        let deleted = keys.len() as i64;
        for key in keys {
            self.append(KeyValue { key, mod_revision: main, ..KeyValue::default() });
        }
        deleted
    }

    /// A copy that does not hold on to the request it came in; the same one for all versions of a key.
    fn own_key(&self, key: &Bytes) -> Bytes {
        self.keys.get_key_value(key).map_or_else(|| Bytes::copy_from_slice(key), |(key, _)| key.clone())
    }

    fn append(&mut self, version: KeyValue) {
        let revision = Revision { main: self.revision + 1, sub: self.open };
        self.open += 1;
        self.insert(revision, version);
    }

    fn insert(&mut self, revision: Revision, version: KeyValue) {
        self.bytes += size(&version);
        self.keys.entry(version.key.clone()).or_default().push(revision);
        self.log.insert(revision, version);
    }

    /// Ends the write that is going on: what it changed, if anything.
    pub(crate) fn commit(&mut self) -> Vec<(Revision, KeyValue)> {
        if self.open == 0 {
            return Vec::new();
        }
        self.revision += 1;
        self.open = 0;
        let first = Revision { main: self.revision, sub: 0 };
        self.changes(first..).map(|(revision, version)| (revision, version.clone())).collect()
    }

    /// Takes back the write that is going on.
    pub(crate) fn abort(&mut self) {
        while self.open > 0 {
            self.open -= 1;
            self.remove(Revision { main: self.revision + 1, sub: self.open });
        }
    }

    fn remove(&mut self, revision: Revision) {
        let Some(version) = self.log.remove(&revision) else { return };
        self.bytes -= size(&version);
        let Some(revisions) = self.keys.get_mut(&version.key) else { return };
        if let Ok(place) = revisions.binary_search(&revision) {
            revisions.remove(place);
        }
        if revisions.is_empty() {
            self.keys.remove(&version.key);
        } else if revisions.capacity() > 2 * revisions.len() {
            revisions.shrink_to_fit();
        }
    }

    /// Removes what nobody can read any more who reads at `at` or later. A deletion at `at` itself stays: a watcher
    /// that begins there has to see it.
    pub(crate) fn compact(&mut self, at: i64) -> Result<Vec<Revision>, Refusal> {
        if at <= self.compacted {
            return Err(Refusal::Compacted);
        } else if at > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = at;
        let mut removed = Vec::new();
        for (revision, version) in self.changes(..=Revision { main: at, sub: i64::MAX }) {
            let Some(revisions) = self.keys.get(&version.key) else { continue };
            let place = revisions.partition_point(|other| *other <= revision);
            let superseded = revisions.get(place).is_some_and(|next| next.main <= at);
            if superseded || (is_deletion(version) && revision.main < at) {
                removed.push(revision);
            }
        }
        for revision in &removed {
            self.remove(*revision);
        }
        Ok(removed)
    }

    /// The same history again, from what was kept of it; `log` in ascending order.
    pub(crate) fn restore(log: impl IntoIterator<Item = (Revision, KeyValue)>, revision: i64, compacted: i64) -> Self {
        let mut history = Self { revision, compacted, ..Self::default() };
        for (revision, version) in log {
            let key = history.own_key(&version.key);
            history.insert(revision, KeyValue { key, ..version });
            history.revision = history.revision.max(revision.main);
        }
        history
    }
}
