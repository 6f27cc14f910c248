//! Agents and plugins that are killed while pods come and go, in real namespaces. What can be done in memory, on
//! thousands of sequences, control/src/pods/tests.rs does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustix::process::Signal;
use weft_integration::{Cluster, CniCall, CniNetwork, Host, eventually, site};

/// Rounds, in each of which something is killed.
const ROUNDS: u32 = 12;
/// Pods that come or go in each.
const PODS_AT_ONCE: u32 = 3;
/// The longest wait before something is killed: an attachment takes less.
const KILL_WITHIN_MICROSECONDS: u64 = 80_000;

/// Numbers that look random and are the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }
}

fn path_of(pod: &Host) -> String {
    format!("/run/netns/{}", pod.netns().label())
}

#[test]
fn whatever_is_killed_the_addresses_given_are_those_of_the_living() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let seed = std::env::var("WEFT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rounds = std::env::var("WEFT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let mut dice = Dice(seed);
    let [mut agent] = cluster.start();
    let network = CniNetwork::new(&cluster.nodes[0], &cluster.run_dir(0));
    let mut living: BTreeMap<String, Host> = BTreeMap::new();
    let mut number = 0;
    let (mut killed_agents, mut killed_plugins) = (0, 0);
    for round in 0..rounds {
        // Some begin, some end, all at once.
        let mut calls = Vec::new();
        for _ in 0..PODS_AT_ONCE {
            let ending = living.keys().nth(dice.roll(living.len().max(1) as u64) as usize).cloned();
            match ending.filter(|_| dice.roll(3) == 0) {
                Some(name) => {
                    let pod = living.remove(&name).unwrap();
                    calls.push(("DEL", name, pod));
                }
                None => {
                    number += 1;
                    let name = format!("p{number}");
                    let pod = cluster.site().host(&name);
                    calls.push(("ADD", name, pod));
                }
            }
        }
        let input = |name: &str| cluster.site().directory().join(format!("{name}.json"));
        let plugins: Vec<_> = calls
            .iter()
            .map(|(verb, name, pod)| network.start_child(verb, &CniCall::new(name, &path_of(pod)), &input(name)))
            .collect();
        // Not an event that is waited for: a moment that nobody chose.
        std::thread::sleep(Duration::from_micros(dice.roll(KILL_WITHIN_MICROSECONDS)));
        let kills_agent = dice.roll(2) == 0;
        if kills_agent {
            agent.kill();
            killed_agents += 1;
            agent = cluster.config(0).start();
        } else {
            let victim = dice.roll(plugins.len() as u64) as usize;
            plugins[victim].signal(Signal::KILL);
            killed_plugins += 1;
        }
        for (mut plugin, (verb, name, pod)) in plugins.into_iter().zip(calls) {
            let done = plugin.wait().success();
            let path = path_of(&pod);
            match (verb, done) {
                ("ADD", true) => _ = living.insert(name, pod),
                // What the specification asks of a runtime; or the pod ends, and nobody says so.
                (_, false) if dice.roll(2) == 0 => network.del(&CniCall::new(&name, &path)),
                _ => {}
            }
            if !living.values().any(|living| path_of(living) == path) {
                weft_netns::Netns::delete(path.rsplit('/').next().unwrap()).unwrap();
            }
        }
        eventually(&format!("round {round}, seed {seed}: what is attached is what lives"), || {
            let ports: BTreeSet<String> = agent.ports().into_iter().map(|port| port.name).collect();
            let wanted: BTreeSet<String> =
                living.keys().map(|name| format!("{name}.eth0")).chain(["host".to_owned()]).collect();
            if ports == wanted { Ok(()) } else { Err(format!("{ports:?} instead of {wanted:?}\n{}", agent.log())) }
        });
        let rows = agent.ports();
        let given: Vec<&String> = rows.iter().flat_map(|port| &port.addresses).collect();
        let distinct: BTreeSet<&&String> = given.iter().collect();
        assert_eq!(given.len(), distinct.len(), "{given:?}");
        for row in rows.iter().filter(|row| row.name != "host") {
            let pod = &living[row.name.trim_end_matches(".eth0")];
            let shown = pod.ip("address show dev eth0");
            assert!(row.addresses.iter().all(|address| shown.contains(address.as_str())), "{row:?}: {shown}");
            assert_eq!(row.state, "forwarding");
        }
        agent.wait_for_endpoints(1 + living.len());
    }
    println!("killed {killed_agents} agents and {killed_plugins} plugins; {} of {number} pods live", living.len());
    assert!(killed_agents > 0 && killed_plugins > 0);
}
