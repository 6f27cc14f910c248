//! The network between the nodes: segments, routers, and what is wrong with links.

use std::collections::BTreeMap;

use serde_saphyr::{Location, Spanned};

use super::{Checker, NODE_NAME, RESERVED_NAME, UNDERLAY_MTU, UNDERLAY_MTU_MIN, number, parsed};
use crate::agent_config;
use crate::file::{self, Text};
use crate::link::{Direction, ImpairmentError, Impairments};
use crate::spec::{
    ControlSpec, Family, LabSpec, NODE_NAME_MAX, ROUTER_NAME_MAX, RouterSpec, SEGMENTS_MAX, SegmentSpec, UNDERLAY,
    UnderlaySpec, is_name,
};

const ROUTER_NAME: &str = "allowed are 1 to 9 of a-z, 0-9 and -, beginning with a letter or digit";
const SEGMENT_COUNT: &str = "allowed are up to 50";
const ENDPOINT: &str = "allowed are endpoints in plain text, such as http://127.0.0.1:2379";
const IPV4: &str = "allowed is an IPv4 prefix such as 10.199.0.0/24";
const IPV6: &str = "allowed is an IPv6 prefix such as fd99::/64";

impl Checker<'_> {
    /// The segments that are listed, or the only one there is.
    pub(super) fn segments(&mut self, file: &file::File, underlay: &UnderlaySpec) -> Vec<SegmentSpec> {
        if file.segments.is_empty() {
            let UnderlaySpec { ipv4, ipv6, mtu, .. } = *underlay;
            return vec![SegmentSpec { name: UNDERLAY.to_owned(), ipv4, ipv6, mtu }];
        }
        for text in [&file.underlay.ipv4, &file.underlay.ipv6].into_iter().flatten() {
            let message = "underlay: segments have prefixes of their own".to_owned();
            self.collector.add(text.referenced, message, "leave this out");
        }
        if let Some(segment) = file.segments.get(SEGMENTS_MAX) {
            let message = format!("segments: {} are too many", file.segments.len());
            self.collector.add(segment.name.referenced, message, SEGMENT_COUNT);
        }
        let mut segments: Vec<SegmentSpec> = Vec::new();
        for (index, segment) in file.segments.iter().enumerate() {
            let path = format!("segments[{index}]");
            let name = self.value(&format!("{path}.name"), &segment.name, NODE_NAME, |text| {
                is_name(text, NODE_NAME_MAX).then(|| text.to_owned())
            });
            let ipv4 = self.value(&format!("{path}.ipv4"), &segment.ipv4, IPV4, parsed::<ipnet::Ipv4Net>);
            let ipv6 = self.value(&format!("{path}.ipv6"), &segment.ipv6, IPV6, parsed::<ipnet::Ipv6Net>);
            let mtu = |text: &str| number(text, UNDERLAY_MTU_MIN);
            let mtu = self.optional(&format!("{path}.mtu"), segment.mtu.as_ref(), UNDERLAY_MTU, mtu);
            let (Some(name), Some(ipv4), Some(ipv6)) = (name, ipv4, ipv6) else { continue };
            let other = |other: &&SegmentSpec| {
                let overlaps = |one: ipnet::IpNet, other: ipnet::IpNet| one.contains(&other) || other.contains(&one);
                overlaps(other.ipv4.into(), ipv4.into()) || overlaps(other.ipv6.into(), ipv6.into())
            };
            if let Some(other) = segments.iter().find(other) {
                let message = format!("{path}: its addresses are those of segment `{}` too", other.name);
                self.collector.add(segment.name.referenced, message, "every segment needs prefixes of its own");
            }
            if segments.iter().any(|other| other.name == name) {
                let message = format!("{path}.name: `{name}` is taken");
                self.collector.add(segment.name.referenced, message, "every segment needs a name of its own");
            }
            segments.push(SegmentSpec { name, ipv4, ipv6, mtu: mtu.unwrap_or(underlay.mtu) });
        }
        segments
    }

    pub(super) fn control(&mut self, file: Option<&file::Control>) -> ControlSpec {
        let endpoints = match file {
            None | Some(file::Control::Embedded) => return ControlSpec::Embedded,
            Some(file::Control::None) => return ControlSpec::None,
            Some(file::Control::Etcd(endpoints)) => endpoints,
        };
        if endpoints.value.is_empty() {
            self.collector.add(endpoints.referenced, "control.etcd: no endpoint".to_owned(), ENDPOINT);
        }
        let endpoints = endpoints.value.iter().enumerate();
        let endpoints = endpoints
            .filter_map(|(index, text)| self.value(&format!("control.etcd[{index}]"), text, ENDPOINT, endpoint));
        ControlSpec::Etcd(endpoints.collect())
    }

    pub(super) fn routers(&mut self, file: &[file::Router], segments: &[SegmentSpec]) -> Vec<RouterSpec> {
        if let Some(router) = file.get(SEGMENTS_MAX) {
            let message = format!("routers: {} are too many", file.len());
            self.collector.add(router.name.referenced, message, SEGMENT_COUNT);
        }
        let mut routers = Vec::new();
        for (index, router) in file.iter().enumerate() {
            let path = format!("routers[{index}]");
            let name = self.name(&format!("{path}.name"), &router.name, ROUTER_NAME, ROUTER_NAME_MAX);
            let mut joined: Vec<usize> = Vec::new();
            for text in &router.segments.value {
                let Some(segment) = self.segment(&format!("{path}.segments"), text, segments) else { continue };
                if joined.contains(&segment) {
                    let message = format!("{path}.segments: `{}` stands here twice", text.value);
                    self.collector.add(text.referenced, message, "once is enough");
                }
                joined.push(segment);
            }
            if router.segments.value.len() < 2 {
                let message = format!("{path}.segments: a router joins two segments at least");
                self.collector.add(router.segments.referenced, message, known(segments));
            }
            let Some(name) = name else { continue };
            routers.push(RouterSpec { name, segments: joined });
        }
        routers
    }

    /// The place of the segment that a text names.
    pub(super) fn segment(&mut self, path: &str, text: &Text, segments: &[SegmentSpec]) -> Option<usize> {
        let found = segments.iter().position(|segment| segment.name == text.value);
        if found.is_none() {
            let message = format!("{path}: there is no segment `{}`", text.value);
            self.collector.add(text.referenced, message, known(segments));
        }
        found
    }

    pub(super) fn link(&mut self, path: &str, file: Option<&file::Link>) -> Impairments {
        let mut link = Impairments::default();
        let Some(file) = file else { return link };
        let place = file.written().next().map(|(_, text)| text.referenced);
        let ways = [(Direction::To, &file.to), (Direction::From, &file.from)];
        let mut written: Vec<(Option<Direction>, &str, &Text)> =
            file.written().map(|(key, text)| (None, key, text)).collect();
        for (direction, way) in ways {
            let way = way.iter().flat_map(file::Way::written);
            written.extend(way.map(|(key, text)| (Some(direction), key, text)));
        }
        written.extend(file.seed.as_ref().map(|text| (None, "seed", text)));
        let mut whole = true;
        for (direction, key, text) in &written {
            if let Err(error) = link.set_value(*direction, key, &text.value) {
                self.impairment(path, key, &error, text.referenced);
                whole = false;
            }
        }
        let place = place.or(written.first().map(|(_, _, text)| text.referenced));
        if whole && let (Err(error), Some(place)) = (link.check(), place) {
            self.collector.add(place, format!("{path}: {error}"), "here");
        }
        link
    }

    fn impairment(&mut self, path: &str, key: &str, error: &ImpairmentError, place: Location) {
        match error {
            ImpairmentError::Value { seen, allowed, .. } => {
                self.collector.add(place, format!("{path}.{key}: `{seen}` is not allowed"), *allowed);
            }
            other => self.collector.add(place, format!("{path}: {other}"), "here"),
        }
    }

    /// What an agent is told of its underlay; the agent's own reader says what is allowed.
    pub(super) fn settings(
        &mut self,
        path: &str,
        file: &BTreeMap<String, Spanned<serde_json::Value>>,
    ) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = serde_json::Map::new();
        for (key, value) in file {
            let one = serde_json::Map::from_iter([(key.clone(), value.value.clone())]);
            match agent_config::underlay(Vec::new(), &one) {
                Ok(_) => settings.extend(one),
                Err(error) => {
                    let message = format!("{path}.{key}: {}", error.lines().next().unwrap_or_default());
                    self.collector.add(
                        value.referenced,
                        message,
                        "docs/configuration.md lists the fields of [underlay]",
                    );
                }
            }
        }
        settings
    }

    /// Addresses for all that are connected, and ways between them.
    pub(super) fn room(&mut self, file: &file::File, spec: &LabSpec) {
        for (index, segment) in spec.segments.iter().enumerate() {
            let nodes = spec.nodes.iter().filter(|node| node.segment == index).count();
            let routers = spec.routers.iter().filter(|router| router.segments.contains(&index)).count();
            let families = [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")];
            for (place, (family, field)) in families.into_iter().enumerate() {
                // The store has an IPv4 address in each segment.
                let stores = usize::from(spec.has_store() && family == Family::Ipv4);
                if spec.has_room(index, nodes + routers + stores, family) {
                    continue;
                }
                let texts = match file.segments.get(index) {
                    Some(segment) => [Some(&segment.ipv4), Some(&segment.ipv6)],
                    None => [file.underlay.ipv4.as_ref(), file.underlay.ipv6.as_ref()],
                };
                let place = texts[place].map_or(file.nodes.referenced, |text| text.referenced);
                let routers = if routers == 0 { String::new() } else { format!(" and {routers} routers") };
                let store = if stores == 0 { "" } else { " and the store" };
                let message = format!("{}.{field}: too few addresses for {nodes} nodes{routers}{store}", segment.name);
                self.collector.add(place, message, "allowed is a prefix with an address for each of them");
            }
        }
        let used: Vec<usize> = spec.nodes.iter().map(|node| node.segment).collect();
        if let Some(cut_off) = used.iter().position(|segment| !spec.is_reachable(used[0], *segment)) {
            let message = format!("nodes[{cut_off}]: no router leads from `{}` to it", spec.nodes[0].name);
            let place = file.nodes.value[cut_off].name.referenced;
            self.collector.add(place, message, "join the segments by `routers`");
        }
    }

    /// A name that the underlay switch, its bridges and their ports leave.
    pub(super) fn reserved(&mut self, path: &str, name: &str, place: Location) {
        let bridge = name.strip_prefix("br").is_some_and(|number| number.parse::<u32>().is_ok());
        if bridge || crate::spec::RESERVED.contains(&name) {
            self.collector.add(place, format!("{path}: `{name}` has another meaning"), RESERVED_NAME);
        }
    }
}

/// `HOST:PORT` of an endpoint in plain text.
fn endpoint(text: &str) -> Option<String> {
    let address = text.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = address.rsplit_once(':')?;
    let whole = !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0);
    whole.then(|| address.to_owned())
}

fn known(segments: &[SegmentSpec]) -> String {
    let names: Vec<&str> = segments.iter().map(|segment| segment.name.as_str()).collect();
    format!("segments are {}", names.join(", "))
}
