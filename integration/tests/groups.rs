//! Links that get groups of packets wrong and single ones right, which no system call tells.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use weft_integration::UnderlayKind::{self, Socket, Uplink};
use weft_integration::{
    AgentNode, Capture, ETHERNET_LEN, Encapsulation, Family, Host, MIB, Node, Overlay, Site, eventually, ping_all,
    site, stream,
};

/// The underlay's MTU, and so the length of a full probe with its outer headers.
const MTU: usize = 1500;
/// Outer IPv4 and UDP headers.
const OUTER: usize = 28;
/// What a trial's group is in one piece, as a veth hands it on.
const GROUP: usize = ETHERNET_LEN + OUTER + 2 * (MTU - OUTER);
/// The management VNI of probes, where VXLAN has it.
const MANAGEMENT: [u8; 3] = [0xff, 0xff, 0xfe];

/// Two nodes behind a switch whose ports do this to what comes in.
fn nodes(site: &Site, rule: &str, ports: &[&str]) -> (Host, [Node; 2]) {
    let (switch, nodes) = site.switched();
    let chains: String = ports
        .iter()
        .map(|port| format!("chain {port} {{\ntype filter hook ingress device {port} priority 0\n{rule}\n}}\n"))
        .collect();
    switch.run(&["nft", &format!("table netdev fault {{\ncounter hits {{ }}\n{chains}}}")]);
    (switch, nodes)
}

fn overlay(site: &Site, nodes: [Node; 2], kind: UnderlayKind) -> Overlay {
    let pods = ["a", "b"].map(|name| site.host(name));
    Overlay::start_over(site, nodes, pods, (Encapsulation::Vxlan, Family::Ipv4), [kind; 2])
}

/// How many packets the fault took.
fn hits(switch: &Host) -> u64 {
    let said = switch.run(&["nft", "list", "counter", "netdev", "fault", "hits"]);
    let mut words = said.split_ascii_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

fn reason(agent: &AgentNode, level: &str) -> String {
    agent.status().offloads.into_iter().find(|row| row.level == level).unwrap().reason
}

/// A trial's group, as it leaves.
fn is_trial(frame: &[u8]) -> bool {
    let vni = ETHERNET_LEN + OUTER + 4;
    frame.len() == GROUP && frame[vni..vni + 3] == MANAGEMENT
}

/// All that is longer than a packet is lost between the nodes, one way.
#[test]
fn groups_that_a_link_loses_are_given_up() {
    for (kind, level) in [(Socket, "segment"), (Uplink, "uplink")] {
        let site = site!("nft");
        let lose = format!("meta length > {MTU} counter name hits drop");
        let (switch, nodes) = nodes(&site, &lose, &["port1"]);
        let overlay = overlay(&site, nodes, kind);
        let ([a, b], [sender, other]) = (&overlay.pods, &overlay.agents);
        ping_all(a, Overlay::IPV4[1]);
        eventually("groups are given up", || {
            let said = reason(sender, level);
            if said.starts_with("not towards 192.0.2.2: groups of probes") { Ok(()) } else { Err(said) }
        });
        let lost = hits(&switch);
        assert!(lost >= 16, "{lost} groups were lost");
        // Neither streams nor datagrams leave in groups any more.
        stream(a, b, Overlay::IPV4[1], 16 * MIB);
        stream(b, a, Overlay::IPV4[0], 16 * MIB);
        assert_eq!(hits(&switch), lost);
        let row = sender.vteps().remove(0);
        assert_eq!((row.path.as_str(), row.path_mtu), ("up", Some(1500)));
        assert_eq!(sender.log().matches("leave one by one").count(), 1, "{}", sender.log());
        // The way back is right, and in use as before.
        assert_eq!(reason(other, level), "passed its self-test");
        overlay.finish();
    }
}

/// Loss takes groups too, and single packets as easily.
#[test]
fn loss_is_not_taken_for_it() {
    let site = site!("nft");
    let lose = "numgen random mod 100 < 5 counter name hits drop";
    let (switch, nodes) = nodes(&site, lose, &["port1", "port2"]);
    let mut trials = Capture::start_where(&switch, "port1", is_trial);
    let overlay = overlay(&site, nodes, Socket);
    let [a, b] = &overlay.pods;
    trials.wait_for(2, |_| true);
    stream(a, b, Overlay::IPV4[1], 16 * MIB);
    stream(b, a, Overlay::IPV4[0], 16 * MIB);
    assert!(hits(&switch) >= 10, "{} packets were lost", hits(&switch));
    for agent in &overlay.agents {
        assert_eq!(reason(agent, "segment"), "passed its self-test");
        assert_eq!(agent.log().matches("leave one by one").count(), 0, "{}", agent.log());
    }
    overlay.finish();
}
