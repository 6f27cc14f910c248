//! Lab files: what is read from them, and what is said about wrong ones.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::Path;

use weft_testbed::{Encapsulation, Family, LabFileError, LabSpec, PortMode};

fn refused(text: &str) -> String {
    LabSpec::parse(text, "lab.yaml").unwrap_err().to_string()
}

fn pod(field: &str) -> String {
    format!("nodes:\n  - name: n1\n    pods:\n      - {{name: a, vni: 1, {field}}}\n")
}

#[test]
fn the_examples_are_labs() {
    for name in ["two-node", "two-vnis", "learning"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{name}.yaml"));
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
error: unknown field `pod`, expected one of name, pods
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
