//! What a rule asks of a packet besides its protocol and its destination port.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::Value;

/// Parts of a rule in nft's JSON that ask nothing of a packet.
const NFT_ASKS_NOTHING: [&str; 5] = ["counter", "log", "drop", "reject", "accept"];

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// An address of the packet is of a family, and among these, or not.
    Address {
        /// Which one.
        end: End,
        /// Whether it has to be one of IPv4, or of IPv6.
        ipv4: bool,
        /// From the first to the last.
        among: Vec<RangeInclusive<IpAddr>>,
        /// Whether it has to be another.
        negated: bool,
    },
    /// The interface by which the packet comes, or leaves, is one of these, or not.
    Interface {
        /// Which one.
        way: Way,
        /// Names; `*` at the end stands for any rest.
        names: Vec<String>,
        /// Whether it has to be another.
        negated: bool,
    },
    /// Something else.
    Unknown,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It arrives at this node.
    In,
    /// It leaves it.
    Out,
}

/// A tunnel packet that passes this node's firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which way it goes.
    pub way: Way,
    /// The other node's VTEP address.
    pub peer: IpAddr,
    /// This node's.
    pub own: IpAddr,
    /// By which interface, where that is known.
    pub interface: Option<String>,
}

impl Packet {
    const fn address(&self, end: End) -> IpAddr {
        match (self.way, end) {
            (Way::In, End::Source) | (Way::Out, End::Destination) => self.peer,
            (Way::In, End::Destination) | (Way::Out, End::Source) => self.own,
        }
    }
}

impl Condition {
    /// Whether a packet meets it; none where that cannot be told.
    #[must_use]
    pub fn holds(&self, packet: &Packet) -> Option<bool> {
        match self {
            Self::Address { end, ipv4, among, negated } => {
                let address = packet.address(*end);
                let is_among = among.iter().any(|range| range.contains(&address));
                Some(address.is_ipv4() == *ipv4 && is_among != *negated)
            }
            Self::Interface { way, names, negated } if *way == packet.way => {
                let interface = packet.interface.as_deref()?;
                let is_one = names.iter().any(|name| match name.strip_suffix('*') {
                    Some(start) => interface.starts_with(start),
                    None => interface == name,
                });
                Some(is_one != *negated)
            }
            Self::Interface { negated, .. } => Some(*negated),
            Self::Unknown => None,
        }
    }
}

/// Those of a rule in nft's JSON, whose named sets have been put in place, but for its destination ports.
pub(super) fn of_nft(parts: &[Value]) -> Vec<Condition> {
    let asks = |part: &&Value| !NFT_ASKS_NOTHING.iter().any(|name| part.get(name).is_some());
    parts.iter().filter(asks).filter_map(of_nft_part).collect()
}

/// Nothing for a protocol or a port, of which the rule tells elsewhere.
fn of_nft_part(part: &Value) -> Option<Condition> {
    let Some(asked) = part.get("match") else { return Some(Condition::Unknown) };
    let (left, right) = (&asked["left"], &asked["right"]);
    let negated = asked["op"] == "!=";
    let payload = |key: &str| left["payload"][key].as_str().unwrap_or_default();
    let is_udp = right == "udp" || right["set"].as_array().is_some_and(|set| set.iter().any(|one| one == "udp"));
    match (payload("protocol"), payload("field"), left["meta"]["key"].as_str().unwrap_or_default()) {
        ("udp" | "th", "dport", _) if !negated => None,
        (_, "protocol" | "nexthdr", _) | (_, _, "l4proto") if is_udp && !negated => None,
        (family @ ("ip" | "ip6"), field @ ("saddr" | "daddr"), _) => {
            let end = if field == "saddr" { End::Source } else { End::Destination };
            let among = nft_addresses(right);
            among.map(|among| Condition::Address { end, ipv4: family == "ip", among, negated })
        }
        .or(Some(Condition::Unknown)),
        (_, _, key @ ("iif" | "iifname" | "oif" | "oifname")) => {
            let way = if key.starts_with('i') { Way::In } else { Way::Out };
            nft_names(right).map(|names| Condition::Interface { way, names, negated }).or(Some(Condition::Unknown))
        }
        _ => Some(Condition::Unknown),
    }
}

/// An address, a prefix, a range, or a set of them; none if it is something else.
fn nft_addresses(value: &Value) -> Option<Vec<RangeInclusive<IpAddr>>> {
    if let Some(set) = value["set"].as_array() {
        return set.iter().map(nft_addresses).collect::<Option<Vec<_>>>().map(|parts| parts.concat());
    }
    let range = match (value["range"].as_array().map(Vec::as_slice), &value["prefix"]) {
        (Some([from, to]), _) => from.as_str()?.parse().ok()?..=to.as_str()?.parse().ok()?,
        (_, Value::Object(prefix)) => network(&format!("{}/{}", prefix.get("addr")?.as_str()?, prefix.get("len")?))?,
        _ => network(value.as_str()?)?,
    };
    Some(vec![range])
}

fn nft_names(value: &Value) -> Option<Vec<String>> {
    match value["set"].as_array() {
        Some(set) => set.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
        None => Some(vec![value.as_str().filter(|name| !name.starts_with('@'))?.to_owned()]),
    }
}

/// Those of a rule in the words of iptables, behind its chain, but for its destination ports.
pub(super) fn of_iptables(words: &[String], ipv4: bool) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let mut words = words.iter().map(String::as_str);
    let mut negated = false;
    while let Some(word) = words.next() {
        match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "-g" => break,
            "-s" | "-d" => {
                let end = if word == "-s" { End::Source } else { End::Destination };
                let among = words.next().and_then(|list| list.split(',').map(network).collect());
                conditions.push(among.map_or(Condition::Unknown, |among| Condition::Address {
                    end,
                    ipv4,
                    among,
                    negated,
                }));
            }
            "-i" | "-o" => {
                let way = if word == "-i" { Way::In } else { Way::Out };
                let names = words.next().map(|name| name.replace('+', "*")).into_iter().collect();
                conditions.push(Condition::Interface { way, names, negated });
            }
            "-p" | "--dport" | "--dports" if !negated => drop(words.next()),
            // A module's own options say what it asks.
            "-m" | "--comment" => drop(words.next()),
            _ if word.starts_with('-') => conditions.push(Condition::Unknown),
            _ => {}
        }
        negated = false;
    }
    conditions
}

/// An address or a prefix.
fn network(text: &str) -> Option<RangeInclusive<IpAddr>> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(network.network()..=network.broadcast())
}
