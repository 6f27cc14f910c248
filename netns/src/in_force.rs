//! Waiting until an IPv6 address is in force.
//!
//! The kernel answers the request for an address first and joins its multicast group and routes it to itself
//! later, in a work queue that may be busy. A neighbour that asks in between gets no answer, and asks again
//! only a second later. So the wait is for the route, which comes last.

use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{MulticastGroup, RouteMessageBuilder, new_multicast_connection};

use crate::links::Step;
use crate::{LinkError, Links};

/// How long an address is waited for: after that it is taken to come by itself.
const WAIT_MAX: Duration = Duration::from_secs(2);

impl Links {
    /// Has `add` done, and waits until the address is in force, provided the interface is up.
    pub(crate) fn until_in_force(
        &self,
        step: Step<'_>,
        index: u32,
        address: Ipv6Addr,
        add: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), LinkError> {
        let failed = |source| self.kernel_error(step, source);
        let groups = [MulticastGroup::Ipv6Route, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, mut news) = {
            let _guard = self.runtime.enter();
            new_multicast_connection(&groups).map_err(failed)?
        };
        let listener = self.runtime.spawn(connection);
        let link = self.handle.link().get().match_index(index);
        let work = async {
            add.await?;
            let links: Vec<_> = link.execute().try_collect().await?;
            if links.iter().any(|link| link.header.flags.contains(LinkFlags::Up)) {
                let until_local = async {
                    while !is_local(&self.handle, address).await {
                        news.next().await;
                    }
                };
                let _ = tokio::time::timeout(WAIT_MAX, until_local).await;
            }
            Ok(())
        };
        let outcome = self.wait(step, work);
        listener.abort();
        outcome
    }
}

async fn is_local(handle: &rtnetlink::Handle, address: Ipv6Addr) -> bool {
    let Ok(question) = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address.into(), 128) else {
        return false;
    };
    let answer = handle.route().get(question.build()).execute().try_collect::<Vec<_>>().await;
    answer.is_ok_and(|routes| routes.iter().any(|route| route.header.kind == RouteType::Local))
}
