use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;

use super::{Store, StoreError, wants_another_token, within};
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseRevokeRequest};

/// Renewals in the time of a lease.
const RENEWALS: u32 = 3;
/// Until the next attempt when one failed.
const RETRY: Duration = Duration::from_millis(200);

/// A lease that is kept alive as long as this value is. When it is dropped, the lease ends by itself after its time,
/// and with it its keys: so a restarted agent may still claim them.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    id: i64,
    ttl: Duration,
    lost: watch::Receiver<bool>,
    renewing: AbortHandle,
}

impl Store {
    /// Grants a lease of so many whole seconds, at least 2, and keeps it alive.
    ///
    /// # Errors
    /// As every request.
    pub async fn lease(&self, seconds: u32) -> Result<Lease, StoreError> {
        let began = Instant::now();
        let ask = |channel, request| async { LeaseClient::new(channel).lease_grant(request).await };
        let request = LeaseGrantRequest { ttl: seconds.into(), id: 0 };
        let granted: LeaseGrantResponse = self.ask(request, ask).await?;
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        let (tell, lost) = watch::channel(false);
        let store = self.clone();
        let renewing = tokio::spawn(async move {
            store.renew(granted.id, ttl, began).await;
            // Who held it may be gone.
            let _ = tell.send(true);
        });
        Ok(Lease { store: self.clone(), id: granted.id, ttl, lost, renewing: renewing.abort_handle() })
    }

    /// Renews a lease until it is lost.
    async fn renew(&self, id: i64, ttl: Duration, began: Instant) {
        let mut renewed = began;
        let mut next = began + ttl / RENEWALS;
        while renewed.elapsed() < ttl {
            tokio::time::sleep_until(next).await;
            let sent = Instant::now();
            // An answer that comes after the end is none.
            let answer = tokio::time::timeout_at(renewed + ttl, self.keep_alive(id)).await;
            match answer {
                Ok(Ok(0)) => return,
                Ok(Ok(_)) => {
                    renewed = sent;
                    next = sent + ttl / RENEWALS;
                }
                Ok(Err(_)) | Err(_) => next = Instant::now() + RETRY,
            }
        }
    }

    /// One renewal: the seconds that the lease has from now on, or 0 if it is gone.
    async fn keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        let (endpoint, channel) = self.channel();
        let one = tokio_stream::once(LeaseKeepAliveRequest { id });
        let request = self.authorised(endpoint, &channel, one).await?;
        let answer = async {
            let mut answers = within(LeaseClient::new(channel).lease_keep_alive(request)).await?;
            match tokio::time::timeout(super::TIMEOUT, answers.message()).await {
                Ok(Ok(Some(answer))) => Ok(answer.ttl),
                Ok(Ok(None)) => Err(Status::unavailable("the answer ended before it began")),
                Ok(Err(status)) => Err(status),
                Err(_) => Err(Status::deadline_exceeded("no answer to a renewal")),
            }
        };
        answer.await.map_err(|status| {
            if wants_another_token(&status) {
                self.state().token = None;
            }
            self.judge(endpoint, &status)
        })
    }
}

impl Lease {
    /// What keys name to go with it.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// How long it lasts without renewal, as it was granted.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Waits until the lease is gone, or could not be renewed for its whole time, so that it may be gone.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that nobody renews any more.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Ends it now, and its keys with it.
    ///
    /// # Errors
    /// As every request.
    pub async fn revoke(self) -> Result<(), StoreError> {
        let ask = |channel, request| async { LeaseClient::new(channel).lease_revoke(request).await };
        self.store.ask(LeaseRevokeRequest { id: self.id }, ask).await.map(drop)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}
