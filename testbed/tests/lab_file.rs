//! Lab files: what is read from them, and what is said about wrong ones.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::Path;

use weft_testbed::{ControlSpec, Encapsulation, Family, LabFileError, LabSpec, NodeKind, PortMode};

fn refused(text: &str) -> String {
    LabSpec::parse(text, "lab.yaml").unwrap_err().to_string()
}

fn pod(field: &str) -> String {
    format!("nodes:\n  - name: n1\n    pods:\n      - {{name: a, vni: 1, {field}}}\n")
}

#[test]
fn the_examples_are_labs() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    let labs: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    assert!(labs.len() >= 8, "{labs:?}");
    for path in labs {
        LabSpec::read(&path).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn every_field_is_read() {
    let spec = LabSpec::parse(
        "name: x\nencapsulation: geneve\n\
         underlay: {ipv4: 192.0.2.0/24, ipv6: '2001:db8::/64', mtu: 9000, family: ipv6}\n\
         vnis: [{id: 7, vlan_transparent: true}]\n\
         nodes: [{name: n1, pods: [{name: a, vni: 7, addresses: [10.0.0.1/24, 'fd00::1/64'],\
         mac: '02:00:00:00:00:01', mode: learning, mtu: 1400}]}, {name: n2}]\n",
        "lab.yaml",
    )
    .unwrap();
    assert_eq!(spec.name.as_ref().unwrap().as_str(), "x");
    assert_eq!(
        (spec.encapsulation, spec.underlay.family, spec.underlay.mtu),
        (Encapsulation::Geneve, Family::Ipv6, 9000)
    );
    assert!(spec.vnis[0].vlan_transparent);
    assert_eq!(spec.node_address(1, Family::Ipv4).unwrap().to_string(), "192.0.2.2/24");
    assert_eq!(spec.node_address(1, Family::Ipv6).unwrap().to_string(), "2001:db8::2/64");
    let a = spec.pod("a").unwrap();
    assert_eq!((a.mode, a.mtu, a.addresses.len()), (PortMode::Learning, Some(1400), 2));
    assert_eq!(spec.members().collect::<Vec<_>>(), ["n1", "n2", "a", "underlay"]);
}

#[test]
fn addresses_need_no_quotes() {
    let text = "underlay: {ipv4: 10.199.0.0/24, ipv6: fd99::/64, mtu: 1500, family: ipv4}\n\
                nodes: [{name: n1, pods: [{name: 7, vni: 7, mac: 02:03:04:05:06:07, addresses: [fd00::1/64, ::5/64]}]}]\n";
    let spec = LabSpec::parse(text, "lab.yaml").unwrap();
    let pod = spec.pod("7").unwrap();
    assert_eq!(pod.mac.unwrap().to_string(), "02:03:04:05:06:07");
    assert_eq!(pod.addresses, ["fd00::1/64".parse().unwrap(), "::5/64".parse().unwrap()]);
}

#[test]
fn defaults_are_as_documented() {
    let spec = LabSpec::parse("nodes: [{name: n1, pods: [{name: a, vni: 5}]}]", "lab.yaml").unwrap();
    assert_eq!(spec.name, None);
    assert_eq!(
        (spec.encapsulation, spec.underlay.family, spec.underlay.mtu),
        (Encapsulation::Vxlan, Family::Ipv4, 1500)
    );
    assert_eq!(
        (spec.underlay.ipv4.to_string(), spec.underlay.ipv6.to_string()),
        ("10.199.0.0/24".into(), "fd99::/64".into())
    );
    assert_eq!(spec.vnis.iter().map(|vni| vni.id.get()).collect::<Vec<_>>(), [5]);
    let a = spec.pod("a").unwrap();
    assert_eq!((a.mode, a.mtu, a.mac, a.addresses.len()), (PortMode::Bound, None, None, 0));
}

#[test]
fn a_problem_shows_field_value_place_and_what_is_allowed() {
    assert_eq!(
        refused(&pod("mtu: 60")),
        "\
error: nodes[0].pods[0].mtu: `60` is not allowed
 --> lab.yaml:4:32
  |
4 |       - {name: a, vni: 1, mtu: 60}
  |                                ^^ allowed are 68 to 65535 bytes"
    );
}

#[test]
fn a_name_taken_shows_both_places() {
    assert_eq!(
        refused("nodes:\n  - name: n1\n    pods:\n      - {name: n1, vni: 1}\n"),
        "\
error: nodes[0].pods[0].name: `n1` is taken
 --> lab.yaml:4:16
  |
2 |   - name: n1
  |           -- first here
3 |     pods:
4 |       - {name: n1, vni: 1}
  |                ^^ every node and pod of a lab needs a name of its own"
    );
}

#[test]
fn an_unknown_field_shows_those_known() {
    assert_eq!(
        refused("nodes:\n  - name: n1\n    pod: []\n"),
        "\
error: unknown field `pod`, expected one of name, kind, segment, mtu, encapsulation, link, underlay, pods
 --> lab.yaml:3:5
  |
3 |     pod: []
  |     ^^^ here"
    );
}

#[test]
fn all_problems_are_told_at_once_in_order() {
    let text = "encapsulation: gre\nunderlay: {mtu: 1000}\nnodes:\n  - name: N1\n    pods: [{name: a, vni: 0}]\n";
    let Err(LabFileError::Invalid(problems)) = LabSpec::parse(text, "lab.yaml") else { panic!("accepted") };
    let places: Vec<_> = problems.list().iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(1, 16), (2, 17), (4, 11), (5, 27)]);
    assert!(problems.render(true).contains("\u{1b}["));
}

#[test]
fn every_wrong_value_is_refused_by_name() {
    let vnis = "vnis: [{id: 1}, {id: 1}]\nnodes: [{name: n1, pods: [{name: a, vni: 2}]}]";
    let twice = "nodes:\n  - name: n1\n    pods:\n      - {name: a, vni: 1, addresses: [10.0.0.1/24]}\n      \
                 - {name: b, vni: 1, addresses: [10.0.0.1/16]}";
    let many = format!("nodes: [{}]", vec!["{name: n}"; 201].join(", "));
    for (text, expected) in [
        (pod("addresses: [10.0.0.1/33]"), "addresses[0]: `10.0.0.1/33` is not allowed"),
        (pod("addresses: [10.0.0.1]"), "such as 10.244.1.2/24"),
        (pod("addresses: [10.0.0.0/24]"), "allowed is an address of a host"),
        (pod("addresses: [10.0.0.255/24]"), "allowed is an address of a host"),
        (pod("addresses: ['ff02::1/64']"), "allowed is an address of a host"),
        (pod("mac: '01:00:00:00:00:01'"), "allowed is the address of one interface"),
        (pod("mode: open"), "allowed are bound and learning"),
        (twice.to_owned(), "`10.0.0.1` is there twice in VNI 1"),
        (vnis.to_owned(), "VNI 1 stands here twice"),
        (vnis.to_owned(), "VNI 2 is not in `vnis`"),
        ("name: -x\nnodes: [{name: n1}]".to_owned(), "beginning with a letter or digit"),
        ("nodes: [{name: underlay}]".to_owned(), "`underlay` has another meaning"),
        ("nodes: [{name: a-name-too-long-}]".to_owned(), "allowed are 1 to 15"),
        ("nodes: []".to_owned(), "allowed are 1 to 200"),
        (many, "a lab cannot have 201"),
        ("nodes: 3".to_owned(), "this is a list"),
        ("x".to_owned(), "this has fields"),
        (String::new(), "unexpected end of file"),
        ("name: x".to_owned(), "missing field `nodes`"),
        ("name: x\nname: y\nnodes: []".to_owned(), "duplicate mapping key `name`"),
        ("nodes:\n  - {name: a".to_owned(), "unclosed bracket"),
        (
            "underlay: {ipv4: 10.0.0.0/30}\nnodes: [{name: a}, {name: b}, {name: c}]".to_owned(),
            "too few addresses for 3",
        ),
        ("underlay: {family: ip}\nnodes: [{name: a}]".to_owned(), "allowed are ipv4 and ipv6"),
    ] {
        let error = refused(&text);
        assert!(error.contains(expected) && error.contains("--> lab.yaml:"), "{expected} is missing in\n{error}");
    }
}

#[test]
fn a_missing_or_huge_file_is_named() {
    let missing = LabSpec::read(Path::new("/no/such.yaml")).unwrap_err().to_string();
    let (what, next) = missing.split_once("; ").unwrap();
    assert_eq!(what, "cannot read the lab file /no/such.yaml: No such file or directory (os error 2)");
    assert_eq!(next, "examples/ has lab files, and docs/testbed.md lists their fields");
    assert!(matches!(LabSpec::read(Path::new("/dev/zero")), Err(LabFileError::TooBig { .. })));
}

#[test]
fn segments_kinds_links_and_commands_are_read() {
    let spec = LabSpec::parse(
        "segments: [{name: s, ipv4: 10.1.0.0/24, ipv6: 'fd01::/64', mtu: 9000}, {name: t, ipv4: 10.2.0.0/24, ipv6: 'fd02::/64'}]\n\
         routers: [{name: r, segments: [s, t]}]\n\
         nodes:\n\
         - {name: n1, encapsulation: geneve, underlay: {path_probes: 'off', ttl: 9, vxlan_ports: [4789, 8472]}}\n\
         - name: n2\n\
        \x20 kind: kernel-vxlan\n\
        \x20 segment: t\n\
        \x20 mtu: 1400\n\
        \x20 link: {loss: 1%, seed: 7, to: {delay: 20ms, queue: 5, rate: 1mbit}, from: {burst: 1%/25%}}\n\
        \x20 pods: [{name: a, vni: 1, cmd: sleep 5}]\n\
         - {name: n3, kind: host, segment: t}\n",
        "lab.yaml",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        spec.nodes.iter().map(|node| node.kind).collect::<Vec<_>>(),
        [NodeKind::Weft, NodeKind::KernelVxlan, NodeKind::Host]
    );
    assert_eq!(spec.nodes[0].encapsulation, Some(Encapsulation::Geneve));
    assert_eq!(spec.nodes[0].underlay["vxlan_ports"], serde_json::json!([4789, 8472]));
    let n2 = &spec.nodes[1];
    assert_eq!((n2.segment, n2.mtu, n2.link.seed), (1, Some(1400), 7));
    assert_eq!(n2.link.to.to_string(), "delay=20ms loss=1% rate=1mbit queue=5");
    assert_eq!(n2.link.from.to_string(), "loss=1% burst=1%/25%/100%/0%");
    assert_eq!(n2.pods[0].cmd.as_deref(), Some("sleep 5"));
    assert_eq!(spec.links().collect::<Vec<_>>(), ["n1", "n2", "n3", "r.eth0", "r.eth1"]);
    assert_eq!(spec.members().collect::<Vec<_>>(), ["n1", "n2", "n3", "r", "a", "underlay"]);
}

#[test]
fn a_store_is_the_labs_own_or_none_or_etcd() {
    let control = |text: &str| LabSpec::parse(&format!("{text}nodes: [{name}]", name = "{name: n1}"), "lab.yaml");
    for (text, expected) in [
        ("", ControlSpec::Embedded),
        ("control: embedded\n", ControlSpec::Embedded),
        ("control: none\n", ControlSpec::None),
        (
            "control: {etcd: ['http://127.0.0.1:2379', 'http://[::1]:1/']}\n",
            ControlSpec::Etcd(vec!["127.0.0.1:2379".to_owned(), "[::1]:1".to_owned()]),
        ),
    ] {
        assert_eq!(control(text).unwrap_or_else(|error| panic!("{error}")).control, expected);
    }
    let tight = "underlay: {ipv4: 10.0.0.0/30}\n";
    let two = "nodes: [{name: a}, {name: b}]";
    for (text, told) in [
        ("control: consul\nnodes: [{name: a}]".to_owned(), "embedded"),
        ("control: {etcd: []}\nnodes: [{name: a}]".to_owned(), "control.etcd: no endpoint"),
        ("control: {etcd: ['https://a:1']}\nnodes: [{name: a}]".to_owned(), "such as http://127.0.0.1:2379"),
        ("control: {etcd: ['http://a']}\nnodes: [{name: a}]".to_owned(), "`http://a` is not allowed"),
        (format!("{tight}{two}"), "too few addresses for 2 nodes and the store"),
        ("nodes: [{name: store}]".to_owned(), "`store` has another meaning"),
    ] {
        let error = refused(&text);
        assert!(error.contains(told) && error.contains("--> lab.yaml:"), "{told} is missing in\n{error}");
    }
    let without = LabSpec::parse(&format!("{tight}control: none\n{two}"), "lab.yaml");
    assert!(without.is_ok(), "{without:?}");
}

#[test]
fn a_network_that_cannot_be_is_refused_where_it_is_written() {
    let segments = "segments: [{name: s, ipv4: 10.1.0.0/24, ipv6: 'fd01::/64'}, {name: t, ipv4: 10.2.0.0/24, ipv6: 'fd02::/64'}]\n";
    for (text, refused_text, told) in [
        ("nodes: [{name: n1, link: {loss: 2}}]", "2}}", "nodes[0].link.loss: `2` is not allowed"),
        ("nodes: [{name: n1, link: {to: {delay: 61s}}}]", "61s", "nodes[0].link.delay: `61s` is not allowed"),
        ("nodes: [{name: n1, link: {reorder: 1%}}]", "1%", "reorder without delay changes nothing"),
        ("nodes: [{name: n1, link: {lag: 1}}]", "lag", "unknown field `lag`"),
        ("nodes: [{name: n1, kind: hub}]", "hub", "allowed are weft, kernel-vxlan and host"),
        ("nodes: [{name: n1, kind: host, pods: [{name: a, vni: 1}]}]", "host", "a host has no pods"),
        ("nodes: [{name: n1, kind: kernel-vxlan, encapsulation: geneve}]", "kernel-vxlan", "does not speak Geneve"),
        ("nodes: [{name: n1, kind: host, underlay: {ttl: 3}}]", "3}}", "this node has no agent to be told"),
        ("nodes: [{name: n1, underlay: {colour: 3}}]", "3}}", "unknown field `colour`"),
        ("nodes: [{name: n1, underlay: {ttl: x}}]", "x}}", "nodes[0].underlay.ttl"),
        ("nodes: [{name: n1, segment: x}]", "x}", "there is no segment `x`"),
        ("nodes: [{name: br3}]", "br3", "`br3` has another meaning"),
    ] {
        let place = format!("lab.yaml:1:{}", text.find(refused_text).unwrap() + 1);
        let error = refused(text);
        assert!(error.contains(told) && error.contains(&place), "{text}\n{error}");
    }
    for (rest, told) in [
        ("nodes: [{name: n1}, {name: n2, segment: t}]", "no router leads from `n1` to it"),
        ("routers: [{name: r, segments: [s]}]\nnodes: [{name: n1}]", "a router joins two segments at least"),
        ("routers: [{name: r, segments: [s, s]}]\nnodes: [{name: n1}]", "`s` stands here twice"),
        ("routers: [{name: n1, segments: [s, t]}]\nnodes: [{name: n1}]", "`n1` is taken"),
        ("underlay: {ipv4: 10.9.0.0/24}\nnodes: [{name: n1}]", "segments have prefixes of their own"),
    ] {
        let error = refused(&format!("{segments}{rest}"));
        assert!(error.contains(told), "{rest}\n{error}");
    }
    let overlapping = "segments: [{name: s, ipv4: 10.1.0.0/16, ipv6: 'fd01::/64'}, {name: t, ipv4: 10.1.2.0/24, ipv6: 'fd02::/64'}]\n";
    assert!(refused(&format!("{overlapping}nodes: [{{name: n1}}]")).contains("are those of segment `s` too"));
}
