//! What is said of a frame beforehand is what happens to it: random frames through random nodes, whose tables are wrong
//! here and there, compared with what comes out at the pods, on the wire and in the counters.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod chance;
mod frames;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use weft_bridge::{Attachment, DropReason, PortId, Seconds};
use weft_encap::Offload;
use weft_switch::memory::MemoryFrame;
use weft_switch::trace::{Record, Told};
use weft_switch::what_if::{Outcome, WhatIf};

use chance::Chance;
use world::{Pod, World};

/// Worlds, each with so many frames: ten thousand in all, for there are worlds without a device.
const WORLDS: u64 = 203;
const FRAMES: usize = 50;
/// Time between two frames, so that nobody's budget is used up.
const PAUSE: Duration = Duration::from_secs(2);

/// What becomes of a frame, told beforehand or seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fate {
    /// What each port gives its pod: node, port, length and digest of the bytes, and offload.
    pods: Vec<(usize, PortId, usize, u64, String)>,
    /// Drops on each node.
    drops: BTreeMap<(usize, DropReason), u64>,
    /// Tunnel packets that each node sends.
    packets: BTreeMap<usize, u64>,
    /// Verdicts on each node: unicast, flood, answered.
    verdicts: BTreeMap<(usize, &'static str), u64>,
}

impl Fate {
    fn give(&mut self, node: usize, id: PortId, frame: &MemoryFrame) {
        let mut digest = DefaultHasher::new();
        digest.write(&frame.bytes);
        self.pods.push((node, id, frame.bytes.len(), digest.finish(), format!("{:?}", frame.offload)));
    }

    fn sorted(mut self) -> Self {
        self.pods.sort();
        self
    }
}

fn now(world: &World) -> Seconds {
    Seconds(u32::try_from(world.lab.now().as_secs()).unwrap())
}

fn asks(world: &World, node: usize) -> WhatIf {
    let switch = &world.nodes[node].1;
    let mut what_if = WhatIf::new((*switch.tables()).clone(), switch.fdb(), now(world));
    for pod in world.pods_of[node].iter().filter(|pod| pod.port.is_some()) {
        what_if.attach(pod.id, pod.offloads);
    }
    what_if
}

/// What the nodes say would become of what one of them is told.
fn told(world: &World, node: usize, outcome: Outcome, fate: &mut Fate) {
    assert_eq!(outcome.lost, 0);
    for (id, frame) in outcome.to_ports {
        fate.give(node, id, &frame);
    }
    let mut counted = BTreeSet::new();
    for record in &outcome.records {
        let reason = record.dropped();
        if let Some(reason) = reason {
            *fate.drops.entry((node, reason)).or_default() += 1;
        }
        // A frame's verdict counts once, however many copies it has.
        if counted.insert(record.frame) {
            let verdict = match record.decision {
                Told::Unicast(_) => Some("unicast"),
                Told::Flood(_) => Some("flood"),
                Told::Answer(_) => Some("answered"),
                Told::Drop(_) => None,
            };
            if let Some(verdict) = verdict {
                *fate.verdicts.entry((node, verdict)).or_default() += 1;
            }
        }
    }
    for record in &outcome.records {
        cross(world, node, record, fate);
    }
}

/// Follows a copy to the node that gets it, if the wire between them is whole.
fn cross(world: &World, node: usize, record: &Record, fate: &mut Fate) {
    let Some(copy) = record.copy else { return };
    let (Attachment::Vtep(_), Ok(sent)) = (copy.egress, copy.outcome) else { return };
    let captured = record.captured.as_ref().unwrap();
    assert_eq!(captured.outer_out.len(), sent.packets as usize, "{record:?}");
    *fate.packets.entry(node).or_default() += u64::from(sent.packets);
    let peer: IpAddr = captured.outer_out[0].peer;
    let Some(next) = world.nodes.iter().position(|(address, _)| *address == peer) else { return };
    if world.cut[node] || world.cut[next] {
        return;
    }
    let payloads = captured.outer_out.iter().map(|packet| packet.payload.to_vec()).collect();
    let tos = captured.outer_out[0].tos;
    let outcome = asks(world, next).arrive(world.node_address(node), world.encapsulation, tos, payloads).unwrap();
    told(world, next, outcome, fate);
}

/// Drops, verdicts and tunnel packets that a node has counted.
fn counted(world: &World, node: usize) -> (Vec<(DropReason, u64)>, [u64; 3], u64) {
    let totals = world.nodes[node].1.totals();
    (totals.drops.to_vec(), [totals.unicast, totals.flood, totals.answered], totals.underlay_datagrams_out)
}

fn knowledge(world: &World) -> Vec<String> {
    let of = |(_, switch): &(IpAddr, weft_switch::memory::MemorySwitch)| {
        let mut learned: Vec<_> = switch.fdb().rows(now(world)).map(|row| format!("{row:?}")).collect();
        learned.sort();
        format!("{learned:?} {:?}", switch.totals())
    };
    world.nodes.iter().map(of).collect()
}

/// Sends a frame, or lets tunnel packets arrive, and sees what becomes of it.
fn seen(world: &mut World, begin: impl FnOnce(&mut World)) -> Fate {
    let before: Vec<_> = (0..world.nodes.len()).map(|node| counted(world, node)).collect();
    begin(world);
    let World { lab, nodes, .. } = world;
    lab.run(nodes, PAUSE);
    let mut fate = Fate::default();
    for (node, before) in before.iter().enumerate() {
        let after = counted(world, node);
        for ((reason, then), (_, now)) in before.0.iter().zip(&after.0) {
            if now > then {
                fate.drops.insert((node, *reason), now - then);
            }
        }
        for (place, verdict) in ["unicast", "flood", "answered"].into_iter().enumerate() {
            if after.1[place] > before.1[place] {
                fate.verdicts.insert((node, verdict), after.1[place] - before.1[place]);
            }
        }
        if after.2 > before.2 {
            fate.packets.insert(node, after.2 - before.2);
        }
        world.nodes[node].1.totals().check().unwrap();
        let received: Vec<_> =
            world.pods_of[node].iter().filter_map(|pod| Some((pod.id, pod.port.as_ref()?.pod_received()))).collect();
        for (id, frames) in received {
            frames.into_iter().for_each(|frame| fate.give(node, id, &frame));
        }
    }
    fate.sorted()
}

/// What differs, without what does not.
fn assert_same(met: &Fate, told: &Fate, what: &str) {
    assert_eq!((&met.drops, &met.verdicts, &met.packets), (&told.drops, &told.verdicts, &told.packets), "{what}");
    let without = |some: &Fate, others: &Fate| {
        let mut rest = some.pods.clone();
        for other in &others.pods {
            if let Some(place) = rest.iter().position(|own| own == other) {
                rest.remove(place);
            }
        }
        rest
    };
    assert_eq!(without(met, told), without(told, met), "{what}");
}

#[test]
fn ten_thousand_frames_meet_the_fate_that_was_told() {
    let (mut frames, mut delivered, mut crossed) = (0, 0, 0);
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..WORLDS {
        let mut chance = Chance::new(seed);
        let mut world = World::new(&mut chance, seed);
        for place in 0..FRAMES {
            let senders: Vec<&Pod> = world.pods().filter(|pod| pod.port.is_some()).collect();
            if senders.is_empty() {
                break;
            }
            let from = senders[chance.below(senders.len())];
            let (node, id, number) = (from.node, from.id, from.number);
            let (frame, offload): (Vec<u8>, Offload) = frames::frame(&mut chance, &world, from);
            let before = knowledge(&world);
            let mut expected = Fate::default();
            let outcome = asks(&world, node).pod_sends(id, frame.clone(), offload).unwrap();
            told(&world, node, outcome, &mut expected);
            assert_eq!(knowledge(&world), before, "seed {seed}, frame {place}: asking changed something");
            let met = seen(&mut world, |world| {
                let pod = world.pods_of[node].iter().find(|pod| pod.number == number).unwrap();
                pod.port.as_ref().unwrap().pod_sends(frame.clone(), Ok(offload));
            });
            let head = &frame[..frame.len().min(60)];
            let what =
                format!("seed {seed}, frame {place} from pod{number}: {head:02x?} of {}, {offload:?}", frame.len());
            assert_same(&met, &expected.sorted(), &what);
            frames += 1;
            delivered += usize::from(!met.pods.is_empty());
            crossed += usize::from(met.verdicts.keys().any(|(place, _)| *place != node));
            met.drops.keys().for_each(|(_, reason)| *reasons.entry(reason.name()).or_default() += 1);
        }
    }
    println!("{frames} frames, {delivered} reached a pod, {crossed} crossed nodes; dropped: {reasons:?}");
    assert!(frames >= 10_000 && delivered > frames / 4 && crossed > frames / 10, "{frames} {delivered} {crossed}");
    assert!(reasons.len() >= 15, "too few kinds of drops to prove anything: {reasons:?}");
}
