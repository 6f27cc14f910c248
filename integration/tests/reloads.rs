//! Configurations that are read again while the agent runs.

use std::fs;

use weft_api::Reloaded;
use weft_control::config::file::{PollingEntry, TtlEntry, unspanned};
use weft_encap::outer::Ttl;
use weft_integration::{AgentConfig, Encapsulation, Family, Overlay, eventually, ping_all, site};
use weft_switch::polling::Polling;

fn names(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|field| (*field).to_owned()).collect()
}

#[test]
fn what_can_change_at_once_does_and_the_rest_is_named() {
    let site = site!();
    let nodes = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let [first, second] = [0, 1].map(|own| {
        let config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).vni(Overlay::VNI);
        config.port(&pods[own], Overlay::VNI, &Overlay::NETWORKS[own])
    });
    let peer = |own: usize| nodes[1 - own].address(Family::Ipv4);
    let other = second.peer(peer(1), Encapsulation::Vxlan, &[Overlay::VNI]).start();
    let agent = first.clone().start();
    assert!(agent.vteps().is_empty());
    let _ = first.write();
    assert_eq!(agent.reload().unwrap(), Reloaded::default());
    // A peer comes.
    let mut with_peer = first.clone().peer(peer(0), Encapsulation::Vxlan, &[Overlay::VNI]);
    let file = with_peer.write();
    assert_eq!(agent.reload().unwrap(), Reloaded { applied: names(&["[[vtep]]"]), ..Reloaded::default() });
    ping_all(&pods[0], Overlay::IPV4[1]);
    // A file that is wrong changes nothing.
    let right = fs::read_to_string(&file).unwrap();
    fs::write(&file, right.replace("path_probes = \"auto\"", "path_probes = \"sometimes\"")).unwrap();
    let error = agent.reload().unwrap_err().to_string();
    assert!(error.contains("path_probes"), "{error}");
    assert_eq!(agent.vteps().len(), 1);
    // What takes more than that is named.
    with_peer.file.underlay.ttl = TtlEntry(Ttl::Fixed(9));
    with_peer.file.fdb.ageing_seconds = unspanned(17);
    with_peer.file.workers.polling = PollingEntry(Polling::Off);
    with_peer.file.workers.count = unspanned(2);
    let _ = with_peer.write();
    let reloaded = agent.reload().unwrap();
    assert_eq!(reloaded.applied, names(&["underlay.ttl", "fdb.ageing_seconds"]));
    assert_eq!(reloaded.takeover, names(&["workers.polling"]));
    assert_eq!(reloaded.restart, names(&["workers.count"]));
    assert_eq!(agent.status().fdb_ageing_seconds, 17);
    // What is in force is what is compared with, and a hang-up does the same.
    assert_eq!(agent.reload().unwrap().applied, names(&[]));
    let _ = first.write();
    agent.hang_up();
    eventually("the peer goes again", || {
        let vteps = agent.vteps();
        if vteps.is_empty() { Ok(()) } else { Err(format!("{vteps:?}\n{}", agent.log())) }
    });
    assert_eq!(agent.status().law_broken, None);
    agent.kill();
    other.finish();
}
