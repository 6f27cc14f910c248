//! Agents that are killed at any step, and runtimes that do what the specification lets them: whatever happened, after
//! one recovery the addresses that are given are those of the pods that live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use weft_api::{AddressSource, Attach, PodAddress, PodInterface, Refusal, Wait};
use weft_encap::{MacAddr, Vni};

use super::ledger::{Change, Identity, Ledger, Pod, Refused};
use super::plan::{Surroundings, plan};
use super::steps::{self, Presence, World};
use crate::cluster::ClusterRange;
use crate::config::NetworkConfig;

/// Containers that come and go.
const CONTAINERS: u8 = 4;
/// More steps than one act has.
const STEPS: u8 = 24;
/// Random sequences.
const SEQUENCES: u32 = 8192;

/// A machine with one agent, without a kernel.
#[derive(Clone, Debug, Default)]
struct Machine {
    /// Living namespaces by their cookies, with the addresses of the pod's device.
    namespaces: BTreeMap<u64, Option<Vec<IpAddr>>>,
    /// The ledger's file.
    disk: Ledger,
    /// Pods for which the agent forwards.
    ports: BTreeSet<PodInterface>,
    /// After so many steps the agent is killed.
    steps_left: Option<u8>,
    cookies: u64,
}

impl Machine {
    fn step(&mut self) -> Result<(), Refused> {
        match &mut self.steps_left {
            Some(0) => Err(Refused::new(Refusal::Failed, "killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl World for Machine {
    fn keep(&mut self, change: &Change, ledger: &Ledger) -> Result<(), Refused> {
        self.step()?;
        assert_eq!(self.disk, *ledger, "what is kept is what was known");
        self.disk.apply(serde_json::from_str(&serde_json::to_string(change).unwrap()).unwrap());
        self.step()
    }

    fn connect(&mut self, pod: &Pod) -> Result<(), Refused> {
        self.step()?;
        let gone = Refused::new(Refusal::Failed, "gone");
        let addresses = pod.addresses.iter().map(|one| one.address.addr()).collect();
        *self.namespaces.get_mut(&pod.namespace.cookie.unwrap()).ok_or(gone)? = Some(addresses);
        self.step()?;
        self.ports.insert(pod.id.clone());
        self.step()
    }

    fn disconnect(&mut self, pod: &Pod) -> Result<(), Refused> {
        self.step()?;
        self.ports.remove(&pod.id);
        self.step()?;
        if let Some(device) = self.namespaces.get_mut(&pod.namespace.cookie.unwrap()) {
            *device = None;
        }
        self.step()
    }

    fn presence(&mut self, namespace: &Identity) -> Presence {
        if self.namespaces.contains_key(&namespace.cookie.unwrap()) { Presence::There } else { Presence::Gone }
    }
}

/// A range with addresses for four pods, and one for one.
const FEW: &str = "10.0.0.8/29";
const ONE: &str = "10.0.0.12/30";

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The runtime makes a namespace and attaches it, with addresses of the node or of an IPAM plugin.
    Add(u8, bool),
    /// The same once more for the namespace that is there.
    AddAgain(u8),
    Del(u8),
    /// The pod ends, and nobody says so.
    End(u8),
    /// The runtime has all taken away that it does not know.
    Gc,
    /// What the agent does by itself.
    Collect,
    /// The agent is killed, and the next one starts.
    Restart,
}

/// A container, as the runtime knows it.
#[derive(Clone, Debug)]
struct Container {
    namespace: u64,
    /// What ADD answered; none: it failed, and DEL is still to come.
    answered: Option<Vec<IpAddr>>,
}

struct Scene {
    range: &'static str,
    machine: Machine,
    ledger: Ledger,
    runtime: BTreeMap<u8, Container>,
    /// The containers to which the IPAM plugin has given an address.
    given: BTreeSet<u8>,
    /// Those of which it will never be told: their ADD or DEL failed, and the runtime owes a DEL.
    forsaken: BTreeSet<u8>,
}

fn id(container: u8) -> PodInterface {
    PodInterface { network: "net".into(), container: format!("c{container}"), interface: "eth0".into() }
}

fn network() -> NetworkConfig {
    let range = ClusterRange { range: "10.0.0.0/24".parse().unwrap(), node_prefix: 29 };
    NetworkConfig {
        vni: Vni::new(7).unwrap(),
        ranges: vec![range],
        interface: "weft0".to_owned(),
        mac: MacAddr::from_u64(0x0200_0000_0001),
        masquerade: false,
        masquerade_exceptions: Vec::new(),
        reserved: vec!["10.0.0.10/32".parse().unwrap()],
    }
}

fn ask(container: u8, delegated: bool) -> Attach {
    let given = PodAddress { address: format!("192.0.2.{container}/24"), gateway: None };
    Attach {
        pod: id(container),
        netns: "/run/netns/pod".to_owned(),
        label: None,
        vni: None,
        mac: None,
        mtu: None,
        addresses: if delegated {
            AddressSource::Given(vec![given])
        } else {
            AddressSource::Node { requested: Vec::new() }
        },
        default_route: None,
        routes: Vec::new(),
        wait: Wait::Node,
        wait_timeout_ms: None,
    }
}

impl Scene {
    fn attach(&mut self, container: u8, namespace: u64, delegated: bool) -> Option<Vec<IpAddr>> {
        let identity =
            Identity { path: "/run/netns/pod".into(), visible: true, cookie: Some(namespace), inode: namespace % 3 };
        let (network, ranges, vnis) = (network(), [self.range.parse().unwrap()], [Vni::new(7).unwrap()]);
        let ask = ask(container, delegated);
        let planned = |ledger: &Ledger| {
            let names = ledger.pods().map(|pod| pod.port.as_str()).collect();
            let (network, addresses) = (Some(&network), BTreeSet::new());
            let around =
                Surroundings { network, ranges: &ranges, vnis: &vnis, addresses, names, has_default: [false; 2] };
            plan(ledger, &around, &ask, identity.clone())
        };
        let (pod, _) = steps::attach(&mut self.ledger, &mut self.machine, &ask.pod, &identity, planned).ok()?;
        // Between the last step and the answer it may be killed too.
        self.machine.step().ok()?;
        Some(pod.addresses.iter().map(|one| one.address.addr()).collect())
    }

    /// ADD as the plugin does it, which is killed with the agent.
    fn add(&mut self, container: u8, namespace: u64, delegated: bool) -> Option<Vec<IpAddr>> {
        if delegated {
            // It knows a container by its name, and gives it the same again.
            self.given.insert(container);
            self.forsaken.remove(&container);
        } else if self.given.contains(&container) {
            self.forsaken.insert(container);
        }
        self.machine.step().ok()?;
        let attached = self.attach(container, namespace, delegated);
        if attached.is_none() && self.machine.step().is_ok() {
            self.given.remove(&container);
        }
        attached
    }

    /// GC in the same way.
    fn gc(&mut self) -> Option<()> {
        let valid: BTreeSet<PodInterface> = self.runtime.keys().map(|container| id(*container)).collect();
        let unused = self.ledger.pods().map(|pod| pod.id.clone()).filter(|id| !valid.contains(id)).collect();
        steps::end_all(&mut self.ledger, &mut self.machine, unused);
        let ended: Vec<PodInterface> = self.ledger.pods().filter(|pod| pod.ended).map(|pod| pod.id.clone()).collect();
        for ended in &ended {
            self.machine.step().ok()?;
            self.given.retain(|container| id(*container) != *ended);
        }
        self.machine.step().ok()?;
        steps::release(&mut self.ledger, &mut self.machine, &ended);
        Some(())
    }

    fn act(&mut self, act: Act) {
        match act {
            // Neither comes twice without a DEL between.
            Act::Add(container, delegated) if !self.runtime.contains_key(&container) => {
                self.machine.cookies += 1;
                let namespace = self.machine.cookies;
                self.machine.namespaces.insert(namespace, None);
                let answered = self.add(container, namespace, delegated);
                self.runtime.insert(container, Container { namespace, answered });
            }
            Act::AddAgain(container) => {
                let Some(known) = self.runtime.get(&container).cloned() else { return };
                if let (true, Some(before)) = (self.machine.namespaces.contains_key(&known.namespace), known.answered) {
                    let delegated = before.iter().any(|address| address.to_string().starts_with("192."));
                    if let Some(again) = self.attach(container, known.namespace, delegated) {
                        assert_eq!(again, before, "asked again, it says the same");
                    }
                }
            }
            Act::Del(container) => {
                let detached = steps::detach(&mut self.ledger, &mut self.machine, &id(container)).is_ok();
                let done = detached && self.machine.step().is_ok();
                if done {
                    self.given.remove(&container);
                    self.forsaken.remove(&container);
                } else if !self.runtime.contains_key(&container) {
                    self.forsaken.insert(container);
                }
                if let Some(known) = self.runtime.get_mut(&container) {
                    if done && self.machine.step().is_ok() {
                        self.machine.namespaces.remove(&known.namespace);
                        self.runtime.remove(&container);
                    } else {
                        known.answered = None;
                    }
                }
            }
            Act::End(container) => {
                if let Some(known) = self.runtime.remove(&container) {
                    self.machine.namespaces.remove(&known.namespace);
                    if known.answered.is_none() {
                        self.forsaken.insert(container);
                    }
                }
            }
            Act::Collect => _ = steps::collect(&mut self.ledger, &mut self.machine),
            Act::Gc => _ = self.gc(),
            Act::Restart => self.machine.steps_left = Some(0),
            Act::Add(..) => {}
        }
    }

    /// The next agent, which is not killed.
    fn restart(&mut self) {
        self.machine.steps_left = None;
        self.machine.ports.clear();
        self.ledger = self.machine.disk.clone();
        steps::restore(&mut self.ledger, &mut self.machine);
    }

    /// Never do two living pods have one address.
    fn check_always(&self) -> TestCaseResult {
        let given: Vec<IpAddr> = self.machine.namespaces.values().flatten().flatten().copied().collect();
        let distinct: BTreeSet<IpAddr> = given.iter().copied().collect();
        prop_assert_eq!(given.len(), distinct.len(), "two pods have one address: {:?}", given);
        Ok(())
    }

    /// One recovery: an agent that starts, and the DEL of each ADD that failed. IPAM plugins are called by the runtime,
    /// so their addresses come back by DEL or GC alone.
    fn recover(&mut self) -> TestCaseResult {
        self.restart();
        let failed = self.runtime.iter().filter(|(_, known)| known.answered.is_none()).map(|(container, _)| *container);
        for container in failed.collect::<Vec<_>>() {
            self.act(Act::Del(container));
        }
        steps::collect(&mut self.ledger, &mut self.machine);
        let taken: Vec<IpAddr> =
            self.ledger.living().flat_map(|pod| &pod.addresses).map(|one| one.address.addr()).collect();
        let devices = self.machine.namespaces.values().flatten().flatten().count();
        prop_assert_eq!(taken.len(), devices, "who has ended has no device, and the others have theirs");
        let valid: BTreeSet<PodInterface> = self.runtime.keys().map(|container| id(*container)).collect();
        let unused = self.ledger.pods().map(|pod| pod.id.clone()).filter(|id| !valid.contains(id)).collect::<Vec<_>>();
        for id in &unused {
            prop_assert!(self.ledger.get(id).is_some_and(|pod| pod.delegated && pod.ended), "{:?} is leaked", id);
        }
        self.gc();
        let known: BTreeSet<PodInterface> = self.ledger.pods().map(|pod| pod.id.clone()).collect();
        prop_assert_eq!(&known, &valid, "what an IPAM plugin took back need not be known");
        let is_delegated = |address: &IpAddr| address.to_string().starts_with("192.");
        let delegated = self.runtime.iter().filter(|(_, known)| known.answered.iter().flatten().any(is_delegated));
        let delegated: BTreeSet<u8> = delegated.map(|(container, _)| *container).collect();
        let leaked = self.given.iter().find(|given| !delegated.contains(given) && !self.forsaken.contains(given));
        prop_assert!(leaked.is_none(), "the IPAM plugin was never told that {:?} has ended", leaked);
        prop_assert!(delegated.is_subset(&self.given), "{:?} have addresses, given are {:?}", delegated, self.given);
        let living: BTreeSet<IpAddr> =
            self.runtime.values().flat_map(|known| known.answered.clone().unwrap()).collect();
        prop_assert_eq!(&self.ledger.taken(), &living, "what is given is what the living have");
        prop_assert_eq!(&self.machine.disk, &self.ledger, "and so says the file");
        let devices: BTreeSet<IpAddr> = self.machine.namespaces.values().flatten().flatten().copied().collect();
        prop_assert_eq!(&devices, &living, "and so say the devices");
        prop_assert_eq!(&self.machine.ports, &valid, "and all of them are forwarded for");
        self.check_always()
    }

    fn play(range: &'static str, acts: &[(Act, Option<u8>)]) -> TestCaseResult {
        let (machine, ledger, runtime) = (Machine::default(), Ledger::default(), BTreeMap::new());
        let (given, forsaken) = (BTreeSet::new(), BTreeSet::new());
        let mut scene = Self { range, machine, ledger, runtime, given, forsaken };
        for (act, killed_after) in acts {
            scene.machine.steps_left = *killed_after;
            scene.act(*act);
            scene.check_always()?;
            if scene.machine.steps_left == Some(0) {
                scene.restart();
                scene.check_always()?;
            }
        }
        scene.recover()
    }
}

fn act() -> impl Strategy<Value = Act> {
    let container = || 0..CONTAINERS;
    prop_oneof![
        6 => (container(), prop::bool::weighted(0.3)).prop_map(|(container, delegated)| Act::Add(container, delegated)),
        1 => container().prop_map(Act::AddAgain),
        4 => container().prop_map(Act::Del),
        3 => container().prop_map(Act::End),
        1 => Just(Act::Collect),
        2 => Just(Act::Gc),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: SEQUENCES, ..ProptestConfig::default() })]

    #[test]
    fn after_any_sequence_the_addresses_given_are_those_of_the_living(
        acts in prop::collection::vec((act(), prop::option::weighted(0.4, 0..STEPS)), 1..24),
    ) {
        Scene::play(FEW, &acts)?;
    }
}

#[test]
fn killed_at_each_step_of_each_act_it_recovers() {
    let acts = [
        Act::Add(0, false),
        Act::Add(1, false),
        Act::Add(0, true),
        Act::AddAgain(0),
        Act::Del(0),
        Act::End(0),
        Act::Collect,
        Act::Gc,
    ];
    let mut played = 0;
    for first in acts {
        for second in acts {
            for third in acts {
                for killed in 0..STEPS {
                    for which in 0..3 {
                        let mut acts = [(first, None), (second, None), (third, None)];
                        acts[which].1 = Some(killed);
                        Scene::play(ONE, &acts).unwrap_or_else(|error| panic!("{acts:?}: {error}"));
                        played += 1;
                    }
                }
            }
        }
    }
    assert_eq!(played, 8 * 8 * 8 * 3 * usize::from(STEPS));
}

/// Asks for one pod after the other, and says what each got.
fn given(asked: impl IntoIterator<Item = AddressSource>) -> Vec<Result<String, Refusal>> {
    let (network, ranges, vnis) = (network(), ["10.0.0.8/29".parse().unwrap()], [Vni::new(7).unwrap()]);
    let mut ledger = Ledger::default();
    let plan_one = |(number, addresses): (usize, AddressSource)| {
        let around = Surroundings {
            network: Some(&network),
            ranges: &ranges,
            vnis: &vnis,
            addresses: ["10.0.0.12".parse().unwrap()].into(),
            names: BTreeSet::new(),
            has_default: [false; 2],
        };
        let ask = Attach { addresses, ..ask(number as u8, false) };
        let identity = Identity { path: String::new(), visible: true, cookie: None, inode: 1 };
        let pod = plan(&ledger, &around, &ask, identity).map_err(|refused| refused.refusal)?;
        let address = pod.addresses[0].address.to_string();
        ledger.insert(pod);
        Ok(address)
    };
    asked.into_iter().enumerate().map(plan_one).collect()
}

fn requested(addresses: &[&str]) -> AddressSource {
    AddressSource::Node { requested: addresses.iter().map(|one| one.parse().unwrap()).collect() }
}

#[test]
fn addresses_have_the_clusters_prefix_and_reserved_ones_are_given_on_request_alone() {
    let all = given((0..4).map(|_| requested(&[])));
    let (address, none) = (|text: &str| Ok(text.to_owned()), Err(Refusal::Exhausted));
    // The range's own 8 is no host's, 9 the node's, 10 reserved, 12 a port's of the file, and 15 the broadcast.
    assert_eq!(all, [address("10.0.0.11/24"), address("10.0.0.13/24"), address("10.0.0.14/24"), none]);
    let asked = given([
        requested(&["10.0.0.10"]),
        requested(&["10.0.0.10"]),
        requested(&["10.0.0.12"]),
        requested(&["10.0.0.9"]),
        requested(&["10.0.0.16"]),
        requested(&["10.0.0.13", "10.0.0.14"]),
        requested(&["fd00::1"]),
        AddressSource::Given(vec![PodAddress { address: "10.0.0.1/24".to_owned(), gateway: None }]),
    ]);
    let invalid = Err(Refusal::Invalid);
    let taken = Err(Refusal::Taken);
    assert_eq!(asked[0], address("10.0.0.10/24"));
    assert_eq!(asked[1..], [&taken, &taken, &invalid, &invalid, &invalid, &invalid, &taken].map(Clone::clone));
}
