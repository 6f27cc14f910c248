//! The thread that keeps an uplink true: its redirects, and the next hop of each VTEP.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_bridge::VtepId;
use weft_encap::MacAddr;
use weft_encap::outer::{Addresses, Link};
use weft_netns::{LinkError, Links, Neighbour, NetnsError, News, Route};
use weft_switch::underlay::{NextHop, NextHops, UplinkState};

use super::{Joined, redirect};

/// How often the list of VTEPs is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often everything is looked at anew, whatever the kernel told.
const REVIEW: Duration = Duration::from_secs(30);

type Vteps = Vec<(VtepId, IpAddr)>;

pub(super) struct Follower {
    joined: Joined,
    state: Arc<UplinkState>,
    wanted: Arc<Mutex<Vteps>>,
    vteps: Vteps,
    routes: HashMap<IpAddr, Route>,
}

impl Follower {
    pub(super) fn new(joined: Joined, state: Arc<UplinkState>, wanted: Arc<Mutex<Vteps>>) -> Self {
        Self { joined, state, wanted, vteps: Vec::new(), routes: HashMap::new() }
    }

    /// Makes the redirects.
    pub(super) fn join(&self, links: &mut Links) -> Result<(), LinkError> {
        let Joined { nic, device, listen, .. } = &self.joined;
        redirect(links, &device.name, &nic.name, listen).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.part(links);
        })
    }

    /// Follows until the uplink is given up, and takes the redirects away.
    pub(super) fn run(
        mut self,
        links: &mut Links,
        ready: &SyncSender<Result<(), NetnsError>>,
    ) -> Result<(), LinkError> {
        let followed = self.follow(links, ready);
        let parted = self.part(links);
        followed.and(parted)
    }

    fn follow(&mut self, links: &mut Links, ready: &SyncSender<Result<(), NetnsError>>) -> Result<(), LinkError> {
        let mut watch = links.watch()?;
        // Nobody who waits is nobody to tell.
        let _ = ready.try_send(Ok(()));
        let (mut news, mut reviewed) = (News::ALL, Instant::now());
        while !self.state.is_given_up() {
            if (news.links || news.filters)
                && let Some(reason) = self.broken(links)?
            {
                tracing::warn!(reason, "the uplink is given up: sockets carry everything from now on");
                self.state.give_up(reason);
                break;
            }
            if self.take_vteps() || news.links || news.routes {
                self.find_routes(links)?;
                news.neighbours = true;
            }
            if news.neighbours {
                self.publish(links)?;
            }
            news = links.wait_for_news(&mut watch, self.state.end(), LOOK)?;
            if reviewed.elapsed() >= REVIEW {
                (news, reviewed) = (News::ALL, Instant::now());
            }
        }
        Ok(())
    }

    /// What is wrong with the joint, if anything is. What may change of the NIC is taken over.
    fn broken(&mut self, links: &mut Links) -> Result<Option<String>, LinkError> {
        let Joined { nic, mac, device, listen, .. } = &mut self.joined;
        let gone = |name: &str| Some(format!("`{name}` is gone"));
        match links.get(&nic.name)? {
            Some(now) if now.index == nic.index => {
                *mac = now.mac.unwrap_or(*mac);
                *nic = now;
            }
            _ => return Ok(gone(&nic.name)),
        }
        match links.get(&device.name)? {
            Some(now) if now.index == device.index && now.up => {}
            Some(_) => return Ok(Some(format!("somebody switched `{}` off", device.name))),
            None => return Ok(gone(&device.name)),
        }
        let redirects = links.redirects()?;
        let count = |from, to| redirects.iter().filter(|one| (one.from, one.to) == (from, Some(to))).count();
        if count(nic.index, device.index) != listen.len() || count(device.index, nic.index) != 1 {
            return Ok(Some(format!("somebody removed a redirect between `{}` and `{}`", nic.name, device.name)));
        }
        Ok(None)
    }

    /// Whether there are other VTEPs now.
    fn take_vteps(&mut self) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *wanted != self.vteps;
        if changed {
            self.vteps.clone_from(&wanted);
        }
        changed
    }

    fn find_routes(&mut self, links: &mut Links) -> Result<(), LinkError> {
        let before = std::mem::take(&mut self.routes);
        for (_, to) in &self.vteps {
            let own = self.joined.addresses.iter().find(|own| own.is_ipv6() == to.is_ipv6());
            let Some(own) = own.copied() else { continue };
            let Some(route) = links.route(own, *to)?.filter(|route| route.interface == self.joined.nic.index) else {
                continue;
            };
            // What was never asked for is found out before there is anything to send.
            if before.get(to) != Some(&route) {
                use_neighbour(links, route.interface, route.gateway.unwrap_or(*to));
            }
            self.routes.insert(*to, route);
        }
        Ok(())
    }

    fn publish(&self, links: &mut Links) -> Result<(), LinkError> {
        let neighbours: HashMap<_, _> = links
            .neighbours()?
            .into_iter()
            .map(|neighbour| ((neighbour.interface, neighbour.address), neighbour))
            .collect();
        let mut hops = NextHops::default();
        let mut stale = HashSet::new();
        for (id, to) in &self.vteps {
            let Some(route) = self.routes.get(to) else { continue };
            let on_link = route.gateway.unwrap_or(*to);
            let Some(Neighbour { mac: Some(mac), stale: is_stale, .. }) =
                neighbours.get(&(route.interface, on_link)).copied()
            else {
                continue;
            };
            if is_stale {
                stale.insert(on_link);
            }
            if let Some(hop) = self.hop(*to, mac) {
                hops.insert(*id, hop);
            }
        }
        if *self.state.hops() != hops {
            tracing::debug!(reached = hops.count(), of = self.vteps.len(), "next hops through the uplink");
            self.state.publish(hops);
        }
        // Our packets confirm nobody: the kernel has to be told that the address is in use.
        for address in stale {
            use_neighbour(links, self.joined.nic.index, address);
        }
        Ok(())
    }

    fn hop(&self, to: IpAddr, dst: MacAddr) -> Option<NextHop> {
        let Joined { nic, mac, addresses, .. } = &self.joined;
        let own = addresses.iter().find(|own| own.is_ipv6() == to.is_ipv6())?;
        let addresses = match (*own, to) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4 { src, dst },
            (IpAddr::V6(src), IpAddr::V6(dst)) => Addresses::V6 { src, dst },
            _ => return None,
        };
        let mtu = u16::try_from(nic.mtu).unwrap_or(u16::MAX);
        Some(NextHop { link: Link { dst, src: *mac }, addresses, mtu })
    }

    /// Takes the redirects away, at the NIC first: what arrives is the sockets' again.
    fn part(&self, links: &mut Links) -> Result<(), LinkError> {
        let Joined { nic, device, .. } = &self.joined;
        let mut ours = links.redirects()?;
        ours.retain(|one| {
            one.from == device.index || one.from == nic.index && one.to.is_none_or(|to| to == device.index)
        });
        ours.sort_by_key(|one| one.from == device.index);
        links.remove_redirects(&ours)
    }
}

/// Has the kernel find a MAC out. Where it cannot, as in a full table of neighbours, the sockets carry what is for
/// that address, and all others keep the uplink.
fn use_neighbour(links: &mut Links, interface: u32, address: IpAddr) {
    if let Err(error) = links.use_neighbour(interface, address) {
        tracing::debug!(%address, %error, "the kernel does not look for a next hop");
    }
}
