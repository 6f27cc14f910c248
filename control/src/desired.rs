//! From configuration to tables: pure.

use std::net::IpAddr;

use weft_bridge::tables::{Gateway, TableError};
use weft_bridge::{Attachment, Port, PortId, PortMode, Tables, Vtep, VtepKind};
use weft_encap::inner::{ETHERNET_LEN, MAX_TAGS, TAG_LEN};
use weft_encap::mtu::{MIN_IPV4, MIN_IPV6, overhead, pod_mtu};
use weft_encap::{Encapsulation, Vni};
use weft_switch::underlay::{MAX_GROUP_BYTES, MAX_GROUP_SEGMENTS};

use crate::cluster::ranges::gateway_mac;
use crate::config::{Config, PortConfig, VtepConfig};

/// Tables, and which row is which port of the configuration.
#[derive(Debug)]
pub(crate) struct Desired {
    pub(crate) tables: Tables,
    pub(crate) ports: Vec<PortId>,
}

/// Tables for a configuration whose underlay has this MTU.
pub(crate) fn desired(config: &Config, underlay_mtu: u16) -> Result<Desired, TableError> {
    let mut udp_ports: Vec<u16> = config.listen.iter().map(|listen| listen.at.port()).collect();
    udp_ports.dedup();
    let mut tables = Tables::new(config.addresses.clone(), udp_ports);
    tables.set_outer_dscp(config.dscp);
    tables.set_outer_ttl(config.ttl);
    for (vni, options) in &config.vnis {
        tables.add_domain(*vni, *options)?;
    }
    for vtep in &config.vteps {
        let row = Vtep {
            address: vtep.at.ip(),
            udp_port: vtep.at.port(),
            encapsulation: vtep.encapsulation,
            kind: VtepKind::Foreign,
            pod_mtu: mtu_to(vtep, underlay_mtu),
        };
        tables.add_vtep(row, &vtep.vnis)?;
    }
    let mut ports = Vec::with_capacity(config.ports.len());
    for port in &config.ports {
        let mtu = port_mtu(config, port, underlay_mtu);
        ports.push(add_port(&mut tables, config, port, mtu)?);
    }
    Ok(Desired { tables, ports })
}

/// Adds a port's row; the node's own stands for the gateway.
pub(crate) fn add_port(
    tables: &mut Tables,
    config: &Config,
    port: &PortConfig,
    mtu: u16,
) -> Result<PortId, TableError> {
    let mode = match port.learn_limit {
        Some(limit) => PortMode::Learning { limit },
        None if port.routes => PortMode::Bound { addresses: Vec::new() },
        None => PortMode::Bound { addresses: port.addresses.iter().map(|net| net.addr()).collect() },
    };
    let id = tables.add_port(Port { name: port.name.clone(), vni: port.vni, mac: port.mac, mtu, mode })?;
    if let Some(network) = config.network.as_ref().filter(|_| port.routes) {
        tables.set_gateway(Gateway { mac: gateway_mac(port.vni), addresses: network.gateways(), port: id })?;
    }
    Ok(id)
}

/// The MTU of a port: what was asked for, or what fits through the tunnel to every VTEP of its VNI.
pub(crate) fn port_mtu(config: &Config, port: &PortConfig, underlay_mtu: u16) -> u16 {
    port.mtu.unwrap_or_else(|| fitting_mtu(config, port.vni, underlay_mtu))
}

/// A port that has an IPv6 address and an MTU with which the kernel gives a device none.
pub(crate) fn too_narrow_for_ipv6(config: &Config, underlay_mtu: u16) -> Option<(&PortConfig, u16)> {
    let with_ipv6 = |port: &&PortConfig| port.addresses.iter().any(|address| address.addr().is_ipv6());
    let with_mtu = config.ports.iter().filter(with_ipv6).map(|port| (port, port_mtu(config, port, underlay_mtu)));
    with_mtu.into_iter().find(|(_, mtu)| *mtu < MIN_IPV6)
}

/// The greatest MTU with which nothing in a VNI is too long for the tunnel, tags included where it carries them.
pub(crate) fn fitting_mtu(config: &Config, vni: Vni, underlay_mtu: u16) -> u16 {
    let transparent = config.vnis.iter().any(|(id, options)| *id == vni && options.vlan_transparent);
    let tags = if transparent { MAX_TAGS * TAG_LEN } else { 0 };
    let through = config.vteps.iter().filter(|vtep| vtep.vnis.contains(&vni)).map(|vtep| mtu_to(vtep, underlay_mtu));
    let alone = || inner_mtu(Encapsulation::Vxlan, config.addresses.iter().any(IpAddr::is_ipv6), underlay_mtu);
    through.min().unwrap_or_else(alone).saturating_sub(tags as u16).max(MIN_IPV4)
}

/// Wire packets in one superframe at most, so that a whole one with all its headers is one group for the
/// underlay.
pub(crate) fn superframe_segments(port_mtu: u16) -> usize {
    let packet = usize::from(port_mtu) + ETHERNET_LEN + Encapsulation::MAX_HEADER_LEN;
    (MAX_GROUP_BYTES / packet).clamp(1, MAX_GROUP_SEGMENTS)
}

/// The name of an attachment, as shown to people.
pub(crate) fn name_of(tables: &Tables, attachment: Attachment) -> (&'static str, String) {
    match attachment {
        Attachment::Port(id) => {
            ("port", tables.port(id).map_or_else(|| "removed".to_owned(), |port| port.name.clone()))
        }
        Attachment::Vtep(id) => {
            ("vtep", tables.vtep(id).map_or_else(|| "removed".to_owned(), |vtep| vtep.address.to_string()))
        }
    }
}

fn mtu_to(vtep: &VtepConfig, underlay_mtu: u16) -> u16 {
    inner_mtu(vtep.encapsulation, vtep.at.is_ipv6(), underlay_mtu)
}

/// The longest inner IP packet that fits through a tunnel over an underlay with this MTU, in bytes.
pub(crate) fn inner_mtu(encapsulation: Encapsulation, ipv6: bool, underlay_mtu: u16) -> u16 {
    pod_mtu(underlay_mtu, overhead(encapsulation, ipv6, 0)).unwrap_or(MIN_IPV4)
}
