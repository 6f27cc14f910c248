//! Schedules by the dice.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::agent::Pod;
use crate::store::Backup;
use crate::world::{World, address, pod, vni};

/// Schedules in a run, where nothing else is asked for.
const SCHEDULES: u64 = 2_000;
/// Machines that have a name of their own.
const MACHINES: usize = 4;
/// Pods that are somewhere, or nowhere.
const PODS: u8 = 6;
const STEPS: u64 = 60;
/// How fast a clock goes, in percent, by which a third of a lease passes before all of it.
const SLOWEST_THAT_KEEPS_ITS_LEASE: u32 = 50;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    pub(crate) fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

struct Schedule {
    dice: Dice,
    world: World,
    backup: Option<Backup>,
    /// Some agent may not have seen that the store went back.
    unseen_return: bool,
    reboots: usize,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // Now and then there are ranges for all names but one.
        let mut world = World::with_network(if dice.one_in(4) { 18 } else { 19 });
        for number in 0..MACHINES {
            let place = world.add(&format!("n{number}"), &[]);
            if dice.one_in(3) {
                world.machines[place].identity.vnis = [vni(1 + dice.roll(2) as u32)].into();
            }
        }
        // One more says that it is the first.
        world.add("n0", &[]);
        let mut schedule = Self { dice, world, backup: None, unseen_return: false, reboots: 0 };
        for number in 1..=PODS {
            schedule.move_pod(number);
        }
        for machine in 0..MACHINES {
            schedule.start(machine);
        }
        schedule
    }

    fn any(&mut self) -> usize {
        self.dice.roll(MACHINES + 1)
    }

    fn start(&mut self, machine: usize) {
        if self.world.machines[machine].agent.is_none() {
            if self.dice.one_in(4) {
                // It has rebooted: its run directory is gone.
                self.reboots += 1;
                let identity = &mut self.world.machines[machine].identity;
                identity.instance = format!("instance {machine} after reboot {}", self.reboots);
                identity.had.clear();
            }
            self.world.start(machine);
            // The last one loses its lease each time.
            self.world.agent(machine).clock = [100, 100, 130, 70, SLOWEST_THAT_KEEPS_ITS_LEASE, 20][self.dice.roll(6)];
        }
    }

    /// A pod comes to another machine, and leaves where it was; now and then it does not.
    fn move_pod(&mut self, number: u8) {
        let pod = pod(1 + u32::from(number % 2), number);
        let to = self.any();
        let stays = self.dice.one_in(12);
        let vnis = self.world.machines[to].identity.vnis.clone();
        for machine in 0..=MACHINES {
            let mut pods: BTreeSet<Pod> = self.world.machines[machine].pods.clone();
            if machine == to && vnis.contains(&pod.0) {
                pods.insert(pod);
            } else if !stays {
                pods.remove(&pod);
            }
            let pods: Vec<Pod> = pods.into_iter().collect();
            self.world.set_pods(machine, &pods);
        }
    }

    /// A machine comes back with an address that nobody who runs has.
    fn readdress(&mut self, machine: usize) {
        let taken = self.world.machines.iter().enumerate();
        let taken: BTreeSet<_> = taken
            .filter(|(place, other)| *place != machine && other.agent.is_some())
            .map(|(_, other)| other.identity.address)
            .collect();
        let free: Vec<_> = (1..=8).map(address).filter(|address| !taken.contains(address)).collect();
        let chosen = free[self.dice.roll(free.len())];
        self.world.kill(machine);
        // Who does not run has to find another when he does.
        for other in 0..=MACHINES {
            let spare = address(20 + other as u8);
            let identity = &mut self.world.machines[other].identity;
            if other != machine && identity.address == chosen {
                identity.address = spare;
            }
        }
        self.world.machines[machine].identity.address = chosen;
        self.start(machine);
    }

    fn step(&mut self) {
        let machine = self.any();
        match self.dice.roll(43) {
            0..=15 => {
                let (revisions, requests) = (self.dice.roll(5), self.dice.roll(5));
                let lose_answer = self.dice.one_in(10);
                self.world.meet(machine, revisions, requests, lose_answer);
            }
            16..=19 => self.world.meet_all(),
            20..=22 => {
                let time = Duration::from_millis(self.dice.roll(6_000) as u64);
                self.world.store.advance(time);
            }
            23..=25 => self.world.kill(machine),
            26..=28 => self.start(machine),
            29 => self.readdress(machine),
            30 | 31 => {
                if let Some(agent) = &mut self.world.machines[machine].agent {
                    agent.cut_off = !agent.cut_off;
                }
            }
            32..=34 => {
                let number = 1 + self.dice.roll(PODS.into()) as u8;
                self.move_pod(number);
            }
            35 => self.world.store.compact(),
            36 => self.world.remove(machine),
            37 => self.backup = Some(self.world.store.backup()),
            38 => self.restore(),
            39 => self.part(machine),
            40 | 41 => {
                let (foreign, is_there) = (address(60 + self.dice.roll(2) as u8), self.dice.one_in(2));
                self.world.set_foreign(foreign, is_there);
            }
            _ => {
                if let Some(agent) = &mut self.world.machines[machine].agent {
                    agent.list_again();
                }
            }
        }
    }

    fn restore(&mut self) {
        let Some(backup) = &self.backup else { return };
        let new_cluster = self.dice.one_in(2);
        if new_cluster || self.dice.one_in(2) {
            self.world.restore(backup, new_cluster);
        } else {
            self.world.restore_unheard(backup);
        }
        // Whoever is cut off may come back when revisions have caught up, and see no difference.
        self.unseen_return |= !new_cluster;
    }

    /// The underlay between two machines is cut, or heals.
    fn part(&mut self, machine: usize) {
        let other = self.any();
        let pair = (machine.min(other), machine.max(other));
        if machine != other && !self.world.parted.remove(&pair) {
            self.world.parted.insert(pair);
        }
    }

    /// Returns how often the law was looked after.
    fn run(mut self) -> usize {
        for _ in 0..STEPS {
            self.step();
        }
        for machine in &mut self.world.machines {
            if let Some(agent) = &mut machine.agent {
                agent.cut_off = false;
                // Who loses its lease again and again is never at rest.
                agent.clock = agent.clock.max(SLOWEST_THAT_KEEPS_ITS_LEASE);
                // What an agent does now and then anyway.
                if self.unseen_return {
                    agent.list_again();
                }
            }
        }
        self.world.parted.clear();
        // The operator looks after what nobody else publishes again.
        for foreign in [60, 61].map(address) {
            let is_there = self.world.foreign.contains(&foreign);
            self.world.set_foreign(foreign, is_there);
        }
        self.world.rest();
        self.world.check();
        self.world.law.looks
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, and no number")))
}

#[test]
fn every_schedule_ends_in_agreement() {
    let (seeds, looks) = (seeds(SCHEDULES), AtomicUsize::new(0));
    in_parallel(seeds.clone(), |seed| _ = looks.fetch_add(Schedule::new(seed).run(), Ordering::Relaxed));
    let looks = looks.into_inner();
    assert!(seeds.count() < 100 || looks > 1_000, "only {looks} looks while a store that went back was doubted");
}

/// Runs them on all processors; one that fails says its seed.
pub(crate) fn in_parallel(seeds: Range<u64>, run: impl Fn(u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let run = |seed| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("this one again: WEFT_SEED={seed}");
            resume_unwind(panic);
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let own = seeds.clone().skip(thread).step_by(threads);
            scope.spawn(|| own.for_each(&run));
        }
    });
}

/// The one that `WEFT_SEED` names, or so many as `WEFT_SCHEDULES` says, or these.
pub(crate) fn seeds(default: u64) -> Range<u64> {
    match number("WEFT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WEFT_SCHEDULES").unwrap_or(default),
    }
}
