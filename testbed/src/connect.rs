//! The underlay: bridges, cables, addresses, and routes through its routers.

use std::fs;
use std::io::{self, ErrorKind};

use weft_netns::{Links, Netns};

use crate::error::io_error;
use crate::spec::UNDERLAY;
use crate::topology::{Cable, Route, bridge};
use crate::{Lab, LabError, Progress, store};

/// Whether interfaces made from now on have IPv6, in the namespace of the thread that asks.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
/// Whether the namespace of the thread that asks forwards packets.
const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

impl Lab {
    /// Cables every node and router to its segments.
    pub(crate) fn connect(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        let underlay = self.netns(UNDERLAY)?;
        underlay.run(|| switch_on(NO_IPV6))?.map_err(io_error("switch IPv6 off by", NO_IPV6))?;
        underlay.links(|links| {
            for segment in 0..self.spec().segments.len() {
                links.add_bridge(&bridge(segment))?;
                links.set_up(&bridge(segment))?;
                if self.spec().has_store() {
                    links.set_mac(&bridge(segment), store::MAC)?;
                    links.set_mtu(&bridge(segment), store::MTU)?;
                    links.add_address(&bridge(segment), self.spec().store_address(segment).into())?;
                }
            }
            Ok(())
        })?;
        for router in &self.spec().routers {
            let netns = self.netns(&router.name)?;
            for path in FORWARDING {
                netns.run(|| switch_on(path))?.map_err(io_error("forward packets by", path))?;
            }
        }
        for cable in self.spec().cables() {
            let netns = self.netns(&cable.member)?;
            underlay.links(|links| plug_in(links, &cable, &netns))?;
            netns.links(|links: &mut Links| {
                links.set_mtu(&cable.interface, cable.mtu.into())?;
                links.set_up(&cable.interface)?;
                cable.addresses.iter().try_for_each(|address| links.add_address(&cable.interface, *address))
            })?;
            progress(Progress::Connected { link: &cable.name });
        }
        self.add_routes()
    }

    /// Ways to other segments, once every router has its addresses.
    fn add_routes(&self) -> Result<(), LabError> {
        let nodes = self.spec().nodes.iter().map(|node| &node.name);
        for member in nodes.chain(self.spec().routers.iter().map(|router| &router.name)) {
            let routes = self.spec().routes(member);
            if routes.is_empty() {
                continue;
            }
            self.netns(member)?.links(|links| {
                let add = |Route { destination, via, dev }: &Route| links.add_route(*destination, Some(*via), dev);
                routes.iter().try_for_each(add)
            })?;
        }
        Ok(())
    }
}

fn plug_in(links: &mut Links, cable: &Cable, netns: &Netns) -> Result<(), weft_netns::LinkError> {
    links.add_veth(&cable.name, &cable.interface, netns)?;
    links.set_mtu(&cable.name, cable.mtu.into())?;
    links.set_master(&cable.name, &bridge(cable.segment))?;
    links.set_up(&cable.name)
}

fn switch_on(path: &str) -> io::Result<()> {
    match fs::write(path, "1") {
        // A kernel without IPv6 has nothing to switch.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written,
    }
}
