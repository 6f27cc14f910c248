use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Status, Streaming};

use super::{LONGEST_ANSWER, Store, StoreError, within};
use crate::key_range::KeyRange;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb::{Event, KeyValue};
use crate::refusal::Refusal;

/// Until the first new attempt to connect; each that fails doubles it.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Between attempts, at most.
const LAST_RETRY: Duration = Duration::from_secs(3);

/// What was written, one or several revisions at a time and none in part.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The revision up to which all is told. Ahead of the events where nothing else in the range was written.
    pub revision: i64,
    /// In order; empty if only the revision is news.
    pub events: Vec<Event>,
}

/// Why a watch cannot go on: list anew, and watch from there.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WatchEnd {
    /// What would have to be told is gone.
    #[error("the history before revision {at} is compacted")]
    Compacted {
        /// The revision at which what is still there begins.
        at: i64,
    },
    /// See [`StoreError::Replaced`].
    #[error("the store was replaced or restored from a backup")]
    Replaced,
    /// Who watches may not.
    #[error("{0}")]
    Denied(String),
}

/// The changes of a range from one revision on, without gaps, across broken connections.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    range: KeyRange,
    next: i64,
    /// The last write that was listed or told: as long as it is in the store's history, that goes on where it ended.
    last: Option<KeyValue>,
    /// How often the store had been replaced when this began.
    replaced: u64,
    open: Option<Open>,
    retry: Duration,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    endpoint: usize,
    answers: Streaming<WatchResponse>,
    /// The stream ends with it.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Store {
    /// Tells all that is written in a range, from that revision on. To miss nothing, it is the one after that of the
    /// [`Listing`](super::Listing) which it goes on from.
    #[must_use]
    pub fn watch(&self, range: KeyRange, from: i64) -> Watch {
        let replaced = self.state().replaced;
        Watch {
            store: self.clone(),
            range,
            next: from,
            last: None,
            replaced,
            open: None,
            retry: FIRST_RETRY,
            not_before: None,
        }
    }
}

impl Watch {
    /// Goes on from rows that were listed: from one of them it knows that the store is still the one that listed them.
    #[must_use]
    pub fn after(mut self, rows: &[KeyValue]) -> Self {
        self.last = rows.iter().max_by_key(|row| row.mod_revision).map(detached);
        self
    }

    /// What comes next. Waits as long as that takes, and while the store is away; nothing is lost if the wait is given
    /// up.
    ///
    /// # Errors
    /// If it cannot go on.
    pub async fn next(&mut self) -> Result<Batch, WatchEnd> {
        loop {
            if self.store.state().replaced != self.replaced {
                return Err(WatchEnd::Replaced);
            }
            let Some(open) = &mut self.open else {
                self.connect().await?;
                continue;
            };
            match open.answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(batch) = self.take(answer)? {
                        return Ok(batch);
                    }
                }
                Ok(None) => self.broken(&Status::unavailable("the stream ended")),
                Err(status) => self.broken(&status),
            }
        }
    }

    /// Opens the stream, if the store is still the one it was: one that went back would wait in silence until it comes
    /// to the revision that is next here, and what it wrote on the way would be missed. If it has come there already, its
    /// revisions say nothing, and its history does.
    async fn connect(&mut self) -> Result<(), WatchEnd> {
        if let Some(moment) = self.not_before {
            tokio::time::sleep_until(moment).await;
        }
        // One of its own keys: who may read no others is still let in.
        let (key, _) = self.range.to_request();
        let look = RangeRequest { key, count_only: true, ..RangeRequest::default() };
        let opened = match self.store.read(look).await {
            Ok(_) => match self.is_continued().await {
                Ok(true) => self.try_open().await,
                Ok(false) => return Err(WatchEnd::Replaced),
                Err(StoreError::Refused(Refusal::Compacted)) => return Err(WatchEnd::Compacted { at: self.next }),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match opened {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(StoreError::Replaced { .. }) => Err(WatchEnd::Replaced),
            Err(StoreError::Denied(reason)) => Err(WatchEnd::Denied(reason)),
            Err(StoreError::Refused(_) | StoreError::Untrusted { .. } | StoreError::Unavailable { .. }) => {
                self.later();
                Ok(())
            }
        }
    }

    /// Whether the store's history has what was seen of it last. Nothing is opened before that was answered.
    ///
    /// It is looked for in the last revision up to which all was told, where it still was as it was written. As long as
    /// that revision is there, so is all that has to be told; that of the write itself may be long gone, for others
    /// share the store.
    async fn is_continued(&self) -> Result<bool, StoreError> {
        let Some(KeyValue { key, value, mod_revision: at, version, .. }) = &self.last else { return Ok(true) };
        let read = async |revision| {
            let request = RangeRequest { key: key.clone(), revision, ..RangeRequest::default() };
            self.store.read(request).await.map(|answer| answer.kvs.into_iter().next())
        };
        let is_written = |row: Option<KeyValue>| row.is_some_and(|row| row.mod_revision == *at && row.value == *value);
        match read((self.next - 1).max(*at)).await {
            // What was deleted then was there before, if anything is known of before.
            Ok(None) if *version == 0 => match read(at - 1).await {
                Err(StoreError::Refused(Refusal::Compacted)) => Ok(true),
                before => Ok(before?.is_some()),
            },
            Ok(row) => Ok(is_written(row)),
            Err(StoreError::Refused(Refusal::FutureRevision)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn try_open(&self) -> Result<Open, StoreError> {
        let (endpoint, channel) = self.store.channel();
        let (requests, stream) = mpsc::channel(1);
        let (key, range_end) = self.range.to_request();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next,
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        // Before the stream is open: etcd does not say that it is until it was asked for something.
        let asked = requests.try_send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        debug_assert!(asked.is_ok(), "there is room for one");
        let mut request = self.store.authorised(endpoint, &channel, ReceiverStream::new(stream)).await?;
        // A member of etcd that is cut off from the others ends the stream then, and does not keep silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut client = WatchClient::new(channel).max_decoding_message_size(LONGEST_ANSWER);
        let answers = within(client.watch(request)).await.map_err(|status| self.store.judge(endpoint, &status))?;
        Ok(Open { endpoint, answers, _requests: requests })
    }

    fn broken(&mut self, status: &Status) {
        if let Some(open) = self.open.take() {
            // The error says which endpoint is to be asked next, and nothing else that matters here.
            let _ = self.store.judge(open.endpoint, status);
        }
        self.later();
    }

    fn later(&mut self) {
        self.not_before = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(LAST_RETRY);
    }

    /// What an answer says to the caller, if anything.
    fn take(&mut self, answer: WatchResponse) -> Result<Option<Batch>, WatchEnd> {
        if answer.canceled && answer.compact_revision > 0 {
            self.open = None;
            return Err(WatchEnd::Compacted { at: answer.compact_revision });
        } else if answer.canceled {
            if answer.cancel_reason.contains("permission denied") {
                return Err(WatchEnd::Denied(answer.cancel_reason));
            }
            self.store.state().token = None;
            self.broken(&Status::unavailable(answer.cancel_reason));
            return Ok(None);
        } else if answer.created {
            self.retry = FIRST_RETRY;
            return Ok(None);
        }
        let told = answer.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        // A notice of progress: all up to the header's revision was told.
        let revision = told.unwrap_or_else(|| answer.header.unwrap_or_default().revision);
        if revision < self.next {
            return Ok(None);
        }
        self.next = revision + 1;
        if let Some(last) = answer.events.last().and_then(|event| event.kv.as_ref()) {
            self.last = Some(detached(last));
        }
        Ok(Some(Batch { revision, events: answer.events }))
    }
}

/// A copy that does not keep the whole answer in memory that it came in.
fn detached(row: &KeyValue) -> KeyValue {
    KeyValue { key: Bytes::copy_from_slice(&row.key), value: Bytes::copy_from_slice(&row.value), ..row.clone() }
}
