//! Follows a packet that nobody sent from node to node.

use std::net::IpAddr;

use anyhow::bail;
use serde::Serialize;
use weft_api::{CopyEnd, DropHint, Foretold, PacketSpec, WhatIf};

use super::nodes::Nodes;
use super::{Asked, Matching, Proto, Towards};

/// Nodes that a frame crosses at most: whoever gets one from a VTEP sends it to none.
const HOPS: usize = 2;

/// What would become of a packet.
#[derive(Serialize)]
pub(super) struct Story {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) packet: String,
    /// How the pod finds the MAC, where it has to ask.
    pub(super) question: Option<Hop>,
    /// The MAC that it finds.
    pub(super) mac: Option<String>,
    /// What becomes of the packet; none where nobody answers the question.
    pub(super) journey: Option<Hop>,
    /// Where its copies end.
    pub(super) ends: Vec<End>,
}

/// What happens on one node, and behind it.
#[derive(Serialize)]
pub(super) struct Hop {
    #[serde(flatten)]
    pub(super) told: Foretold,
    /// For each copy: what happens on the node that gets it.
    pub(super) then: Vec<Option<Hop>>,
}

/// Where a frame, or a copy of it, ends.
#[derive(Serialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub(super) enum End {
    Delivered {
        node: String,
        pod: String,
    },
    Dropped {
        node: String,
        towards: Option<String>,
        dropped: DropHint,
    },
    /// At a node that cannot be asked.
    Left {
        node: String,
        vtep: IpAddr,
    },
}

impl Story {
    pub(super) fn is_delivered(&self) -> bool {
        self.ends.iter().any(|end| matches!(end, End::Delivered { .. }))
    }
}

pub(super) fn story(
    nodes: &mut Nodes,
    (from, to): (&str, &str),
    asked: &Asked,
    matching: &Matching,
) -> anyhow::Result<Story> {
    let proto = matching.proto.unwrap_or(Proto::Icmp);
    let place = nodes.with_pod(from)?;
    let towards = towards(nodes, place, from, to)?;
    let mut question = None;
    let (mac, address) = match towards {
        Towards::Mac(mac) => (Some(mac), matching.ip),
        Towards::Address(address) => {
            let told = nodes.members[place].what_if(WhatIf::Resolve { pod: from.to_owned(), to: address })?;
            let next_hop = told.next_hop;
            let hop = follow(nodes, told, next_hop, HOPS)?;
            let mac = answer_of(&hop);
            question = Some(hop);
            (mac, Some(address))
        }
    };
    let packet = PacketSpec {
        to: address,
        protocol: proto.into(),
        source_port: asked.sport,
        destination_port: asked.dport,
        size: asked.size,
        dont_fragment: asked.df,
    };
    let journey = match &mac {
        Some(mac) => {
            let sent = WhatIf::Send { pod: from.to_owned(), mac: mac.clone(), packet };
            let told = nodes.members[place].what_if(sent)?;
            Some(follow(nodes, told, None, HOPS)?)
        }
        None => None,
    };
    let mut ends = Vec::new();
    if let Some(end) = journey.as_ref().or(question.as_ref().filter(|_| mac.is_none())) {
        collect(end, &mut ends);
    }
    if mac.is_none() {
        // Those whom the question reaches do not get the packet.
        ends.retain(|end| !matches!(end, End::Delivered { .. }));
    }
    Ok(Story {
        from: from.to_owned(),
        to: to.to_owned(),
        packet: packet_text(asked, proto),
        question,
        mac,
        journey,
        ends,
    })
}

fn towards(nodes: &mut Nodes, place: usize, from: &str, to: &str) -> anyhow::Result<Towards> {
    if let Ok(address) = to.parse() {
        return Ok(Towards::Address(address));
    }
    if to.parse::<weft_encap::MacAddr>().is_ok() {
        return Ok(Towards::Mac(to.to_owned()));
    }
    let own = nodes.members[place].ports()?.iter().find(|port| port.name == from).map(|port| port.addresses.clone());
    let is_own_family = |address: &IpAddr| own.iter().flatten().any(|net| net.contains(':') == address.is_ipv6());
    match nodes.addresses_of(to)?.into_iter().find(is_own_family) {
        Some(address) => Ok(Towards::Address(address)),
        None => bail!("`{to}` is neither an address nor a MAC, nor a pod that {from} has an address in common with"),
    }
}

/// Goes on on the nodes to which copies are sent.
fn follow(nodes: &mut Nodes, told: Foretold, seeks: Option<IpAddr>, hops: usize) -> anyhow::Result<Hop> {
    let mut then = Vec::new();
    for copy in &told.copies {
        let CopyEnd::Vtep { address, source, encapsulation, tos, packets, .. } = &copy.end else {
            then.push(None);
            continue;
        };
        let Some(next) = nodes.with_address(*address).filter(|_| hops > 1) else {
            then.push(None);
            continue;
        };
        let arrives = WhatIf::Arrive {
            source: *source,
            encapsulation: encapsulation.clone(),
            tos: *tos,
            packets: packets.clone(),
            seeks,
        };
        let told = nodes.members[next].what_if(arrives)?;
        then.push(Some(follow(nodes, told, seeks, hops - 1)?));
    }
    Ok(Hop { told, then })
}

/// The MAC that somebody answers with.
fn answer_of(hop: &Hop) -> Option<String> {
    hop.told.answer.clone().or_else(|| hop.then.iter().flatten().find_map(answer_of))
}

fn collect(hop: &Hop, ends: &mut Vec<End>) {
    let node = hop.told.node.clone();
    if let Some(dropped) = &hop.told.dropped {
        ends.push(End::Dropped { node: node.clone(), towards: None, dropped: dropped.clone() });
    }
    for (copy, then) in hop.told.copies.iter().zip(&hop.then) {
        match (&copy.end, then) {
            (_, Some(next)) => collect(next, ends),
            (CopyEnd::Port { name }, None) => ends.push(End::Delivered { node: node.clone(), pod: name.clone() }),
            (CopyEnd::Dropped(dropped), None) => {
                let towards = Some(copy.to.clone());
                ends.push(End::Dropped { node: node.clone(), towards, dropped: dropped.clone() });
            }
            (CopyEnd::Vtep { address, .. }, None) => ends.push(End::Left { node: node.clone(), vtep: *address }),
        }
    }
}

fn packet_text(asked: &Asked, proto: Proto) -> String {
    let Asked { sport, dport, size, df, .. } = asked;
    let kind = match proto {
        Proto::Tcp => format!("TCP SYN from port {sport} to {dport}"),
        Proto::Udp => format!("UDP from port {sport} to {dport}"),
        Proto::Icmp => "ICMP echo request".to_owned(),
    };
    let size = size.map_or_else(String::new, |size| format!(", {size} bytes"));
    format!("{kind}{size}{}", if *df { ", DF" } else { "" })
}
