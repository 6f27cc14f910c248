//! The agent's conversation with the store, in a task of its own: it tells what it hears, and publishes what it is told.
//!
//! All decisions are made elsewhere: [`Membership`] says what to write, and the agent's loop makes tables of what is heard.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use weft_encap::{MacAddr, Vni};
use weft_store::Refusal;
use weft_store::client::{Batch, Lease, Store, StoreError, Watch, WatchEnd};
use weft_store::proto::mvccpb::{Event, KeyValue};

use crate::cluster::{Holder, Keys, Listing, Membership, NoRanges, Own, OwnEndpoint, Step};
use crate::paths::nonce;
use crate::spread;

/// Of the agent's lease. How long others take to notice that an agent does not reach the store; that does not cost it
/// anything while its path is up.
pub(crate) const LEASE_SECONDS: u32 = 10;
/// How often own rows are looked at.
const VERIFY: Duration = Duration::from_secs(10);
/// How often everything is listed, though nothing seems to be missing.
const LIST: Duration = Duration::from_secs(600);
/// How long all others have after a store was replaced to publish again: several times [`VERIFY`] and the lease.
const TRUST: Duration = Duration::from_secs(60);
/// Until the next attempt when the store does not answer, or another holds the name; up to half of it less or more.
const RETRY: Duration = Duration::from_secs(1);
/// For how long a name may be held by what may be the starting agent's own predecessor, which died just now.
const NAME_PATIENCE: Duration = Duration::from_secs(LEASE_SECONDS as u64 + 5);
/// News that wait for the agent's loop at most.
const WAITING_NEWS: usize = 256;

pub(crate) type Endpoints = BTreeMap<(Vni, MacAddr), OwnEndpoint>;

/// What the agent has behind its ports, and how often that was another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) number: u64,
    pub(crate) endpoints: Endpoints,
}

/// What the store has told.
#[derive(Debug)]
pub(crate) enum News {
    /// All rows, at a revision; and whether the store is not what it was.
    Listed { revision: i64, listing: Listing, replaced: bool },
    /// What was written since.
    Written { revision: i64, events: Vec<Event> },
    /// Who is there has published again since the store was replaced.
    Trust,
    /// How the conversation stands.
    Standing(Standing),
    /// The node's ranges, or why it has none.
    Ranges(Result<Vec<IpNet>, NoRanges>),
    /// All that was told up to this number is in the store, at this revision.
    Published { number: u64, revision: i64 },
    /// Another has the name, and keeps it.
    NameTaken(Holder),
}

/// How the conversation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing was heard yet.
    Connecting,
    /// It answers, and has all our rows.
    Connected,
    /// It answers, and has not all of our rows yet.
    Publishing,
    /// It does not answer.
    Away(String),
    /// It does not let us in, or we do not trust it.
    Denied(String),
    /// Another has our name.
    Refused(Holder),
}

/// The agent's end of the conversation.
pub(crate) struct Sync {
    pub(crate) news: mpsc::Receiver<News>,
    pub(crate) endpoints: watch::Sender<Told>,
}

/// Begins the conversation, in the runtime that it is called in. It ends with the returned value.
pub(crate) fn start(store: Store, keys: Keys, own: Own) -> Sync {
    let (news, receiver) = mpsc::channel(WAITING_NEWS);
    let (endpoints, told) = watch::channel(Told { number: 1, endpoints: own.endpoints.clone() });
    let conversation = Conversation {
        watch: None,
        lease: None,
        membership: Membership::new(keys.clone(), own),
        standing: Standing::Connecting,
        replaced: false,
        trust_at: None,
        retry_at: None,
        refused_since: None,
        has_joined: false,
        told_ranges: None,
        told: 1,
        published: (0, 0),
        store,
        keys,
        news,
    };
    tokio::spawn(conversation.run(told));
    Sync { news: receiver, endpoints }
}

struct Conversation {
    store: Store,
    keys: Keys,
    news: mpsc::Sender<News>,
    membership: Membership,
    lease: Option<Lease>,
    watch: Option<Watch>,
    standing: Standing,
    /// The next listing is the first of another store.
    replaced: bool,
    trust_at: Option<Instant>,
    /// Nothing is asked before.
    retry_at: Option<Instant>,
    refused_since: Option<Instant>,
    has_joined: bool,
    told_ranges: Option<Result<Vec<IpNet>, NoRanges>>,
    /// The number of what the agent told, and what the agent was told to be in the store at which revision.
    told: u64,
    published: (u64, i64),
}

/// The agent has ended.
struct Over;

impl Conversation {
    async fn run(mut self, mut endpoints: watch::Receiver<Told>) {
        let [mut verify, mut list] = [VERIFY, LIST].map(ticks);
        loop {
            if self.retry_at.is_none() && self.work().await.is_err() {
                return;
            }
            let trust = self.trust_at;
            tokio::select! {
                () = self.news.closed() => return,
                heard = heard(&mut self.watch) => {
                    if self.hear(heard).await.is_err() {
                        return;
                    }
                }
                () = lost(&self.lease) => {
                    self.lease = None;
                    self.membership.lease_lost();
                }
                changed = endpoints.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let Told { number, endpoints } = endpoints.borrow_and_update().clone();
                    self.told = number;
                    self.membership.set_endpoints(endpoints);
                }
                () = until(self.retry_at) => {
                    self.retry_at = None;
                    self.membership.retry();
                }
                () = until(trust) => {
                    self.trust_at = None;
                    if self.tell(News::Trust).await.is_err() {
                        return;
                    }
                }
                _ = verify.tick() => self.membership.verify(),
                _ = list.tick() => self.watch = None,
            }
        }
    }

    /// Lists if that is due, and publishes what there is.
    async fn work(&mut self) -> Result<(), Over> {
        loop {
            let done = if self.watch.is_none() { self.list().await? } else { self.publish().await? };
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return self.fail(&error).await,
            }
        }
    }

    /// What comes of an error: for a while nothing, but for one that is no failure of the conversation.
    async fn fail(&mut self, error: &StoreError) -> Result<(), Over> {
        self.membership.uncertain();
        match error {
            StoreError::Replaced { .. } => {
                tracing::warn!(%error, "rows are held until all nodes have published again");
                self.watch = None;
                self.replaced = true;
                self.lease = None;
                self.membership.replaced();
                self.retry_at = Some(Instant::now());
                return Ok(());
            }
            StoreError::Refused(Refusal::LeaseNotFound) => {
                self.lease = None;
                self.membership.lease_lost();
            }
            StoreError::Refused(_)
            | StoreError::Denied(_)
            | StoreError::Untrusted { .. }
            | StoreError::Unavailable { .. } => {}
        }
        self.retry_at = Some(next_attempt());
        let told = error.to_string();
        let is_denied = matches!(error, StoreError::Denied(_) | StoreError::Untrusted { .. });
        self.stand(if is_denied { Standing::Denied(told) } else { Standing::Away(told) }).await
    }

    /// Says whether there may be more to do.
    async fn list(&mut self) -> Result<Result<bool, StoreError>, Over> {
        let (mut listing, mut newest) = (Listing::new(self.keys.clone()), None::<KeyValue>);
        let all = self.keys.all();
        let read = self.store.get_in_parts(&all, None, |rows| {
            rows.iter().for_each(|row| listing.add(row));
            newest = newest.take().into_iter().chain(rows).max_by_key(|row| row.mod_revision);
        });
        let revision = match read.await {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        let replaced = std::mem::take(&mut self.replaced);
        if replaced {
            self.trust_at = Some(Instant::now() + TRUST);
        }
        self.watch = Some(self.store.watch(all, revision + 1).after(newest.as_slice()));
        self.membership.verify();
        self.tell(News::Listed { revision, listing, replaced }).await?;
        Ok(Ok(true))
    }

    /// One step towards all our rows in the store; says whether there may be another.
    async fn publish(&mut self) -> Result<Result<bool, StoreError>, Over> {
        let step = self.membership.step();
        if let Some(ranges) = self.membership.ranges().filter(|ranges| self.told_ranges.as_ref() != Some(ranges)) {
            let ranges = ranges.clone();
            self.told_ranges = Some(ranges.clone());
            self.tell(News::Ranges(ranges)).await?;
        }
        if matches!(step, Step::Lease | Step::Write(..)) {
            self.refused_since = None;
            self.stand(Standing::Publishing).await?;
        }
        let asked = match step {
            Step::Rest => {
                self.has_joined = true;
                self.stand(Standing::Connected).await?;
                let published = (self.told, self.membership.written_at());
                if self.published != published {
                    self.published = published;
                    let (number, revision) = published;
                    self.tell(News::Published { number, revision }).await?;
                }
                return Ok(Ok(false));
            }
            Step::Refused(holder) => {
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                self.retry_at = Some(next_attempt());
                self.lease = None;
                self.stand(Standing::Refused(holder.clone())).await?;
                let own = &self.membership.own().node.addresses;
                let patience = if holder.may_be_predecessor(own) { NAME_PATIENCE } else { Duration::ZERO };
                if !self.has_joined && since.elapsed() >= patience {
                    self.tell(News::NameTaken(holder)).await?;
                }
                return Ok(Ok(false));
            }
            Step::Read(operations) => self.store.commit(&[], &operations, &[]).await.map(|read| {
                self.membership.read(read.revision, &read.rows);
            }),
            Step::Lease => self.store.lease(LEASE_SECONDS).await.map(|lease| {
                self.membership.leased(lease.id());
                self.lease = Some(lease);
            }),
            Step::Write(conditions, operations) => {
                self.store.commit(&conditions, &operations, &[]).await.map(|committed| {
                    self.membership.written(&committed);
                })
            }
        };
        Ok(asked.map(|()| true))
    }

    async fn hear(&mut self, heard: Result<Batch, WatchEnd>) -> Result<(), Over> {
        match heard {
            Ok(Batch { revision, events }) => self.tell(News::Written { revision, events }).await,
            Err(end) => {
                tracing::info!(%end, "the store's rows are listed again");
                self.watch = None;
                if end == WatchEnd::Replaced {
                    self.replaced = true;
                    self.lease = None;
                    self.membership.replaced();
                } else if let WatchEnd::Denied(reason) = end {
                    self.retry_at = Some(next_attempt());
                    self.stand(Standing::Denied(reason)).await?;
                }
                Ok(())
            }
        }
    }

    async fn stand(&mut self, standing: Standing) -> Result<(), Over> {
        if self.standing == standing {
            return Ok(());
        }
        match &standing {
            Standing::Connecting | Standing::Publishing => {}
            Standing::Connected => {
                tracing::info!(incarnation = self.membership.incarnation(), "published in the store");
            }
            Standing::Away(reason) | Standing::Denied(reason) => {
                tracing::warn!(reason, "no store: forwarding goes on with what is known");
            }
            Standing::Refused(Holder { addresses, .. }) => {
                let name = &self.membership.own().node.name;
                tracing::error!(
                    name,
                    ?addresses,
                    "another agent has this node's name: give one of them another `node`"
                );
            }
        }
        self.standing = standing.clone();
        self.tell(News::Standing(standing)).await
    }

    async fn tell(&self, news: News) -> Result<(), Over> {
        self.news.send(news).await.map_err(|_| Over)
    }
}

/// The first of them comes somewhere in the first period.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + spread::within(period, nonce()), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn next_attempt() -> Instant {
    Instant::now() + spread::about(RETRY, nonce())
}

async fn heard(watch: &mut Option<Watch>) -> Result<Batch, WatchEnd> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn lost(lease: &Option<Lease>) {
    match lease {
        Some(lease) => lease.lost().await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
