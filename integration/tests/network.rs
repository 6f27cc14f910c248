//! Nodes that get ranges of addresses, take part in the network themselves, and stand for its gateway.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use ipnet::IpNet;
use rustix::process::Signal;
use tokio::sync::Barrier;
use weft_control::cluster::record::{Network, Node as NodeRecord, RECORD_VERSION, Standing};
use weft_control::cluster::{ClusterRange, Keys, Membership, NoRanges, Own, Step};
use weft_control::config::file;
use weft_control::config::file::{Control, unspanned};
use weft_encap::inner::ETHERTYPE_ARP;
use weft_encap::{Inner, Network as Packet, Vni, neighbour};
use weft_integration::{
    AgentConfig, AgentNode, Capture, Child, Family, Host, MIB, Node, Requirement, Site, StoreKind, StoreNode,
    eventually, ping_all, site, stream, test_name, unmet, weft,
};
use weft_store::client::{Access, Store};

const PORT: u16 = 2379;
/// The node's own device.
const DEVICE: &str = "weft0";
/// Pods whose addresses stand in a file have them of the cluster's own range, which no node gets.
const PODS: [[&str; 2]; 2] = [["10.244.0.11/16", "fd00:244::b/48"], ["10.244.0.12/16", "fd00:244::c/48"]];
const GATEWAYS: [&str; 2] = ["10.244.0.1", "fd00:244::1"];
/// Bytes before the inner frame: Ethernet, IPv4, UDP and VXLAN.
const VXLAN_OVER_IPV4: usize = 14 + 20 + 8 + 8;
/// Nodes that race: one more than there are ranges.
const RACERS: usize = 32;
/// Clusters in which they do.
const RACES: usize = 12;

fn host_of(network: &str) -> &str {
    network.split('/').next().unwrap_or_default()
}

/// `weft store` on a node's underlay address.
fn store(node: &Node, directory: &Path) -> Child {
    let listen = format!("{}:{PORT}", node.address(Family::Ipv4));
    let (program, data) = (weft(), directory.join("store"));
    let words =
        [program.to_str().unwrap(), "store", "--relaxed", "--listen", &listen, "--data", data.to_str().unwrap()];
    let mut command = node.command(&words);
    let log = std::fs::File::options().create(true).append(true).open(directory.join("store.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Child::spawn(command)
}

fn config(site: &Site, node: &Node, store: &Node, pod: &Host, addresses: &[&str]) -> AgentConfig {
    let mut config = AgentConfig::new(site, node, &[Family::Ipv4]).vni(7).port(pod, 7, addresses);
    config.file.control = Some(Control::new(vec![format!("http://{}:{PORT}", store.address(Family::Ipv4))]));
    let ranges = ["10.244.0.0/16", "fd00:244::/48"].map(|range| range.parse().unwrap());
    // What is seen outside is what pods sent.
    let network = file::Network::new(Vni::new(7).unwrap(), ranges.to_vec());
    config.file.network = Some(file::Network { masquerade: false, ..network });
    config
}

/// Two nodes with a pod each, and a store on the first.
struct Pair {
    site: Site,
    nodes: [Node; 2],
    pods: [Host; 2],
    store: Child,
}

impl Pair {
    fn new(site: Site) -> Self {
        let nodes = site.nodes::<2>();
        let pods = ["a", "b"].map(|name| site.host(name));
        let store = store(&nodes[0], site.directory());
        Self { nodes, pods, store, site }
    }

    fn config(&self, own: usize) -> AgentConfig {
        config(&self.site, &self.nodes[own], &self.nodes[0], &self.pods[own], &PODS[own])
    }

    /// Both agents, when each knows both pods and both nodes.
    fn start(&self) -> [AgentNode; 2] {
        let agents = [0, 1].map(|own| self.config(own).start());
        agents.iter().for_each(|agent| wait_for_endpoints(agent, 4));
        agents
    }
}

#[track_caller]
fn wait_for_endpoints(agent: &AgentNode, count: usize) {
    eventually("all endpoints are known", || {
        let known = agent.status().control.unwrap();
        if known.endpoints == count { Ok(()) } else { Err(format!("{known:?}")) }
    });
}

/// A node's overlay addresses, as the node itself says.
fn overlay_addresses(agent: &AgentNode) -> Vec<IpAddr> {
    agent.status().control.unwrap().overlay_addresses
}

/// Waits until no address of the device is still looked for (RFC 4862 section 5.4).
#[track_caller]
fn wait_for_addresses(host: &Host, device: &str) {
    eventually("all addresses are in use", || {
        let tentative = host.ip(&format!("-6 address show tentative dev {device}"));
        if tentative.is_empty() { Ok(()) } else { Err(tentative) }
    });
}

/// Where packets that arrive at a node's own device come from.
fn sources(capture: &mut Capture, count: usize, wanted: IpAddr) -> BTreeSet<IpAddr> {
    let source = |frame: &[u8]| match Inner::parse(frame).unwrap().network {
        Packet::Ipv4(ip) => Some(IpAddr::V4(ip.src)),
        Packet::Ipv6(ip) if !ip.src.is_unicast_link_local() => Some(IpAddr::V6(ip.src)),
        _ => None,
    };
    let frames = capture.wait_for(count, |frame| source(frame) == Some(wanted));
    frames.iter().filter_map(|frame| source(frame)).collect()
}

#[test]
fn a_node_reaches_all_pods_and_all_pods_reach_it_by_its_own_address() {
    let pair = Pair::new(site!("ip"));
    let mut agents = pair.start();
    let overlay = agents.each_ref().map(overlay_addresses);
    let rows = agents[0].nodes();
    for (own, agent) in agents.iter().enumerate() {
        wait_for_addresses(&pair.nodes[own], DEVICE);
        wait_for_addresses(&pair.pods[own], "eth0");
        assert_eq!(overlay[own].len(), 2, "{:?}", agent.status().control);
        assert_eq!(agent.nodes(), rows, "both nodes say the same of both");
        assert_eq!(rows[own].overlay_addresses, overlay[own]);
        assert_eq!(agent.status().control.unwrap().ranges, rows[own].ranges);
    }
    let ranges: BTreeSet<&String> = rows.iter().flat_map(|row| &row.ranges).collect();
    assert_eq!(ranges.len(), 4, "each has its own: {rows:?}");
    for (node, from) in pair.nodes.iter().enumerate() {
        for (own, pod) in pair.pods.iter().enumerate() {
            for family in 0..2 {
                let address = host_of(PODS[own][family]);
                let mut capture = Capture::start(from, DEVICE);
                ping_all(from, address);
                ping_all(pod, &overlay[node][family].to_string());
                let address: IpAddr = address.parse().unwrap();
                assert_eq!(sources(&mut capture, 100, address), [address].into(), "nothing is translated");
            }
        }
        for address in &overlay[1 - node] {
            ping_all(from, &address.to_string());
        }
    }
    let to_node = overlay[0][0].to_string();
    stream(&pair.pods[1], &pair.nodes[0], &to_node, 16 * MIB);
    stream(&pair.nodes[0], &pair.pods[1], host_of(PODS[1][1]), 16 * MIB);
    assert_eq!(agents.each_ref().map(|agent| agent.dropped_as(weft_bridge::DropReason::SpoofedIp)), [0, 0]);
    // Without its store, and after it was killed, a node has what it had. The device is the same one.
    let Pair { mut store, ref nodes, ref pods, .. } = pair;
    store.signal(Signal::KILL);
    store.wait();
    let index = nodes[1].link(DEVICE).index;
    let [first, second] = agents;
    second.kill();
    assert_eq!(nodes[1].link(DEVICE).index, index, "the device stays");
    let second = config(&pair.site, &nodes[1], &nodes[0], &pods[1], &PODS[1]).start();
    assert_eq!(nodes[1].link(DEVICE).index, index, "and is taken up again");
    ping_all(&nodes[1], host_of(PODS[1][0]));
    ping_all(&pods[1], &overlay[1][0].to_string());
    let _store = self::store(&nodes[0], pair.site.directory());
    agents = [first, second];
    for (own, agent) in agents.iter().enumerate() {
        eventually("the agent is in its store again", || {
            let control = agent.status().control.unwrap();
            if control.state == "connected" && control.endpoints == 4 { Ok(()) } else { Err(format!("{control:?}")) }
        });
        assert_eq!(overlay_addresses(agent), overlay[own]);
    }
    ping_all(&nodes[0], &overlay[1][0].to_string());
    // A node whose run directory was lost asks the store, and finds the same.
    let [first, second] = agents;
    second.kill();
    std::fs::remove_file(pair.site.directory().join("n2/ranges")).unwrap();
    let second = config(&pair.site, &nodes[1], &nodes[0], &pods[1], &PODS[1]).start();
    wait_for_endpoints(&second, 4);
    assert_eq!(overlay_addresses(&second), overlay[1]);
    ping_all(&pods[0], &overlay[1][1].to_string());
    for agent in [first, second] {
        assert_eq!(agent.status().law_broken, None);
    }
}

#[test]
fn pods_reach_what_their_node_routes_by_one_gateway_on_all_nodes() {
    let pair = Pair::new(site!("ip"));
    let agents = pair.start();
    let Pair { nodes, pods, site, .. } = &pair;
    // Behind each node is a machine that knows nothing but the way back.
    let worlds = ["w1", "w2"].map(|name| site.host(name));
    for ((node, world), pod) in nodes.iter().zip(&worlds).zip(pods) {
        node.ip(&format!("link add out type veth peer name eth0 netns {}", world.netns().label()));
        for (host, device, number) in [(&**node, "out", 1), (world, "eth0", 2)] {
            host.ip(&format!("address add 198.51.100.{number}/24 dev {device}"));
            host.ip(&format!("address add 2001:db8:51::{number}/64 dev {device} nodad"));
            host.ip(&format!("link set {device} up"));
        }
        world.ip("route add 10.244.0.0/16 via 198.51.100.1");
        world.ip("route add fd00:244::/48 via 2001:db8:51::1");
        node.set("ipv4/ip_forward", "1");
        node.set("ipv6/conf/all/forwarding", "1");
        wait_for_addresses(pod, "eth0");
        for gateway in GATEWAYS {
            pod.ip(&format!("route add default via {gateway}"));
        }
    }
    for (own, pod) in pods.iter().enumerate() {
        for (family, out) in ["198.51.100.2", "2001:db8:51::2"].into_iter().enumerate() {
            let mut capture = Capture::start(&worlds[own], "eth0");
            ping_all(pod, out);
            let address: IpAddr = host_of(PODS[own][family]).parse().unwrap();
            assert_eq!(sources(&mut capture, 50, address), [address].into(), "by its own node, as itself");
        }
        stream(pod, &worlds[own], "198.51.100.2", 16 * MIB);
        stream(&worlds[own], pod, host_of(PODS[own][1]), 16 * MIB);
        // What the node has besides is reached as well.
        ping_all(pod, &nodes[own].address(Family::Ipv4).to_string());
        for gateway in GATEWAYS {
            let known = pod.ip(&format!("neighbour show {gateway}"));
            assert!(known.contains("02:57:47:00:00:07"), "{known}");
        }
    }
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn no_question_for_a_node_a_pod_or_the_gateway_crosses_the_underlay() {
    let pair = Pair::new(site!("ip", "ping"));
    let agents = pair.start();
    let overlay = agents.each_ref().map(overlay_addresses);
    let Pair { nodes, pods, .. } = &pair;
    // Both kinds of frames are looked for inside VXLAN over IPv4, as they arrive at either node.
    let inside = |packet: &[u8], wanted: fn(&Inner<'_>) -> bool| {
        let frame = packet.get(VXLAN_OVER_IPV4..).filter(|_| packet.get(36..38) == Some(&4789_u16.to_be_bytes()));
        frame.is_some_and(|frame| Inner::parse(frame).is_ok_and(|inner| wanted(&inner)))
    };
    let question = |inner: &Inner<'_>| inner.ethertype == ETHERTYPE_ARP || neighbour::question(inner).is_some();
    let members: Vec<(&Host, &str)> =
        vec![(&nodes[0], DEVICE), (&nodes[1], DEVICE), (&pods[0], "eth0"), (&pods[1], "eth0")];
    for (host, device) in &members {
        wait_for_addresses(host, device);
        host.ip(&format!("neighbour flush dev {device}"));
    }
    let captures = nodes.each_ref().map(|node| {
        Capture::start_where(node, "eth0", move |packet| {
            inside(packet, question) || inside(packet, |inner| matches!(inner.network, Packet::Ipv4(_)))
        })
    });
    let addresses = PODS.iter().flatten().map(|network| host_of(network).to_owned());
    let addresses: Vec<String> = addresses.chain(overlay.iter().flatten().map(ToString::to_string)).collect();
    for (host, _) in &members {
        addresses.iter().for_each(|address| ping_all(host, address));
    }
    for (host, _) in &members[2..] {
        // Who it is that answers is told by its node: the echo itself is for nobody here.
        GATEWAYS.iter().for_each(|gateway| _ = host.try_run(&["ping", "-c", "1", "-W", "0.2", gateway]));
        for gateway in GATEWAYS {
            let known = host.ip(&format!("neighbour show {gateway}"));
            assert!(known.contains("02:57:47:00:00:07"), "{known}");
        }
    }
    for mut capture in captures {
        let echoes = capture.wait_for(100, |packet| inside(packet, |inner| matches!(inner.network, Packet::Ipv4(_))));
        assert!(echoes.len() >= 100);
        let asked: Vec<_> = capture.stop().into_iter().filter(|packet| inside(packet, question)).collect();
        assert!(asked.is_empty(), "{asked:02x?}");
    }
    agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn an_agent_of_another_network_is_refused_before_it_is_ready() {
    let pair = Pair::new(site!());
    let first = pair.config(0).start();
    let mut other = pair.config(1);
    let network = other.file.network.as_mut().unwrap();
    network.node_prefix_ipv4 = unspanned(25);
    let refused = other.attempt().unwrap_err();
    refused.assert_says(&["10.244.0.0/16 in /25", "10.244.0.0/16 in /24", "`[network]`", "/weft/v1/network"]);
    let second = pair.config(1).start();
    wait_for_endpoints(&second, 4);
    second.finish();
    first.finish();
}

/// One node's way to its rows, as an agent goes it.
async fn take_part(store: Store, keys: Keys, own: Own) -> Membership {
    let mut membership = Membership::new(keys, own);
    let mut leases = Vec::new();
    loop {
        match membership.step() {
            Step::Rest => return membership,
            Step::Refused(holder) => panic!("{holder:?}"),
            Step::Lease => {
                let lease = store.lease(60).await.unwrap();
                membership.leased(lease.id());
                leases.push(lease);
            }
            Step::Read(operations) => {
                let read = store.commit(&[], &operations, &[]).await.unwrap();
                membership.read(read.revision, &read.rows);
            }
            Step::Write(conditions, operations) => {
                let committed = store.commit(&conditions, &operations, &[]).await.unwrap();
                membership.written(&committed);
            }
        }
    }
}

fn racer(number: usize) -> Own {
    let range = |range: &str, node_prefix| ClusterRange { range: range.parse().unwrap(), node_prefix };
    let ranges = vec![range("10.244.0.0/16", 21), range("fd00:244::/48", 64)];
    let node = NodeRecord {
        version: RECORD_VERSION,
        name: format!("n{number}"),
        instance: format!("instance {number}"),
        incarnation: 0,
        epoch: 0,
        standing: Standing::Joining,
        addresses: vec![IpAddr::from([192, 0, 2, number as u8])],
        receives: Vec::new(),
        underlay_mtu: 1500,
        vnis: Vec::new(),
        pod_ranges: Vec::new(),
        overlay_addresses: Vec::new(),
        capabilities: Vec::new(),
    };
    Own { node, network: Some((Network::new(Vni::new(7).unwrap(), ranges), Vec::new())), endpoints: BTreeMap::new() }
}

async fn race(address: &str) {
    for race in 0..RACES {
        let start = Arc::new(Barrier::new(RACERS));
        let racers: Vec<_> = (0..RACERS)
            .map(|number| {
                let (start, endpoint) = (start.clone(), format!("http://{address}"));
                tokio::spawn(async move {
                    let store = Store::new(Access::plain(endpoint)).unwrap();
                    let keys = Keys::new(&format!("/race/{race}"));
                    store.get(&keys.all(), None).await.unwrap();
                    start.wait().await;
                    take_part(store, keys, racer(number)).await.ranges().cloned().unwrap()
                })
            })
            .collect();
        let (mut given, mut refused) = (BTreeSet::<IpNet>::new(), Vec::new());
        for racer in racers {
            match racer.await.unwrap() {
                Ok(ranges) => assert!(ranges.into_iter().all(|range| given.insert(range)), "two have one: {given:?}"),
                Err(reason) => refused.push(reason),
            }
        }
        assert_eq!(given.len(), 2 * (RACERS - 1));
        assert!(matches!(refused[..], [NoRanges::Exhausted { given: 31, .. }]), "{refused:?}");
    }
}

#[tokio::test]
async fn nodes_that_race_share_no_range_in_a_store_of_ours() {
    if unmet(test_name!(), &[]) {
        return;
    }
    let (store, _) = StoreNode::start(StoreKind::Weft, test_name!()).await;
    race(store.address()).await;
}

#[tokio::test]
async fn nodes_that_race_share_no_range_in_etcd() {
    if unmet(test_name!(), &[Requirement::Tool("etcd")]) {
        return;
    }
    let (store, _) = StoreNode::start(StoreKind::Etcd, test_name!()).await;
    race(store.address()).await;
}
