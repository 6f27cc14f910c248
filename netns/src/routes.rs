//! The routes that there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};

use crate::links::Step;
use crate::{LinkError, Links};

impl Links {
    /// Destination and gateway of the routes of the main table that lead through an interface.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn routes_through(&mut self, name: &str) -> Result<Vec<(IpNet, Option<IpAddr>)>, LinkError> {
        let index = self.index(Step { operation: "list the routes through", interface: name })?;
        let routes = self.main_routes()?;
        let through = routes.iter().filter(|route| interface(route) == Some(index));
        Ok(through.filter_map(|route| Some((destination(route)?, gateway(route)))).collect())
    }

    /// Whether there is a default route, of IPv4 and of IPv6, by any interface but this one.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn default_routes(&mut self, but: &str) -> Result<[bool; 2], LinkError> {
        let but = self.get(but)?.map(|link| link.index);
        let routes = self.main_routes()?;
        let has = |ipv6: bool| {
            let others = routes.iter().filter(|route| interface(route) != but && interface(route).is_some());
            let mut destinations = others.filter_map(destination);
            destinations.any(|one| one.prefix_len() == 0 && one.addr().is_ipv6() == ipv6)
        };
        Ok([has(false), has(true)])
    }

    fn main_routes(&mut self) -> Result<Vec<RouteMessage>, LinkError> {
        let mut found = Vec::new();
        let questions =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for question in questions {
            let request = self.handle.route().get(question);
            let step = Step { operation: "list the routes of", interface: "*" };
            let routes: Vec<RouteMessage> = self.wait(step, request.execute().try_collect())?;
            found.extend(routes.into_iter().filter(|route| {
                route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.kind == RouteType::Unicast
            }));
        }
        Ok(found)
    }
}

fn interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        _ => None,
    })
}

/// One that is not said is everything.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let said = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(destination) => address(destination),
        _ => None,
    });
    let everything = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(said.unwrap_or(everything), route.header.destination_prefix_length).ok()
}
