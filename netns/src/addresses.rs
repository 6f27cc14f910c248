//! Addresses and routes.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::route::RouteScope;
use rustix::io::Errno;

use crate::links::Step;
use crate::{Link, LinkError, Links};

impl Links {
    /// Gives an interface an address; having it already is fine.
    ///
    /// IPv6 addresses skip duplicate address detection. On an interface that is up they are in force when this
    /// returns; given to one that is down, they may take the kernel a second after it comes up.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn add_address(&mut self, name: &str, address: IpNet) -> Result<(), LinkError> {
        let step = Step { operation: "add an address to", interface: name };
        let index = self.index(step)?;
        // The kernel knows an IPv6 address by its bits alone: replacing would keep the old prefix length.
        let old = self.address_messages(index)?;
        for message in old.iter().filter(|message| network(message).is_some_and(|seen| other_prefix(seen, address))) {
            self.remove_address(name, message.clone())?;
        }
        self.put_address(step, index, address)
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn addresses(&mut self, name: &str) -> Result<Vec<IpNet>, LinkError> {
        let index = self.index(Step { operation: "list the addresses of", interface: name })?;
        Ok(self.address_messages(index)?.iter().filter_map(network).collect())
    }

    /// Makes `wanted` the addresses of an interface: adds what is missing and removes what is too much.
    /// IPv6 link-local addresses (fe80::/10) are left alone.
    ///
    /// # Errors
    /// [`LinkError`]; what was done until then stays.
    pub fn set_addresses(&mut self, name: &str, wanted: &[IpNet]) -> Result<(), LinkError> {
        let step = Step { operation: "set the addresses of", interface: name };
        let index = self.index(step)?;
        for message in self.address_messages(index)? {
            if network(&message).is_some_and(|seen| !wanted.contains(&seen) && !is_link_local(seen)) {
                self.remove_address(name, message)?;
            }
        }
        // Read again: removing an IPv4 address takes those of the same prefix that came later with it.
        let left: Vec<IpNet> = self.address_messages(index)?.iter().filter_map(network).collect();
        for address in wanted.iter().filter(|address| !left.contains(address)) {
            self.put_address(step, index, *address)?;
        }
        Ok(())
    }

    /// Routes `destination` through an interface, over a gateway or directly, instead of any route there was.
    ///
    /// # Errors
    /// [`LinkError`], also where the gateway is of the other family or cannot be reached.
    pub fn add_route(&mut self, destination: IpNet, via: Option<IpAddr>, dev: &str) -> Result<(), LinkError> {
        let step = Step { operation: "add a route through", interface: dev };
        let mixed = |via| LinkError::MixedFamilies { destination, via };
        let index = self.index(step)?;
        let destination = destination.trunc();
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())
            .map_err(|error| self.nonsense(step, &error))?
            .output_interface(index);
        match via {
            Some(via) if via.is_ipv4() == destination.addr().is_ipv4() => {
                route = route.gateway(via).map_err(|error| self.nonsense(step, &error))?;
            }
            Some(via) => return Err(mixed(via)),
            None if destination.addr().is_ipv4() => route = route.scope(RouteScope::Link),
            None => {}
        }
        let request = self.handle.route().add(route.build()).replace();
        self.wait(step, request.execute())
    }

    /// The interface that has this address.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn link_with_address(&mut self, ip: IpAddr) -> Result<Option<Link>, LinkError> {
        let messages = self.dump_addresses()?;
        let has_it = |message: &&AddressMessage| network(message).is_some_and(|seen| seen.addr() == ip);
        match messages.iter().find(has_it) {
            Some(message) => self.by_index(message.header.index),
            None => Ok(None),
        }
    }

    fn put_address(&mut self, step: Step<'_>, index: u32, address: IpNet) -> Result<(), LinkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        match address.addr() {
            IpAddr::V4(_) => self.wait(step, request.execute()),
            IpAddr::V6(ip) => {
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                self.until_in_force(step, index, ip, request.execute())
            }
        }
    }

    fn remove_address(&mut self, name: &str, message: AddressMessage) -> Result<(), LinkError> {
        let request = self.handle.address().del(message);
        let removed = self.wait(Step { operation: "remove an address from", interface: name }, request.execute());
        match removed {
            Err(LinkError::Kernel { source, .. })
                if source.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn address_messages(&mut self, index: u32) -> Result<Vec<AddressMessage>, LinkError> {
        let mut messages = self.dump_addresses()?;
        messages.retain(|message| message.header.index == index);
        Ok(messages)
    }

    fn dump_addresses(&mut self) -> Result<Vec<AddressMessage>, LinkError> {
        let request = self.handle.address().get();
        self.wait(Step { operation: "list the addresses of", interface: "*" }, request.execute().try_collect())
    }
}

/// The address itself with its prefix length; the far end of a point-to-point link is not ours.
fn network(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    IpNet::new(local.or_else(any)?, message.header.prefix_len).ok()
}

fn other_prefix(seen: IpNet, wanted: IpNet) -> bool {
    wanted.addr().is_ipv6() && seen.addr() == wanted.addr() && seen.prefix_len() != wanted.prefix_len()
}

fn is_link_local(address: IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}
