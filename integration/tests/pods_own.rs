//! What is the pod's own, or another program's, is left alone.

use weft_control::config::file::unspanned;
use weft_integration::{AgentConfig, AgentNode, Encapsulation, Family, Host, Overlay, Site, eventually, site};

/// An agent with one pod, `pod`, that was not started.
fn config(site: &Site, addresses: &[&str]) -> (Host, Host, AgentConfig) {
    let [node, peer] = site.pair();
    let pod = site.host("pod");
    let config = AgentConfig::new(site, &node, &[Family::Ipv4])
        .vni(Overlay::VNI)
        .peer(peer.address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI])
        .port(&pod, Overlay::VNI, addresses);
    (Host::clone(&node), pod, config)
}

/// Starts it, has `change` done, and starts it again.
fn restarted(config: &AgentConfig, change: impl FnOnce()) -> AgentNode {
    config.clone().start().finish();
    change();
    config.clone().start()
}

#[test]
fn addresses_and_routes_of_the_pod_outlive_a_restart() {
    let site = site!("ip");
    let (_, pod, config) = config(&site, &[]);
    let agent = restarted(&config, || {
        for words in [
            "address add 10.0.0.1/24 dev eth0",
            "address add fd00::1/64 dev eth0 nodad",
            "route add default via 10.0.0.254",
            "neigh add 10.0.0.254 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        ] {
            pod.ip(words);
        }
    });
    let addresses = pod.ip("address show dev eth0");
    assert!(addresses.contains("10.0.0.1/24") && addresses.contains("fd00::1/64"), "{addresses}");
    assert!(pod.ip("route").contains("default via 10.0.0.254"));
    assert!(pod.ip("neigh").contains("02:00:00:00:00:09"), "a MAC that was right was set again");
    agent.finish();
}

#[test]
fn only_addresses_that_the_agent_gave_are_taken_away() {
    let site = site!("ip");
    let (_, pod, mut config) = config(&site, &["10.0.0.1/24", "fd00::1/64"]);
    config.clone().start().finish();
    pod.ip("address add 10.0.0.9/24 dev eth0");
    pod.ip("address add fd00::9/64 dev eth0 nodad");
    config.file.ports[0].addresses = unspanned(vec!["10.0.0.2/24".parse().unwrap()]);
    let agent = config.start();
    let addresses = pod.netns().links(|links| links.addresses("eth0")).unwrap();
    let mut seen: Vec<_> = addresses.iter().map(ToString::to_string).filter(|net| !net.starts_with("fe80")).collect();
    seen.sort();
    assert_eq!(seen, ["10.0.0.2/24", "10.0.0.9/24", "fd00::9/64"]);
    agent.finish();
}

#[test]
fn a_second_agent_on_the_same_pod() {
    let site = site!("ip");
    let (_, pod, first) = config(&site, &["10.0.0.1/24"]);
    let other = site.host("other");
    let mut second = first.clone().port(&other, Overlay::VNI, &[]);
    let first = first.start();
    let before = pod.ip("address show dev eth0");
    second.file.ports.rotate_left(1);
    second.file.ports[1].mac = Some(unspanned("02:00:00:00:00:77".parse().unwrap()));
    let run_dir = site.directory().join("second");
    std::fs::create_dir(&run_dir).unwrap();
    second.file.run_dir = unspanned(run_dir);
    second.file.underlay.vxlan_ports = unspanned(vec![14789]);
    second.file.underlay.geneve_ports = unspanned(vec![]);
    let refused = second.clone().attempt().unwrap_err();
    refused.assert_says(&["port `pod`", "`eth0`", pod.netns().label(), "held by another program", "a second agent?"]);
    assert_eq!(pod.ip("address show dev eth0"), before);
    assert_eq!(other.ip("-o link").lines().count(), 1, "a device was left");
    assert_eq!(first.port("pod").state, "forwarding");
    first.finish();
    second.start().finish();
}

#[test]
fn two_names_of_one_namespace() {
    let site = site!("ip");
    let (_, pod, config) = config(&site, &[]);
    let mut config = config.port(&pod, Overlay::VNI, &[]);
    let entry = &mut config.file.ports[1];
    entry.name = unspanned("again".to_owned());
    entry.netns = unspanned(format!("/run/netns/{}", pod.netns().label()));
    config.attempt().unwrap_err().assert_says(&["`pod` and `again`", "one namespace", "`eth0`"]);
    assert_eq!(pod.ip("-o link").lines().count(), 1, "a device was left");
}

#[test]
fn a_tap_of_somebody_else() {
    let site = site!("ip");
    let (_, pod, config) = config(&site, &["10.0.0.1/24"]);
    pod.ip("tuntap add eth0 mode tap multi_queue");
    pod.ip("address add 10.0.0.5/24 dev eth0");
    let before = pod.ip("address show dev eth0");
    let refused = config.clone().attempt().unwrap_err();
    refused.assert_says(&["port `pod`", "`eth0`", "Weft did not make", "`ip link set eth0 alias weft`"]);
    assert_eq!(pod.ip("address show dev eth0"), before);
    pod.ip("link set eth0 alias weft");
    config.start().finish();
}

#[test]
fn a_refused_start_leaves_no_device() {
    let site = site!("ip");
    let (_, pod, config) = config(&site, &[]);
    let other = site.host("other");
    // Only the kernel knows that this pod takes no such address, and only once the first pod has its device.
    other.silence();
    let config = config.port(&other, Overlay::VNI, &["fd00::1/64"]);
    config.attempt().unwrap_err().assert_says(&["port `other`"]);
    assert_eq!(pod.ip("-o link").lines().count(), 1, "a device was left");
    assert_eq!(other.ip("-o link").lines().count(), 1, "a device was left");
}

#[test]
fn a_device_that_the_pod_removed_comes_back() {
    let site = site!("ip");
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let (agent, pod) = (&overlay.agents[0], &overlay.pods[0]);
    let [port] = &agent.ports()[..] else { panic!("{:?}", agent.ports()) };
    let state_becomes = |wanted: &str| {
        eventually(wanted, || {
            let state = agent.port(&port.name).state;
            if state.starts_with(wanted) { Ok(()) } else { Err(state) }
        });
    };
    weft_integration::ping_all(pod, Overlay::IPV4[1]);
    pod.ip("link delete eth0");
    eventually("the device is made again", || {
        if pod.ip("-o link").contains("eth0") { Ok(()) } else { Err("no eth0".to_owned()) }
    });
    state_becomes("forwarding");
    weft_integration::ping_all(pod, Overlay::IPV4[1]);
    // A name that is taken meanwhile is said, and comes back once it is free.
    pod.ip("link set eth0 name gone0");
    pod.ip("link add eth0 type veth peer name eth9");
    pod.ip("link delete gone0");
    state_becomes("lost: the name `eth0` is taken");
    pod.ip("link delete eth0");
    state_becomes("forwarding");
    weft_integration::ping_all(pod, Overlay::IPV4[1]);
    let log = agent.log();
    assert_eq!((log.matches("port lost").count(), log.matches("port attached again").count()), (2, 2), "{log}");
    overlay.agents.into_iter().for_each(AgentNode::finish);
}
