//! Pods that talk while the cluster changes under them: whole TCP connections over the simulated agents' switches.

use std::net::IpAddr;
use std::time::Duration;

use weft_memory_lab::{MemoryLab, Nodes, PodConfig, PodId};
use weft_switch::memory::MemorySwitch;

use crate::agent::Pod;
use crate::world::{World, address, pod};

const SECOND: Duration = Duration::from_secs(1);
/// More than passes in the time before something happens to the connection.
const BYTES: u64 = 4_000_000;

impl Nodes for World {
    fn each(&mut self, look: &mut dyn FnMut(IpAddr, &mut MemorySwitch)) {
        for machine in &mut self.machines {
            if let Some(agent) = &mut machine.agent {
                look(machine.identity.address, &mut agent.switch);
            }
        }
    }
}

/// Three machines that know each other, with a pod on the first two, and links of 2 ms.
fn two_pods() -> (World, MemoryLab, [PodId; 2]) {
    let mut world = World::new();
    for (name, pods) in [("n1", &[pod(1, 1)][..]), ("n2", &[pod(1, 2)]), ("n3", &[])] {
        let place = world.add(name, pods);
        world.start(place);
    }
    world.meet_all();
    world.meet_all();
    let mut lab = MemoryLab::new(3);
    for number in [1, 2, 3] {
        lab.wire().impair(address(number), None, "delay=2ms").unwrap();
    }
    let pods = [(0, pod(1, 1)), (1, pod(1, 2))].map(|(machine, pod)| {
        let port = world.agent(machine).ports[&pod].1.clone();
        lab.add_pod(&PodConfig::new(pod.1, &[&format!("{}/16", ip(pod))]), port)
    });
    (world, lab, pods)
}

fn ip((_, mac): Pod) -> IpAddr {
    IpAddr::from([10, 244, 0, mac.0[5]])
}

#[test]
fn a_connection_follows_a_pod_that_moves() {
    let (mut world, mut lab, [a, b]) = two_pods();
    let stream = lab.stream(a, b, ip(pod(1, 2)), BYTES);
    lab.run(&mut world, SECOND / 20);
    let before = lab.stream_read(stream);
    assert!((1..BYTES).contains(&before), "{before} bytes");
    world.set_pods(1, &[]);
    world.set_pods(2, &[pod(1, 2)]);
    lab.plug(b, world.agent(2).ports[&pod(1, 2)].1.clone());
    // Nobody has heard of it yet: what is sent meanwhile finds no pod.
    lab.run(&mut world, SECOND / 20);
    world.meet_all();
    world.meet_all();
    assert!(lab.run_until(&mut world, 30 * SECOND, |lab| lab.stream_is_done(stream)), "{}", lab.stream_read(stream));
    world.rest();
    world.check();
}

#[test]
fn a_connection_does_not_notice_that_the_store_is_away() {
    let (mut world, mut lab, [a, b]) = two_pods();
    let stream = lab.stream(a, b, ip(pod(1, 2)), BYTES);
    lab.run(&mut world, SECOND / 20);
    for machine in 0..3 {
        world.agent(machine).cut_off = true;
    }
    // Every lease ends.
    world.store.advance(60 * SECOND);
    world.meet_all();
    let undisturbed = {
        let (mut world, mut lab, [a, b]) = two_pods();
        let stream = lab.stream(a, b, ip(pod(1, 2)), BYTES);
        assert!(lab.run_until(&mut world, 30 * SECOND, |lab| lab.stream_is_done(stream)));
        lab.now()
    };
    assert!(lab.run_until(&mut world, 30 * SECOND, |lab| lab.stream_is_done(stream)));
    assert_eq!(lab.now(), undisturbed, "it took longer");
}
