//! From the file as written to a lab that can be made: every value by itself, then against the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_saphyr::Location;
use weft_encap::{MacAddr, Vni};

use crate::LabFileError;
use crate::file::{self, Text};
use crate::problem::Collector;
use crate::spec::{
    Encapsulation, Family, LabName, LabSpec, NODE_NAME_MAX, NODES_MAX, NodeSpec, POD_ADDRESSES_MAX, POD_NAME_MAX,
    PODS_MAX, PodSpec, PortMode, RESERVED, UnderlaySpec, VniSpec, is_name,
};

/// Smallest MTU of the underlay in bytes: below, Linux takes IPv6 off the interface.
const UNDERLAY_MTU_MIN: u16 = 1280;
/// Smallest MTU of a pod in bytes (RFC 791).
const POD_MTU_MIN: u16 = 68;

const LAB_NAME: &str = "allowed are 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit";
const NODE_NAME: &str = "allowed are 1 to 15 of a-z, 0-9 and -, beginning with a letter or digit";
const POD_NAME: &str = "allowed are 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit";
const RESERVED_NAME: &str = "taken are underlay, br0, lo, all and default";
const UNIQUE_NAME: &str = "every node and pod of a lab needs a name of its own";
const VNI: &str = "allowed are 1 to 16777215";
const ADDRESS: &str = "allowed is an address of a host with its prefix length, such as 10.244.1.2/24 or fd00::2/64";

pub(crate) fn parse(text: &str, file: &str) -> Result<LabSpec, LabFileError> {
    let collector = Collector::new(text, file);
    match serde_saphyr::from_str::<file::File>(text) {
        Ok(file) => Checker { collector, names: HashMap::new(), in_vni: HashMap::new() }.lab(&file),
        Err(error) => Err(collector.shape_error(&error)),
    }
}

struct Checker<'a> {
    collector: Collector<'a>,
    /// Names of nodes and pods.
    names: HashMap<String, Location>,
    /// Addresses and MACs that must not come twice in one virtual network, as text.
    in_vni: HashMap<(Vni, String), Location>,
}

impl Checker<'_> {
    fn lab(mut self, file: &file::File) -> Result<LabSpec, LabFileError> {
        let name = file.name.as_ref().and_then(|text| self.value("name", text, LAB_NAME, parsed::<LabName>));
        let encapsulation = self.optional("encapsulation", file.encapsulation.as_ref(), ENCAPSULATION, encapsulation);
        let underlay = self.underlay(&file.underlay);
        let listed = self.vnis(&file.vnis);
        let nodes: Vec<NodeSpec> =
            file.nodes.value.iter().enumerate().filter_map(|(index, node)| self.node(index, node)).collect();
        self.sizes(file);
        if !file.vnis.is_empty() {
            self.membership(file, &listed);
        }
        if !self.collector.is_empty() {
            return Err(self.collector.into_error());
        }
        let vnis = if file.vnis.is_empty() { named_by(&nodes) } else { listed };
        let spec = LabSpec { name, encapsulation: encapsulation.unwrap_or_default(), underlay, vnis, nodes };
        self.room(file, &spec);
        if self.collector.is_empty() { Ok(spec) } else { Err(self.collector.into_error()) }
    }

    fn underlay(&mut self, file: &file::Underlay) -> UnderlaySpec {
        let default = UnderlaySpec::default();
        let ipv4 = "allowed is an IPv4 prefix such as 10.199.0.0/24";
        let ipv6 = "allowed is an IPv6 prefix such as fd99::/64";
        let mtu = |text: &str| number(text, UNDERLAY_MTU_MIN);
        UnderlaySpec {
            ipv4: self.optional("underlay.ipv4", file.ipv4.as_ref(), ipv4, parsed).unwrap_or(default.ipv4),
            ipv6: self.optional("underlay.ipv6", file.ipv6.as_ref(), ipv6, parsed).unwrap_or(default.ipv6),
            mtu: self
                .optional("underlay.mtu", file.mtu.as_ref(), "allowed are 1280 to 65535 bytes", mtu)
                .unwrap_or(default.mtu),
            family: self
                .optional("underlay.family", file.family.as_ref(), "allowed are ipv4 and ipv6", family)
                .unwrap_or(default.family),
        }
    }

    fn vnis(&mut self, entries: &[file::VniEntry]) -> Vec<VniSpec> {
        let mut seen: HashMap<Vni, Location> = HashMap::new();
        let mut vnis = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("vnis[{index}].vlan_transparent");
            let transparent =
                self.optional(&path, entry.vlan_transparent.as_ref(), "allowed are true and false", parsed::<bool>);
            let Some(id) = self.value(&format!("vnis[{index}].id"), &entry.id, VNI, vni) else { continue };
            if let Some(earlier) = seen.insert(id, entry.id.referenced) {
                let message = format!("vnis[{index}].id: VNI {id} stands here twice");
                self.collector.add_pair(entry.id.referenced, Some(earlier), message, "one entry a VNI is allowed");
            }
            vnis.push(VniSpec { id, vlan_transparent: transparent.unwrap_or_default() });
        }
        vnis
    }

    fn node(&mut self, index: usize, node: &file::Node) -> Option<NodeSpec> {
        let path = format!("nodes[{index}]");
        let name = self.name(&format!("{path}.name"), &node.name, NODE_NAME, NODE_NAME_MAX);
        let pods: Vec<Option<PodSpec>> =
            node.pods.iter().enumerate().map(|(index, pod)| self.pod(&format!("{path}.pods[{index}]"), pod)).collect();
        Some(NodeSpec { name: name?, pods: pods.into_iter().collect::<Option<_>>()? })
    }

    fn pod(&mut self, path: &str, pod: &file::Pod) -> Option<PodSpec> {
        let name = self.name(&format!("{path}.name"), &pod.name, POD_NAME, POD_NAME_MAX);
        let vni = self.value(&format!("{path}.vni"), &pod.vni, VNI, vni);
        let mac_allowed = "allowed is the address of one interface, such as 02:00:00:00:00:01";
        let mac = self.optional(&format!("{path}.mac"), pod.mac.as_ref(), mac_allowed, mac);
        let mode = self.optional(&format!("{path}.mode"), pod.mode.as_ref(), "allowed are bound and learning", mode);
        let mtu_allowed = "allowed are 68 to 65535 bytes";
        let mtu =
            self.optional(&format!("{path}.mtu"), pod.mtu.as_ref(), mtu_allowed, |text| number(text, POD_MTU_MIN));
        let addresses = self.addresses(path, vni, &pod.addresses);
        if let (Some(vni), Some(mac), Some(text)) = (vni, mac, &pod.mac) {
            self.once_in(vni, mac.to_string(), &format!("{path}.mac"), text.referenced);
        }
        Some(PodSpec { name: name?, vni: vni?, addresses, mac, mode: mode.unwrap_or_default(), mtu })
    }

    fn addresses(&mut self, path: &str, vni: Option<Vni>, texts: &[Text]) -> Vec<IpNet> {
        let mut addresses = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let path = format!("{path}.addresses[{index}]");
            let Some(address) = self.value(&path, text, ADDRESS, host) else { continue };
            if let Some(vni) = vni {
                self.once_in(vni, address.addr().to_string(), &path, text.referenced);
            }
            addresses.push(address);
        }
        if let Some(text) = texts.get(POD_ADDRESSES_MAX) {
            let message = format!("{path}.addresses: {} addresses are too many", texts.len());
            self.collector.add(text.referenced, message, format!("allowed are {POD_ADDRESSES_MAX}"));
        }
        addresses
    }

    fn name(&mut self, path: &str, text: &Text, allowed: &'static str, max: usize) -> Option<String> {
        let name = self.value(path, text, allowed, |text| is_name(text, max).then(|| text.to_owned()))?;
        if RESERVED.contains(&name.as_str()) {
            self.collector.add(text.referenced, format!("{path}: `{name}` has another meaning"), RESERVED_NAME);
        }
        if let Some(earlier) = self.names.insert(name.clone(), text.referenced) {
            let message = format!("{path}: `{name}` is taken");
            self.collector.add_pair(text.referenced, Some(earlier), message, UNIQUE_NAME);
        }
        Some(name)
    }

    fn once_in(&mut self, vni: Vni, value: String, path: &str, place: Location) {
        let message = format!("{path}: `{value}` is there twice in VNI {vni}");
        if let Some(earlier) = self.in_vni.insert((vni, value), place) {
            let allowed = "every pod of a virtual network needs one of its own";
            self.collector.add_pair(place, Some(earlier), message, allowed);
        }
    }

    fn sizes(&mut self, file: &file::File) {
        let nodes = &file.nodes;
        let pods: usize = nodes.value.iter().map(|node| node.pods.len()).sum();
        let (place, count) = (nodes.referenced, nodes.value.len());
        if count == 0 || count > NODES_MAX {
            self.collector.add(place, format!("nodes: a lab cannot have {count}"), "allowed are 1 to 200");
        }
        if pods > PODS_MAX {
            self.collector.add(place, format!("pods: a lab cannot have {pods}"), "allowed are up to 1000");
        }
    }

    fn membership(&mut self, file: &file::File, listed: &[VniSpec]) {
        for (node_index, node) in file.nodes.value.iter().enumerate() {
            for (index, pod) in node.pods.iter().enumerate() {
                let Some(id) = vni(&pod.vni.value).filter(|id| listed.iter().all(|vni| vni.id != *id)) else {
                    continue;
                };
                let message = format!("nodes[{node_index}].pods[{index}].vni: VNI {id} is not in `vnis`");
                let known: Vec<String> = listed.iter().map(|vni| vni.id.to_string()).collect();
                self.collector.add(
                    pod.vni.referenced,
                    message,
                    format!("allowed are those listed: {}", known.join(", ")),
                );
            }
        }
    }

    fn room(&mut self, file: &file::File, spec: &LabSpec) {
        let last = spec.nodes.len() - 1;
        let prefixes = [(Family::Ipv4, "ipv4", &file.underlay.ipv4), (Family::Ipv6, "ipv6", &file.underlay.ipv6)];
        for (family, field, text) in prefixes {
            if spec.node_address(last, family).is_none() {
                let place = text.as_ref().map_or(file.nodes.referenced, |text| text.referenced);
                let message = format!("underlay.{field}: too few addresses for {} nodes", spec.nodes.len());
                self.collector.add(place, message, "allowed is a prefix with an address for every node");
            }
        }
    }

    fn optional<T>(
        &mut self,
        path: &str,
        text: Option<&Text>,
        allowed: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.value(path, text?, allowed, parse)
    }

    fn value<T>(
        &mut self,
        path: &str,
        text: &Text,
        allowed: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(&text.value);
        if value.is_none() {
            self.collector.add(text.referenced, format!("{path}: `{}` is not allowed", text.value), allowed);
        }
        value
    }
}

const ENCAPSULATION: &str = "allowed are vxlan and geneve";

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn number(text: &str, min: u16) -> Option<u16> {
    text.parse().ok().filter(|number| *number >= min)
}

fn encapsulation(text: &str) -> Option<Encapsulation> {
    match text {
        "vxlan" => Some(Encapsulation::Vxlan),
        "geneve" => Some(Encapsulation::Geneve),
        _ => None,
    }
}

fn family(text: &str) -> Option<Family> {
    match text {
        "ipv4" => Some(Family::Ipv4),
        "ipv6" => Some(Family::Ipv6),
        _ => None,
    }
}

fn mode(text: &str) -> Option<PortMode> {
    match text {
        "bound" => Some(PortMode::Bound),
        "learning" => Some(PortMode::Learning),
        _ => None,
    }
}

fn vni(text: &str) -> Option<Vni> {
    text.parse().ok().and_then(|number| Vni::new(number).ok())
}

fn mac(text: &str) -> Option<MacAddr> {
    text.parse().ok().filter(|mac: &MacAddr| !mac.is_multicast() && *mac != MacAddr::ZERO)
}

/// An address that a host can have: neither the network's own nor its broadcast address.
fn host(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    let address = net.addr();
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return None;
    }
    let edge = match net {
        IpNet::V4(net) => net.prefix_len() < 31 && (address == net.network() || address == net.broadcast()),
        IpNet::V6(net) => net.prefix_len() < 127 && address == net.network(),
    };
    let everyone = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    (!edge && !everyone).then_some(net)
}

fn named_by(nodes: &[NodeSpec]) -> Vec<VniSpec> {
    let mut ids: Vec<Vni> = nodes.iter().flat_map(NodeSpec::vnis).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| VniSpec { id, vlan_transparent: false }).collect()
}
