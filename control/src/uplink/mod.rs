//! The uplink: which underlay a node takes, the device and the redirects that join it to the NIC, and their end.
//!
//! Redirects outlive the process that made them, the device does not: after a crash the NIC's redirects point
//! nowhere and swallow what they match. So every start removes such first, whichever underlay it then takes.

mod follow;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use weft_bridge::{Tables, VtepId};
use weft_encap::MacAddr;
use weft_netns::{Link, LinkError, Links, Netns, NetnsError};
use weft_switch::levels::{Level, Levels};
use weft_switch::underlay::{Listen, UplinkDevice, UplinkState};

use crate::config::{Config, UnderlayKind};
use crate::privileges::Confinement;
use crate::takeover::TakeoverError;
use follow::Follower;

/// Frames that wait in the device's queue while the worker is elsewhere: as many as its sockets hold.
const QUEUE_FRAMES: u32 = 4096;
/// What the device is marked with, for people.
const ALIAS: &str = "weft";

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// It is not to be used, or cannot be trusted.
    #[error("the uplink is off: {why}")]
    Off {
        /// What the level says.
        why: String,
    },
    /// The device cannot be made.
    #[error("making the uplink's TAP: {source}: {hint}")]
    Device {
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// No interface has the address.
    #[error("no interface of this node has the address {address}: give it to one, or correct `underlay.addresses`")]
    NoInterface {
        /// The address.
        address: IpAddr,
    },
    /// The interface is not one to which Ethernet frames can be written.
    #[error("{address} is on `{interface}`, which is no Ethernet interface: take `underlay.kind = \"socket\"`")]
    NotEthernet {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Joining the two.
    #[error("joining the uplink's TAP to the NIC: {0} (this needs clsact, cls_u32 and act_mirred in the kernel)")]
    Join(NetnsError),
    /// Anything else.
    #[error("setting the uplink up: {0}")]
    Process(#[from] io::Error),
}

/// The agent's end of an uplink. Dropping it ends the uplink, redirects first.
pub(crate) struct Uplink {
    pub(crate) state: Arc<UplinkState>,
    /// The device's, to be handed on. The worker has it alone: what it closes has to go, or it would be told for ever that
    /// there is an error to be read.
    pub(crate) descriptor: Weak<OwnedFd>,
    device: String,
    vteps: Arc<Mutex<Vec<(VtepId, IpAddr)>>>,
    follower: Option<JoinHandle<()>>,
}

/// What a node takes.
pub(crate) enum Choice {
    /// The uplink, and the sockets beside it.
    Uplink(Uplink, UplinkDevice),
    /// The sockets alone, and why, unless that was asked for.
    Socket(Option<String>),
}

/// Removes redirects into nothing. What they match reaches our sockets again.
pub(crate) fn remove_stale() {
    let removed = Netns::current().and_then(|netns| {
        netns.links(|links| {
            let mut stale = links.redirects()?;
            stale.retain(|redirect| redirect.to.is_none());
            links.remove_redirects(&stale)?;
            Ok(stale.len())
        })
    });
    match removed {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "redirects of an agent that was killed are removed"),
        // Without privileges there was no uplink before, and a kernel without tc has none either.
        Err(error) => tracing::debug!(%error, "cannot look for redirects"),
    }
}

/// Takes the uplink where it is wanted and works.
///
/// # Errors
/// [`UplinkError`] where nothing else is wanted.
pub(crate) fn choose(config: &Config, levels: &Levels) -> Result<Choice, UplinkError> {
    match (config.underlay_kind, levels.off(Level::Uplink)) {
        (UnderlayKind::Socket, _) => return Ok(Choice::Socket(None)),
        (UnderlayKind::Auto, Some(off)) => return Ok(Choice::Socket(Some(off.to_string()))),
        (UnderlayKind::Auto, None) if config.workers.get() > 1 => {
            return Ok(Choice::Socket(Some("it has one queue, and there are several workers".to_owned())));
        }
        (UnderlayKind::Uplink, Some(off)) => return Err(UplinkError::Off { why: off.to_string() }),
        (UnderlayKind::Auto | UnderlayKind::Uplink, None) => {}
    }
    match set_up(config) {
        Ok((uplink, device)) => Ok(Choice::Uplink(uplink, device)),
        Err(error) if config.underlay_kind == UnderlayKind::Auto => {
            tracing::info!(%error, "no uplink: sockets carry everything");
            Ok(Choice::Socket(Some(error.to_string())))
        }
        Err(error) => Err(error),
    }
}

impl Uplink {
    /// Follows the paths to these VTEPs from now on.
    pub(crate) fn follow(&self, tables: &Tables) {
        let wanted = vteps(tables);
        // A thread that panicked while it held the list left it whole.
        let mut followed = self.vteps.lock().unwrap_or_else(PoisonError::into_inner);
        if *followed != wanted {
            *followed = wanted;
        }
    }

    /// Packets that the kernel dropped because the device's queue was full before we read it; zero without a device.
    pub(crate) fn tx_dropped(&self) -> u64 {
        let link = Netns::current().and_then(|netns| netns.links(|links| links.get(&self.device)));
        link.ok().flatten().map_or(0, |link| link.stats.tx_dropped)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.state.give_up("the agent ends".to_owned());
        if let Some(follower) = self.follower.take() {
            // A follower that panicked has said so already.
            let _ = follower.join();
        }
    }
}

/// The interfaces that an uplink joins.
#[derive(Clone, Debug)]
struct Joined {
    nic: Link,
    mac: MacAddr,
    device: Link,
    /// Addresses of ours that are on the NIC.
    addresses: Vec<IpAddr>,
    /// Where tunnel packets arrive there.
    listen: Vec<SocketAddr>,
}

fn set_up(config: &Config) -> Result<(Uplink, UplinkDevice), UplinkError> {
    let nic = Nic::of(config)?;
    let device = make()?;
    let state = Arc::new(UplinkState::new()?);
    let name = device.name().to_owned();
    let link = nic.netns.links(|links| raise(links, &name)).map_err(UplinkError::Join)?;
    let uplink = nic.follow(link, state, &device.descriptor(), Vec::new(), Joint::Made)?;
    Ok((uplink, device))
}

/// Goes on with a device that another process joined to the NIC. Its redirects stay as they are, and so do next hops until
/// others are found.
///
/// # Errors
/// [`UplinkError`]; the uplink is not to be used then.
pub(crate) fn adopt(
    config: &Config,
    state: &Arc<UplinkState>,
    (name, descriptor): (String, Arc<OwnedFd>),
    tables: &Tables,
) -> Result<Uplink, UplinkError> {
    let nic = Nic::of(config)?;
    let gone = || io::Error::other(format!("`{name}` is gone"));
    let link = nic.netns.links(|links| links.get(&name)).map_err(UplinkError::Join)?.ok_or_else(gone)?;
    nic.follow(link, state.clone(), &descriptor, vteps(tables), Joint::Found)
}

/// The device that another process hands on, if there is one and this configuration wants it.
///
/// # Errors
/// [`TakeoverError::Uplink`] where one has an uplink and the other does not want it.
pub(crate) fn inherit(
    config: &Config,
    levels: &Levels,
    handed: Option<OwnedFd>,
) -> Result<Option<UplinkDevice>, TakeoverError> {
    let refused = |why: String| Err(TakeoverError::Uplink { why });
    let Some(handed) = handed else {
        let wanted = config.underlay_kind == UnderlayKind::Uplink;
        return if wanted { refused("it has none, and `underlay.kind` wants one".to_owned()) } else { Ok(None) };
    };
    if let Some(off) = levels.off(Level::Uplink) {
        return refused(off.to_string());
    }
    UplinkDevice::adopt(handed).map(Some).or_else(|error| refused(error.to_string()))
}

fn vteps(tables: &Tables) -> Vec<(VtepId, IpAddr)> {
    tables.vteps().map(|(id, vtep)| (id, vtep.address)).collect()
}

/// Whether the redirects are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    /// They are to be made.
    Made,
    /// Another process made them.
    Found,
}

/// The interface that an uplink is to be joined to.
struct Nic {
    netns: Netns,
    link: Link,
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    listen: Vec<SocketAddr>,
    confinement: Confinement,
}

impl Nic {
    fn of(config: &Config) -> Result<Self, UplinkError> {
        let netns = Netns::current().map_err(UplinkError::Join)?;
        let Some(address) = config.addresses.first().copied() else {
            return Err(io::Error::other("no address").into());
        };
        let on = |address| netns.links(move |links| links.link_with_address(address)).map_err(UplinkError::Join);
        let link = on(address)?.ok_or(UplinkError::NoInterface { address })?;
        let not_ethernet = || UplinkError::NotEthernet { address, interface: link.name.clone() };
        let mac = link.mac.filter(|mac| *mac != MacAddr::ZERO).ok_or_else(not_ethernet)?;
        let mut addresses = config.addresses.clone();
        addresses
            .retain(|address| on(*address).is_ok_and(|found| found.is_some_and(|found| found.index == link.index)));
        let listen = on_addresses(&config.listen, &addresses);
        Ok(Self { netns, link, mac, addresses, listen, confinement: Confinement::of(config) })
    }

    /// Joins a device to it, and starts the thread that keeps the joint and its next hops true.
    fn follow(
        self,
        device: Link,
        state: Arc<UplinkState>,
        descriptor: &Arc<OwnedFd>,
        vteps: Vec<(VtepId, IpAddr)>,
        joint: Joint,
    ) -> Result<Uplink, UplinkError> {
        let Self { netns, link: nic, mac, addresses, listen, confinement } = self;
        let name = device.name.clone();
        let joined = Joined { nic, mac, device, addresses, listen };
        let vteps = Arc::new(Mutex::new(vteps));
        let (ready, outcome) = std::sync::mpsc::sync_channel(1);
        let follower = {
            let (state, vteps) = (state.clone(), vteps.clone());
            std::thread::Builder::new().name("next-hops".to_owned()).spawn(move || {
                confinement.confine();
                let ended = netns.links(|links| {
                    let follower = Follower::new(joined, state.clone(), vteps);
                    if joint == Joint::Made {
                        follower.join(links)?;
                    }
                    follower.run(links, &ready)
                });
                if let Err(error) = ended {
                    let reason = format!("next hops cannot be followed: {error}");
                    // Whoever waits for the set-up hears of it there.
                    if ready.try_send(Err(error)).is_err() {
                        tracing::warn!(reason, "the uplink is given up: sockets carry everything from now on");
                    }
                    state.give_up(reason);
                }
            })?
        };
        let uplink =
            Uplink { state, descriptor: Arc::downgrade(descriptor), device: name, vteps, follower: Some(follower) };
        match outcome.recv() {
            Ok(Ok(())) => Ok(uplink),
            Ok(Err(error)) => Err(UplinkError::Join(error)),
            Err(_) => Err(io::Error::other("the thread that follows next hops ended").into()),
        }
    }
}

pub(crate) fn make() -> Result<UplinkDevice, UplinkError> {
    UplinkDevice::make().map_err(|source| UplinkError::Device { hint: hint(&source), source })
}

fn on_addresses(listen: &[Listen], addresses: &[IpAddr]) -> Vec<SocketAddr> {
    listen.iter().map(|listen| listen.at).filter(|at| addresses.contains(&at.ip())).collect()
}

/// Joins a device to the NIC where tunnel packets arrive for `listen`.
pub(crate) fn redirect(links: &mut Links, device: &str, nic: &str, listen: &[SocketAddr]) -> Result<(), LinkError> {
    // Nothing is handed to the device before it leads somewhere.
    links.redirect_all(device, nic)?;
    links.redirect_udp(nic, listen, device)
}

/// Makes the device ready, with nothing of its own to say.
fn raise(links: &mut Links, name: &str) -> Result<Link, LinkError> {
    // A kernel without IPv6 has no such file and needs none.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    links.set_alias(name, ALIAS)?;
    links.set_tx_queue_len(name, QUEUE_FRAMES)?;
    if let Err(error) = links.set_no_queue(name) {
        tracing::debug!(name, %error, "the kernel puts its default queue in front of the uplink");
    }
    links.set_up(name)?;
    links.get(name)?.ok_or_else(|| LinkError::NoSuchLink {
        operation: "look up",
        interface: name.to_owned(),
        netns: String::new(),
    })
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::InvalidInput => "the kernel carries no superframes inside tunnels: Linux 6.17 is the first",
        io::ErrorKind::PermissionDenied => "this needs root, or CAP_NET_ADMIN",
        io::ErrorKind::NotFound => "the kernel has no TUN/TAP, or /dev/net/tun is missing",
        _ => "take `underlay.kind = \"socket\"` if this stays",
    }
}
