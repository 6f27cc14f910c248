//! MACs behind learning ports of nodes that know each other by a store.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::process::Stdio;

use weft_api::FdbRow;
use weft_bridge::DropReason;
use weft_control::config::file::{Control, unspanned};
use weft_integration::{
    AgentConfig, AgentNode, Capture, Child, Family, Frame, Host, MacAddr, Node, PacketSocket, Site, ethernet,
    eventually, mac_of, site, weft,
};

/// An EtherType of nobody (IEEE 802 local experimental 1), so that no stack answers.
const EXPERIMENT: u16 = 0x88b5;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const VNI: u32 = 7;
/// Several times what one port may flood in a second.
const FRAMES: usize = 4000;

fn store(site: &Site, node: &Node) -> (Child, String) {
    let (program, data) = (weft(), site.directory().join("store"));
    let listen = format!("{}:2379", node.address(Family::Ipv4));
    let mut command = node.command(&[
        program.to_str().unwrap(),
        "store",
        "--relaxed",
        "--listen",
        &listen,
        "--data",
        data.to_str().unwrap(),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    (Child::spawn(command), format!("http://{listen}"))
}

/// Says something from a MAC.
fn say(pod: &Host, from: MacAddr, to: MacAddr, word: &[u8]) {
    PacketSocket::open(pod, "eth0").send(&ethernet(to, from, EXPERIMENT, word));
}

/// Where an agent sends frames for a MAC: the other's name, or that of its own port.
#[track_caller]
fn finds(agent: &AgentNode, mac: MacAddr, at: &str, kind: &str) {
    eventually("the MAC is where it was seen last", || {
        let rows: Vec<_> = agent.fdb().into_iter().filter(|row| row.mac == mac.to_string()).collect();
        let found = |row: &FdbRow| row.kind == kind && (row.node.as_deref() == Some(at) || row.at == at);
        if rows.len() == 1 && found(&rows[0]) { Ok(()) } else { Err(format!("{mac} is not at {at}: {rows:?}")) }
    });
}

/// Whether a word from one pod arrives at the other and not at the third.
#[track_caller]
fn goes_to(sender: &Host, from: MacAddr, to: MacAddr, receiver: &Host, bystander: &Host, word: &[u8]) {
    let [mut receives, hears] = [receiver, bystander].map(|pod| Capture::start(pod, "eth0"));
    let is_word = |frame: &Frame| frame[14..].starts_with(word);
    say(sender, from, to, word);
    receives.wait_for(1, is_word);
    assert_eq!(hears.stop().into_iter().filter(is_word).count(), 0, "flooded");
}

#[test]
fn a_mac_behind_a_learning_port_is_published_and_may_turn_up_elsewhere() {
    let site = site!();
    let nodes = site.nodes::<3>();
    let pods = ["r", "s", "c"].map(|name| site.host(name));
    pods.iter().for_each(Host::silence);
    let (_store, url) = store(&site, &nodes[0]);
    let agents: [AgentNode; 3] = std::array::from_fn(|own| {
        let config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).vni(VNI);
        let add = if own == 2 { AgentConfig::port } else { AgentConfig::learning_port };
        let mut config = add(config, &pods[own], VNI, &[]);
        let mut control = Control::new(vec![url.clone()]);
        control.prefix = unspanned("/test".to_owned());
        config.file.control = Some(control);
        config.start()
    });
    let ([r, s, c], guest) = (&pods, mac_of(0x77));
    let own = c.mac("eth0");
    for agent in &agents {
        eventually("all ports are known", || {
            let known = agent.fdb().into_iter().filter(|row| row.kind == "static").count();
            // That of its own learning port is learned.
            if known >= 2 { Ok(()) } else { Err(format!("{known}")) }
        });
    }

    say(r, guest, BROADCAST, b"here");
    finds(&agents[0], guest, "r", "learned");
    finds(&agents[1], guest, "n1", "static");
    finds(&agents[2], guest, "n1", "static");
    goes_to(c, own, guest, r, s, b"to r");
    let socket = PacketSocket::open(c, "eth0");
    for _ in 0..FRAMES {
        eventually("the device has room", || {
            let sent = socket.try_send(&ethernet(guest, own, EXPERIMENT, b"many"));
            sent.map_err(|full| full.to_string())
        });
    }
    assert_eq!(agents[2].dropped_as(DropReason::UnknownFloodLimit), 0);

    // It moves, and back again.
    say(s, guest, BROADCAST, b"here now");
    finds(&agents[2], guest, "n2", "static");
    finds(&agents[0], guest, "n2", "static");
    finds(&agents[1], guest, "s", "learned");
    goes_to(c, own, guest, s, r, b"to s");
    eventually("it is back", || {
        // It speaks as guests do: a word that comes while it may not move yet is lost to nobody.
        say(r, guest, own, b"back");
        let rows: Vec<_> = agents[2].fdb().into_iter().filter(|row| row.mac == guest.to_string()).collect();
        if rows.iter().any(|row| row.node.as_deref() == Some("n1")) { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    finds(&agents[1], guest, "n1", "static");
    goes_to(c, own, guest, r, s, b"to r again");

    // What is a pod's own stays its own.
    let refused = agents[0].dropped_as(DropReason::StaticMacMoved);
    say(r, own, BROADCAST, b"thief");
    eventually("the thief is refused", || {
        if agents[0].dropped_as(DropReason::StaticMacMoved) > refused { Ok(()) } else { Err(String::new()) }
    });
    finds(&agents[1], own, "n3", "static");
    for agent in agents {
        assert_eq!(agent.status().law_broken, None);
        agent.kill();
    }
}
