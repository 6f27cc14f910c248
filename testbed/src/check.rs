//! From the file as written to a lab that can be made: every value by itself, then against the others.

mod network;

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
    Encapsulation, Family, LabName, LabSpec, NODE_NAME_MAX, NODES_MAX, NodeKind, NodeSpec, POD_ADDRESSES_MAX,
    POD_NAME_MAX, PODS_MAX, PodSpec, PortMode, SegmentSpec, UnderlaySpec, VniSpec, is_name,
};

/// Smallest MTU of the underlay in bytes: below, Linux takes IPv6 off the interface.
const UNDERLAY_MTU_MIN: u16 = 1280;
/// Smallest MTU of a pod in bytes (RFC 791).
const POD_MTU_MIN: u16 = 68;

const LAB_NAME: &str = "allowed are 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit";
const NODE_NAME: &str = "allowed are 1 to 15 of a-z, 0-9 and -, beginning with a letter or digit";
const POD_NAME: &str = "allowed are 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit";
const RESERVED_NAME: &str = "taken are underlay, store, br0 and the like, lo, all and default";
const UNIQUE_NAME: &str = "every node and pod of a lab needs a name of its own";
const UNDERLAY_MTU: &str = "allowed are 1280 to 65535 bytes";
const KIND: &str = "allowed are weft, kernel-vxlan and host";
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
        let control = self.control(file.control.as_ref());
        let segments = self.segments(file, &underlay);
        let listed = self.vnis(&file.vnis);
        let common = encapsulation.unwrap_or_default();
        let nodes = file.nodes.value.iter().enumerate();
        let nodes: Vec<NodeSpec> =
            nodes.filter_map(|(index, node)| self.node(index, node, &segments, common)).collect();
        let routers = self.routers(&file.routers, &segments);
        self.sizes(file);
        if !file.vnis.is_empty() {
            self.membership(file, &listed);
        }
        if !self.collector.is_empty() {
            return Err(self.collector.into_error());
        }
        let vnis = if file.vnis.is_empty() { named_by(&nodes) } else { listed };
        let spec = LabSpec { name, encapsulation: common, underlay, control, segments, routers, vnis, nodes };
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
            mtu: self.optional("underlay.mtu", file.mtu.as_ref(), UNDERLAY_MTU, mtu).unwrap_or(default.mtu),
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

    fn node(
        &mut self,
        index: usize,
        node: &file::Node,
        segments: &[SegmentSpec],
        common: Encapsulation,
    ) -> Option<NodeSpec> {
        let path = format!("nodes[{index}]");
        let name = self.name(&format!("{path}.name"), &node.name, NODE_NAME, NODE_NAME_MAX);
        let kind = self.optional(&format!("{path}.kind"), node.kind.as_ref(), KIND, kind).unwrap_or_default();
        let segment = node.segment.as_ref();
        let segment = segment.map_or(Some(0), |text| self.segment(&format!("{path}.segment"), text, segments));
        let mtu = |text: &str| number(text, UNDERLAY_MTU_MIN);
        let mtu = self.optional(&format!("{path}.mtu"), node.mtu.as_ref(), UNDERLAY_MTU, mtu);
        let own = node.encapsulation.as_ref();
        let own = self.optional(&format!("{path}.encapsulation"), own, ENCAPSULATION, encapsulation);
        self.suits(&path, node, kind, own.unwrap_or(common));
        let link = self.link(&format!("{path}.link"), node.link.as_ref());
        let underlay = self.settings(&format!("{path}.underlay"), &node.underlay);
        let pods: Vec<Option<PodSpec>> =
            node.pods.iter().enumerate().map(|(index, pod)| self.pod(&format!("{path}.pods[{index}]"), pod)).collect();
        let pods = pods.into_iter().collect::<Option<_>>()?;
        Some(NodeSpec { name: name?, kind, segment: segment?, mtu, encapsulation: own, link, underlay, pods })
    }

    /// Whether a node of that kind can be as it is described.
    fn suits(&mut self, path: &str, node: &file::Node, kind: NodeKind, encapsulation: Encapsulation) {
        let place = node.kind.as_ref().unwrap_or(&node.name).referenced;
        if kind == NodeKind::Host && !node.pods.is_empty() {
            self.collector.add(place, format!("{path}: a host has no pods"), "take them away, or the kind");
        }
        if kind == NodeKind::KernelVxlan && encapsulation != Encapsulation::Vxlan {
            let message = format!("{path}: the kernel's VXLAN does not speak Geneve");
            self.collector.add(place, message, "write `encapsulation: vxlan` for this node");
        }
        if kind != NodeKind::Weft
            && let Some(value) = node.underlay.values().next()
        {
            let message = format!("{path}.underlay: this node has no agent to be told");
            self.collector.add(value.referenced, message, "leave it out");
        }
        for (index, pod) in node.pods.iter().enumerate() {
            if let (NodeKind::KernelVxlan, Some(mode)) = (kind, &pod.mode) {
                let message = format!("{path}.pods[{index}].mode: the kernel's bridge knows no modes");
                self.collector.add(mode.referenced, message, "leave it out");
            }
        }
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
        let cmd = pod.cmd.as_ref().map(|text| text.value.clone());
        Some(PodSpec { name: name?, vni: vni?, addresses, mac, mode: mode.unwrap_or_default(), mtu, cmd })
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
        self.reserved(path, &name, text.referenced);
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

fn kind(text: &str) -> Option<NodeKind> {
    match text {
        "weft" => Some(NodeKind::Weft),
        "kernel-vxlan" => Some(NodeKind::KernelVxlan),
        "host" => Some(NodeKind::Host),
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
