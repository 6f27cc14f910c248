//! Waiting for changes of a namespace.

use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::net::UnixStream;

use crate::links::Step;
use crate::{LinkError, Links};

/// What is listened to.
const GROUPS: [MulticastGroup; 10] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// What has changed, or may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Interfaces.
    pub links: bool,
    /// Addresses, routes or rules.
    pub routes: bool,
    /// MACs of addresses on links.
    pub neighbours: bool,
    /// Queueing disciplines and filters.
    pub filters: bool,
}

/// A subscription to all changes of one namespace. See [`Links::wait_for_news`].
pub struct Watch {
    news: BoxStream<'static, News>,
}

impl News {
    /// Anything may have changed.
    pub const ALL: Self = Self { links: true, routes: true, neighbours: true, filters: true };

    fn and(self, more: Self) -> Self {
        Self {
            links: self.links | more.links,
            routes: self.routes | more.routes,
            neighbours: self.neighbours | more.neighbours,
            filters: self.filters | more.filters,
        }
    }

    fn of(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Self {
        use RouteNetlinkMessage as M;
        let none = Self::default();
        let NetlinkPayload::InnerMessage(message) = payload else {
            // Some messages were lost.
            return if matches!(payload, NetlinkPayload::Overrun(_)) { Self::ALL } else { none };
        };
        match message {
            M::NewLink(_) | M::DelLink(_) => Self { links: true, ..none },
            M::NewNeighbour(_) | M::DelNeighbour(_) => Self { neighbours: true, ..none },
            M::NewQueueDiscipline(_)
            | M::DelQueueDiscipline(_)
            | M::NewTrafficFilter(_)
            | M::DelTrafficFilter(_)
            | M::NewTrafficChain(_)
            | M::DelTrafficChain(_) => Self { filters: true, ..none },
            _ => Self { routes: true, ..none },
        }
    }
}

impl Links {
    /// Begins to listen: what changes from now on is told.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn watch(&mut self) -> Result<Watch, LinkError> {
        let step = Step { operation: "watch", interface: "*" };
        let _guard = self.runtime.enter();
        let (connection, _, news) =
            new_multicast_connection(&GROUPS).map_err(|error| self.kernel_error(step, error))?;
        self.runtime.spawn(connection);
        Ok(Watch { news: news.map(|(message, _)| News::of(&message.payload)).boxed() })
    }

    /// Waits until something has changed, `wake`, which does not block, is readable or so much time has passed. What has changed since the
    /// last call is told together.
    ///
    /// # Errors
    /// [`LinkError::Kernel`], also when the subscription has ended.
    pub fn wait_for_news(
        &self,
        watch: &mut Watch,
        wake: &std::os::unix::net::UnixStream,
        at_most: Duration,
    ) -> Result<News, LinkError> {
        let step = Step { operation: "watch", interface: "*" };
        let waited = self.runtime.block_on(async {
            let wake = UnixStream::from_std(wake.try_clone()?)?;
            let first = tokio::select! {
                news = watch.news.next() => news.ok_or(io::ErrorKind::ConnectionAborted)?,
                _ = wake.readable() => News::default(),
                () = tokio::time::sleep(at_most) => News::default(),
            };
            let mut all = first;
            loop {
                let mut next = pin!(watch.news.next());
                // What is there already, and no more.
                match std::future::poll_fn(|context| std::task::Poll::Ready(next.as_mut().poll(context))).await {
                    std::task::Poll::Ready(Some(news)) => all = all.and(news),
                    _ => return Ok(all),
                }
            }
        });
        waited.map_err(|error| self.kernel_error(step, error))
    }
}
