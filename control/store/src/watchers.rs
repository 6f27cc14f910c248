//! Who watches what, and how far each watcher has come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use tokio::runtime;
use tokio::sync::mpsc::{OwnedPermit, Sender};

use crate::engine::{Handle, writes};
use crate::key_range::KeyRange;
use crate::mvcc::{Change, History, Revision, State};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb::event::EventType;
use crate::proto::mvccpb::{Event, KeyValue};

/// Answers that wait for a stream's reader; then its watchers fall back to the history.
pub(crate) const OUTBOX: usize = 64;
/// Writes in one answer to a watcher that catches up. etcd's.
const CATCH_UP: usize = 1000;
/// What is said to all watchers of a stream, or to none that exists.
const NO_WATCHER: i64 = -1;

/// One answer, and whether it may be cut into several.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) response: WatchResponse,
    pub(crate) fragment: bool,
}

pub(crate) type Outbox = Sender<Outgoing>;
pub(crate) type StreamId = u64;

pub(crate) struct Watchers {
    streams: HashMap<StreamId, Stream>,
    /// Of watchers that have come as far as the store.
    synced: BTreeMap<KeyRange, BTreeSet<(StreamId, i64)>>,
    engine: Handle,
    runtime: runtime::Handle,
}

struct Stream {
    outbox: Outbox,
    next_id: i64,
    watchers: BTreeMap<i64, Watcher>,
    /// Somebody waits for room in the outbox.
    waiting: bool,
}

struct Watcher {
    range: KeyRange,
    /// The first revision it has not been told.
    next: i64,
    /// It has come as far as the store, and is listed.
    synced: bool,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    fragment: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    Unwanted,
    /// Nothing was told since the last notice.
    Quiet,
    Busy,
}

impl Watchers {
    pub(crate) fn new(engine: Handle, runtime: runtime::Handle) -> Self {
        Self { streams: HashMap::new(), synced: BTreeMap::new(), engine, runtime }
    }

    pub(crate) fn open(&mut self, id: StreamId, outbox: Outbox) {
        self.streams.insert(id, Stream { outbox, next_id: 0, watchers: BTreeMap::new(), waiting: false });
    }

    pub(crate) fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for (watcher, state) in stream.watchers {
            unlist(&mut self.synced, &state.range, (id, watcher));
        }
    }

    /// Answers a request; the permit is the answer's place in the outbox.
    pub(crate) fn request(
        &mut self,
        state: &State,
        id: StreamId,
        request: WatchRequest,
        permit: OwnedPermit<Outgoing>,
    ) {
        let revision = state.history().revision();
        let answer = |response| {
            permit.send(Outgoing { response, fragment: false });
        };
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => {
                let created = self.create(revision, id, &request);
                let watch_id = created.as_ref().map(|created| created.watch_id).ok();
                answer(created.unwrap_or_else(|reason| WatchResponse {
                    canceled: true,
                    cancel_reason: reason.to_owned(),
                    ..response(revision, NO_WATCHER, true)
                }));
                if watch_id.is_some() {
                    self.resume(state, id, watch_id);
                }
            }
            Some(RequestUnion::CancelRequest(request)) => {
                let Some(stream) = self.streams.get_mut(&id) else { return };
                let Some(watcher) = stream.watchers.remove(&request.watch_id) else { return };
                unlist(&mut self.synced, &watcher.range, (id, request.watch_id));
                answer(WatchResponse { canceled: true, ..response(revision, request.watch_id, false) });
            }
            Some(RequestUnion::ProgressRequest(_)) => answer(response(revision, NO_WATCHER, false)),
            None => {}
        }
    }

    fn create(
        &mut self,
        revision: i64,
        id: StreamId,
        request: &WatchCreateRequest,
    ) -> Result<WatchResponse, &'static str> {
        let empty = "mvcc: watcher range is empty";
        let stream = self.streams.get_mut(&id).ok_or(empty)?;
        // No key at all is the smallest there is.
        let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
        let range = KeyRange::of_request(&key, &request.range_end);
        if range.is_empty() {
            return Err(empty);
        }
        let watch_id = match request.watch_id {
            0 => {
                while stream.watchers.contains_key(&stream.next_id) {
                    stream.next_id += 1;
                }
                stream.next_id += 1;
                stream.next_id - 1
            }
            taken if stream.watchers.contains_key(&taken) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream");
            }
            chosen => chosen,
        };
        let filtered = |filter: FilterType| request.filters().any(|found| found == filter);
        let watcher = Watcher {
            next: if request.start_revision == 0 { revision + 1 } else { request.start_revision },
            synced: false,
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress: if request.progress_notify { Progress::Quiet } else { Progress::Unwanted },
            range,
        };
        stream.watchers.insert(watch_id, watcher);
        Ok(response(revision, watch_id, true))
    }

    /// Tells what was written to all who have come that far.
    pub(crate) fn tell(&mut self, state: &State, changes: &[Change]) {
        for write in writes(changes) {
            let mut told: BTreeMap<(StreamId, i64), Vec<&KeyValue>> = BTreeMap::new();
            for (range, watchers) in &self.synced {
                for version in write.iter().filter(|version| range.contains(&version.key)) {
                    for place in watchers {
                        told.entry(*place).or_default().push(version);
                    }
                }
            }
            for ((id, watch_id), versions) in told {
                let Some(stream) = self.streams.get_mut(&id) else { continue };
                let Some(watcher) = stream.watchers.get_mut(&watch_id) else { continue };
                let revision = versions.first().map_or(0, |version| version.mod_revision);
                if revision < watcher.next {
                    continue;
                }
                let events = watcher.events(state.history(), versions);
                if !events.is_empty() && stream.outbox.try_send(watcher.outgoing(revision, watch_id, events)).is_err() {
                    watcher.next = revision;
                    watcher.synced = false;
                    unlist(&mut self.synced, &watcher.range, (id, watch_id));
                    stream.wait(id, &self.engine, &self.runtime);
                }
            }
        }
    }

    /// Brings the watchers of a stream, or the one that is named, as far as the store is, or as far as there is room.
    fn resume(&mut self, state: &State, id: StreamId, only: Option<i64>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let mut full = false;
        let mut gone = Vec::new();
        let behind = stream.watchers.range_mut(only.unwrap_or(i64::MIN)..=only.unwrap_or(i64::MAX));
        for (watch_id, watcher) in behind.filter(|(_, watcher)| !watcher.synced) {
            match watcher.advance(state.history(), *watch_id, &stream.outbox) {
                Reached::Present => {
                    watcher.synced = true;
                    self.synced.entry(watcher.range.clone()).or_default().insert((id, *watch_id));
                }
                Reached::Full => full = true,
                Reached::Compacted => gone.push(*watch_id),
            }
        }
        for watch_id in gone {
            stream.watchers.remove(&watch_id);
        }
        if full {
            stream.wait(id, &self.engine, &self.runtime);
        }
    }

    /// Tells those who wanted it and heard nothing for a while how far they are.
    pub(crate) fn progress(&mut self, state: &State, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let revision = state.history().revision();
        for (watch_id, watcher) in &mut stream.watchers {
            match watcher.progress {
                Progress::Unwanted => {}
                Progress::Busy => watcher.progress = Progress::Quiet,
                Progress::Quiet if watcher.synced => {
                    let response = response(revision, *watch_id, false);
                    // A full outbox holds events, which say as much.
                    let _ = stream.outbox.try_send(Outgoing { response, fragment: false });
                }
                Progress::Quiet => {}
            }
        }
    }
}

impl Stream {
    /// Lets the watchers go on when the reader has made room.
    fn wait(&mut self, id: StreamId, engine: &Handle, runtime: &runtime::Handle) {
        if std::mem::replace(&mut self.waiting, true) {
            return;
        }
        let (outbox, engine) = (self.outbox.clone(), engine.clone());
        runtime.spawn(async move {
            let room = outbox.reserve_many(OUTBOX / 2).await.is_ok();
            engine.watchers(move |state, watchers| {
                if let Some(stream) = watchers.streams.get_mut(&id).filter(|_| room) {
                    stream.waiting = false;
                    watchers.resume(state, id, None);
                }
            });
        });
    }
}

/// Where a watcher stands after it was told what there was room for.
enum Reached {
    Present,
    Full,
    /// What it wanted next is no longer there; it has been told, and is to be forgotten.
    Compacted,
}

impl Watcher {
    fn advance(&mut self, history: &History, id: i64, outbox: &Outbox) -> Reached {
        while self.next <= history.revision() {
            if self.next < history.compacted() {
                let compact_revision = history.compacted();
                // etcd says no revision here.
                let response = WatchResponse { compact_revision, canceled: true, ..response(0, id, false) };
                let told = outbox.try_send(Outgoing { response, fragment: false }).is_ok();
                return if told { Reached::Compacted } else { Reached::Full };
            }
            let (outgoing, next) = self.catch_up(history, id);
            if outgoing.is_some_and(|outgoing| outbox.try_send(outgoing).is_err()) {
                return Reached::Full;
            }
            self.next = next;
        }
        Reached::Present
    }

    /// What it wants to know of these versions.
    fn events<'a>(&self, history: &History, versions: impl IntoIterator<Item = &'a KeyValue>) -> Vec<Event> {
        let events = versions.into_iter().filter_map(|version| {
            let deletion = version.version == 0;
            if if deletion { !self.deletes } else { !self.puts } {
                return None;
            }
            let before = version.mod_revision - 1;
            let created = version.create_revision == version.mod_revision;
            let readable = self.prev_kv && !created && before >= history.compacted();
            let prev_kv = if readable { history.get(&version.key, before).cloned() } else { None };
            let r#type = if deletion { EventType::Delete } else { EventType::Put };
            Some(Event { r#type: r#type.into(), kv: Some(version.clone()), prev_kv })
        });
        events.collect()
    }

    fn outgoing(&mut self, revision: i64, id: i64, events: Vec<Event>) -> Outgoing {
        if self.progress == Progress::Quiet {
            self.progress = Progress::Busy;
        }
        Outgoing { response: WatchResponse { events, ..response(revision, id, false) }, fragment: self.fragment }
    }

    /// The next answer on the way to the present, if any, and the revision after it.
    fn catch_up(&mut self, history: &History, id: i64) -> (Option<Outgoing>, i64) {
        let first = Revision { main: self.next, sub: 0 };
        let mut versions: Vec<&KeyValue> = Vec::new();
        let (mut writes, mut next) = (0, history.revision() + 1);
        for (revision, version) in history.changes(first..) {
            if !self.range.contains(&version.key) {
                continue;
            }
            if versions.last().is_none_or(|last| last.mod_revision != revision.main) {
                writes += 1;
                if writes > CATCH_UP {
                    next = revision.main;
                    break;
                }
            }
            versions.push(version);
        }
        let events = self.events(history, versions);
        let outgoing = (!events.is_empty()).then(|| self.outgoing(history.revision(), id, events));
        (outgoing, next)
    }
}

fn response(revision: i64, watch_id: i64, created: bool) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    WatchResponse { header, watch_id, created, ..WatchResponse::default() }
}

fn unlist(synced: &mut BTreeMap<KeyRange, BTreeSet<(StreamId, i64)>>, range: &KeyRange, place: (StreamId, i64)) {
    if let Some(all) = synced.get_mut(range) {
        all.remove(&place);
        if all.is_empty() {
            synced.remove(range);
        }
    }
}
