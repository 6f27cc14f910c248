//! Addresses and routes.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use rtnetlink::packet_route::route::RouteScope;
use rustix::io::Errno;

use crate::links::Step;
use crate::{Link, LinkError, Links};

/// Marks addresses that [`Links::set_addresses`] gave (IFA_PROTO, Linux 5.18): a number that neither the kernel
/// nor another program is known to use.
pub const ADDRESS_MARK: u8 = 0x57;

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
        self.put_address(step, index, address, None)
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn addresses(&mut self, name: &str) -> Result<Vec<IpNet>, LinkError> {
        let index = self.index(Step { operation: "list the addresses of", interface: name })?;
        Ok(self.address_messages(index)?.iter().filter_map(network).collect())
    }

    /// Gives an interface the addresses of `wanted` that it lacks, each with [`ADDRESS_MARK`], and takes away those
    /// with that mark which are not wanted. Addresses that others gave it stay.
    ///
    /// Kernels before 5.18 keep no marks: there nothing is taken away.
    ///
    /// # Errors
    /// [`LinkError`]; what was done until then stays.
    pub fn set_addresses(&mut self, name: &str, wanted: &[IpNet]) -> Result<(), LinkError> {
        let step = Step { operation: "set the addresses of", interface: name };
        let index = self.index(step)?;
        let is_unwanted = |message: &AddressMessage| {
            is_marked(message) && network(message).is_some_and(|seen| !wanted.contains(&seen))
        };
        let (unwanted, kept): (Vec<_>, Vec<_>) = self.address_messages(index)?.into_iter().partition(is_unwanted);
        let mut left: Vec<IpNet> = kept.iter().filter_map(network).collect();
        if !unwanted.is_empty() {
            for message in unwanted {
                self.remove_address(name, message)?;
            }
            // Removing an IPv4 address takes those of the same prefix that came later with it.
            left = self.address_messages(index)?.iter().filter_map(network).collect();
            for message in kept {
                let Some(gone) = network(&message).filter(|address| !left.contains(address)) else { continue };
                self.put_back(step, index, message)?;
                left.push(gone);
            }
        }
        // The kernel knows an IPv6 address by its bits alone, so that of another prefix length is there already.
        let has = |wanted: &IpNet| left.iter().any(|seen| seen == wanted || other_prefix(*seen, *wanted));
        for address in wanted.iter().filter(|address| !has(address)) {
            self.put_address(step, index, *address, Some(ADDRESS_MARK))?;
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

    fn put_address(&mut self, step: Step<'_>, index: u32, address: IpNet, mark: Option<u8>) -> Result<(), LinkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        let mark = mark.map(|mark| AddressAttribute::Protocol(AddressProtocol::Other(mark)));
        request.message_mut().attributes.extend(mark);
        match address.addr() {
            IpAddr::V4(_) => self.wait(step, request.execute()),
            IpAddr::V6(ip) => {
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                let given = self.until_in_force(step, index, ip, request.execute());
                given.map_err(|error| self.ipv6_off(step, address, error))
            }
        }
    }

    /// What the kernel means by EACCES (`addrconf_add_dev`); want of privilege is EPERM.
    fn ipv6_off(&self, step: Step<'_>, address: IpNet, error: LinkError) -> LinkError {
        match error {
            LinkError::Kernel { source, .. } if source.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
                let (interface, netns) = (step.interface.to_owned(), self.netns.clone());
                LinkError::Ipv6Off { interface, netns, address }
            }
            error => error,
        }
    }

    /// Gives back an address that was there, as it was.
    fn put_back(&mut self, step: Step<'_>, index: u32, message: AddressMessage) -> Result<(), LinkError> {
        let Some(address) = network(&message) else { return Ok(()) };
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        *request.message_mut() = message;
        self.wait(step, request.execute())
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

fn is_marked(message: &AddressMessage) -> bool {
    message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_MARK)))
}
