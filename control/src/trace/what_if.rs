//! What would become of a packet on this node: asks the switch's own code, and tells why.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use weft_api::{CopyEnd, CopyForetold, Foretold, HexBytes, Step, WhatIf as Question};
use weft_bridge::{Attachment, DropReason, PortId, Tables, Vtep, VtepId};
use weft_encap::inner::ETHERNET_LEN;
use weft_encap::mtu::overhead;
use weft_encap::{Encapsulation, MacAddr, Offload, Vni};
use weft_netns::Netns;
use weft_switch::port::TapOffloads;
use weft_switch::trace::{CopyTold, Ingress, Record, Sent, Told};
use weft_switch::what_if::{Outcome, WhatIf};

use super::explain::{
    Known, admit_text, copy_detail, drop_hint, packet_len, port_text, sent_text, told_mtu, verdict_detail, verdict_text,
};
use super::packet::{Sender, packet, question};
use crate::agent::{Agent, AttachedPort};
use crate::desired::name_of;
use crate::following::Following;
use crate::show::{path_name, publisher, publishers};

/// What would happen, or why that cannot be said.
pub(crate) fn what_if(agent: &Agent, asked: &Question) -> Result<Foretold, String> {
    let node = Node { agent, tables: agent.switch.tables() };
    match asked {
        Question::Resolve { pod, to } => node.resolve(node.port(pod)?, *to),
        Question::Send { pod, mac, packet: spec } => {
            let port = node.port(pod)?;
            let to: MacAddr = mac.parse().map_err(|error: weft_encap::MacAddrError| error.to_string())?;
            let mut spec = spec.clone();
            spec.to = spec.to.or_else(|| node.address_of(port.config.vni, to, port));
            let sender = spec.to.map(|target| node.sender(port, target)).transpose()?;
            node.send(port, packet(sender, port.config.mac, to, &spec)?)
        }
        Question::Arrive { source, encapsulation, tos, packets, seeks } => {
            let encapsulation: Encapsulation =
                encapsulation.parse().map_err(|error: weft_encap::EncapsulationError| error.to_string())?;
            let packets = packets.iter().map(|packet| packet.0.clone()).collect();
            let outcome = node.simulated().arrive(*source, encapsulation, *tos, packets);
            let mut told = node.told(outcome.map_err(|error| error.to_string())?, Vec::new())?;
            told.answer = seeks.and_then(|address| node.owner_among(&told, address));
            Ok(told)
        }
    }
}

struct Node<'a> {
    agent: &'a Agent,
    tables: Arc<Tables>,
}

fn step(stage: &str, text: String) -> Step {
    Step { stage: stage.to_owned(), text }
}

impl Node<'_> {
    fn port(&self, name: &str) -> Result<&AttachedPort, String> {
        let ports = &self.agent.ports;
        ports.iter().find(|port| port.config.name == name).ok_or_else(|| {
            let names: Vec<_> = ports.iter().map(|port| port.config.name.as_str()).collect();
            let others = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("node {} has no port `{name}`; it has {others}", self.agent.config.node)
        })
    }

    /// Which of its addresses a pod sends from to another.
    fn sender(&self, port: &AttachedPort, to: IpAddr) -> Result<Sender, String> {
        let nets = || port.config.addresses.iter().filter(|net| net.addr().is_ipv4() == to.is_ipv4());
        let net = nets().find(|net| net.contains(&to)).or_else(|| nets().next());
        let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
        let net = net.ok_or_else(|| format!("{} has no {family} address to send to {to} from", port.config.name))?;
        Ok(Sender { mac: port.config.mac, address: net.addr() })
    }

    /// An address that has a MAC, of a family that the port has.
    fn address_of(&self, vni: Vni, mac: MacAddr, port: &AttachedPort) -> Option<IpAddr> {
        let mut known: Vec<_> = self.tables.domain(vni)?.neighbours().filter(|(_, own)| *own == mac).collect();
        known.sort();
        known.iter().map(|(address, _)| *address).find(|address| self.sender(port, *address).is_ok())
    }

    /// Whom a pod asks for what is for an address: whoever has it, or the gateway.
    fn next_hop(&self, port: &AttachedPort, to: IpAddr) -> Result<IpAddr, String> {
        if port.config.addresses.iter().any(|net| net.addr() == to) {
            return Err(format!("{} has {to} itself: nothing leaves the pod", port.config.name));
        }
        if port.config.addresses.iter().any(|net| net.contains(&to)) {
            return Ok(to);
        }
        let gateway = self.tables.domain(port.config.vni).and_then(|domain| domain.gateway());
        let addresses = gateway.map(|gateway| gateway.addresses.clone()).unwrap_or_default();
        addresses.into_iter().find(|address| address.is_ipv4() == to.is_ipv4()).ok_or_else(|| {
            format!(
                "{to} is in none of {}'s networks, and VNI {} has no gateway: name the MAC it is to be sent to instead",
                port.config.name, port.config.vni
            )
        })
    }

    fn resolve(&self, port: &AttachedPort, to: IpAddr) -> Result<Foretold, String> {
        let next_hop = self.next_hop(port, to)?;
        let sender = self.sender(port, next_hop)?;
        let frame = question(sender, next_hop).ok_or("the pod and the address are of two families")?;
        let by = if to.is_ipv4() { "ARP" } else { "neighbour discovery" };
        let why = if next_hop == to { String::new() } else { format!(", the gateway, for {to} is in another network") };
        let ask = step("ask", format!("{} asks who has {next_hop}{why} ({by})", port.config.name));
        let outcome = self.simulated().pod_sends(port.id, frame, Offload::NONE).map_err(|error| error.to_string())?;
        let answered = outcome.records.iter().find_map(|record| match record.decision {
            Told::Answer(mac) => Some(mac.to_string()),
            Told::Unicast(_) | Told::Flood(_) | Told::Drop(_) => None,
        });
        let mut told = self.told(outcome, vec![ask])?;
        told.answer = answered.or_else(|| self.owner_among(&told, next_hop));
        if told.answer.is_none() {
            told.steps.extend(self.elsewhere(port.config.vni, next_hop).map(|text| step("ask", text)));
        }
        told.next_hop = Some(next_hop);
        Ok(told)
    }

    /// Says so if nobody in a virtual network is known to have an address, and somebody in another is.
    fn elsewhere(&self, vni: Vni, address: IpAddr) -> Option<String> {
        let own = self.agent.ports.iter().filter(|port| port.config.addresses.iter().any(|net| net.addr() == address));
        let view = self.agent.following.as_ref().map(Following::view);
        let published = view.into_iter().flat_map(|view| view.members().flat_map(|(_, member)| view.endpoints(member)));
        let published = published.filter(|endpoint| endpoint.ips.contains(&address)).map(|endpoint| endpoint.vni);
        let vnis: BTreeSet<Vni> = own.map(|port| port.config.vni).chain(published).collect();
        if vnis.is_empty() || vnis.contains(&vni) {
            return None;
        }
        let others: Vec<String> = vnis.iter().map(ToString::to_string).collect();
        let others = others.join(", ");
        Some(format!(
            "nobody in VNI {vni} is known to have {address}: it is in VNI {others}, and networks do not reach each other"
        ))
    }

    fn send(&self, port: &AttachedPort, frame: Vec<u8>) -> Result<Foretold, String> {
        if self.device_is_down(port) {
            let reason = DropReason::PortDown;
            let detail =
                Some(format!("{} cannot send: its device {} is down", port.config.name, port.config.interface));
            let node = self.agent.config.node.clone();
            return Ok(Foretold { node, dropped: Some(drop_hint(reason, detail)), ..Foretold::default() });
        }
        let outcome = self.simulated().pod_sends(port.id, frame, Offload::NONE).map_err(|error| error.to_string())?;
        self.told(outcome, Vec::new())
    }

    fn simulated(&self) -> WhatIf {
        let switch = &self.agent.switch;
        let mut what_if = WhatIf::new((*self.tables).clone(), switch.fdb(), switch.now());
        for port in self.agent.ports.iter().filter(|port| port.lost.is_none()) {
            what_if.attach(port.id, port.offloads.and(TapOffloads::of(switch.levels())));
        }
        what_if
    }

    fn device_is_down(&self, port: &AttachedPort) -> bool {
        let look = || Netns::open(&port.config.netns)?.links(|links| links.get(&port.config.interface));
        !matches!(look(), Ok(Some(link)) if link.up)
    }

    /// The MAC of the port that has an address, if it was given a copy.
    fn owner_among(&self, told: &Foretold, address: IpAddr) -> Option<String> {
        let given = told.copies.iter().filter_map(|copy| match &copy.end {
            CopyEnd::Port { name } => Some(name),
            CopyEnd::Vtep { .. } | CopyEnd::Dropped(_) => None,
        });
        let mut ports = given.filter_map(|name| self.port(name).ok());
        let has = |port: &&AttachedPort| port.config.addresses.iter().any(|net| net.addr() == address);
        ports.find(has).map(|port| port.config.mac.to_string())
    }

    /// What happened, in words. Packets that were fragments of one are told as one.
    fn told(&self, outcome: Outcome, mut steps: Vec<Step>) -> Result<Foretold, String> {
        let Outcome { records, to_ports, .. } = outcome;
        let node = self.agent.config.node.clone();
        let tables = &self.tables;
        let Some(first) = records.first() else {
            return Err(format!("node {node} has nothing to tell: what came was a path probe"));
        };
        match first.ingress {
            Ingress::Port(id) => steps.extend(tables.port(id).map(|port| step("port", port_text(port)))),
            Ingress::Vtep(..)
                if first.summary.is_some() && first.vni.is_some_and(|vni| tables.domain(vni).is_some()) =>
            {
                steps.push(step("admit", admit_text(tables, first.ingress, first.vni)));
            }
            Ingress::Vtep(..) | Ingress::Stranger(_) => {}
        }
        let refused = records.iter().find_map(|record| match record.decision {
            Told::Drop(reason) => Some((record, reason)),
            Told::Unicast(_) | Told::Flood(_) | Told::Answer(_) => None,
        });
        let told_back = |id: PortId| to_ports.iter().filter(move |(port, _)| *port == id);
        let told_mtu = match first.ingress {
            Ingress::Port(id) => told_back(id).find_map(|(_, frame)| told_mtu(&frame.bytes)),
            Ingress::Vtep(..) | Ingress::Stranger(_) => None,
        };
        let tell = told_mtu.map(|mtu| step("tell", format!("the pod is told by ICMP that {mtu} bytes fit")));
        if let Some((record, reason)) = refused {
            steps.extend(tell);
            let dropped = Some(drop_hint(reason, verdict_detail(tables, record, reason)));
            return Ok(Foretold { node, steps, dropped, ..Foretold::default() });
        }
        let of_first: Vec<CopyTold> =
            records.iter().filter(|record| record.frame == first.frame).filter_map(|record| record.copy).collect();
        let stage = if matches!(first.decision, Told::Answer(_)) { "answer" } else { "forward" };
        steps.push(step(stage, self.verdict(first, &of_first)));
        let mut targets = BTreeSet::new();
        let egresses = records.iter().filter_map(|record| record.copy).map(|copy| copy.egress);
        let egresses: Vec<Attachment> = egresses.filter(|egress| targets.insert(*egress)).collect();
        let mut copies = Vec::new();
        for egress in egresses {
            let own: Vec<&Record> =
                records.iter().filter(|record| record.copy.is_some_and(|copy| copy.egress == egress)).collect();
            copies.push(self.copy(egress, &own, tell.as_ref()));
        }
        Ok(Foretold { node, steps, copies, ..Foretold::default() })
    }

    fn verdict(&self, record: &Record, copies: &[CopyTold]) -> String {
        let (agent, tables) = (self.agent, &self.tables);
        let publishers = publishers(agent);
        let publisher = |vni, mac, at| publisher(agent, tables, &publishers, (vni, mac, at));
        let (fdb, now) = (agent.switch.fdb(), agent.switch.now());
        let age = |vni, mac| Some(fdb.lookup(tables.domain(vni)?.id(), mac)?.age(now));
        verdict_text(&Known { tables, publisher: &publisher, age: &age }, record, copies)
    }

    /// What becomes of one copy of all the packets.
    fn copy(&self, egress: Attachment, records: &[&Record], tell: Option<&Step>) -> CopyForetold {
        let tables = &self.tables;
        let to = name_of(tables, egress).1;
        let mut len = 0;
        for record in records {
            if let Some(captured) = &record.captured {
                len = len.max(packet_len(&captured.inner, &captured.offload));
            }
        }
        let dropped = records.iter().find_map(|record| record.dropped());
        if let Some(reason) = dropped {
            let end = CopyEnd::Dropped(drop_hint(reason, copy_detail(tables, egress, len, reason)));
            return CopyForetold { to: to.clone(), steps: tell.cloned().into_iter().collect(), end };
        }
        let outcomes = records.iter().filter_map(|record| record.copy?.outcome.ok());
        let sent = outcomes.fold(Sent::default(), |sum, sent| Sent { packets: sum.packets + sent.packets, ..sent });
        match egress {
            Attachment::Port(id) => self.copy_to_port(id, len, sent),
            Attachment::Vtep(id) => self.copy_to_vtep(id, len, sent, records),
        }
    }

    fn copy_to_port(&self, id: PortId, len: usize, sent: Sent) -> CopyForetold {
        let ports = &self.agent.ports;
        let to = name_of(&self.tables, Attachment::Port(id)).1;
        let Some((row, port)) = self.tables.port(id).zip(ports.iter().find(|port| port.id == id)) else {
            return CopyForetold {
                to: to.clone(),
                steps: Vec::new(),
                end: CopyEnd::Dropped(drop_hint(DropReason::PortDown, None)),
            };
        };
        let name = row.name.clone();
        if self.device_is_down(port) {
            let detail = format!("the device {} of {name} is down", port.config.interface);
            let end = CopyEnd::Dropped(drop_hint(DropReason::PortDown, Some(detail)));
            return CopyForetold { to: to.clone(), steps: Vec::new(), end };
        }
        let text = format!("to {name} as {}: {len} bytes, MTU {}", sent_text(sent), row.mtu);
        CopyForetold { to: to.clone(), steps: vec![step("deliver", text)], end: CopyEnd::Port { name } }
    }

    fn copy_to_vtep(&self, id: VtepId, len: usize, sent: Sent, records: &[&Record]) -> CopyForetold {
        let to = name_of(&self.tables, Attachment::Vtep(id)).1;
        let Some(vtep) = self.tables.vtep(id) else {
            let end = CopyEnd::Dropped(drop_hint(DropReason::UnderlayUnreachable, None));
            return CopyForetold { to: to.clone(), steps: Vec::new(), end };
        };
        let steps = vec![step("encapsulate", self.encapsulation_text(id, vtep, len, sent, records))];
        let lost = |reason: DropReason, detail: String, steps| CopyForetold {
            to: to.clone(),
            steps,
            end: CopyEnd::Dropped(drop_hint(reason, Some(detail))),
        };
        let own = self.agent.config.addresses.iter().find(|own| own.is_ipv4() == vtep.address.is_ipv4());
        let Some(source) = own.copied() else {
            return lost(DropReason::NoAddressFamily, format!("the VTEP is {}", vtep.address), steps);
        };
        let way = match self.way(id, source, vtep.address) {
            Ok(way) => way,
            Err(detail) => return lost(DropReason::UnderlayUnreachable, detail, steps),
        };
        let underlay = step("underlay", format!("{} to {}:{}, {way}", sent_text(sent), vtep.address, vtep.udp_port));
        let left =
            records.iter().filter_map(|record| record.captured.as_ref()).flat_map(|captured| &captured.outer_out);
        let tos = left.clone().next().map_or(0, |packet| packet.tos);
        let end = CopyEnd::Vtep {
            address: vtep.address,
            source,
            udp_port: vtep.udp_port,
            encapsulation: vtep.encapsulation.to_string(),
            tos,
            packets: left.map(|packet| HexBytes(packet.payload.to_vec())).collect(),
        };
        CopyForetold { to: to.clone(), steps: [steps, vec![underlay]].concat(), end }
    }

    fn encapsulation_text(&self, id: VtepId, vtep: &Vtep, len: usize, sent: Sent, records: &[&Record]) -> String {
        let more = usize::from(overhead(vtep.encapsulation, vtep.address.is_ipv6(), 0));
        let vni = records.first().and_then(|record| record.vni).map_or_else(String::new, |vni| format!(" VNI {vni}"));
        let path = self.agent.paths.as_ref().and_then(|paths| paths.of(id));
        let room = usize::from(vtep.pod_mtu) + more;
        let path = match path.map(|path| (path_name(path.state), path.mtu)) {
            Some((state, Some(proven))) => format!("path {state}, {proven} proven"),
            Some((state, None)) => format!("path {state}, {room} taken for granted"),
            None => format!("path not probed, {room} taken for granted"),
        };
        let cut = if sent.packets > 1 && len > usize::from(vtep.pod_mtu) {
            format!("; cut to {} fragments, since {} bytes fit and DF is clear", sent.packets, vtep.pod_mtu)
        } else {
            String::new()
        };
        let tags = records.first().map_or(0, |record| record.len.saturating_sub(len + ETHERNET_LEN));
        format!("{}{vni}: {len} + {more} = {} bytes ({path}){cut}", vtep.encapsulation, len + more + tags)
    }

    /// By what tunnel packets leave, and to whom first.
    fn way(&self, id: VtepId, from: IpAddr, to: IpAddr) -> Result<String, String> {
        if let Some(uplink) = self.agent.uplink.as_ref().filter(|uplink| !uplink.state.is_given_up())
            && let Some(hop) = uplink.state.hops().get(id)
        {
            return Ok(format!("uplink, next hop {}", hop.link.dst));
        }
        let looked = Netns::current().and_then(|netns| {
            netns.links(move |links| {
                let route = links.route(from, to)?;
                let known = links.list()?;
                Ok(route.map(|route| {
                    let link = known.into_iter().find(|link| link.index == route.interface);
                    (route, link.map_or_else(String::new, |link| link.name))
                }))
            })
        });
        match looked {
            Ok(Some((route, link))) => {
                let hop = route.gateway.map_or_else(|| "on the link".to_owned(), |router| format!("by {router}"));
                Ok(format!("socket, {link}, {hop}"))
            }
            Ok(None) => Err(format!("the node has no route from {from} to {to}")),
            Err(error) => Ok(format!("socket; its route could not be looked up: {error}")),
        }
    }
}
