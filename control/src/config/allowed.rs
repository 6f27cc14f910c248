//! What each field may be, in numbers and in words.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use weft_bridge::fdb::MAX_AGE_SECONDS;
use weft_encap::Vni;
use weft_switch::polling::MAX_POLLING;

use super::file::{DSCP, INHERIT, TTL};

/// Characters in a name at most.
pub(super) const NAME_CHARS: usize = 63;
/// The name of the port by which the node itself takes part in the cluster's network.
pub(crate) const HOST_PORT: &str = "host";
/// Characters in a device's name at most (IFNAMSIZ without its zero).
pub(super) const INTERFACE_CHARS: usize = 15;
pub(super) const UNDERLAY_MTU: RangeInclusive<u16> = 576..=u16::MAX;
/// What the kernel lets a TAP have: 65535 less an Ethernet header at most.
pub(super) const PORT_MTU: RangeInclusive<u16> = 68..=65_521;
/// The least MTU with which the kernel gives a device IPv6 addresses (RFC 8200).
pub(super) const PORT_MTU_IPV6: RangeInclusive<u16> = 1280..=*PORT_MTU.end();
pub(super) const FDB_CAPACITY: RangeInclusive<u32> = 64..=1_048_576;
pub(super) const FDB_AGEING_SECONDS: RangeInclusive<u32> = 1..=86_400;
/// From none to all that a port can send.
pub(super) const FLOODS_PER_SECOND: RangeInclusive<u32> = 0..=10_000_000;
pub(super) const LEARN_LIMIT: RangeInclusive<u32> = 1..=65_536;
pub(super) const WORKERS: RangeInclusive<u16> = 1..=64;
/// What a set of processors holds (CPU_SETSIZE).
pub(super) const CPUS: RangeInclusive<usize> = 0..=1023;
pub(super) const UDP_PORT: RangeInclusive<u16> = 1..=u16::MAX;

const NOT_OF_VTEPS: &str = "no link-local IPv6 address, and IPv4 in its own form";

const _: () = assert!(*FDB_AGEING_SECONDS.end() < MAX_AGE_SECONDS);

/// The sentence part after the colon of "`field` is value: ...".
pub(super) fn allowed(table: &str, field: &str) -> Option<String> {
    Some(match (table, field) {
        ("" | "port", "node" | "name") => format!("allowed are 1 to {NAME_CHARS} of a-z, 0-9, `-` and `.`"),
        ("", "run_dir") => "allowed is an absolute path".to_owned(),
        ("", "log") => "allowed is a filter such as \"info\" or \"warn,weft_switch=debug\"".to_owned(),
        ("", "log_format") => "allowed are \"text\" and \"json\"".to_owned(),
        ("", "metrics") => {
            "it begins with `[metrics]` and needs `listen = \"127.0.0.1:9469\"`, or the path of a socket".to_owned()
        }
        ("metrics", "listen") => {
            "allowed are an address with a port such as \"127.0.0.1:9469\", and the absolute path of a socket"
                .to_owned()
        }
        ("", "underlay") => "it begins with `[underlay]` and needs `addresses = [\"192.0.2.1\"]` at least".to_owned(),
        ("", "control") => {
            "it begins with `[control]` and needs `stores = [\"http://10.0.0.1:2379\"]` at least".to_owned()
        }
        ("", "fdb" | "offloads" | "workers") => format!("it is a table, and begins with `[{field}]`"),
        ("", "vni" | "vtep" | "port") => format!("there may be several, and each begins with `[[{field}]]`"),
        ("underlay", "addresses") => {
            format!(
                "allowed are one IPv4 address, one IPv6 address, or one of each, as in [\"192.0.2.1\"]; {NOT_OF_VTEPS}"
            )
        }
        ("underlay", "mtu") => numbers(&UNDERLAY_MTU),
        ("underlay", "vxlan_ports" | "geneve_ports") => {
            format!("allowed is a list of ports, {} to {}, each once in both lists", UDP_PORT.start(), UDP_PORT.end())
        }
        ("underlay", "kind") => "allowed are \"auto\", \"uplink\" and \"socket\"".to_owned(),
        ("", "keeper" | "confinement") | ("underlay", "path_probes") | ("offloads", _) => {
            "allowed are \"auto\" and \"off\"".to_owned()
        }
        ("underlay", "ttl") => numbers_or_inherit(&TTL),
        ("underlay", "dscp") => numbers_or_inherit(&DSCP),
        ("underlay", "zero_checksums_over_ipv6") => "allowed are true and false".to_owned(),
        ("workers", "count") => numbers(&WORKERS),
        ("workers", "cpus") => format!("allowed is a list of CPUs, {} to {}, as in [0, 2]", CPUS.start(), CPUS.end()),
        ("workers", "polling") => {
            format!("allowed are \"auto\", \"off\" and 1 to {} (microseconds)", MAX_POLLING.as_micros())
        }
        ("control", "stores") => {
            "allowed is a list such as [\"http://10.0.0.1:2379\"], or with https: and a `ca_file`".to_owned()
        }
        ("control", "prefix") => "allowed is a path such as \"/weft\", without a slash at its end".to_owned(),
        ("control", "ca_file" | "cert_file" | "key_file" | "password_file") => "allowed is an absolute path".to_owned(),
        ("control", "server_name") => "allowed is a host name or an address, with a `ca_file`".to_owned(),
        ("control", "user") => "allowed is a name, with a `password_file`".to_owned(),
        ("", "network") => {
            "it begins with `[network]` and needs `vni` and `ranges = [\"10.244.0.0/16\"]` at least".to_owned()
        }
        ("network", "vni") => format!("allowed are 1 to {}", Vni::MAX),
        ("network", "ranges") => {
            "allowed are one IPv4 range, one IPv6 range, or one of each, as in [\"10.244.0.0/16\"]".to_owned()
        }
        ("network", "masquerade") => "allowed are true and false".to_owned(),
        ("network", "masquerade_exceptions") => "allowed is a list of ranges, as in [\"10.0.0.0/8\"]".to_owned(),
        ("network", "reserved") => {
            "allowed is a list of ranges inside of the cluster's, as in [\"10.244.3.16/28\"]".to_owned()
        }
        ("network", "node_prefix_ipv4") => "allowed is a number of bits up to 30, more than the range's".to_owned(),
        ("network", "node_prefix_ipv6") => "allowed is a number of bits up to 126, more than the range's".to_owned(),
        ("fdb", "capacity") => numbers(&FDB_CAPACITY),
        ("fdb", "ageing_seconds") => numbers(&FDB_AGEING_SECONDS),
        ("vni", "id") | ("port", "vni") => format!("allowed are 1 to {}", Vni::MAX),
        ("vni", "vlan_transparent" | "clamp_mss") => "allowed are true and false".to_owned(),
        ("vni", "flood_unknown_per_second" | "flood_group_per_second") => numbers(&FLOODS_PER_SECOND),
        ("vtep", "address") => format!("allowed is one IP address, as in \"192.0.2.2\"; {NOT_OF_VTEPS}"),
        ("vtep" | "control", "encapsulation") => "allowed are \"vxlan\" and \"geneve\"".to_owned(),
        ("vtep", "port") => numbers(&UDP_PORT),
        ("vtep", "vnis") => format!("allowed is a list of VNIs, 1 to {}, as in [100]", Vni::MAX),
        ("port", "netns") => {
            "allowed are a name in /run/netns and an absolute path such as /proc/PID/ns/net".to_owned()
        }
        ("port" | "network", "interface") => {
            format!("allowed are 1 to {INTERFACE_CHARS} characters without `/`, `:`, `%` and blanks")
        }
        ("port", "mac") => "allowed are six hex pairs of a single device, as in \"02:00:00:00:00:01\"".to_owned(),
        ("port", "addresses") => {
            "allowed is a list of addresses with prefix lengths, as in [\"10.0.0.1/24\"]".to_owned()
        }
        ("port", "mtu") => numbers(&PORT_MTU),
        ("port", "mode") => "allowed are \"bound\" and \"learning\"".to_owned(),
        ("port", "learn_limit") => numbers(&LEARN_LIMIT),
        _ => return None,
    })
}

pub(super) fn numbers<T: Display>(range: &RangeInclusive<T>) -> String {
    format!("allowed are {} to {}", range.start(), range.end())
}

fn numbers_or_inherit(range: &RangeInclusive<u8>) -> String {
    format!("{} and \"{INHERIT}\"", numbers(range))
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

pub(crate) fn is_interface(name: &str) -> bool {
    (1..=INTERFACE_CHARS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
        && ![".", ".."].contains(&name)
}

/// A name that cannot lead out of its directory, or an absolute path.
pub(super) fn is_netns(name: &str) -> bool {
    name.starts_with('/') || !(name.is_empty() || name.contains(['/', '\0']) || [".", ".."].contains(&name))
}

/// Why an address can be none of a VTEP.
/// Why an address is no VTEP's.
pub(crate) fn not_of_vtep(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if !is_host(address) => Some("which is no address of a single host"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("which is link-local"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("which is an IPv4 address in the form of IPv6"),
        _ => None,
    }
}

pub(crate) fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}
