//! Each check on a node that is well, and with one thing wrong.

use serde_json::json;
use weft_api::{ControlStatus, DropRow, NodeRow, OffloadRow, PortRow, Status, UnderlayStatus, VtepRow};
use weft_encap::MacAddr;
use weft_switch::ClockState;

use crate::doctor::facts::{
    AgentFacts, Device, Facts, FixedNeighbour, KernelFacts, PortDevice, Process, StaleDevice, StaleRedirect, UdpSocket,
};
use crate::doctor::firewall::Ruleset;
use crate::doctor::{SETTLED, Severity, examine};

fn vtep(address: &str, kind: &str) -> VtepRow {
    serde_json::from_value(json!({
        "address": address, "port": 4789, "encapsulation": "vxlan", "kind": kind, "pod_mtu": 1450, "path": "up",
        "path_mtu": 1500, "path_rtt_us": 100, "vnis": [100], "learned": 0,
        "rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "drops": 0,
    }))
    .unwrap()
}

fn port() -> PortRow {
    serde_json::from_value(json!({
        "name": "web", "vni": 100, "interface": "eth0", "netns": "web", "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1/16"],
        "mtu": 1450, "mode": "bound", "state": "forwarding", "udp_superframes": true, "offloads": [], "learned": 0,
        "rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "drops": 0, "kernel_tx_dropped": 0,
    }))
    .unwrap()
}

fn node(name: &str, address: &str) -> NodeRow {
    serde_json::from_value(json!({
        "name": name, "addresses": [address], "state": "present", "vnis": [100], "endpoints": 1,
    }))
    .unwrap()
}

/// A node on which nothing is wrong. It has no interfaces, which only the checks of those look at: see [`names`].
fn well() -> Facts {
    let offload = |level: &str| OffloadRow {
        level: level.to_owned(),
        used: true,
        reason: "passed its self-test".to_owned(),
        demoted_seconds_ago: None,
    };
    let status = Status {
        node: "n1".to_owned(),
        pid: 100,
        uptime_seconds: 60,
        underlay: UnderlayStatus { level: "socket+offload".to_owned(), mtu: 1500, ..UnderlayStatus::default() },
        offloads: ["udp4", "segment", "uplink"].map(offload).to_vec(),
        control: Some(ControlStatus { state: "connected".to_owned(), since_seconds: 60, ..ControlStatus::default() }),
        ..Status::default()
    };
    let device = Device {
        up: true,
        mtu: 1450,
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    Facts {
        agent: Some(AgentFacts {
            status,
            ports: vec![port()],
            vteps: vec![vtep("192.0.2.2", "managed")],
            nodes: vec![node("n1", "192.0.2.1"), node("n2", "192.0.2.2")],
            drops: vec![DropRow {
                reason: "own_source".to_owned(),
                stage: "verdict".to_owned(),
                count: 0,
                recent: 0,
                meaning: String::new(),
                hint: String::new(),
            }],
            network_interface: Some("weft0".to_owned()),
        }),
        kernel: KernelFacts { release: "6.18.1-arch".to_owned(), no_tun: None, forwards_ipv4: Some(true) },
        listen: vec!["192.0.2.1:4789".parse().unwrap()],
        routed: vec![("192.0.2.2".parse().unwrap(), "eth0".to_owned())],
        firewall: Some(Ruleset::default()),
        devices: vec![PortDevice { port: "web".to_owned(), found: Some(device) }],
        sockets: vec![UdpSocket { at: "192.0.2.1:4789".parse().unwrap(), holder: Some(process(100)) }],
        ..Facts::default()
    }
}

fn process(pid: u32) -> Process {
    Process { pid, name: "weft".to_owned() }
}

fn agent(facts: &mut Facts) -> &mut AgentFacts {
    facts.agent.as_mut().unwrap()
}

fn control(facts: &mut Facts) -> &mut ControlStatus {
    agent(facts).status.control.as_mut().unwrap()
}

/// Names of the findings that something changed about a healthy node makes; interfaces are missing on all.
fn names(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    let mut facts = well();
    change(&mut facts);
    let findings = examine(&facts).findings;
    for finding in &findings {
        assert!(![&finding.what, &finding.why, &finding.fix].iter().any(|text| text.is_empty()), "{finding:?}");
    }
    let names = findings.iter().map(|finding| finding.name);
    names.filter(|name| *name != "vtep_address_missing").collect()
}

fn nft(chain: &str, rule: &str) -> Option<Ruleset> {
    let chain = format!(r#"{{"chain": {{"family": "inet", "table": "t", "name": "c", {chain}}}}}"#);
    let rule =
        format!(r#"{{"rule": {{"family": "inet", "table": "t", "chain": "c", "handle": 1, "expr": [{rule}]}}}}"#);
    Some(Ruleset::from_nft(&format!(r#"{{"nftables": [{chain}, {rule}]}}"#)).unwrap())
}

const TO_VXLAN: &str =
    r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4789}}"#;

#[test]
fn a_healthy_node_has_no_finding() {
    assert_eq!(names(|_| {}), [""; 0]);
}

#[test]
fn an_address_that_no_interface_has() {
    let found = examine(&well()).findings;
    assert_eq!(found.iter().map(|finding| finding.name).collect::<Vec<_>>(), ["vtep_address_missing"]);
}

#[test]
fn an_agent_that_ended_is_an_error_and_one_that_never_was_a_note() {
    let found = names(|facts| (facts.agent, facts.agent_ended) = (None, Some("its socket is there".to_owned())));
    assert!(found.contains(&"agent_not_running"), "{found:?}");
    let hangs = |facts: &mut Facts| {
        (facts.agent, facts.agent_ended, facts.agent_hangs) = (None, Some("timed out".to_owned()), true);
    };
    assert!(names(hangs).contains(&"agent_hangs"));
    let mut facts = Facts { agent: None, listen: Vec::new(), sockets: Vec::new(), ..well() };
    let report = examine(&facts);
    assert!(!report.has_findings() && !report.agent_answers);
    assert_eq!(report.findings[0].severity, Severity::Note);
    facts.kernel.no_tun = Some("no such file".to_owned());
    assert_eq!(examine(&facts).findings[0].name, "no_tun");
}

#[test]
fn clocks_that_nobody_keeps() {
    let with =
        |synchronised, offset_us| move |facts: &mut Facts| facts.clock = Some(ClockState { synchronised, offset_us });
    assert_eq!(names(with(true, 99_999)), [""; 0]);
    assert_eq!(names(with(true, -100_000)), ["clock_off"]);
    assert_eq!(names(with(false, 0)), ["clock_unsynchronised"]);
    let with_certificates = |facts: &mut Facts| {
        with(true, 200_000)(facts);
        control(facts).stores = vec!["https://192.0.2.9:2379".to_owned()];
    };
    let mut facts = well();
    with_certificates(&mut facts);
    let found = examine(&facts).findings.into_iter().find(|finding| finding.name == "clock_off").unwrap();
    assert!(found.what.contains("200 ms") && found.why.contains("certificates"), "{found:?}");
}

#[test]
fn ports_and_their_devices() {
    assert_eq!(names(|facts| agent(facts).ports[0].state = "lost: gone".to_owned()), ["port_lost"]);
    let device = |change: fn(&mut Device)| names(|facts| change(facts.devices[0].found.as_mut().unwrap()));
    assert_eq!(device(|device| device.up = false), ["pod_device_down"]);
    assert_eq!(device(|device| device.mtu = 9000), ["pod_mtu_changed"]);
    assert_eq!(device(|device| device.mac = Some(MacAddr([2; 6]))), ["pod_mac_changed"]);
    assert_eq!(device(|device| device.addresses.clear()), ["pod_address_gone"]);
    let device = StaleDevice { netns: Some("old".to_owned()), name: "eth0".to_owned() };
    assert_eq!(names(|facts| facts.stale_devices.push(device)), ["stale_device"]);
    let redirect = StaleRedirect { interface: "eth0".to_owned(), priority: 22343 };
    assert_eq!(names(|facts| facts.stale_redirects.push(redirect)), ["stale_redirect"]);
    assert_eq!(names(|facts| facts.network_manager = true), ["network_manager"]);
}

/// The words of the only command.
fn command(change: impl FnOnce(&mut Facts)) -> Option<Vec<String>> {
    let mut facts = Facts { listen: Vec::new(), ..well() };
    change(&mut facts);
    let findings = examine(&facts).findings;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    finding.command.as_ref().map(|command| shlex::split(command).unwrap())
}

#[test]
fn names_of_devices_are_one_word_each() {
    for name in ["eth0", "x;reboot", "$(reboot)", "it's", "-x", "`id`", "a&&b", "#1"] {
        let stale = |netns: &str| StaleDevice { netns: Some(netns.to_owned()), name: name.to_owned() };
        let expected = ["ip", "-n", name, "link", "delete", "dev", name];
        assert_eq!(command(|facts| facts.stale_devices.push(stale(name))).unwrap(), expected);
        let path = format!("/run/{name}");
        let words = command(|facts| facts.stale_devices.push(stale(&path))).unwrap();
        assert_eq!(words[1], format!("--net={path}"));
        let redirect = StaleRedirect { interface: name.to_owned(), priority: 22342 };
        let words = command(|facts| facts.stale_redirects.push(redirect)).unwrap();
        assert_eq!(words, ["tc", "filter", "del", "dev", name, "ingress", "pref", "22342"]);
        let down = |facts: &mut Facts| {
            agent(facts).ports[0].interface = name.to_owned();
            facts.devices[0].found.as_mut().unwrap().up = false;
        };
        assert_eq!(command(down).unwrap(), ["ip", "-n", "web", "link", "set", "dev", name, "up"]);
    }
}

#[test]
fn control_characters_of_a_pod_do_not_reach_the_terminal() {
    let mut facts = well();
    facts.stale_devices.push(StaleDevice { netns: None, name: "\u{1b}[2J".to_owned() });
    let findings = examine(&facts).findings;
    let stale = findings.iter().find(|finding| finding.name == "stale_device").unwrap();
    assert_eq!(stale.command, None);
    assert!(!format!("{}{}", stale.what, stale.fix).contains(char::is_control), "{stale:?}");
}

#[test]
fn offloads_that_are_off_without_anybodys_wish() {
    let off = |reason: &str| {
        let reason = reason.to_owned();
        move |facts: &mut Facts| {
            let row = &mut agent(facts).status.offloads[1];
            (row.used, row.reason) = (false, reason);
        }
    };
    assert_eq!(names(off("self-test: three bytes differ")), ["offload_off"]);
    assert_eq!(names(off("demoted 5 s ago: EIO")), ["offload_off"]);
    assert_eq!(names(off("switched off by `offloads.segment`")), [""; 0]);
    let old = |facts: &mut Facts| {
        off("self-test: not supported")(facts);
        facts.kernel.release = "4.17.2".to_owned();
    };
    assert_eq!(names(old), ["kernel_too_old"]);
    assert_eq!(
        names(|facts| agent(facts).status.offloads[1].reason = "not towards 192.0.2.2: lost".to_owned()),
        ["groups_given_up"]
    );
}

#[test]
fn paths_that_are_narrower_than_pods_send() {
    assert_eq!(names(|facts| agent(facts).vteps[0].pod_mtu = 1400), ["path_too_narrow"]);
    assert_eq!(names(|facts| (agent(facts).vteps[0].pod_mtu, agent(facts).vteps[0].vnis) = (1400, vec![7])), [""; 0]);
}

#[test]
fn rules_that_drop_tunnel_packets_or_do_not_see_them() {
    let input = r#""type": "filter", "hook": "input", "prio": 0, "policy": "accept""#;
    let drops = format!(r#"{TO_VXLAN}, {{"drop": null}}"#);
    assert_eq!(names(|facts| facts.firewall = nft(input, &drops)), ["rule_drops_tunnel"]);
    let unseen = |facts: &mut Facts| {
        facts.firewall = nft(input, &drops);
        agent(facts).status.underlay.level = "uplink".to_owned();
    };
    assert_eq!(names(unseen), ["rule_sees_no_uplink"]);
    let closed = r#""type": "filter", "hook": "input", "prio": 0, "policy": "drop""#;
    let lo = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}"#;
    assert_eq!(names(|facts| facts.firewall = nft(closed, lo)), ["tunnel_port_closed"]);
    let open = format!(r#"{TO_VXLAN}, {{"accept": null}}"#);
    assert_eq!(names(|facts| facts.firewall = nft(closed, &open)), [""; 0]);
    let tables = Ruleset::from_iptables("*filter\n:INPUT DROP [0:0]\nCOMMIT\n", "iptables");
    assert_eq!(names(|facts| facts.firewall = Some(tables)), ["tunnel_port_closed"]);
}

#[test]
fn rules_that_keep_strangers_out_are_let_be() {
    let found = |hook: &str, rules: &[&str]| {
        let chain = format!(r#""type": "filter", "hook": "{hook}", "prio": 0, "policy": "accept""#);
        let rules =
            rules.join(r#"]}}, {"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 2, "expr": ["#);
        let mut facts = Facts { firewall: nft(&chain, &rules), ..well() };
        facts.agent.as_mut().unwrap().vteps.push(vtep("192.0.2.3", "managed"));
        facts.routed.push(("192.0.2.3".parse().unwrap(), "eth1".to_owned()));
        let mut findings = examine(&facts).findings;
        findings.retain(|finding| finding.name != "vtep_address_missing");
        assert!(findings.iter().all(|finding| finding.name == "rule_drops_tunnel" || finding.command.is_none()));
        findings.into_iter().map(|finding| (finding.name, finding.severity)).collect::<Vec<_>>()
    };
    let matches = |left: &str, op: &str, right: &str| {
        format!(r#"{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}, {TO_VXLAN}, {{"counter": null}}"#)
    };
    let drops = |left: &str, op: &str, right: &str| format!(r#"{}, {{"drop": null}}"#, matches(left, op, right));
    let address = |field: &str| format!(r#"{{"payload": {{"protocol": "ip", "field": "{field}"}}}}"#);
    let (from, to) = (address("saddr"), address("daddr"));
    let may = [("rule_may_drop_tunnel", Severity::Warning)];

    let peers = r#"{"set": ["192.0.2.2", {"range": ["192.0.2.3", "192.0.2.9"]}]}"#;
    assert_eq!(found("input", &[&drops(&from, "!=", peers)]), []);
    assert_eq!(found("input", &[&drops(&from, "==", r#"{"prefix": {"addr": "198.51.100.0", "len": 24}}"#)]), []);
    assert_eq!(found("input", &[&drops(&to, "!=", r#""192.0.2.1""#)]), []);
    assert_eq!(found("output", &[&drops(&from, "!=", r#""192.0.2.1""#)]), []);
    assert_eq!(found("input", &[&drops(&from, "!=", r#""192.0.2.2""#)]), may, "the other peer");
    assert_eq!(found("input", &[&drops(&from, "==", r#"{"prefix": {"addr": "192.0.2.0", "len": 24}}"#)]), may);
    assert_eq!(found("output", &[&drops(&to, "==", r#""192.0.2.2""#)]), may);
    assert_eq!(found("input", &[&drops(&from, "!=", r#""@unknown""#)]), may);

    let interface = r#"{"meta": {"key": "iifname"}}"#;
    assert_eq!(found("input", &[&drops(interface, "==", r#""wan0""#)]), []);
    assert_eq!(found("input", &[&drops(interface, "!=", r#""eth*""#)]), []);
    assert_eq!(found("input", &[&drops(interface, "!=", r#""eth0""#)]), may, "the other peer comes by eth1");
    assert_eq!(found("input", &[&drops(interface, "==", r#"{"set": ["eth0", "eth1"]}"#)]), may);

    // First the peers, then nobody.
    let rest = format!(r#"{TO_VXLAN}, {{"drop": null}}"#);
    let lets = |right: &str| format!(r#"{}, {{"accept": null}}"#, matches(&from, "==", right));
    assert_eq!(found("input", &[&lets(peers), &rest]), []);
    assert_eq!(found("input", &[&lets(r#""192.0.2.2""#), &rest]), may);
    assert_eq!(found("input", &[&rest, &lets(peers)]), [("rule_drops_tunnel", Severity::Error)]);
    let limited = format!(r#"{TO_VXLAN}, {{"limit": {{"rate": 10}}}}, {{"drop": null}}"#);
    assert_eq!(found("input", &[&limited]), may);
}

#[test]
fn rules_of_iptables_that_keep_strangers_out_are_let_be() {
    let found = |rule: &str| {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n");
        names(|facts| facts.firewall = Some(Ruleset::from_iptables(&text, "iptables")))
    };
    assert_eq!(found("! -s 192.0.2.0/24 -p udp -m udp --dport 4789 -j DROP"), [""; 0]);
    assert_eq!(found("! -i eth+ -p udp -m udp --dport 4789 -m comment --comment \"not -s us\" -j DROP"), [""; 0]);
    assert_eq!(found("-s 192.0.2.2/32 -p udp -m udp --dport 4789 -j DROP"), ["rule_may_drop_tunnel"]);
    assert_eq!(found("-p udp -m udp --dport 4789 -m limit --limit 5/sec -j DROP"), ["rule_may_drop_tunnel"]);
    assert_eq!(
        found(
            "-p udp -m udp --dport 4789 -m comment --comment \"-s 192.0.2.9\" -j REJECT --reject-with icmp-port-unreachable"
        ),
        ["rule_drops_tunnel"]
    );
    let text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 4789 -j DROP\nCOMMIT\n";
    assert_eq!(names(|facts| facts.firewall = Some(Ruleset::from_iptables(text, "ip6tables"))), [""; 0]);
    let of_nobody = |facts: &mut Facts| {
        facts.firewall =
            Some(Ruleset::from_iptables(&text.replace("-A INPUT", "-A INPUT ! -s 192.0.2.0/24"), "iptables"));
        facts.agent = None;
    };
    assert!(names(of_nobody).contains(&"rule_may_drop_tunnel"), "without an agent no peer is known");
}

#[test]
fn rules_that_drop_all_close_the_port_too() {
    let chain = |policy: &str| format!(r#""type": "filter", "hook": "input", "prio": 0, "policy": "{policy}""#);
    let udp = r#"{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "udp"}}, {"drop": null}"#;
    for rest in [udp, r#"{"counter": {"packets": 0, "bytes": 0}}, {"drop": null}"#] {
        assert_eq!(names(|facts| facts.firewall = nft(&chain("accept"), rest)), ["tunnel_port_closed"]);
    }
    let elsewhere =
        format!(r#"{{"match": {{"op": "==", "left": {{"meta": {{"key": "iifname"}}}}, "right": "wan0"}}}}, {udp}"#);
    assert_eq!(names(|facts| facts.firewall = nft(&chain("accept"), &elsewhere)), [""; 0]);
    let under_an_uplink = |facts: &mut Facts| {
        facts.firewall = nft(&chain("drop"), r#"{"counter": null}"#);
        agent(facts).status.underlay.level = "uplink".to_owned();
    };
    assert_eq!(names(under_an_uplink), ["closed_beside_uplink"]);
}

#[test]
fn nodes_that_do_not_forward_for_their_pods() {
    assert_eq!(names(|facts| facts.kernel.forwards_ipv4 = Some(false)), ["ip_forward_off"]);
    let tables = || Some(Ruleset::from_iptables("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", "iptables"));
    assert_eq!(names(|facts| facts.firewall = tables()), ["forward_drops"]);
    let without_network = |facts: &mut Facts| {
        facts.firewall = tables();
        facts.kernel.forwards_ipv4 = Some(false);
        agent(facts).network_interface = None;
    };
    assert_eq!(names(without_network), [""; 0]);
}

#[test]
fn somebody_else_on_our_port() {
    for at in ["192.0.2.1:4789", "0.0.0.0:4789", "[::]:4789"] {
        let other = UdpSocket { at: at.parse().unwrap(), holder: Some(process(7)) };
        assert_eq!(names(|facts| facts.sockets.push(other)), ["port_taken"], "{at}");
    }
    let other = UdpSocket { at: "0.0.0.0:4789".parse().unwrap(), holder: Some(process(7)) };
    let mut facts = well();
    facts.sockets.push(other);
    let commands = examine(&facts).findings.into_iter().filter_map(|finding| finding.command);
    assert_eq!(commands.collect::<Vec<_>>(), [""; 0], "nobody ends another's process unasked");
    for at in ["192.0.2.9:4789", "0.0.0.0:53"] {
        let other = UdpSocket { at: at.parse().unwrap(), holder: Some(process(7)) };
        assert_eq!(names(|facts| facts.sockets.push(other)), [""; 0], "{at}");
    }
}

#[test]
fn peers_that_do_not_answer() {
    assert_eq!(names(|facts| agent(facts).vteps[0].path = "down".to_owned()), ["peer_down"]);
    assert_eq!(names(|facts| agent(facts).vteps[0].path = "black hole".to_owned()), ["path_black_hole"]);
    assert_eq!(names(|facts| agent(facts).vteps[0].path = "unprobed".to_owned()), ["peer_silent"]);
    let foreign = |facts: &mut Facts| {
        agent(facts).vteps[0] = vtep("192.0.2.2", "foreign");
        agent(facts).vteps[0].path = "unprobed".to_owned();
    };
    assert_eq!(names(foreign), [""; 0]);
    let young = |facts: &mut Facts| {
        agent(facts).vteps[0].path = "unprobed".to_owned();
        agent(facts).status.uptime_seconds = 3;
    };
    assert_eq!(names(young), [""; 0]);
    let fixed = |path: &'static str| {
        move |facts: &mut Facts| {
            agent(facts).vteps[0].path = path.to_owned();
            let peer = "192.0.2.2".parse().unwrap();
            let (mac, interface) = (MacAddr([2; 6]), "eth0".to_owned());
            facts.fixed_neighbours.push(FixedNeighbour { peer, next_hop: peer, mac, interface });
        }
    };
    assert_eq!(names(fixed("down")), ["peer_down", "neighbour_fixed"]);
    assert_eq!(names(fixed("up")), [""; 0]);
    let other_family = |facts: &mut Facts| {
        agent(facts).status.vnis = vec![100];
        agent(facts).nodes[1] = node("n2", "2001:db8::2");
    };
    assert_eq!(names(other_family), ["family_missing"]);
    let unrouted = |facts: &mut Facts| {
        agent(facts).vteps[0].path = "down".to_owned();
        facts.unrouted.push("192.0.2.2".parse().unwrap());
    };
    assert_eq!(names(unrouted), ["no_route"]);
}

#[test]
fn what_two_have() {
    let once = |facts: &mut Facts| agent(facts).drops[0].count = 3;
    assert_eq!(names(once), [""; 0]);
    assert_eq!(names(|facts| agent(facts).drops[0].recent = 3), ["own_address_elsewhere"]);
    assert_eq!(names(|facts| agent(facts).nodes[1] = node("n2", "192.0.2.1")), ["duplicate_vtep"]);
    assert_eq!(names(|facts| control(facts).conflicts.push("10.0.0.1 is claimed".to_owned())), ["duplicate_address"]);
}

#[test]
fn what_is_dropped_of_late_has_the_name_of_its_reason() {
    let dropped = |reason: &'static str, recent: u64| {
        move |facts: &mut Facts| {
            let row = &mut agent(facts).drops[0];
            (row.reason, row.recent, row.count) = (reason.to_owned(), recent, 1000);
            (row.meaning, row.hint) = ("why".to_owned(), "what to do".to_owned());
        }
    };
    assert_eq!(names(dropped("spoofed_mac", 10)), ["spoofed_mac"]);
    assert_eq!(names(dropped("spoofed_mac", 9)), [""; 0]);
    assert_eq!(names(dropped("exceeds_path_mtu", 500)), [""; 0]);
    let young = |facts: &mut Facts| {
        dropped("unknown_source", 500)(facts);
        agent(facts).status.uptime_seconds = SETTLED.as_secs() - 1;
    };
    assert_eq!(names(young), [""; 0]);
}

#[test]
fn tables_that_are_full() {
    let learned = |entries| {
        move |facts: &mut Facts| {
            (agent(facts).status.fdb_entries, agent(facts).status.fdb_capacity) = (entries, 1000);
        }
    };
    assert_eq!(names(learned(900)), ["fdb_full"]);
    assert_eq!(names(learned(899)), [""; 0]);
    let behind = |learned| {
        move |facts: &mut Facts| {
            (agent(facts).ports[0].learned, agent(facts).ports[0].learn_limit) = (learned, Some(256));
        }
    };
    assert_eq!(names(behind(256)), ["learn_limit"]);
    assert_eq!(names(behind(255)), [""; 0]);
}

#[test]
fn a_store_that_is_away_slow_or_of_another_mind() {
    for (state, seconds, found) in [
        ("stale", 1, &["store_away"][..]),
        ("refused", 1, &["name_taken"]),
        ("connecting", 60, &["store_slow"]),
        ("connecting", 1, &[]),
        ("connected", 60, &[]),
    ] {
        let changed = |facts: &mut Facts| {
            (control(facts).state, control(facts).since_seconds) = (state.to_owned(), seconds);
        };
        assert_eq!(names(changed), found, "{state}");
    }
    let denied = |facts: &mut Facts| (control(facts).state, control(facts).denied) = ("stale".to_owned(), true);
    assert_eq!(names(denied), ["store_refuses"]);
    assert_eq!(names(|facts| control(facts).suspects.push("n2".to_owned())), ["nodes_suspect"]);
    assert_eq!(names(|facts| control(facts).refused_rows.push("a row".to_owned())), ["row_refused"]);
    assert_eq!(names(|facts| control(facts).no_ranges = Some("none left".to_owned())), ["no_ranges"]);
}

#[test]
fn counters_that_do_not_add_up() {
    assert_eq!(names(|facts| agent(facts).status.law_broken = Some("1 is not 2".to_owned())), ["counters_wrong"]);
}

/// Names in the texts of the checks stand behind the word that says how bad they are.
#[test]
fn the_page_has_every_finding() {
    let page = include_str!("../../../../docs/doctor.md");
    let texts = [
        include_str!("devices.rs"),
        include_str!("underlay.rs"),
        include_str!("firewall.rs"),
        include_str!("peers.rs"),
        include_str!("drops.rs"),
    ]
    .concat();
    let mut count = 0;
    for (word, severity) in [("error(", "error"), ("warning(", "warning"), ("note(", "note")] {
        for rest in texts.split(word).skip(1) {
            let Some((name, _)) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
                continue;
            };
            let row = format!("| `{name}` | {severity} |");
            assert!(page.contains(&row), "docs/doctor.md has no row `{row}`");
            count += 1;
        }
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(count, rows, "the page names what nothing finds");
}
