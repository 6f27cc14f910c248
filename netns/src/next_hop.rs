//! Where packets to an address leave, and to which MAC.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rustix::io::Errno;
use weft_encap::MacAddr;

use crate::links::Step;
use crate::{LinkError, Links};

/// How packets to an address leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the interface.
    pub interface: u32,
    /// The router, of either family; none where the address itself is on the link.
    pub gateway: Option<IpAddr>,
}

/// What is known of an address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface.
    pub interface: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, as long as the kernel would send to it.
    pub mac: Option<MacAddr>,
    /// Whether nobody has confirmed the MAC for a while.
    pub stale: bool,
    /// Whether somebody has set the MAC for good, so that nobody ever confirms it.
    pub fixed: bool,
}

impl Links {
    /// How UDP packets from one of our addresses to another's leave; none where they would not, or stay here.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn route(&mut self, from: IpAddr, to: IpAddr) -> Result<Option<Route>, LinkError> {
        let step = Step { operation: "look up a route in", interface: "*" };
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, bits(to));
        let mut question = question.map_err(|error| self.nonsense(step, &error))?.build();
        question.header.source_prefix_length = bits(from);
        question.attributes.push(RouteAttribute::Source(match from {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        }));
        question.attributes.push(RouteAttribute::IpProto(UDP));
        let request = self.handle.route().get(question);
        match self.wait(step, request.execute().try_collect::<Vec<_>>()) {
            Ok(answers) => Ok(answers.first().and_then(route)),
            Err(LinkError::Kernel { source, .. }) if says_no(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The addresses on the links of the namespace of which anything is known.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, LinkError> {
        let request = self.handle.neighbours().get();
        let step = Step { operation: "list the neighbours of", interface: "*" };
        let messages: Vec<NeighbourMessage> = self.wait(step, request.execute().try_collect())?;
        Ok(messages.iter().filter_map(neighbour).collect())
    }

    /// Has the kernel find out the MAC of an address, or confirm the one it has, as if it had a packet to send there.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn use_neighbour(&mut self, interface: u32, address: IpAddr) -> Result<(), LinkError> {
        let step = Step { operation: "ask for a neighbour on", interface: &format!("#{interface}") };
        let request = self.handle.neighbours().add(interface, address);
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        self.wait(step, request.execute())
    }
}

const UDP: u8 = 17;

fn says_no(error: &std::io::Error) -> bool {
    let no = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::ACCESS, Errno::AGAIN, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| no.contains(&errno))
}

fn route(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut found = Route { interface: 0, gateway: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.interface = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
                found.gateway = Some((*address).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                found.gateway = Some((*address).into());
            }
            // A route that encapsulates by itself: what leaves is not what we would build.
            RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    (found.interface != 0).then_some(found)
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(MacAddr),
        _ => None,
    });
    let state = message.header.state;
    let valid = matches!(
        state,
        NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
    );
    let stale = state == NeighbourState::Stale;
    let fixed = state == NeighbourState::Permanent;
    Some(Neighbour { interface: message.header.ifindex, address, mac: mac.filter(|_| valid), stale, fixed })
}
