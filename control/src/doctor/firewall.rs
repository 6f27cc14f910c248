//! The node's firewall as far as it matters here: rules that name UDP ports, and what chains do with the rest.
//!
//! Read from what `nft -j list ruleset` and `iptables-save` print. Netlink would say the same of nftables, but of a rule
//! of iptables only its bytes, which iptables alone can read; and the words are those that the operator sees.

mod condition;

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde_json::Value;

pub use condition::{Condition, End, Packet, Way};

/// All chains, and the rules that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains at a hook.
    pub chains: Vec<Chain>,
    /// Rules of all chains.
    pub rules: Vec<Rule>,
}

/// A chain at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its table, with the family: `inet filter`, or `iptables filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook: `input`, `forward`, `output`, `prerouting`, ...
    pub hook: String,
    /// Whether what no rule decides of is dropped.
    pub drops_rest: bool,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// UDP destination ports that it names; none if it names none.
    pub udp_ports: Vec<RangeInclusive<u16>>,
    /// What becomes of what it meets.
    pub verdict: Verdict,
    /// Whether it might meet a new packet to a port that it does not name: neither loopback's alone nor of known
    /// connections, and not of another protocol.
    pub is_wide: bool,
    /// What else it asks of a packet: all of it.
    pub conditions: Vec<Condition>,
    /// How to remove it.
    pub place: String,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Lets the packet pass.
    Accept,
    /// Drops or rejects it.
    Drop,
    /// Anything else: counts, marks, jumps.
    Other,
}

impl Rule {
    /// Whether it names this port.
    #[must_use]
    pub fn names(&self, port: u16) -> bool {
        self.udp_ports.iter().any(|ports| ports.contains(&port))
    }

    /// Whether it meets a packet to a port that it names; none where that cannot be told.
    #[must_use]
    pub fn meets(&self, packet: &Packet) -> Option<bool> {
        let other_family = match self.table.split(' ').next() {
            Some("ip" | "iptables" | "arp") => packet.peer.is_ipv6(),
            Some("ip6" | "ip6tables") => packet.peer.is_ipv4(),
            _ => false,
        };
        let mut met = Some(!other_family);
        for condition in &self.conditions {
            match condition.holds(packet) {
                Some(false) => return Some(false),
                Some(true) => {}
                None => met = met.filter(|met| !met),
            }
        }
        met
    }

    /// Whether it drops all that comes to it, or all UDP.
    #[must_use]
    pub fn drops_rest(&self) -> bool {
        self.verdict == Verdict::Drop && self.is_wide && self.udp_ports.is_empty() && self.conditions.is_empty()
    }

    /// How to see it among its neighbours.
    #[must_use]
    pub fn shown_by(&self) -> String {
        match self.table.split_once(' ') {
            Some((program @ ("iptables" | "ip6tables"), table)) => format!("{program} -t {table} -S {}", self.chain),
            _ => format!("nft -a list chain {} {}", self.table, self.chain),
        }
    }
}

impl Ruleset {
    /// Adds what another says.
    pub fn extend(&mut self, other: Self) {
        self.chains.extend(other.chains);
        self.rules.extend(other.rules);
    }

    /// Adds what iptables, or with `program` its sister for IPv6, says. Where it works by nftables, nft has told of the
    /// same rules and chains: these are left to iptables, which alone may change them.
    pub fn extend_by_iptables(&mut self, other: Self, program: &str) {
        let family = if program == "ip6tables" { "ip6" } else { "ip" };
        let is_twin = |own: &str, its: &str| {
            own.split_once(' ')
                .is_some_and(|(of, name)| of == family && its.strip_prefix(program) == Some(&format!(" {name}")))
        };
        self.chains.retain(|own| {
            let same = |its: &Chain| (&own.name, &own.hook, own.drops_rest) == (&its.name, &its.hook, its.drops_rest);
            !other.chains.iter().any(|its| is_twin(&own.table, &its.table) && same(its))
        });
        self.rules.retain(|own| {
            let same =
                |its: &Rule| (&own.chain, &own.udp_ports, own.verdict) == (&its.chain, &its.udp_ports, its.verdict);
            !other.rules.iter().any(|its| is_twin(&own.table, &its.table) && same(its))
        });
        self.extend(other);
    }

    /// Reads what `nft -j list ruleset` prints; tables of iptables are left out, for [`Self::from_iptables`].
    ///
    /// # Errors
    /// What the text is instead of JSON.
    pub fn from_nft(text: &str) -> Result<Self, String> {
        let parsed: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut ruleset = Self::default();
        let objects = || parsed["nftables"].as_array().into_iter().flatten();
        let sets: NftSets = objects().filter_map(|object| nft_set(object.get("set")?)).collect();
        for object in objects() {
            if let Some(chain) = object.get("chain") {
                ruleset.chains.extend(nft_chain(chain));
            } else if let Some(rule) = object.get("rule") {
                ruleset.rules.push(nft_rule(rule, &sets));
            }
        }
        let is_iptables =
            |table: &str, rules: &[Rule]| rules.iter().any(|rule| rule.table == table && rule.place.is_empty());
        let rules = ruleset.rules.clone();
        ruleset.chains.retain(|chain| !is_iptables(&chain.table, &rules));
        ruleset.rules.retain(|rule| !is_iptables(&rule.table, &rules));
        Ok(ruleset)
    }

    /// Reads what `iptables-save`, or with `program` its sister for IPv6, prints.
    #[must_use]
    pub fn from_iptables(text: &str, program: &str) -> Self {
        let mut ruleset = Self::default();
        let mut table = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ');
                let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
                // A chain at a hook has a policy, the others `-`.
                if policy != "-" {
                    ruleset.chains.push(Chain {
                        table: format!("{program} {table}"),
                        name: name.to_owned(),
                        hook: name.to_lowercase(),
                        drops_rest: policy == "DROP",
                    });
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                ruleset.rules.extend(iptables_rule(rule, &table, program));
            }
        }
        ruleset
    }
}

fn nft_chain(chain: &Value) -> Option<Chain> {
    Some(Chain {
        table: nft_table(chain),
        name: chain["name"].as_str()?.to_owned(),
        hook: chain["hook"].as_str()?.to_owned(),
        drops_rest: chain["policy"] == "drop",
    })
}

fn nft_table(of: &Value) -> String {
    format!("{} {}", of["family"].as_str().unwrap_or_default(), of["table"].as_str().unwrap_or_default())
}

/// Elements of the named sets, by table and name.
type NftSets = HashMap<(String, String), Value>;

/// One whose elements come and go by themselves says nothing.
fn nft_set(set: &Value) -> Option<((String, String), Value)> {
    let comes_and_goes = |flag: &Value| flag == "dynamic" || flag == "timeout";
    if set["flags"].as_array().into_iter().flatten().any(comes_and_goes) {
        return None;
    }
    let elements = set.get("elem").cloned().unwrap_or_else(|| Value::Array(Vec::new()));
    Some(((nft_table(set), set["name"].as_str()?.to_owned()), serde_json::json!({ "set": elements })))
}

/// One of iptables has no place, for nobody but iptables can read it.
fn nft_rule(rule: &Value, sets: &NftSets) -> Rule {
    let mut expression = rule["expr"].as_array().cloned().unwrap_or_default();
    for right in expression.iter_mut().filter_map(|part| part.pointer_mut("/match/right")) {
        let name = right.as_str().and_then(|name| name.strip_prefix('@'));
        if let Some(set) = name.and_then(|name| sets.get(&(nft_table(rule), name.to_owned()))) {
            *right = set.clone();
        }
    }
    let parts = || expression.iter();
    let has = |names: &[&str]| parts().any(|part| names.iter().any(|name| part.get(name).is_some()));
    let verdict = match () {
        () if has(&["drop", "reject"]) => Verdict::Drop,
        () if has(&["accept"]) => Verdict::Accept,
        () => Verdict::Other,
    };
    let matches: Vec<&Value> = parts().filter_map(|part| part.get("match")).collect();
    let of_ports = |part: &&&Value| {
        let payload = &part["left"]["payload"];
        payload["field"] == "dport" && (payload["protocol"] == "udp" || payload["protocol"] == "th")
    };
    let udp_ports =
        matches.iter().filter(of_ports).filter(|part| part["op"] != "!=").flat_map(|part| ports(&part["right"]));
    let is_narrow = |part: &&Value| {
        let left = &part["left"];
        let protocol = left["payload"]["protocol"].as_str().unwrap_or_default();
        left["ct"]["key"] == "state"
            || left["meta"]["key"].as_str().is_some_and(|key| key.starts_with("iif")) && part["right"] == "lo"
            || left["meta"]["key"] == "l4proto" && part["right"] != "udp"
            || ["tcp", "udp", "icmp", "icmpv6", "sctp"].contains(&protocol)
            || left["payload"]["field"] == "protocol" && part["right"] != "udp"
    };
    let (table, chain) = (nft_table(rule), rule["chain"].as_str().unwrap_or_default().to_owned());
    let place =
        if has(&["xt"]) { String::new() } else { format!("nft delete rule {table} {chain} handle {}", rule["handle"]) };
    Rule {
        udp_ports: udp_ports.collect(),
        verdict,
        is_wide: !matches.iter().any(is_narrow),
        conditions: condition::of_nft(&expression),
        place,
        table,
        chain,
    }
}

/// A port, a range, or a set of both.
fn ports(value: &Value) -> Vec<RangeInclusive<u16>> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    if let Some(port) = number(value) {
        return vec![port..=port];
    }
    if let Some([from, to]) = value["range"].as_array().map(Vec::as_slice) {
        return number(from).zip(number(to)).map(|(from, to)| from..=to).into_iter().collect();
    }
    value["set"].as_array().into_iter().flatten().flat_map(ports).collect()
}

fn iptables_rule(rule: &str, table: &str, program: &str) -> Option<Rule> {
    let words: Vec<&str> = rule.split_ascii_whitespace().collect();
    let chain = (*words.first()?).to_owned();
    let after =
        |name: &str| words.iter().position(|word| *word == name).and_then(|place| words.get(place + 1)).copied();
    let protocol = after("-p");
    let is_udp = protocol == Some("udp");
    let is_negated = |name: &str| {
        let place = words.iter().position(|word| *word == name);
        place.is_some_and(|place| place > 0 && words[place - 1] == "!")
    };
    let written = ["--dport", "--dports"].into_iter().filter(|name| is_udp && !is_negated(name)).find_map(after);
    let range = |text: &str| {
        let (from, to) = text.split_once(':').unwrap_or((text, text));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    let udp_ports: Vec<_> = written.unwrap_or_default().split(',').filter_map(range).collect();
    let narrow = ["--state", "--ctstate", "--dport", "--dports", "--sport"];
    let is_wide =
        !words.iter().any(|word| narrow.contains(word)) && (is_udp || protocol.is_none()) && after("-i") != Some("lo");
    let verdict = match after("-j") {
        Some("DROP" | "REJECT") => Verdict::Drop,
        Some("ACCEPT") => Verdict::Accept,
        _ => Verdict::Other,
    };
    let place = format!("{program} -t {table} -D {rule}");
    let conditions = match shlex::split(rule) {
        Some(words) => condition::of_iptables(&words[1..], program != "ip6tables"),
        None => vec![Condition::Unknown],
    };
    Some(Rule { table: format!("{program} {table}"), chain, udp_ports, verdict, is_wide, conditions, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NFT: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter", "handle": 1}},
        {"chain": {"family": "inet", "table": "filter", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "filter", "name": "own", "handle": 9}},
        {"rule": {"family": "inet", "table": "filter", "chain": "in", "handle": 2, "expr": [
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "in", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [53, {"range": [4780, 4790]}]}}}, {"counter": null}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "in", "handle": 4, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}, {"accept": null}]}},
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "handle": 5, "expr": [{"xt": {"type": "match", "name": "udp"}}, {"drop": null}]}}
    ]}"#;

    #[test]
    fn rules_of_nftables_are_read() {
        let ruleset = Ruleset::from_nft(NFT).unwrap();
        let [chain] = &ruleset.chains[..] else { panic!("{ruleset:?}") };
        assert_eq!((chain.hook.as_str(), chain.drops_rest), ("input", true));
        let [known, ports, wide] = &ruleset.rules[..] else { panic!("{ruleset:?}") };
        assert_eq!((known.verdict, known.is_wide), (Verdict::Accept, false));
        assert!(ports.names(53) && ports.names(4789) && !ports.names(6081));
        assert_eq!((ports.verdict, ports.place.as_str()), (Verdict::Drop, "nft delete rule inet filter in handle 3"));
        assert_eq!((wide.verdict, wide.is_wide), (Verdict::Accept, true));
        assert!(Ruleset::from_nft("no JSON").is_err());
    }

    #[test]
    fn named_sets_are_looked_into() {
        let text = |flags: &str| {
            format!(
                r#"{{"nftables": [
                {{"set": {{"family": "inet", "name": "ports", "table": "filter", "type": "inet_service", "flags": [{flags}], "elem": [53, {{"range": [4789, 4790]}}]}}}},
                {{"set": {{"family": "inet", "name": "none", "table": "filter", "type": "ipv4_addr"}}}},
                {{"rule": {{"family": "inet", "table": "filter", "chain": "in", "handle": 3, "expr": [
                    {{"match": {{"op": "!=", "left": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "right": "@none"}}}},
                    {{"match": {{"op": "==", "left": {{"payload": {{"protocol": "udp", "field": "dport"}}}}, "right": "@ports"}}}}, {{"drop": null}}]}}}}]}}"#
            )
        };
        let read = |flags: &str| Ruleset::from_nft(&text(flags)).unwrap().rules.remove(0);
        let rule = read(r#""interval""#);
        assert!(rule.names(4790) && !rule.names(4791));
        let all = Condition::Address { end: End::Source, ipv4: true, among: Vec::new(), negated: true };
        assert_eq!(rule.conditions, [all]);
        assert!(!read(r#""dynamic""#).names(4790), "its elements come and go");
    }

    #[test]
    fn a_rule_that_both_tell_of_is_told_once() {
        let both = NFT.replace("inet", "ip").replace("xt", "counter");
        let mut ruleset = Ruleset::from_nft(&both).unwrap();
        let (rules, chains) = (ruleset.rules.len(), ruleset.chains.len());
        let text = "*filter\n:in DROP [0:0]\n-A in -p udp -m multiport --dports 53,4780:4790 -j DROP\nCOMMIT\n";
        let mut other = Ruleset::from_iptables(text, "iptables");
        // A chain at a hook has the hook's name there.
        other.chains[0].hook = "input".to_owned();
        ruleset.extend_by_iptables(other.clone(), "iptables");
        assert_eq!((ruleset.rules.len(), ruleset.chains.len()), (rules, chains));
        let drops: Vec<&Rule> = ruleset.rules.iter().filter(|rule| rule.names(4789)).collect();
        assert!(drops.len() == 1 && drops[0].place.starts_with("iptables "), "{drops:?}");
        let mut unlike = Ruleset::from_nft(&NFT.replace("xt", "counter")).unwrap();
        unlike.extend_by_iptables(other, "iptables");
        assert_eq!(unlike.rules.len(), rules + 1, "another family is another table");
    }

    #[test]
    fn rules_of_iptables_are_read() {
        let text = "*filter\n:INPUT DROP [0:0]\n:OWN - [0:0]\n-A INPUT -i lo -j ACCEPT\n\
            -A INPUT -m state --state ESTABLISHED -j ACCEPT\n-A OWN -p udp -m multiport --dports 53,4700:4800 -j REJECT\n\
            -A INPUT -p udp -m udp ! --dport 6081 -j DROP\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -i eth1 -j ACCEPT\nCOMMIT\n";
        let ruleset = Ruleset::from_iptables(text, "iptables");
        let [chain] = &ruleset.chains[..] else { panic!("{ruleset:?}") };
        assert_eq!((chain.table.as_str(), chain.hook.as_str(), chain.drops_rest), ("iptables filter", "input", true));
        let wide: Vec<bool> = ruleset.rules.iter().map(|rule| rule.is_wide).collect();
        assert_eq!(wide, [false, false, false, false, false, true]);
        let ports = &ruleset.rules[2];
        assert!(ports.names(4789) && ports.verdict == Verdict::Drop);
        assert_eq!(ports.place, "iptables -t filter -D OWN -p udp -m multiport --dports 53,4700:4800 -j REJECT");
        assert_eq!(ruleset.rules[3].udp_ports, []);
    }
}
