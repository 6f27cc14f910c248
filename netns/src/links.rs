//! A netlink connection, and what it does to interfaces.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::BridgeStpState;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, new_connection};
use tokio::runtime::{Builder, Runtime};
use weft_encap::MacAddr;

use crate::{Link, LinkError, Netns};

/// Longest name of an interface, in bytes.
pub const INTERFACE_NAME_MAX: usize = 15;

/// The links of one namespace; see [`Netns::links`]. Every call waits for the kernel's answer.
///
/// Interfaces are given by name. Errors name operation, interface, namespace and the kernel's reason.
#[derive(Debug)]
pub struct Links {
    pub(crate) runtime: Runtime,
    pub(crate) handle: Handle,
    pub(crate) netns: String,
}

/// What an interface is given, all by one request. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSettings {
    /// What others shall see written on it.
    pub alias: Option<String>,
    /// Its MAC.
    pub mac: Option<MacAddr>,
    /// Its MTU, in bytes.
    pub mtu: Option<u32>,
    /// The longest superframe that the kernel hands to it, in bytes and in segments, for IPv4 and IPv6 alike.
    pub gso_max: Option<(u32, u32)>,
    /// Whether it is switched on.
    pub up: bool,
}

/// What is being done to which interface, for the error if it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) operation: &'static str,
    pub(crate) interface: &'a str,
}

impl Links {
    /// Connects to the namespace of the calling thread.
    pub(crate) fn connect(netns: &str) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Kernel {
            operation: "open netlink for",
            interface: "*".to_owned(),
            netns: netns.to_owned(),
            source,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = {
            let _guard = runtime.enter();
            let (connection, handle, _) = new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle, netns: netns.to_owned() })
    }

    /// Makes a veth pair: `name` here and `peer` in `peer_netns`, both down.
    ///
    /// # Errors
    /// [`LinkError`], also where one of the names is taken.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_netns: &Netns) -> Result<(), LinkError> {
        check_name(name)?;
        check_name(peer)?;
        let other_end = LinkUnspec::new_with_name(peer).setns_by_fd(peer_netns.as_fd().as_raw_fd()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other_end)))
            .build();
        let request = self.handle.link().add(message);
        self.wait(Step { operation: "add veth", interface: name }, request.execute())
    }

    /// Makes a bridge that is nothing but a switch: no spanning tree, no multicast snooping. It is down.
    ///
    /// # Errors
    /// [`LinkError`], also where the name is taken.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), LinkError> {
        check_name(name)?;
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .mcast_snooping(false)
            .build();
        let request = self.handle.link().add(message);
        self.wait(Step { operation: "add bridge", interface: name }, request.execute())
    }

    /// Removes an interface, and with one end of a veth pair the other; an absent one is fine.
    ///
    /// # Errors
    /// [`LinkError::Kernel`], for example for an interface that cannot be removed.
    pub fn delete(&mut self, name: &str) -> Result<(), LinkError> {
        let Some(link) = self.get(name)? else { return Ok(()) };
        let request = self.handle.link().del(link.index);
        let removed = self.wait(Step { operation: "delete", interface: name }, request.execute());
        match removed {
            Err(LinkError::Kernel { source, .. }) if is_absent(&source) => Ok(()),
            other => other,
        }
    }

    /// Switches an interface on.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn set_up(&mut self, name: &str) -> Result<(), LinkError> {
        self.change(Step { operation: "set up", interface: name }, |message| message.up())
    }

    /// Switches an interface off.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn set_down(&mut self, name: &str) -> Result<(), LinkError> {
        self.change(Step { operation: "set down", interface: name }, |message| message.down())
    }

    /// Whether an interface resolves its neighbours; one that does not sends everything to its own MAC.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn set_arp(&mut self, name: &str, resolves: bool) -> Result<(), LinkError> {
        self.change(Step { operation: "set neighbour resolution of", interface: name }, |message| message.arp(resolves))
    }

    /// Gives an interface its MAC.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn set_mac(&mut self, name: &str, mac: MacAddr) -> Result<(), LinkError> {
        self.change(Step { operation: "set the MAC of", interface: name }, |message| message.address(mac.0.to_vec()))
    }

    /// Sets the MTU, in bytes.
    ///
    /// # Errors
    /// [`LinkError`], also where the interface cannot have that MTU.
    pub fn set_mtu(&mut self, name: &str, bytes: u32) -> Result<(), LinkError> {
        self.change(Step { operation: "set the MTU of", interface: name }, |message| message.mtu(bytes))
    }

    /// Makes an interface a port of a bridge in the same namespace.
    ///
    /// # Errors
    /// [`LinkError`], also where the bridge is missing.
    pub fn set_master(&mut self, name: &str, bridge: &str) -> Result<(), LinkError> {
        let master = self.index(Step { operation: "add a port to", interface: bridge })?;
        self.change(Step { operation: "set the bridge of", interface: name }, |message| message.controller(master))
    }

    /// Takes an interface out of whatever bridge it belongs to.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn leave_master(&mut self, name: &str) -> Result<(), LinkError> {
        self.change(Step { operation: "take from its bridge", interface: name }, |message| message.nocontroller())
    }

    /// Renames an interface.
    ///
    /// # Errors
    /// [`LinkError`], also where the new name is taken.
    pub fn rename(&mut self, name: &str, new_name: &str) -> Result<(), LinkError> {
        check_name(new_name)?;
        self.change(Step { operation: "rename", interface: name }, |message| message.name(new_name))
    }

    /// Writes on an interface what others shall see: its alias.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn set_alias(&mut self, name: &str, alias: &str) -> Result<(), LinkError> {
        let attribute = LinkAttribute::IfAlias(alias.to_owned());
        self.change(Step { operation: "set the alias of", interface: name }, |message| {
            message.append_extra_attribute(attribute)
        })
    }

    /// Sets the length of the transmit queue, in frames.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn set_tx_queue_len(&mut self, name: &str, frames: u32) -> Result<(), LinkError> {
        let step = Step { operation: "set the transmit queue length of", interface: name };
        self.change(step, |message| message.txqueuelen(frames))
    }

    /// Gives an interface all of that at once.
    ///
    /// # Errors
    /// [`LinkError`], also where the driver cannot do one of it. Some of the rest may have been done then.
    pub fn set(&mut self, name: &str, settings: &LinkSettings) -> Result<(), LinkError> {
        let LinkSettings { alias, mac, mtu, gso_max, up } = settings;
        let gso_max = gso_max.iter().flat_map(|(bytes, segments)| {
            let bounds = [LinkAttribute::GsoMaxSize(*bytes), LinkAttribute::GsoIpv4MaxSize(*bytes)];
            [LinkAttribute::GsoMaxSegs(*segments)].into_iter().chain(bounds)
        });
        let attributes = (alias.iter().map(|alias| LinkAttribute::IfAlias(alias.clone())))
            .chain(mac.iter().map(|mac| LinkAttribute::Address(mac.0.to_vec())))
            .chain(mtu.iter().map(|bytes| LinkAttribute::Mtu(*bytes)))
            .chain(gso_max);
        self.change(Step { operation: "set MAC, MTU, alias or bounds of superframes of", interface: name }, |message| {
            let message = attributes.fold(message, LinkMessageBuilder::append_extra_attribute);
            if *up { message.up() } else { message }
        })
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn get(&mut self, name: &str) -> Result<Option<Link>, LinkError> {
        check_name(name)?;
        let request = self.handle.link().get().match_name(name.to_owned());
        self.find(Step { operation: "look up", interface: name }, request.execute())
    }

    /// All interfaces of the namespace, by index.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn list(&mut self) -> Result<Vec<Link>, LinkError> {
        let request = self.handle.link().get();
        let messages: Vec<LinkMessage> =
            self.wait(Step { operation: "list", interface: "*" }, request.execute().try_collect())?;
        let mut links: Vec<Link> = messages.iter().map(Link::from_message).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    pub(crate) fn by_index(&mut self, index: u32) -> Result<Option<Link>, LinkError> {
        let request = self.handle.link().get().match_index(index);
        self.find(Step { operation: "look up", interface: &format!("#{index}") }, request.execute())
    }

    pub(crate) fn index(&mut self, step: Step<'_>) -> Result<u32, LinkError> {
        let Some(link) = self.get(step.interface)? else { return Err(self.absent(step)) };
        Ok(link.index)
    }

    /// Waits for an answer.
    pub(crate) fn wait<T>(
        &self,
        step: Step<'_>,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, LinkError> {
        self.runtime.block_on(answer).map_err(|error| self.explain(step, error))
    }

    fn change(
        &mut self,
        step: Step<'_>,
        build: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), LinkError> {
        let index = self.index(step)?;
        let message = build(LinkUnspec::new_with_index(index)).build();
        let request = self.handle.link().change(message);
        self.wait(step, request.execute())
    }

    fn find(
        &self,
        step: Step<'_>,
        answer: impl futures_util::TryStream<Ok = LinkMessage, Error = rtnetlink::Error>,
    ) -> Result<Option<Link>, LinkError> {
        let all = self.wait(step, answer.try_collect::<Vec<_>>());
        match all {
            Ok(messages) => Ok(messages.first().map(Link::from_message)),
            Err(LinkError::Kernel { source, .. }) if is_absent(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn kernel_error(&self, step: Step<'_>, source: io::Error) -> LinkError {
        let Step { operation, interface } = step;
        LinkError::Kernel { operation, interface: interface.to_owned(), netns: self.netns.clone(), source }
    }

    pub(crate) fn nonsense(&self, step: Step<'_>, error: &impl std::fmt::Display) -> LinkError {
        let Step { operation, interface } = step;
        let (interface, netns) = (interface.to_owned(), self.netns.clone());
        LinkError::Answer { operation, interface, netns, seen: error.to_string() }
    }

    fn absent(&self, step: Step<'_>) -> LinkError {
        let Step { operation, interface } = step;
        LinkError::NoSuchLink { operation, interface: interface.to_owned(), netns: self.netns.clone() }
    }

    fn explain(&self, step: Step<'_>, error: rtnetlink::Error) -> LinkError {
        match error {
            rtnetlink::Error::NetlinkError(message) => self.kernel_error(step, message.to_io()),
            other => self.nonsense(step, &other),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

pub(crate) fn check_name(name: &str) -> Result<(), LinkError> {
    let bad_character = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    let bad = name.is_empty() || name.len() > INTERFACE_NAME_MAX || name.contains(bad_character);
    if bad || name == "." || name == ".." {
        return Err(LinkError::Name { interface: name.to_owned() });
    }
    Ok(())
}
