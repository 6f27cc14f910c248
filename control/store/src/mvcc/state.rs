use std::time::Duration;

use crate::key_range::KeyRange;
use crate::mvcc::history::{History, Revision};
use crate::mvcc::lease::LeaseTable;
use crate::mvcc::txn::{self, Path};
use crate::mvcc::{admit, range};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;

/// Versions may take this much memory, as [`History::bytes`] estimates it; then only deletions and compactions are
/// accepted. As much as etcd's default quota on disk.
pub const QUOTA: u64 = 2 << 30; // bytes

/// One thing that has to be written down for the state to be the same after a restart.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A key's new version.
    Version(Revision, KeyValue),
    /// A lease was granted, for so many seconds.
    Granted(i64, i64),
    /// A lease is gone.
    Ended(i64),
    /// Versions were removed, because only those that can be read at `at` and later are kept.
    Compacted {
        /// Before this revision nothing can be read.
        at: i64,
        /// The store's revision, which cannot be read off what is left when all of it was removed.
        revision: i64,
        /// What is to be removed.
        removed: Vec<Revision>,
    },
}

/// The whole store. Every request is one step from one state to the next; `now` is the time since any fixed moment.
#[derive(Debug, Default)]
pub struct State {
    history: History,
    leases: LeaseTable,
    changes: Vec<Change>,
}

/// A header with nothing but the revision: who answers is known outside.
pub(super) fn header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..ResponseHeader::default() }
}

impl State {
    /// The state that these changes led to; `log` in ascending order. All leases begin anew, with their whole time, as
    /// they do in etcd when a leader begins.
    pub fn restore(
        log: impl IntoIterator<Item = (Revision, KeyValue)>,
        leases: impl IntoIterator<Item = (i64, i64)>,
        revision: i64,
        compacted: i64,
        now: Duration,
    ) -> Self {
        let history = History::restore(log, revision, compacted);
        let mut table = LeaseTable::default();
        for (id, ttl) in leases {
            // Nothing can refuse what was granted once.
            let _ = table.grant(id, ttl, now);
        }
        let all = KeyRange::prefix("");
        for found in history.range(&all, history.revision()) {
            table.attach(&found.key, 0, found.lease);
        }
        Self { history, leases: table, changes: Vec::new() }
    }

    /// The versions of all keys.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What changed since this was last called, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(header(self.history.revision()))
    }

    /// Reads.
    ///
    /// # Errors
    /// [`Refusal::EmptyKey`]; [`Refusal::FutureRevision`] and [`Refusal::Compacted`] for a revision that is not there.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        admit::range(request)?;
        range::read(&self.history, request)
    }

    /// Writes one key.
    ///
    /// # Errors
    /// [`Refusal::NoSpace`], [`Refusal::LeaseNotFound`], [`Refusal::KeyNotFound`] where something of the key is to be
    /// kept, and of requests that contradict themselves [`Refusal::EmptyKey`], [`Refusal::ValueProvided`] and
    /// [`Refusal::LeaseProvided`].
    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refusal> {
        admit::put(request)?;
        self.has_space()?;
        // A missing lease is found before a missing key here, and after it in a transaction.
        if request.lease != 0 && !self.leases.contains(request.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        txn::check_put(&self.history, &self.leases, request)?;
        self.write(|history| txn::put(history, request))
    }

    /// Deletes the keys of a range.
    ///
    /// # Errors
    /// [`Refusal::EmptyKey`].
    pub fn delete(&mut self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Refusal> {
        admit::delete(request)?;
        self.write(|history| Ok(txn::delete(history, request)))
    }

    /// Compares, and then does one thing or another, at once.
    ///
    /// # Errors
    /// Those of what it would do, [`Refusal::TooManyOps`] and [`Refusal::DuplicateKey`]; nothing is done then.
    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        admit::txn(request)?;
        if puts(request) {
            self.has_space()?;
        }
        let path = Path::choose(&self.history, request);
        path.check(&self.history, &self.leases)?;
        let mut response = self.write(|history| path.apply(history))?;
        response.header = self.header();
        Ok(response)
    }

    /// Forgets what came before a revision.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] and [`Refusal::FutureRevision`].
    pub fn compact(&mut self, request: &CompactionRequest) -> Result<CompactionResponse, Refusal> {
        let removed = self.history.compact(request.revision)?;
        let revision = self.history.revision();
        self.changes.push(Change::Compacted { at: request.revision, revision, removed });
        Ok(CompactionResponse { header: self.header() })
    }

    /// Grants a lease; its id has to be given.
    ///
    /// # Errors
    /// [`Refusal::NoSpace`], [`Refusal::LeaseTtlTooLarge`] and [`Refusal::LeaseExists`].
    pub fn grant(&mut self, request: &LeaseGrantRequest, now: Duration) -> Result<LeaseGrantResponse, Refusal> {
        self.has_space()?;
        let ttl = self.leases.grant(request.id, request.ttl, now)?;
        self.changes.push(Change::Granted(request.id, ttl));
        Ok(LeaseGrantResponse { header: self.header(), id: request.id, ttl, error: String::new() })
    }

    /// Ends a lease, and deletes its keys in one write.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`].
    pub fn revoke(&mut self, id: i64) -> Result<LeaseRevokeResponse, Refusal> {
        let keys = self.leases.remove(id)?;
        self.changes.push(Change::Ended(id));
        self.write(|history| {
            for key in keys {
                history.delete(&KeyRange::One(key));
            }
            Ok(())
        })?;
        Ok(LeaseRevokeResponse { header: self.header() })
    }

    /// Begins a lease's time anew; the answer's time is 0 if there is no such lease.
    pub fn keep_alive(&mut self, id: i64, now: Duration) -> LeaseKeepAliveResponse {
        let ttl = self.leases.renew(id, now).unwrap_or(0);
        LeaseKeepAliveResponse { header: self.header(), id, ttl }
    }

    /// What is left of a lease, in whole seconds; -1 if there is no such lease.
    #[must_use]
    pub fn time_to_live(&self, request: &LeaseTimeToLiveRequest, now: Duration) -> LeaseTimeToLiveResponse {
        let (header, id) = (self.header(), request.id);
        match self.leases.remaining(id, now) {
            Err(_) => LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() },
            Ok(remaining) => {
                let ttl = i64::try_from(remaining.left.as_secs()).unwrap_or(i64::MAX);
                let keys = if request.keys { remaining.keys } else { Vec::new() };
                LeaseTimeToLiveResponse { header, id, ttl, granted_ttl: remaining.granted, keys }
            }
        }
    }

    /// All leases, the one that ends next first.
    #[must_use]
    pub fn leases(&self) -> LeaseLeasesResponse {
        let leases = self.leases.ids().map(|id| LeaseStatus { id });
        LeaseLeasesResponse { header: self.header(), leases: leases.collect() }
    }

    /// When the next lease ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Duration> {
        self.leases.next_end().map(|(end, _)| end)
    }

    /// Ends every lease whose time is over: one write each.
    pub fn expire(&mut self, now: Duration) {
        while let Some((_, id)) = self.leases.next_end().filter(|(end, _)| *end <= now) {
            let ended = self.revoke(id);
            debug_assert!(ended.is_ok(), "the table named it");
        }
    }

    /// One write: all of what it does or nothing.
    fn write<T>(&mut self, work: impl FnOnce(&mut History) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let done = work(&mut self.history).inspect_err(|_| self.history.abort())?;
        for (revision, version) in self.history.commit() {
            let old = self.history.previous(&version.key, revision).map_or(0, |old| old.lease);
            self.leases.attach(&version.key, old, version.lease);
            self.changes.push(Change::Version(revision, version));
        }
        Ok(done)
    }

    /// Whether nothing more may be put.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.history.bytes() >= QUOTA
    }

    fn has_space(&self) -> Result<(), Refusal> {
        if self.is_full() { Err(Refusal::NoSpace) } else { Ok(()) }
    }
}

/// Whether it could write, in whichever branch.
fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|operation| match &operation.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}
