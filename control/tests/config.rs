//! What is said of configurations that cannot be used, and what is filled in where nothing is written.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use weft_bridge::tables::DomainOptions;
use weft_control::config::file::File;
use weft_control::config::{Config, ConfigError};
use weft_encap::ecn::Dscp;
use weft_encap::outer::Ttl;
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_switch::polling::Polling;
use weft_switch::underlay::SocketOptions;

/// The start of an underlay: two lines.
const UNDER: &str = "[underlay]\naddresses = [\"192.0.2.1\"]\n";
/// A node with a VNI: four lines.
const NODE: &str = "[underlay]\naddresses = [\"192.0.2.1\"]\n[[vni]]\nid = 7\n";
/// A node with a VNI and a store: six lines.
const STORE: &str = "[underlay]\naddresses = [\"192.0.2.1\"]\n[[vni]]\nid = 7\n[control]\nstores = [\"http://a:1\"]\n";
/// A node with the start of a VTEP: seven lines.
const VTEP: &str =
    "[underlay]\naddresses = [\"192.0.2.1\"]\n[[vni]]\nid = 7\n[[vtep]]\naddress = \"192.0.2.2\"\nvnis = [7]\n";
/// A node with the start of a port: eight lines.
const PORT: &str =
    "[underlay]\naddresses = [\"192.0.2.1\"]\n[[vni]]\nid = 7\n[[port]]\nname = \"a\"\nnetns = \"pod\"\nvni = 7\n";

/// What the text begins with, what follows, the line that is wrong, and words that must be said of it.
type Case = (&'static str, &'static str, usize, &'static [&'static str]);

#[rustfmt::skip]
const FORM: &[Case] = &[
    ("", "[underlay\n", 1, &["unclosed table", "`]`"]),
    ("", "[underlay]\naddresses = [\"192.0.2.1\"\n", 2, &["unclosed array"]),
    (NODE, "id = 8", 5, &["duplicate key"]),
    (NODE, "[underlay]\n", 5, &["duplicate key"]),
    ("", "", 1, &["`underlay` is missing", "[underlay]", "addresses"]),
    ("", "node = \"n1\"\n", 1, &["`underlay` is missing", "[underlay]"]),
    ("", "[[vni]]\nid = 7\n", 1, &["`underlay` is missing", "[underlay]"]),
    ("", "nod = \"n1\"\n", 1, &["`nod` is no field", "`node`", "`run_dir`"]),
    (NODE, "vlan = true", 5, &["`vlan` is no field", "`vlan_transparent`"]),
    (NODE, "[vtpe]\n", 5, &["`vtpe` is no field", "`vtep`"]),
    (NODE, "[vtep]\n", 5, &["`vtep`", "`[[vtep]]`"]),
    ("", "underlay = 3\n", 1, &["`underlay` is 3", "[underlay]"]),
    (UNDER, "[[vni]]\n", 3, &["`id` is missing", "1 to 16777215"]),
    (NODE, "[[port]]\nname = \"a\"\n", 5, &["`netns` is missing", "/run/netns"]),
];

#[rustfmt::skip]
const TOP: &[Case] = &[
    ("", "node = 3\n", 1, &["`node` is 3", "1 to 63 of a-z"]),
    ("log = \"info\"\nnode = \"N 1\"\n", UNDER, 2, &["`node` is `N 1`", "1 to 63 of a-z, 0-9"]),
    ("node = \"\"\n", UNDER, 1, &["`node` is ``", "1 to 63"]),
    ("run_dir = \"run\"\n", UNDER, 1, &["`run_dir` is `run`", "absolute"]),
    ("run_dir = 5\n", UNDER, 1, &["`run_dir` is 5", "absolute path"]),
];

#[rustfmt::skip]
const NETWORK: &[Case] = &[
    (NODE, "[network]\nvni = 7\nranges = [\"10.0.0.0/16\"]\n", 6, &["`[network]` needs a `[control]`"]),
    (STORE, "[network]\n", 7, &["`vni` is missing", "1 to 16777215"]),
    (STORE, "network = 3\n", 7, &["`network` is no field"]),
    (STORE, "[network]\nvni = 8\nranges = [\"10.0.0.0/16\"]\n", 8, &["`vni` is 8, which has no `[[vni]]` entry"]),
    (STORE, "[network]\nvni = 7\nranges = []\n", 9, &["`ranges` has 0 ranges", "one IPv6 range"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.0/16\", \"10.1.0.0/16\"]\n", 9, &["`ranges` has 2 ranges"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.1/16\"]\n", 9, &["10.0.0.1/16, whose network is 10.0.0.0/16"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.0/24\"]\n", 9, &["10.0.0.0/24 in /24", "25 to 30 bits"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.0/24\"]\nnode_prefix_ipv4 = 31\n", 9, &["25 to 30 bits"]),
    (STORE, "[network]\nvni = 7\nranges = [\"192.0.0.0/16\"]\n", 9, &["in which the underlay address 192.0.2.1 is"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.0/16\"]\ninterface = \"a/b\"\n", 10, &["`interface` is `a/b`", "1 to 15"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.0/16\"]\n[[port]]\nname = \"host\"\nnetns = \"p\"\nvni = 7\n", 11, &["`host` is the node's own port"]),
    (STORE, "[network]\nvni = 7\nranges = [\"10.0.0.0/16\"]\n[[port]]\nname = \"a\"\nnetns = \"p\"\nvni = 7\nmac = \"02:57:47:00:00:07\"\n", 11, &["has the MAC of the gateway"]),
];

#[rustfmt::skip]
const CONTROL: &[Case] = &[
    (UNDER, "[control]\n", 3, &["`stores` is missing", "http://10.0.0.1:2379"]),
    (UNDER, "control = 3\n", 3, &["`control` is no field"]),
    (UNDER, "[control]\nstores = []\n", 4, &["`stores` is empty", "http://"]),
    (UNDER, "[control]\nstores = \"x\"\n", 4, &["`stores` is", "a list such as"]),
    (UNDER, "[control]\nstores = [\"10.0.0.1\"]\n", 4, &["`stores` has `10.0.0.1`", "http://10.0.0.1:2379"]),
    (UNDER, "[control]\nstores = [\"https://a:1\"]\n", 4, &["https://a:1", "`ca_file` is needed"]),
    (UNDER, "[control]\nstores = [\"http://a:1\"]\nca_file = \"/x\"\n", 4, &["write https:"]),
    (UNDER, "[control]\nstores = [\"http://a:1\"]\nprefix = \"/weft/\"\n", 5, &["`prefix` is `/weft/`", "without a slash"]),
    (UNDER, "[control]\nstores = [\"http://a:1\"]\nuser = \"u\"\n", 5, &["`user` needs a `password_file`"]),
    (UNDER, "[control]\nstores = [\"http://a:1\"]\nuser = \"u\"\npassword_file = \"p\"\n", 6, &["`password_file` is `p`", "absolute"]),
    (UNDER, "[control]\nstores = [\"https://a:1\"]\nca_file = \"/x\"\nkey_file = \"/y\"\n", 6, &["`key_file` needs a `cert_file`"]),
    (UNDER, "[control]\nstores = [\"http://a:1\"]\ncert_file = \"/x\"\n", 5, &["`cert_file` goes with https:"]),
    (UNDER, "[control]\nstores = [\"http://a:1\"]\nserver_name = \"x\"\n", 5, &["`server_name` goes with https:"]),
];

#[rustfmt::skip]
const UNDERLAY: &[Case] = &[
    ("", "[underlay]\nmtu = 1500\n", 1, &["`addresses` is missing", "IPv4", "IPv6"]),
    ("", "[underlay]\naddresses = []\n", 2, &["`addresses` is empty", "one IPv4", "one IPv6"]),
    ("", "[underlay]\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]\n", 2, &["`addresses` has 2 IPv4", "one of each"]),
    ("", "[underlay]\naddresses = [\"fd00::1\", \"fd00::2\"]\n", 2, &["`addresses` has 2 IPv6", "one of each"]),
    ("", "[underlay]\naddresses = [\n  \"192.0.2.1\",\n  \"fd00::x\",\n]\n", 4, &["`addresses` has \"fd00::x\"", "one IPv4"]),
    ("", "[underlay]\naddresses = \"192.0.2.1\"\n", 2, &["`addresses` is \"192.0.2.1\"", "[\"192.0.2.1\"]"]),
    ("", "[underlay]\naddresses = [\"224.0.0.1\"]\n", 2, &["`addresses` has 224.0.0.1", "single host"]),
    ("", "[underlay]\naddresses = [\"::\"]\n", 2, &["`addresses` has ::", "single host"]),
    ("", "[underlay]\naddresses = [\"fe80::1\"]\n", 2, &["`addresses` has fe80::1", "link-local", "one IPv6"]),
    ("", "[underlay]\naddresses = [\"::ffff:192.0.2.1\"]\n", 2, &["`addresses` has ::ffff:192.0.2.1", "form of IPv6", "IPv4 in its own form"]),
    (UNDER, "mtu = 1329\n[[vni]]\nid = 7\n[[port]]\nname = \"a\"\nnetns = \"pod\"\nvni = 7\naddresses = [\"fd00::1/64\"]\n", 3, &["`mtu` is 1329", "1279", "port `a`", "1280"]),
    (UNDER, "mtu = \"big\"\n", 3, &["`mtu` is \"big\"", "576 to 65535"]),
    (UNDER, "mtu = 575\n", 3, &["`mtu` is 575", "576 to 65535"]),
    (UNDER, "mtu = 65536\n", 3, &["`mtu` is 65536", "576 to 65535"]),
    (UNDER, "mtu = -1\n", 3, &["`mtu` is -1", "576 to 65535"]),
    (UNDER, "mtu = 1500.5\n", 3, &["`mtu` is 1500.5", "576 to 65535"]),
    (UNDER, "vxlan_ports = [4789, 0]\n", 3, &["`vxlan_ports` has 0", "1 to 65535"]),
    (UNDER, "vxlan_ports = [70000]\n", 3, &["`vxlan_ports` has 70000", "1 to 65535"]),
    (UNDER, "vxlan_ports = 4789\n", 3, &["`vxlan_ports` is 4789", "a list of ports"]),
    (UNDER, "vxlan_ports = [4789]\ngeneve_ports = [4789]\n", 4, &["`geneve_ports` has 4789", "once in both"]),
    (UNDER, "vxlan_ports = [8472, 8472]\n", 3, &["`vxlan_ports` has 8472", "once"]),
    (UNDER, "vxlan_ports = [6081]\n", 3, &["`geneve_ports` has 6081 by default", "once in both"]),
    (UNDER, "vxlan_ports = []\ngeneve_ports = []\n", 3, &["both empty"]),
    (UNDER, "kind = \"tap\"\n", 3, &["`kind` is \"tap\"", "\"auto\", \"uplink\" and \"socket\""]),
    (UNDER, "ttl = 0\n", 3, &["`ttl` is 0", "1 to 255", "\"inherit\""]),
    (UNDER, "ttl = 256\n", 3, &["`ttl` is 256", "1 to 255", "\"inherit\""]),
    (UNDER, "ttl = \"copy\"\n", 3, &["`ttl` is \"copy\"", "1 to 255", "\"inherit\""]),
    (UNDER, "dscp = 64\n", 3, &["`dscp` is 64", "0 to 63", "\"inherit\""]),
    (UNDER, "dscp = true\n", 3, &["`dscp` is true", "0 to 63", "\"inherit\""]),
    (UNDER, "[offloads]\nchecksum = \"on\"\n", 4, &["`checksum` is \"on\"", "\"auto\" and \"off\""]),
    (UNDER, "[offloads]\ntcp4 = false\n", 4, &["`tcp4` is false", "\"auto\" and \"off\""]),
    (UNDER, "[offloads]\nuso = \"off\"\n", 4, &["`uso` is no field", "`udp4`", "`gro`"]),
    ("offloads = \"off\"\n", UNDER, 1, &["`offloads` is \"off\"", "`[offloads]`"]),
];

#[rustfmt::skip]
const FDB: &[Case] = &[
    (NODE, "[fdb]\ncapacity = 63\n", 6, &["`capacity` is 63", "64 to 1048576"]),
    (NODE, "[fdb]\ncapacity = 1048577\n", 6, &["`capacity` is 1048577", "64 to 1048576"]),
    (NODE, "[fdb]\ncapacity = 99999999999\n", 6, &["`capacity` is 99999999999", "64 to 1048576"]),
    (NODE, "[fdb]\ncapacity = true\n", 6, &["`capacity` is true", "64 to 1048576"]),
    (NODE, "[fdb]\nageing_seconds = 0\n", 6, &["`ageing_seconds` is 0", "1 to 86400"]),
    (NODE, "[fdb]\nageing_seconds = 86401\n", 6, &["`ageing_seconds` is 86401", "1 to 86400"]),
];

#[rustfmt::skip]
const WORKERS: &[Case] = &[
    (NODE, "[workers]\ncount = 0\n", 6, &["`count` is 0", "1 to 64"]),
    (NODE, "[workers]\ncount = 65\n", 6, &["`count` is 65", "1 to 64"]),
    (NODE, "[workers]\ncpus = [0, 1024]\n", 6, &["`cpus` has 1024", "0 to 1023"]),
    (NODE, "[workers]\ncpus = 1\n", 6, &["`cpus` is 1", "a list of CPUs"]),
    (NODE, "[workers]\npolling = 0\n", 6, &["`polling` is 0", "1 to 10000"]),
    (NODE, "[workers]\npolling = 10001\n", 6, &["`polling` is 10001", "1 to 10000"]),
    (NODE, "[workers]\npolling = \"on\"\n", 6, &["`polling` is \"on\"", "\"auto\", \"off\""]),
    (NODE, "[workers]\npolling = true\n", 6, &["`polling` is true", "microseconds"]),
];

#[rustfmt::skip]
const VNIS: &[Case] = &[
    (UNDER, "[[vni]]\nid = 0\n", 4, &["`id`: VNI 0", "1 to 16777215"]),
    (UNDER, "[[vni]]\nid = 16777216\n", 4, &["`id`: VNI 16777216", "1 to 16777215"]),
    (UNDER, "[[vni]]\nid = -1\n", 4, &["`id` is -1", "1 to 16777215"]),
    (UNDER, "[[vni]]\nid = \"blue\"\n", 4, &["`id` is \"blue\"", "1 to 16777215"]),
    (NODE, "[[vni]]\nid = 7\n", 6, &["VNI 7", "two `[[vni]]` entries"]),
    (NODE, "flood_unknown_per_second = -1\n", 5, &["`flood_unknown_per_second` is -1", "0 to 10000000"]),
    (NODE, "flood_group_per_second = 10000001\n", 5, &["`flood_group_per_second` is 10000001", "0 to 10000000"]),
    (NODE, "vlan_transparent = 1\n", 5, &["`vlan_transparent` is 1", "true and false"]),
];

#[rustfmt::skip]
const VTEPS: &[Case] = &[
    (NODE, "[[vtep]]\nvnis = [7]\n", 5, &["`address` is missing", "one IP address"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2\"\n", 6, &["`address` is \"192.0.2\"", "one IP address"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2.2:4789\"\n", 6, &["`address` is \"192.0.2.2:4789\"", "one IP address"]),
    (NODE, "[[vtep]]\naddress = \"239.1.1.1\"\nvnis = [7]\n", 6, &["`address` is 239.1.1.1", "single host"]),
    (NODE, "[[vtep]]\naddress = \"fe80::2\"\nvnis = [7]\n", 6, &["`address` is fe80::2", "link-local", "one IP address"]),
    (NODE, "[[vtep]]\naddress = \"::ffff:192.0.2.2\"\nvnis = [7]\n", 6, &["`address` is ::ffff:192.0.2.2", "form of IPv6", "IPv4 in its own form"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2.1\"\nvnis = [7]\n", 6, &["`address`", "own 192.0.2.1", "another node"]),
    (NODE, "[[vtep]]\naddress = \"fd00::2\"\nvnis = [7]\n", 6, &["`address` is fd00::2", "`underlay.addresses` needs an IPv6"]),
    (VTEP, "[[vtep]]\naddress = \"192.0.2.2\"\nvnis = [7]\n", 9, &["192.0.2.2", "two `[[vtep]]` entries", "in one"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2.2\"\nvnis = [7, 8]\n", 7, &["`vnis` has 8", "`id = 8`"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2.2\"\nvnis = [0]\n", 7, &["`vnis`: VNI 0", "1 to 16777215"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2.2\"\nvnis = [16777216]\n", 7, &["`vnis`: VNI 16777216", "1 to 16777215"]),
    (NODE, "[[vtep]]\naddress = \"192.0.2.2\"\nvnis = 7\n", 7, &["`vnis` is 7", "a list"]),
    (VTEP, "encapsulation = \"gre\"\n", 8, &["`encapsulation` is \"gre\"", "\"vxlan\" and \"geneve\""]),
    (VTEP, "port = 0\n", 8, &["`port` is 0", "1 to 65535"]),
    (VTEP, "port = 65536\n", 8, &["`port` is 65536", "1 to 65535"]),
];

#[rustfmt::skip]
const PORTS: &[Case] = &[
    (NODE, "[[port]]\nname = \"a b\"\nnetns = \"pod\"\nvni = 7\n", 6, &["`name` is `a b`", "1 to 63 of a-z"]),
    (PORT, "[[port]]\nname = \"a\"\nnetns = \"other\"\nvni = 7\n", 10, &["`name` `a`", "unique"]),
    (NODE, "[[port]]\nname = \"a\"\nnetns = \"\"\nvni = 7\n", 7, &["`netns` is ``", "/run/netns", "absolute path"]),
    (NODE, "[[port]]\nname = \"a\"\nnetns = \"../proc\"\nvni = 7\n", 7, &["`netns` is `../proc`", "absolute path"]),
    (PORT, "interface = \"eth0123456789abc\"\n", 9, &["`interface` is `eth0123456789abc`", "1 to 15"]),
    (PORT, "interface = \"a/b\"\n", 9, &["`interface` is `a/b`", "without `/`"]),
    (PORT, "interface = \"eth1\"\n[[port]]\nname = \"b\"\nnetns = \"pod\"\nvni = 7\ninterface = \"eth1\"\n[[port]]\nname = \"c\"\nnetns = \"pod\"\nvni = 7\ninterface = \"eth1\"\n", 14, &["`interface` is `eth1`", "`pod`", "another"]),
    (PORT, "[[port]]\nname = \"b\"\nnetns = \"pod\"\nvni = 7\n", 11, &["`interface` is `eth0`", "`pod`", "another"]),
    (NODE, "[[port]]\nname = \"a\"\nnetns = \"pod\"\nvni = 8\n", 8, &["`vni` is 8", "`id = 8`"]),
    (NODE, "[[port]]\nname = \"a\"\nnetns = \"pod\"\nvni = 16777216\n", 8, &["`vni`: VNI 16777216", "1 to 16777215"]),
    (PORT, "mac = \"02:00:00:00:00\"\n", 9, &["`mac`", "`02:00:00:00:00` is not a MAC", "six hex pairs"]),
    (PORT, "mac = 2\n", 9, &["`mac` is 2", "six hex pairs"]),
    (PORT, "mac = \"01:00:5e:00:00:01\"\n", 9, &["`mac` is 01:00:5e:00:00:01", "single device"]),
    (PORT, "mac = \"00:00:00:00:00:00\"\n", 9, &["`mac` is 00:00:00:00:00:00", "single device"]),
    (PORT, "mac = \"02:00:00:00:00:01\"\n[[port]]\nname = \"b\"\nnetns = \"p2\"\nvni = 7\nmac = \"02:00:00:00:00:01\"\n", 14, &["`mac` is 02:00:00:00:00:01", "VNI 7", "another"]),
    (PORT, "addresses = [\"10.0.0.1/24\"]\n[[port]]\nname = \"b\"\nnetns = \"other\"\nvni = 7\naddresses = [\"10.0.0.1/16\"]\n", 14, &["`addresses` has 10.0.0.1", "another port of VNI 7"]),
    (PORT, "addresses = [\"10.0.0.1\"]\n", 9, &["`addresses` has \"10.0.0.1\"", "[\"10.0.0.1/24\"]"]),
    (PORT, "addresses = [\"10.0.0.1/33\"]\n", 9, &["`addresses` has \"10.0.0.1/33\"", "prefix lengths"]),
    (PORT, "addresses = [\"224.0.0.1/24\"]\n", 9, &["`addresses` has 224.0.0.1/24", "single host"]),
    (PORT, "mtu = 67\n", 9, &["`mtu` is 67", "68 to 65521"]),
    (PORT, "mtu = 65522\n", 9, &["`mtu` is 65522", "68 to 65521"]),
    (PORT, "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]\nmtu = 1279\n", 10, &["`mtu` is 1279", "fd00::1/64", "1280 to 65521"]),
    (PORT, "interface = \"eth%d\"\n", 9, &["`interface` is `eth%d`", "`%`"]),
    (PORT, "mtu = 65536\n", 9, &["`mtu` is 65536", "68 to 65521"]),
    (PORT, "mode = \"open\"\n", 9, &["`mode` is \"open\"", "\"bound\" and \"learning\""]),
    (PORT, "learn_limit = 0\n", 9, &["`learn_limit` is 0", "1 to 65536"]),
    (PORT, "mode = \"learning\"\nlearn_limit = 65537\n", 10, &["`learn_limit` is 65537", "1 to 65536"]),
];

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("n1.toml"))
}

#[test]
fn what_is_wrong_is_shown_with_its_line_its_field_and_what_is_allowed() {
    let mut failures = String::new();
    for (before, after, line, words) in
        [FORM, TOP, CONTROL, NETWORK, UNDERLAY, FDB, WORKERS, VNIS, VTEPS, PORTS].concat()
    {
        let text = [before, after].concat();
        let Err(ConfigError::Wrong { line: seen, message, rendered }) = parse(&text) else {
            panic!("not refused:\n{text}");
        };
        let source = text.lines().nth(line - 1).unwrap_or_default();
        let shown = line == 1 || rendered.contains(&format!("n1.toml:{line}:")) && rendered.contains(source);
        let told = rendered.contains("n1.toml") && rendered.contains(&message);
        if seen != line || !shown || !told || !words.iter().all(|word| message.contains(word)) {
            failures += &format!("line {line} and {words:?} are wanted of\n{text}\nline {seen}: {rendered}\n\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn what_is_no_toml_is_refused_and_no_more() {
    for text in
        ["é = 1", "node = \"é\n", "node = é", "\u{feff}=", "=", "[é]\n", "node = \"\u{0}\"", "[[[[", "a.b.c = 1"]
    {
        let error = parse(&[UNDER, text].concat()).unwrap_err();
        assert!(matches!(error, ConfigError::Wrong { line: 3.., .. }), "{text}: {error}");
        assert!(parse(text).is_err());
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nowhere/n1.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/n1.toml") && error.contains("--config"), "{error}");
}

#[test]
fn a_minimal_file_gets_every_default() {
    let text = format!("node = \"n1\"\n{PORT}[[vtep]]\naddress = \"192.0.2.2\"\nvnis = [7]\n");
    let config = parse(&text).unwrap();
    let own: IpAddr = [192, 0, 2, 1].into();
    assert_eq!((config.node.as_str(), config.log.as_str()), ("n1", "info"));
    assert_eq!(config.run_dir, Path::new("/run/weft"));
    assert_eq!((config.addresses, config.underlay_mtu, config.dscp), (vec![own], None, Dscp::Fixed(0)));
    let listen: Vec<_> = config.listen.iter().map(|listen| (listen.at, listen.encapsulation)).collect();
    let at = |port| SocketAddr::new(own, port);
    assert_eq!(listen, [(at(4789), Encapsulation::Vxlan), (at(6081), Encapsulation::Geneve)]);
    assert_eq!((config.fdb_capacity, config.fdb_ageing_seconds), (65_536, 300));
    assert_eq!((config.polling, config.workers.get(), config.cpus.len()), (Polling::Auto, 1, 0));
    let vni = Vni::new(7).unwrap();
    assert_eq!(config.vnis, [(vni, DomainOptions::default())]);
    let SocketOptions { zero_checksums_over_ipv6 } = config.socket;
    assert_eq!((config.ttl, zero_checksums_over_ipv6), (Ttl::Fixed(64), false));
    assert_eq!(config.switched_off, []);
    let [vtep] = &config.vteps[..] else { panic!("{:?}", config.vteps) };
    let destination = "192.0.2.2:4789".parse().unwrap();
    assert_eq!((vtep.at, vtep.encapsulation, &vtep.vnis[..]), (destination, Encapsulation::Vxlan, &[vni][..]));
    let [port] = &config.ports[..] else { panic!("{:?}", config.ports) };
    assert_eq!((port.interface.as_str(), port.netns.as_str(), port.vni), ("eth0", "pod", vni));
    assert_eq!((port.addresses.len(), port.mtu, port.learn_limit), (0, None, None));
    let MacAddr([first, ..]) = port.mac;
    assert_eq!(first, 2, "{} is locally administered", port.mac);
    assert_eq!(port.mac, parse(&text).unwrap().ports[0].mac, "and always the same");
}

#[test]
fn what_outer_headers_inherit_is_read_and_written() {
    for (text, ttl, dscp) in [
        ("ttl = 1\ndscp = 63\n", Ttl::Fixed(1), Dscp::Fixed(63)),
        ("ttl = 255\ndscp = 0\n", Ttl::Fixed(255), Dscp::Fixed(0)),
        ("ttl = \"inherit\"\ndscp = \"inherit\"\n", Ttl::Inherit, Dscp::Inherit),
    ] {
        let text = format!("node = \"n1\"\n{UNDER}{text}");
        let config = parse(&text).unwrap();
        assert_eq!((config.ttl, config.dscp), (ttl, dscp));
        let file: File = toml::from_str(&text).unwrap();
        let again = parse(&toml::to_string(&file).unwrap()).unwrap();
        assert_eq!((again.ttl, again.dscp), (ttl, dscp));
    }
}

#[test]
fn some_defaults_depend_on_their_neighbours() {
    let text = format!("node = \"n1\"\n{PORT}mode = \"learning\"\n{}", &VTEP[NODE.len()..]);
    let config = parse(&format!("{text}encapsulation = \"geneve\"\n")).unwrap();
    assert_eq!(config.vteps[0].at.port(), 6081);
    assert_eq!(config.ports[0].learn_limit, Some(256));
    let elsewhere = parse(&text.replace("n1", "n2")).unwrap();
    assert_ne!(elsewhere.ports[0].mac, config.ports[0].mac, "two nodes derive different MACs");
}
