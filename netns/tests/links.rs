//! Links in namespaces. Needs root.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod support;

use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use support::skip::skip;
use support::{Temporary, root_or_skip};
use weft_encap::MacAddr;
use weft_netns::{LinkError, LinkSettings, Links, Netns, NetnsError};

fn sorted(mut addresses: Vec<ipnet::IpNet>) -> Vec<ipnet::IpNet> {
    addresses.sort();
    addresses
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

/// A veth pair `e0` in both namespaces, up, with addresses 192.0.2.`n`/24 and 2001:db8::`n`/64.
fn join(left: &Temporary, right: &Temporary) {
    left.netns.links(|links| links.add_veth("e0", "e0", &right.netns)).unwrap();
    for (end, n) in [(left, 1), (right, 2)] {
        end.netns
            .links(|links| {
                links.set_up("e0")?;
                links.add_address("e0", net(&format!("192.0.2.{n}/24")))?;
                links.add_address("e0", net(&format!("2001:db8::{n}/64")))
            })
            .unwrap();
    }
}

#[test]
fn a_veth_pair_joins_two_namespaces() {
    if !root_or_skip("a_veth_pair_joins_two_namespaces") {
        return;
    }
    let (left, right) = (Temporary::new("veth-l"), Temporary::new("veth-r"));
    join(&left, &right);
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let receiver = right.netns.run(|| UdpSocket::bind((to, 4000))).unwrap().unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        left.netns.run(|| UdpSocket::bind((from, 0)).and_then(|s| s.send_to(b"hello", (to, 4000)))).unwrap().unwrap();
        let mut buffer = [0; 16];
        let (length, seen) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], seen.ip()), (&b"hello"[..], from));
    }
    let link = left.netns.links(|links| links.link_with_address("192.0.2.1".parse().unwrap())).unwrap().unwrap();
    assert_eq!((link.name.as_str(), link.kind.as_deref()), ("e0", Some("veth")));
    assert!(link.up && link.carrier && link.stats.tx_packets > 0, "{link:?}");
    assert_eq!(left.netns.links(|links| links.link_with_address("192.0.2.9".parse().unwrap())).unwrap(), None);

    left.netns.links(|links| links.delete("e0")).unwrap();
    left.netns.links(|links| links.delete("e0")).unwrap();
    assert_eq!(right.netns.links(|links| links.get("e0")).unwrap(), None);
}

#[test]
fn every_property_set_is_read_back() {
    if !root_or_skip("every_property_set_is_read_back") {
        return;
    }
    let temporary = Temporary::new("properties");
    let mac = MacAddr([2, 0, 0, 0, 0, 7]);
    let work = |links: &mut Links| {
        links.add_bridge("br0")?;
        links.add_veth("a", "b", &temporary.netns)?;
        links.set_mac("a", mac)?;
        links.set_mtu("a", 1432)?;
        links.set_tx_queue_len("a", 77)?;
        links.set_alias("a", "of a test")?;
        links.set("a", &LinkSettings { gso_max: Some((30_000, 20)), ..LinkSettings::default() })?;
        links.set_master("a", "br0")?;
        links.rename("a", "renamed")?;
        links.set_up("renamed")?;
        let bridge = links.get("br0")?.map(|bridge| bridge.index);
        Ok((links.get("renamed")?, bridge, links.get("a")?))
    };
    let (link, bridge, old) = temporary.netns.links(work).unwrap();
    let link = link.unwrap();
    assert_eq!((link.mac, link.mtu, link.tx_queue_len), (Some(mac), 1432, 77));
    assert_eq!((link.gso_max_size, link.gso_ipv4_max_size, link.gso_max_segs), (30_000, 30_000, 20));
    assert_eq!((link.master, link.up, old), (bridge, true, None));
    assert_eq!((link.alias.as_deref(), link.open_queues), (Some("of a test"), None));
    let details = temporary.netns.run(|| Command::new("ip").args(["-d", "link"]).output()).unwrap().unwrap();
    let details = String::from_utf8(details.stdout).unwrap();
    for expected in ["stp_state 0", "mcast_snooping 0"] {
        assert!(details.contains(expected), "{expected} is missing in {details}");
    }
    temporary.netns.links(|links| links.set_down("renamed")).unwrap();
    assert!(!temporary.netns.links(|links| links.get("renamed")).unwrap().unwrap().up);
    let names: Vec<String> =
        temporary.netns.links(|links| links.list()).unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo", "br0", "b", "renamed"]);
}

#[test]
fn open_queues_of_a_tap_are_counted() {
    if !root_or_skip("open_queues_of_a_tap_are_counted") {
        return;
    }
    let temporary = Temporary::new("queues");
    let ip = |words: &str| {
        let run = || Command::new("ip").args(words.split(' ')).status();
        assert!(temporary.netns.run(run).unwrap().unwrap().success(), "{words}");
    };
    ip("tuntap add t0 mode tap multi_queue");
    ip("tuntap add t1 mode tap");
    let queues = |name: &str| temporary.netns.links(|links| links.get(name)).unwrap().unwrap().open_queues;
    assert_eq!((queues("t0"), queues("t1"), queues("lo")), (Some(0), None, None));
}

#[test]
fn a_tap_without_queues_in_front_of_it_stays_so() {
    if !root_or_skip("a_tap_without_queues_in_front_of_it_stays_so") {
        return;
    }
    let temporary = Temporary::new("queueing");
    let run = |words: &str| {
        let (program, words) = words.split_once(' ').unwrap();
        let output = temporary.netns.run(|| Command::new(program).args(words.split(' ')).output()).unwrap().unwrap();
        assert!(output.status.success(), "{words}");
        String::from_utf8(output.stdout).unwrap()
    };
    run("ip tuntap add t0 mode tap multi_queue");
    temporary.netns.links(|links| links.set_no_queue("t0")).unwrap();
    let refused = temporary.netns.links(|links| links.set_no_queue("t0")).unwrap_err().to_string();
    assert!(refused.contains("cannot take the queues in front of `t0`"), "{refused}");
    for change in ["up", "down", "up"] {
        run(&format!("ip link set t0 {change}"));
        let queues = run("tc qdisc show dev t0");
        assert!(queues.starts_with("qdisc noqueue ") && queues.lines().count() == 1, "{queues}");
    }
}

#[test]
fn addresses_are_reconciled() {
    if !root_or_skip("addresses_are_reconciled") {
        return;
    }
    let temporary = Temporary::new("addresses");
    let work = |links: &mut Links| {
        links.add_veth("a", "b", &temporary.netns)?;
        links.add_address("a", net("10.0.0.1/24"))?;
        links.add_address("a", net("10.0.0.1/24"))?;
        links.add_address("a", net("10.0.0.2/24"))?;
        links.add_address("a", net("10.0.0.3/24"))?;
        links.add_address("a", net("fd00::1/64"))?;
        links.add_address("a", net("fd00::1/48"))?;
        links.add_address("a", net("fe80::1/64"))?;
        let first = links.addresses("a")?;
        links.set_addresses("a", &[net("10.0.0.3/24"), net("10.1.0.1/24"), net("fd00::2/64")])?;
        let second = links.addresses("a")?;
        links.add_address("a", net("10.1.0.9/24"))?;
        links.set_addresses("a", &[net("10.1.0.2/24"), net("fd00::1/64")])?;
        Ok((first, second, links.addresses("a")?))
    };
    let (first, second, third) = temporary.netns.links(work).unwrap();
    let expected = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24", "fd00::1/48", "fe80::1/64"].map(net);
    assert_eq!(sorted(first), expected);
    let given = ["10.1.0.1/24", "fd00::2/64"].map(net);
    assert_eq!(sorted(second), sorted([&expected[..], &given].concat()), "what others gave stays");
    let given = ["10.1.0.2/24", "10.1.0.9/24"].map(net);
    assert_eq!(sorted(third), sorted([&expected[..], &given].concat()), "only what was marked goes");
}

#[test]
fn ipv6_addresses_are_usable_at_once() {
    if !root_or_skip("ipv6_addresses_are_usable_at_once") {
        return;
    }
    let (left, right) = (Temporary::new("nodad-l"), Temporary::new("nodad-r"));
    join(&left, &right);
    let (from, to): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let receiver = right.netns.run(|| UdpSocket::bind((to, 4000))).unwrap().unwrap();
    // Below the second after which a neighbour is asked for again.
    receiver.set_read_timeout(Some(std::time::Duration::from_millis(900))).unwrap();
    left.netns.run(|| UdpSocket::bind((from, 0)).and_then(|s| s.send_to(b"hello", (to, 4000)))).unwrap().unwrap();
    receiver.recv(&mut [0; 16]).unwrap();
}

#[test]
fn routes_are_replaced() {
    if !root_or_skip("routes_are_replaced") {
        return;
    }
    let (left, right) = (Temporary::new("route-l"), Temporary::new("route-r"));
    join(&left, &right);
    let work = |links: &mut Links| {
        links.add_route(net("198.51.100.7/24"), Some("192.0.2.2".parse().unwrap()), "e0")?;
        links.add_route(net("198.51.100.0/24"), Some("192.0.2.3".parse().unwrap()), "e0")?;
        links.add_route(net("203.0.113.0/24"), None, "e0")?;
        links.add_route(net("::/0"), Some("2001:db8::2".parse().unwrap()), "e0")?;
        links.add_route(net("2001:db8:1::/48"), None, "e0")
    };
    left.netns.links(work).unwrap();
    let routes = left.netns.run(|| {
        ["-4", "-6"].map(|family| Command::new("ip").args([family, "route"]).output().unwrap().stdout).concat()
    });
    let routes = String::from_utf8(routes.unwrap()).unwrap();
    for expected in [
        "198.51.100.0/24 via 192.0.2.3 dev e0",
        "203.0.113.0/24 dev e0",
        "default via 2001:db8::2 dev e0",
        "2001:db8:1::/48 dev e0",
    ] {
        assert!(routes.contains(expected), "{expected} is missing in {routes}");
    }
    assert!(!routes.contains("via 192.0.2.2"), "{routes}");
    let mixed = left.netns.links(|links| links.add_route(net("::/0"), Some("192.0.2.2".parse().unwrap()), "e0"));
    assert!(matches!(mixed, Err(NetnsError::Link(LinkError::MixedFamilies { .. }))), "{mixed:?}");
}

#[test]
fn errors_name_operation_interface_namespace_and_reason() {
    if !root_or_skip("errors_name_operation_interface_namespace_and_reason") {
        return;
    }
    let temporary = Temporary::new("errors");
    let name = temporary.name();
    let error = temporary.netns.links(|links| links.set_mtu("nope", 1500)).unwrap_err().to_string();
    assert_eq!(error, format!("cannot set the MTU of `nope` in network namespace `{name}`: no such interface there"));
    let error = temporary.netns.links(|links| links.set_mtu("lo", 4_000_000_000)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot set the MTU of `lo` in network namespace `{name}`: ")), "{error}");
    assert!(error.contains("Invalid argument"), "{error}");
    let long = temporary.netns.links(|links| links.add_bridge("sixteen-letters-")).unwrap_err();
    assert!(matches!(long, NetnsError::Link(LinkError::Name { .. })), "{long}");
    let taken = Netns::current().and_then(|_| temporary.netns.links(|links| links.add_bridge("lo"))).unwrap_err();
    assert!(taken.to_string().contains("File exists"), "{taken}");
}

#[test]
fn a_vxlan_device_floods_to_every_remote() {
    if !root_or_skip("a_vxlan_device_floods_to_every_remote") {
        return;
    }
    let (left, right) = (Temporary::new("vx-l"), Temporary::new("vx-r"));
    join(&left, &right);
    let remotes: [IpAddr; 2] = ["192.0.2.2".parse().unwrap(), "192.0.2.3".parse().unwrap()];
    let vni = weft_encap::Vni::new(7).unwrap();
    let made = left.netns.links(|links| links.add_vxlan("vx7", vni, "192.0.2.1".parse().unwrap(), 4789, "e0"));
    if let Err(error) = &made
        && error.to_string().contains("not supported")
    {
        skip("a_vxlan_device_floods_to_every_remote", &error.to_string());
        return;
    }
    made.unwrap();
    left.netns.links(|links| remotes.iter().try_for_each(|remote| links.flood_to("vx7", *remote))).unwrap();
    let shown =
        left.netns.run(|| Command::new("bridge").args(["fdb", "show", "dev", "vx7"]).output()).unwrap().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(remotes.iter().all(|remote| shown.contains(&format!("00:00:00:00:00:00 dst {remote} "))), "{shown}");
    assert_eq!(left.netns.links(|links| links.get("vx7")).unwrap().unwrap().mtu, 1450);
}
