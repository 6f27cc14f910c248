//! The control plane's seam to its store: a few requests, leases and watches, over etcd or `weft store` alike.
//!
//! What a caller has to know:
//!
//! * A write whose answer did not come may have been done: [`StoreError::Unavailable`] says neither. Read, and decide
//!   again; conditions on revisions make that safe.
//! * A watch goes on by itself when the connection breaks. It ends when what it would have to tell is compacted, and when
//!   the store is another one or went back: then list anew, and watch from there.

mod access;
mod lease;
mod txn;
mod watch;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::key_range::KeyRange;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::{
    AuthenticateRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;
use crate::tls;

pub use access::{Access, AccessError, ClientTls, User};
pub use lease::Lease;
pub use txn::{Committed, Condition, Operation};
pub use watch::{Batch, Watch, WatchEnd};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Rows that are read at once; longer ranges are read in several parts, all of one revision. Each part costs the store
/// a look at all rows that are left, because it counts them.
const PAGE: i64 = 5000;
/// Answers may be as long as etcd makes them.
const LONGEST_ANSWER: usize = i32::MAX as usize; // bytes

/// What etcd says to a token that is older than the last change of any user or role (`api/v3rpc/rpctypes/error.go`).
const OLD_USERS: &str = "etcdserver: revision of auth store is old";

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The store will not do it, now or later.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is another store, or one from a backup: told once, and from then on the new one is what counts. All that was
    /// read is void, and what was written may be gone: list anew, and publish again.
    #[error("the store is not what it was: {was}, now {now}: it was replaced or restored from a backup")]
    Replaced {
        /// What was seen last.
        was: Seen,
        /// What answers now.
        now: Seen,
    },
    /// Who asks may not.
    #[error("{0}: look at the user, the password and the certificate, and at what the store lets them do")]
    Denied(String),
    /// Certificates do not fit; nothing was asked.
    #[error("{endpoint}: {reason}")]
    Untrusted {
        /// Who was asked.
        endpoint: String,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// No answer; a write may have been done or not.
    #[error("no answer from {endpoint}: {reason}: look whether the store runs there and can be reached")]
    Unavailable {
        /// Who was asked.
        endpoint: String,
        /// The transport's answer.
        reason: String,
    },
}

/// A moment of a store.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Id of the store's cluster, as its answers have it.
    pub cluster: u64,
    /// The revision up to which it was.
    pub revision: i64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "revision {} of cluster {:x}", self.revision, self.cluster)
    }
}

/// A range as it was at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The revision of it all: watch from the next one to see what happens afterwards.
    pub revision: i64,
    /// In the order of keys.
    pub rows: Vec<KeyValue>,
}

/// A store, through any of its endpoints. Copies share connections and what was seen.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channels: Vec<(String, Channel)>,
    user: Option<User>,
    state: Mutex<Shifting>,
}

/// What changes while a store is used.
#[derive(Debug, Default)]
struct Shifting {
    /// Which endpoint is asked.
    endpoint: usize,
    token: Option<MetadataValue<Ascii>>,
    seen: Seen,
    /// How often the store turned out to be another one.
    replaced: u64,
}

impl Store {
    /// A store that is connected to when it is first asked. Has to be called inside a runtime.
    ///
    /// # Errors
    /// If an endpoint is no address, or the certificates are none.
    pub fn new(access: Access) -> Result<Self, AccessError> {
        let channels = access.channels()?;
        Ok(Self { shared: Arc::new(Shared { channels, user: access.user, state: Mutex::default() }) })
    }

    /// What is there, or was there after revision `at`.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if that revision is gone, and as every request.
    pub async fn get(&self, range: &KeyRange, at: Option<i64>) -> Result<Listing, StoreError> {
        let mut rows = Vec::new();
        let revision = self.get_in_parts(range, at, |part| rows.extend(part)).await?;
        Ok(Listing { revision, rows })
    }

    /// The same, told in parts as they come, in the order of keys, so that nobody has to hold all of it. Returns the
    /// revision of it all. After an error the parts that were told are nothing whole.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_in_parts(
        &self,
        range: &KeyRange,
        at: Option<i64>,
        mut tell: impl FnMut(Vec<KeyValue>),
    ) -> Result<i64, StoreError> {
        let (mut key, range_end) = range.to_request();
        let mut revision = at.unwrap_or_default();
        loop {
            let request =
                RangeRequest { key, range_end: range_end.clone(), limit: PAGE, revision, ..RangeRequest::default() };
            let response = self.read(request).await?;
            if revision == 0 {
                revision = response.header.unwrap_or_default().revision;
            }
            let last = response.kvs.last().filter(|_| response.more);
            let next = last.map(|last| [&last.key[..], &[0]].concat().into());
            tell(response.kvs);
            match next {
                Some(next) => key = next,
                None => return Ok(revision),
            }
        }
    }

    /// Writes one key; returns the revision.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`], and as every request.
    pub async fn put(&self, key: Bytes, value: Bytes, lease: Option<i64>) -> Result<i64, StoreError> {
        let request = PutRequest { key, value, lease: lease.unwrap_or_default(), ..PutRequest::default() };
        let response =
            self.ask(request, |channel, request| async { KvClient::new(channel).put(request).await }).await?;
        Ok(response.header.unwrap_or_default().revision)
    }

    async fn read(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let ask = |channel, request: Request<RangeRequest>| async {
            KvClient::new(channel).max_decoding_message_size(LONGEST_ANSWER).range(request).await
        };
        // Reading twice is harmless, so each endpoint gets its chance.
        let mut answer = self.ask(request.clone(), ask).await;
        for _ in 1..self.shared.channels.len() {
            if !matches!(answer, Err(StoreError::Unavailable { .. } | StoreError::Untrusted { .. })) {
                break;
            }
            answer = self.ask(request.clone(), ask).await;
        }
        answer
    }

    /// Asks, and looks at who answered.
    async fn ask<Q: Clone, R: Headed, F>(
        &self,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, StoreError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let before = self.state().seen;
        let (mut endpoint, mut status) = self.try_ask(request.clone(), &call).await?;
        if status.as_ref().is_err_and(wants_another_token) && self.shared.user.is_some() {
            // Tokens end; the password does not.
            self.state().token = None;
            (endpoint, status) = self.try_ask(request, &call).await?;
        }
        let response = status.map_err(|status| self.judge(endpoint, &status))?;
        self.observe(before, response.header())?;
        Ok(response)
    }

    async fn try_ask<Q, R, F>(
        &self,
        message: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<(usize, Result<R, Status>), StoreError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let (endpoint, channel) = self.channel();
        let request = self.authorised(endpoint, &channel, message).await?;
        let answer = within(call(channel, request)).await;
        Ok((endpoint, answer))
    }

    /// The endpoint that is asked now.
    fn channel(&self) -> (usize, Channel) {
        let endpoint = self.state().endpoint;
        (endpoint, self.shared.channels[endpoint].1.clone())
    }

    /// The message with what shows who asks.
    async fn authorised<Q>(&self, endpoint: usize, channel: &Channel, message: Q) -> Result<Request<Q>, StoreError> {
        let mut request = Request::new(message);
        if let Some(User { name, password }) = &self.shared.user {
            let token = self.state().token.clone();
            let token = match token {
                Some(token) => token,
                None => {
                    let who = AuthenticateRequest { name: name.clone(), password: password.clone() };
                    let mut client = AuthClient::new(channel.clone());
                    let answer =
                        within(client.authenticate(who)).await.map_err(|status| self.judge(endpoint, &status))?;
                    let token = MetadataValue::try_from(answer.token);
                    let token = token.map_err(|_| StoreError::Denied("a token that cannot be sent".to_owned()))?;
                    self.state().token = Some(token.clone());
                    token
                }
            };
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    /// What a status means; if nobody answered there, the next endpoint is asked from now on.
    fn judge(&self, endpoint: usize, status: &Status) -> StoreError {
        let words = status.message();
        match (Refusal::of_words(words), status.code()) {
            (Some(Refusal::Stopped | Refusal::TooManyRequests), _) => {}
            (Some(refusal), _) => return StoreError::Refused(refusal),
            // Users changed again in the meantime.
            _ if words == OLD_USERS => {}
            (
                None,
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition,
            ) => {
                return StoreError::Denied(words.to_owned());
            }
            _ => {}
        }
        let mut state = self.state();
        if state.endpoint == endpoint {
            state.endpoint = (endpoint + 1) % self.shared.channels.len();
        }
        let endpoint = self.shared.channels[endpoint].0.clone();
        match tls::cause(status) {
            Some(words) => {
                StoreError::Untrusted { endpoint, reason: format!("{words}: {}", tls::advice_to_client(&words)) }
            }
            None => {
                let mut reason = reason(status);
                if endpoint.starts_with("https:") && tls::may_be_refusal(&reason) {
                    reason += ", as by a store that refuses this node's certificate: its log says so then";
                }
                StoreError::Unavailable { endpoint, reason }
            }
        }
    }

    /// Looks whether this is the store that it was when the request was made. Answers may overtake each other, so only
    /// what was seen before that counts.
    fn observe(&self, before: Seen, header: Option<&ResponseHeader>) -> Result<(), StoreError> {
        let Some(header) = header else { return Ok(()) };
        let now = Seen { cluster: header.cluster_id, revision: header.revision };
        let mut state = self.state();
        let known = before.cluster != 0;
        if known && (now.cluster != before.cluster || now.revision < before.revision) {
            // Whoever finds out first tells; requests that were made before that are told as well.
            if state.seen.cluster != now.cluster || state.seen.revision > now.revision {
                state.seen = now;
                state.replaced += 1;
                state.token = None;
            }
            return Err(StoreError::Replaced { was: before, now });
        }
        if state.seen.cluster == 0 || (state.seen.cluster == now.cluster && state.seen.revision < now.revision) {
            state.seen = now;
        }
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Shifting> {
        // Nothing in it is ever half done.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer, or that it takes too long.
async fn within<R>(answer: impl Future<Output = Result<Response<R>, Status>>) -> Result<R, Status> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("nothing within {} s", TIMEOUT.as_secs()))),
    }
}

/// Whether it is the token that the store does not take, and not who shows it.
fn wants_another_token(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message() == OLD_USERS
}

/// The status and its causes.
fn reason(status: &Status) -> String {
    let mut told = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let words = error.to_string();
        if !told.contains(&words) {
            told = format!("{told}: {words}");
        }
        cause = error.source();
    }
    told
}

/// An answer that says who gives it.
trait Headed {
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! headed {
    ($($answer:ty),*) => {
        $(impl Headed for $answer {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

headed!(
    RangeResponse,
    PutResponse,
    TxnResponse,
    crate::proto::etcdserverpb::LeaseGrantResponse,
    crate::proto::etcdserverpb::LeaseRevokeResponse
);
