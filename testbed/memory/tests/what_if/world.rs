//! Nodes whose tables are right here and wrong there.

use std::net::IpAddr;

use weft_bridge::tables::{DomainOptions, Gateway, Port, PortMode, Vtep, VtepKind};
use weft_bridge::{PortId, Tables};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_memory_lab::MemoryLab;
use weft_switch::memory::{MemoryPort, MemorySwitch};
use weft_switch::port::TapOffloads;

use crate::chance::Chance;

/// Virtual networks of a world.
const VNIS: [u32; 2] = [100, 200];
/// Learned MACs that a node has room for.
const FDB: u32 = 64;

/// A pod's port.
pub(crate) struct Pod {
    pub(crate) number: u8,
    pub(crate) node: usize,
    pub(crate) vni: Vni,
    pub(crate) id: PortId,
    pub(crate) offloads: TapOffloads,
    /// None where it has no device.
    pub(crate) port: Option<MemoryPort>,
}

pub(crate) struct World {
    pub(crate) encapsulation: Encapsulation,
    pub(crate) lab: MemoryLab,
    pub(crate) nodes: Vec<(IpAddr, MemorySwitch)>,
    /// Of each node.
    pub(crate) pods_of: Vec<Vec<Pod>>,
    /// Nodes whose link is cut.
    pub(crate) cut: Vec<bool>,
}

pub(crate) fn vni(number: usize) -> Vni {
    Vni::new(VNIS[number]).unwrap()
}

pub(crate) fn mac_of(pod: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, pod])
}

pub(crate) fn address_of(pod: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, pod])
}

pub(crate) fn gateway_address() -> IpAddr {
    IpAddr::from([10, 0, 0, 254])
}

fn gateway_mac(vni: Vni) -> MacAddr {
    let [_, high, low] = vni.to_bytes();
    MacAddr([2, 0xfe, 0, 0, high, low])
}

impl World {
    pub(crate) fn new(chance: &mut Chance, seed: u64) -> Self {
        let (count, ipv6) = (2 + chance.below(3), chance.percent(30));
        let encapsulation = chance.one_of(&[Encapsulation::Vxlan, Encapsulation::Geneve]);
        let address = |node: usize| -> IpAddr {
            if ipv6 { format!("fd99::{}", node + 1) } else { format!("192.0.2.{}", node + 1) }.parse().unwrap()
        };
        let mut number = 0;
        let mut plan: Vec<(u8, usize, usize)> = Vec::new();
        for node in 0..count {
            for _ in 0..=chance.below(3) {
                number += 1;
                plan.push((number, node, chance.below(VNIS.len())));
            }
        }
        let mut world = Self {
            encapsulation,
            lab: MemoryLab::new(seed),
            nodes: Vec::new(),
            pods_of: Vec::new(),
            cut: (0..count).map(|_| chance.percent(10)).collect(),
        };
        for node in 0..count {
            let (tables, pods) = tables(chance, &plan, (node, count), &address, encapsulation);
            let mut switch = MemorySwitch::new(tables, FDB);
            let attach = |mut pod: Pod| {
                pod.port = (!chance.percent(8)).then(|| {
                    let port = switch.attach(pod.id);
                    port.take_only(pod.offloads);
                    port
                });
                pod
            };
            world.pods_of.push(pods.into_iter().map(attach).collect());
            world.nodes.push((address(node), switch));
        }
        for node in 0..count {
            world.lab.wire().cut(address(node), world.cut[node]);
        }
        world
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods_of.iter().flatten()
    }

    pub(crate) fn node_address(&self, node: usize) -> IpAddr {
        self.nodes[node].0
    }

    pub(crate) fn gateway_mac(&self, vni: Vni) -> MacAddr {
        gateway_mac(vni)
    }
}

/// What one node knows: of its own pods all, of the others most, and some of it wrong.
fn tables(
    chance: &mut Chance,
    plan: &[(u8, usize, usize)],
    (node, count): (usize, usize),
    address: &impl Fn(usize) -> IpAddr,
    encapsulation: Encapsulation,
) -> (Tables, Vec<Pod>) {
    let mut tables = Tables::new(vec![address(node)], vec![encapsulation.default_port()]);
    for number in 0..VNIS.len() {
        if chance.percent(92) {
            let options = DomainOptions {
                vlan_transparent: chance.percent(30),
                clamp_mss: chance.percent(30),
                ..DomainOptions::default()
            };
            tables.add_domain(vni(number), options).unwrap();
        }
    }
    let mut pods = Vec::new();
    for (number, _, network) in plan.iter().filter(|(_, home, _)| *home == node) {
        let mode = match chance.below(4) {
            0 => PortMode::Learning { limit: 4 },
            1 => PortMode::Bound { addresses: Vec::new() },
            _ => PortMode::Bound { addresses: vec![address_of(*number)] },
        };
        let mtu = chance.one_of(&[1450, 1450, 1450, 1280, 600]);
        let row = Port { name: format!("pod{number}"), vni: vni(*network), mac: mac_of(*number), mtu, mode };
        let Ok(id) = tables.add_port(row) else { continue };
        let offloads = chance.one_of(&[TapOffloads::ALL, TapOffloads::ALL, TapOffloads::NONE]);
        pods.push(Pod { number: *number, node, vni: vni(*network), id, offloads, port: None });
        if chance.percent(30) {
            let gateway = Gateway { mac: gateway_mac(vni(*network)), addresses: vec![gateway_address()], port: id };
            tables.set_gateway(gateway).unwrap();
        }
        tables.set_neighbour(vni(*network), address_of(*number), mac_of(*number)).unwrap();
    }
    for other in (0..count).filter(|other| *other != node) {
        if chance.percent(8) {
            continue;
        }
        let here: Vec<Vni> = tables.domains().map(|domain| domain.vni()).collect();
        let members: Vec<Vni> = here.into_iter().filter(|_| chance.percent(90)).collect();
        let kind = chance.one_of(&[VtepKind::Managed, VtepKind::Managed, VtepKind::Foreign]);
        let pod_mtu = chance.one_of(&[1450, 1450, 1400, 1200, 600]);
        let udp_port = encapsulation.default_port();
        let row = Vtep { address: address(other), udp_port, encapsulation, kind, pod_mtu };
        let id = tables.add_vtep(row, &members).unwrap();
        for (number, home, network) in plan {
            // Now and then a pod is thought to be where it is not.
            let believed = if chance.percent(6) { chance.below(count) } else { *home };
            if believed == other && kind == VtepKind::Managed && chance.percent(85) {
                // What is bound to a port, or in a VNI without the VTEP, is refused.
                let _ = tables.bind_mac(vni(*network), mac_of(*number), id, false);
                let _ = tables.set_neighbour(vni(*network), address_of(*number), mac_of(*number));
            }
        }
    }
    (tables, pods)
}
