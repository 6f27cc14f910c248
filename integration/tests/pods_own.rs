//! What is the pod's own, or another program's, is left alone.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use weft_control::config::file::unspanned;
use weft_integration::{AgentConfig, AgentNode, Encapsulation, Family, Host, Overlay, Site, site};

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
