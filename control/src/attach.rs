//! A pod's device: whether it may be ours, and what it is given.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use weft_netns::{Link, LinkError, LinkSettings, Links, Netns, NetnsError};
use weft_switch::device_of;
use weft_switch::port::{Tap, TapOffloads};

use crate::config::PortConfig;
use crate::desired::superframe_segments;

/// Largest superframe that a pod's device is asked for, in bytes: the kernel's own default.
const SUPERFRAME_BYTES: u32 = 65_536;
/// The alias of devices that an agent made.
pub(crate) const MARK: &str = "weft";

/// Why a port has no device.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its namespace, or a change of its device.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The TAP cannot be made or opened.
    #[error("making the TAP `{interface}` in `{netns}`: {source}: {hint}")]
    Tap {
        /// The device.
        interface: String,
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The device cannot keep each flow in one of several queues.
    #[error(
        "spreading `{interface}` in `{netns}` over several workers: {source}: give the agent CAP_BPF and a kernel with BPF, or choose `workers.count = 1`"
    )]
    Steering {
        /// The device.
        interface: String,
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another process has the device open.
    #[error(
        "`{interface}` in `{netns}` is held by another program: a second agent? Stop it first, or choose another `interface`"
    )]
    Held {
        /// The device.
        interface: String,
        /// The namespace.
        netns: String,
    },
    /// The device lacks the mark of those that an agent made.
    #[error(
        "the name `{interface}` is taken in `{netns}` by a device that Weft did not make: remove it, choose another `interface`, or hand over a multi-queue TAP by `ip link set {interface} alias {MARK}` there"
    )]
    Foreign {
        /// The device.
        interface: String,
        /// The namespace.
        netns: String,
    },
}

impl AttachError {
    pub(crate) fn tap(port: &PortConfig, source: io::Error) -> Self {
        let (interface, netns) = (port.interface.clone(), port.netns.clone());
        Self::Tap { interface, netns, hint: hint(&source), source }
    }

    fn steering(port: &PortConfig, source: io::Error) -> Self {
        Self::Steering { interface: port.interface.clone(), netns: port.netns.clone(), source }
    }

    fn held(port: &PortConfig) -> Self {
        Self::Held { interface: port.interface.clone(), netns: port.netns.clone() }
    }

    fn foreign(port: &PortConfig) -> Self {
        Self::Foreign { interface: port.interface.clone(), netns: port.netns.clone() }
    }
}

/// The namespace of a port.
pub(crate) struct Place(Arc<Netns>);

impl Place {
    pub(crate) fn open(port: &PortConfig) -> Result<Self, AttachError> {
        Ok(Self(match &port.pod {
            Some(pod) => pod.netns.clone(),
            None => Arc::new(Netns::open(&port.netns)?),
        }))
    }

    pub(crate) fn inode(&self) -> u64 {
        self.0.inode()
    }

    /// Refuses a device that is there and not ours, or held by others than these descriptors of it. Says whether there
    /// is one.
    pub(crate) fn check(&self, port: &PortConfig, kept: &[OwnedFd]) -> Result<bool, AttachError> {
        self.0.links(|links| Ok(self.check_in(links, port, kept)))?
    }

    fn check_in(&self, links: &mut Links, port: &PortConfig, kept: &[OwnedFd]) -> Result<bool, AttachError> {
        let ours = kept.iter().filter(|queue| self.is_of(queue, port)).count();
        match links.get(&port.interface).map_err(NetnsError::from)? {
            Some(link) if queues(&link) as usize > ours => Err(AttachError::held(port)),
            Some(link) if link.alias.as_deref() != Some(MARK) => Err(AttachError::foreign(port)),
            link => Ok(link.is_some()),
        }
    }

    /// Whether a descriptor is a queue of the port's device: the kernel's word, and not that of who kept it.
    fn is_of(&self, queue: impl AsFd, port: &PortConfig) -> bool {
        device_of(queue).is_ok_and(|(name, netns)| {
            // Both namespaces are open, so that neither's inode can be another's.
            name == port.interface && File::from(netns).metadata().is_ok_and(|netns| netns.ino() == self.inode())
        })
    }
}

/// Makes or reopens the pod's device, with so many queues, and gives it what the configuration says. Queues of it that
/// were `kept` are used as they are, so that it does not lose its carrier. One that this made goes with the [`Tap`]s until
/// one of them is told to keep it.
pub(crate) fn attach(
    port: &PortConfig,
    mtu: u16,
    offloads: TapOffloads,
    workers: NonZero<usize>,
    mut kept: Vec<OwnedFd>,
) -> Result<Vec<Tap>, AttachError> {
    let place = Place::open(port)?;
    // Each visit to a namespace is a thread of its own, and all of this is one.
    place.0.links(|links| {
        Ok((|| {
            let is_there = place.check_in(links, port, &kept)?;
            kept.retain(|queue| place.is_of(queue, port));
            if is_there && kept.is_empty() {
                tracing::info!(port = port.name, "nobody kept the device open: the pod saw its link go down");
            }
            let (taps, link) = open(port, offloads, workers, kept, links)?;
            if !is_there && let Err(error) = links.set_no_queue(&port.interface) {
                tracing::debug!(port = port.name, %error, "the kernel puts its default queues in front of the device");
            }
            give(links, port, mtu, link.as_ref()).map_err(NetnsError::from)?;
            Ok(taps)
        })())
    })?
}

/// Opens so many queues of the device, of which these are there already. Called inside its namespace.
fn open(
    port: &PortConfig,
    offloads: TapOffloads,
    workers: NonZero<usize>,
    kept: Vec<OwnedFd>,
    links: &mut Links,
) -> Result<(Vec<Tap>, Option<Link>), AttachError> {
    let held = kept.len();
    let kept = kept.into_iter().map(|queue| Tap::adopt(queue, offloads)).take(workers.get());
    let missing = workers.get().saturating_sub(held);
    let opened = kept.chain((0..missing).map(|_| Tap::open(&port.interface, offloads)));
    let taps = opened.collect::<io::Result<Vec<_>>>().map_err(|source| AttachError::tap(port, source))?;
    if workers.get() > 1 {
        let steered = taps.iter().take(1).try_for_each(Tap::steer_by_flow);
        steered.map_err(|source| AttachError::steering(port, source))?;
    }
    // The kernel lets any number of programs open a multi-queue TAP: one that came since the device was looked at would
    // share it with us.
    let link = links.get(&port.interface).map_err(NetnsError::from)?;
    if link.as_ref().is_some_and(|link| queues(link) as usize > taps.len().max(held)) {
        return Err(AttachError::held(port));
    }
    Ok((taps, link))
}

/// Gives a device what the configuration says. Called inside its namespace.
fn give(links: &mut Links, port: &PortConfig, mtu: u16, link: Option<&Link>) -> Result<(), LinkError> {
    let name = &port.interface;
    let mut settings = LinkSettings {
        alias: Some(MARK.to_owned()),
        gso_max: Some((SUPERFRAME_BYTES, superframe_segments(mtu) as u32)),
        up: true,
        ..LinkSettings::default()
    };
    // Setting a MAC makes the pod forget its neighbours, even where it is the MAC it has.
    settings.mac = Some(port.mac).filter(|mac| link.is_none_or(|link| link.mac != Some(*mac)));
    settings.mtu = Some(u32::from(mtu)).filter(|mtu| link.is_none_or(|link| link.mtu != *mtu));
    if port.routes {
        refuse_advertisements(name);
    }
    if port.pod.is_some() && port.addresses.iter().any(|one| one.addr().is_ipv6()) {
        switch_ipv6_on(name);
    }
    links.set(name, &settings)?;
    if port.addresses.is_empty() {
        // Then somebody else gives the pod its addresses.
        return Ok(());
    }
    links.set_addresses(name, &port.addresses)?;
    let routes = port.pod.iter().flat_map(|pod| &pod.routes);
    routes.into_iter().try_for_each(|route| links.add_route(route.destination, route.gateway, name))
}

/// Keeps a node from taking pods for its routers: no router advertisement (RFC 4861) is heard on its own device. Called
/// inside the node's namespace, before the device is up.
fn refuse_advertisements(interface: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
    match std::fs::write(&path, "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path, %error, "a pod may send this node router advertisements: write 0 there");
        }
        // Without IPv6 there is nothing to refuse.
        Ok(()) | Err(_) => {}
    }
}

/// Gives a pod's device IPv6 where it was switched off for all of the pod's: it is asked for. Called inside the pod's
/// namespace. Where that fails, giving it the address does, and says what to do.
fn switch_ipv6_on(interface: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0");
}

/// Removes a pod's device, if it is ours; one that is gone, or somebody else's, is fine.
pub(crate) fn remove_device(netns: &Netns, interface: &str) -> Result<(), NetnsError> {
    netns.links(|links| match links.get(interface)? {
        Some(link) if link.alias.as_deref() == Some(MARK) => links.delete(interface),
        _ => Ok(()),
    })
}

/// Queues that are open; none where the kernel does not say.
fn queues(link: &Link) -> u32 {
    link.open_queues.unwrap_or_default()
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "this kernel has no TUN/TAP, or the container hides it: load `tun`, or pass /dev/net/tun in"
        }
        io::ErrorKind::PermissionDenied => "run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN",
        io::ErrorKind::InvalidInput | io::ErrorKind::ResourceBusy => {
            "the name is taken by a device that is no multi-queue TAP: remove it, or choose another `interface`"
        }
        _ => "see dmesg for what the kernel missed",
    }
}
