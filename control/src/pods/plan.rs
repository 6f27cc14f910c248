//! What a pod's interface gets of what was asked for: pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_api::{AddressSource, Attach, MAX_WAIT_MS, Refusal};
use weft_encap::mtu::MIN_IPV6;
use weft_encap::{MacAddr, Vni};

use super::addresses::{choose, is_for_pods};
use super::ledger::{Address, Identity, Ledger, Pod, Refused, Route};
use crate::config::{NetworkConfig, is_host, is_interface};

/// Characters of a port's name at most, of which there may be a number at its end.
const PORT_NAME_CHARS: usize = 56;
/// Routes of one interface at most.
const ROUTES: usize = 256;
/// Bytes of an identifier of a container, and of a network's name, at most.
const NAME_BYTES: usize = 1024;

/// What else there is on the node.
pub(crate) struct Surroundings<'a> {
    /// The cluster's network.
    pub(crate) network: Option<&'a NetworkConfig>,
    /// This node's ranges of it.
    pub(crate) ranges: &'a [IpNet],
    /// The virtual networks.
    pub(crate) vnis: &'a [Vni],
    /// The addresses of ports that are no pod's of the ledger.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The names of all ports.
    pub(crate) names: BTreeSet<&'a str>,
    /// Whether the pod has a default route by another interface, of IPv4 and of IPv6.
    pub(crate) has_default: [bool; 2],
}

/// The pod's row, ready to be kept.
pub(crate) fn plan(
    ledger: &Ledger,
    around: &Surroundings<'_>,
    ask: &Attach,
    namespace: Identity,
) -> Result<Pod, Refused> {
    check_names(ask)?;
    if let Some(ms) = ask.wait_timeout_ms.filter(|ms| !(1..=MAX_WAIT_MS).contains(ms)) {
        return invalid(format!("`waitTimeoutMs` is {ms}: allowed are 1 to {MAX_WAIT_MS}"));
    }
    let vni = vni(around, ask)?;
    let (addresses, delegated) = match &ask.addresses {
        AddressSource::Node { requested } => (from_node(ledger, around, vni, requested)?, false),
        AddressSource::Given(given) => {
            let read = |one: &weft_api::PodAddress| {
                Ok(Address { address: network(&one.address, "an address")?, gateway: one.gateway })
            };
            (given.iter().map(read).collect::<Result<Vec<_>, Refused>>()?, true)
        }
    };
    check_addresses(ledger, around, &addresses)?;
    if ask.mtu.is_some_and(|mtu| mtu < MIN_IPV6) && addresses.iter().any(|one| one.address.addr().is_ipv6()) {
        return invalid(format!("`mtu` is too little for IPv6 addresses, which need {MIN_IPV6}"));
    }
    let routes = routes(around, ask, &addresses)?;
    Ok(Pod {
        id: ask.pod.clone(),
        namespace,
        port: port_name(ask, &around.names),
        vni,
        mac: mac(ask, vni, &addresses)?,
        mtu: ask.mtu,
        addresses,
        delegated,
        ended: false,
        routes,
    })
}

/// Refuses where the next pod would get no address of the node's own.
pub(crate) fn check_room(ledger: &Ledger, around: &Surroundings<'_>, vni: Vni) -> Result<(), Refused> {
    from_node(ledger, around, vni, &[]).map(drop)
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::new(Refusal::Invalid, message))
}

fn check_names(ask: &Attach) -> Result<(), Refused> {
    let id = &ask.pod;
    if !is_interface(&id.interface) {
        return invalid(format!("`{}` cannot name an interface: choose another", id.interface));
    }
    for (what, name) in [("network", &id.network), ("container", &id.container)] {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains('\0') {
            return invalid(format!("the name of the {what} has {} bytes: 1 to {NAME_BYTES}", name.len()));
        }
    }
    Ok(())
}

fn vni(around: &Surroundings<'_>, ask: &Attach) -> Result<Vni, Refused> {
    let wanted = match ask.vni {
        Some(number) => Vni::new(number)
            .map_err(|_| Refused::new(Refusal::Invalid, format!("`vni` is {number}: allowed are 1 to {}", Vni::MAX)))?,
        None => match around.network {
            Some(network) => network.vni,
            None => {
                return invalid(
                    "the agent's configuration has no `[network]`: name the virtual network by `vni` in the network \
                     configuration, or add a `[network]`",
                );
            }
        },
    };
    if around.vnis.contains(&wanted) {
        return Ok(wanted);
    }
    invalid(format!("`vni` is {wanted}, which has no `[[vni]]` in the agent's configuration: add one"))
}

/// One address of each family of the network, as it was asked for or as the range has it.
fn from_node(
    ledger: &Ledger,
    around: &Surroundings<'_>,
    vni: Vni,
    requested: &[IpAddr],
) -> Result<Vec<Address>, Refused> {
    let Some(network) = around.network else {
        return invalid(
            "the agent's configuration has no `[network]`, so the node has no addresses to give: add one, or name an \
             `ipam` plugin in the network configuration",
        );
    };
    if network.vni != vni {
        return invalid(format!(
            "the node has addresses for VNI {} alone, and `vni` is {vni}: name an `ipam` plugin in the network \
             configuration",
            network.vni
        ));
    }
    if around.ranges.is_empty() {
        return Err(Refused::new(
            Refusal::Later,
            "the node has no ranges of addresses yet: `weft status` says why, and where its store stands",
        ));
    }
    let range_of = |address: &IpAddr| around.ranges.iter().find(|range| range.contains(address));
    if let Some(foreign) = requested.iter().find(|address| range_of(address).is_none()) {
        let ranges: Vec<_> = around.ranges.iter().map(ToString::to_string).collect();
        return invalid(format!("{foreign} was asked for, and this node gives addresses of {}", ranges.join(" and ")));
    }
    let taken: BTreeSet<IpAddr> = ledger.taken().union(&around.addresses).copied().collect();
    let mut addresses = Vec::new();
    for range in around.ranges {
        let mut wanted = requested.iter().copied().filter(|address| range.contains(address));
        let address = match (wanted.next(), wanted.next()) {
            (Some(_), Some(second)) => {
                return invalid(format!("{second} was asked for besides another of its family: ask for one"));
            }
            (Some(wanted), None) if !is_for_pods(*range, wanted) => {
                return invalid(format!("{wanted} was asked for, which is no pod's in {range}: choose another"));
            }
            (Some(wanted), None) => wanted,
            (None, _) => {
                let last = ledger.given_last.iter().copied().find(|last| range.contains(last));
                choose(*range, last, &taken, &network.reserved).ok_or_else(|| exhausted(*range, &taken))?
            }
        };
        let cluster = network.ranges.iter().find(|cluster| cluster.range.contains(&address));
        let prefix = cluster.map_or(range.prefix_len(), |cluster| cluster.range.prefix_len());
        let gateway = cluster.map(crate::cluster::ClusterRange::gateway);
        addresses.push(Address { address: IpNet::new(address, prefix).unwrap_or(*range), gateway });
    }
    Ok(addresses)
}

fn exhausted(range: IpNet, taken: &BTreeSet<IpAddr>) -> Refused {
    let given = taken.iter().filter(|taken| range.contains(*taken)).count();
    Refused::new(
        Refusal::Exhausted,
        format!(
            "no address of {range} is free, {given} are given: `weft show ports` says to whom; end pods, or give nodes \
             larger ranges (`network.node_prefix_ipv4`, `node_prefix_ipv6`) in a new cluster"
        ),
    )
}

fn check_addresses(ledger: &Ledger, around: &Surroundings<'_>, addresses: &[Address]) -> Result<(), Refused> {
    let taken = ledger.taken();
    let gateways = around.network.map(NetworkConfig::gateways).unwrap_or_default();
    for address in addresses.iter().map(|one| one.address.addr()) {
        if !is_host(address) {
            return invalid(format!("{address} is no address of a single host"));
        }
        if taken.contains(&address) || around.addresses.contains(&address) || gateways.contains(&address) {
            return Err(Refused::new(
                Refusal::Taken,
                format!("{address} is taken on this node: `weft show ports` says by whom; ask for another"),
            ));
        }
    }
    Ok(())
}

fn routes(around: &Surroundings<'_>, ask: &Attach, addresses: &[Address]) -> Result<Vec<Route>, Refused> {
    if ask.routes.len() > ROUTES {
        return invalid(format!("{} routes: allowed are {ROUTES} at most", ask.routes.len()));
    }
    let gateway = |ipv6: bool| addresses.iter().filter_map(|one| one.gateway).find(|one| one.is_ipv6() == ipv6);
    let mut routes = Vec::new();
    for one in &ask.routes {
        let destination = network(&one.destination, "a route's destination")?.trunc();
        let gateway = one.gateway.or_else(|| gateway(destination.addr().is_ipv6()));
        if gateway.is_some_and(|gateway| gateway.is_ipv6() != destination.addr().is_ipv6()) {
            return invalid(format!("the route to {destination} has a gateway of the other family"));
        }
        routes.push(Route { destination, gateway });
    }
    let of_node = matches!(ask.addresses, AddressSource::Node { .. });
    for (ipv6, has_one) in [false, true].into_iter().zip(around.has_default) {
        let is_default =
            |route: &Route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv6() == ipv6;
        let wanted = ask.default_route.unwrap_or(of_node && !has_one);
        if let Some(gateway) = gateway(ipv6).filter(|_| wanted && !routes.iter().any(is_default)) {
            let destination = if ipv6 { "::/0" } else { "0.0.0.0/0" };
            routes.push(Route { destination: network(destination, "a default route")?, gateway: Some(gateway) });
        }
    }
    Ok(routes)
}

fn network(text: &str, what: &str) -> Result<IpNet, Refused> {
    text.parse().or_else(|_| invalid(format!("{what} is `{text}`: allowed is one such as 10.0.0.1/24")))
}

/// The MAC that was asked for, or one that follows from the first address: who gets an address later has the MAC that
/// others remember for it.
fn mac(ask: &Attach, vni: Vni, addresses: &[Address]) -> Result<MacAddr, Refused> {
    if let Some(text) = &ask.mac {
        let wrong =
            || Refused::new(Refusal::Invalid, format!("`mac` is `{text}`: allowed are six hex pairs of one device"));
        let mac: MacAddr = text.parse().map_err(|_| wrong())?;
        let usable = !mac.is_multicast() && mac != MacAddr::ZERO && mac != crate::cluster::ranges::gateway_mac(vni);
        return if usable { Ok(mac) } else { Err(wrong()) };
    }
    Ok(MacAddr::from_u64(match addresses.first().map(|one| one.address.addr()) {
        // Locally administered, and no two addresses have the same.
        Some(IpAddr::V4(v4)) => 0x0657_0000_0000 | u64::from(v4.to_bits()),
        Some(IpAddr::V6(v6)) => 0x0a00_0000_0000 | folded(v6.octets().into_iter()),
        None => {
            let id = &ask.pod;
            let names = [&id.network, &id.container, &id.interface];
            0x0e00_0000_0000 | folded(names.into_iter().flat_map(|name| name.bytes().chain([0])))
        }
    }))
}

/// FNV-1a, folded to 40 bits.
fn folded(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 40) & 0x00ff_ffff_ffff
}

/// A name on this node that people find the pod by.
fn port_name(ask: &Attach, names: &BTreeSet<&str>) -> String {
    let pod = ask.label.as_deref().unwrap_or(&ask.pod.container);
    let interface = &ask.pod.interface;
    let keep = PORT_NAME_CHARS - interface.len() - 1;
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | '-' | '.') => letter,
        '/' => '.',
        _ => '-',
    };
    let name: String = pod.chars().take(keep).chain(['.']).chain(interface.chars()).map(letter).collect();
    let mut numbered = (2..).map(|number: u32| format!("{name}.{number}"));
    if names.contains(name.as_str()) {
        numbered.find(|name| !names.contains(name.as_str())).unwrap_or(name)
    } else {
        name
    }
}
