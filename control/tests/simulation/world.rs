//! All agents, the store and the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use weft_bridge::Attachment;
use weft_control::cluster::record::{AddressRange, ForeignVtep, Network, Node, RECORD_VERSION, read, write};
use weft_control::cluster::{
    ClusterRange, Key, NoRanges, View, conflicts, foreign_removal, reconcile, removal, wanted,
};
use weft_encap::{Encapsulation, MacAddr, Offload, Vni};
use weft_store::KeyRange;
use weft_store::client::Operation;

use crate::agent::{Identity, Pod, SimAgent, keys};
use crate::law::Law;
use crate::store::{SimStore, TTL};

/// Of a round in which everybody is at work.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds after which everything has come to rest: leases have ended, and more.
const ROUNDS: i64 = TTL;

pub(crate) fn vni(id: u32) -> Vni {
    Vni::new(id).unwrap()
}

pub(crate) fn pod(vni_id: u32, number: u8) -> Pod {
    (vni(vni_id), MacAddr([2, 0, 0, 0, 0, number]))
}

pub(crate) fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

/// A machine: what it is, which pods it has, and its agent if that runs.
pub(crate) struct Machine {
    pub(crate) identity: Identity,
    pub(crate) pods: BTreeSet<Pod>,
    pub(crate) agent: Option<SimAgent>,
}

pub(crate) struct World {
    pub(crate) store: SimStore,
    pub(crate) machines: Vec<Machine>,
    network: Network,
    /// The ranges that each name was seen to have, until somebody gives them back.
    kept: BTreeMap<String, Vec<IpNet>>,
    /// Machines whose node was removed while they had the name by this claim.
    unaware: BTreeMap<usize, Option<i64>>,
    /// Claims of names that the operator ended.
    pub(crate) removed: BTreeSet<(String, i64)>,
    /// What agents were granted may have been forgotten since.
    pub(crate) store_went_back: bool,
    /// Pairs of machines whose underlay is parted, the smaller first.
    pub(crate) parted: BTreeSet<(usize, usize)>,
    /// Foreign VTEPs, in both VNIs.
    pub(crate) foreign: BTreeSet<IpAddr>,
    /// What has to hold since the store went back.
    pub(crate) law: Law,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_network(19)
    }

    /// With nodes' IPv4 ranges of this prefix length, of 16 bits for the cluster.
    pub(crate) fn with_network(node_prefix: u8) -> Self {
        let range = |range: &str, node_prefix| ClusterRange { range: range.parse().unwrap(), node_prefix };
        let network = Network::new(vni(1), vec![range("10.244.0.0/16", node_prefix), range("fd00:244::/48", 64)]);
        Self {
            store: SimStore::new(),
            machines: Vec::new(),
            network,
            kept: BTreeMap::new(),
            unaware: BTreeMap::new(),
            removed: BTreeSet::new(),
            store_went_back: false,
            parted: BTreeSet::new(),
            foreign: BTreeSet::new(),
            law: Law::default(),
        }
    }

    /// Adds a machine of this name, with an address by its place, in VNIs 1 and 2.
    pub(crate) fn add(&mut self, name: &str, pods: &[Pod]) -> usize {
        let number = self.machines.len() as u8 + 1;
        let identity = Identity {
            name: name.to_owned(),
            instance: format!("instance {number}"),
            address: address(number),
            vnis: [vni(1), vni(2)].into(),
            network: self.network.clone(),
            had: Vec::new(),
        };
        self.machines.push(Machine { identity, pods: pods.iter().copied().collect(), agent: None });
        self.machines.len() - 1
    }

    pub(crate) fn start(&mut self, machine: usize) {
        self.excuse(machine);
        let name = self.machines[machine].identity.name.clone();
        self.excuse_name(&name);
        let Machine { identity, pods, agent } = &mut self.machines[machine];
        *agent = Some(SimAgent::start(identity.clone(), pods));
    }

    pub(crate) fn kill(&mut self, machine: usize) {
        self.excuse(machine);
        let Machine { identity, agent, .. } = &mut self.machines[machine];
        if let Some(Ok(ranges)) = agent.take().as_ref().and_then(|agent| agent.membership.ranges()) {
            identity.had.clone_from(ranges);
        }
    }

    /// Its ranges, or why it has none.
    pub(crate) fn ranges(&self, machine: usize) -> Option<Result<Vec<IpNet>, NoRanges>> {
        self.machines[machine].agent.as_ref()?.membership.ranges().cloned()
    }

    /// Names keep their ranges, whatever becomes of agents and leases; and never do two have the same.
    pub(crate) fn check_kept(&mut self) {
        if self.store_went_back {
            return;
        }
        for place in 0..self.machines.len() {
            let Some(Ok(ranges)) = self.ranges(place) else { continue };
            if self.is_unaware(place) {
                continue;
            }
            self.unaware.remove(&place);
            let name = &self.machines[place].identity.name;
            let kept = self.kept.entry(name.clone()).or_insert_with(|| ranges.clone());
            assert_eq!(*kept, ranges, "{name} keeps its ranges");
        }
        let all: Vec<IpNet> = self.kept.values().flatten().copied().collect();
        assert_eq!(BTreeSet::from_iter(&all).len(), all.len(), "no range is given twice: {:?}", self.kept);
    }

    /// Whether its node was removed, and it has not heard of it.
    pub(crate) fn is_unaware(&self, machine: usize) -> bool {
        let Machine { agent: Some(agent), .. } = &self.machines[machine] else { return false };
        self.unaware.get(&machine) == Some(&agent.membership.incarnation())
    }

    pub(crate) fn agent(&mut self, machine: usize) -> &mut SimAgent {
        self.machines[machine].agent.as_mut().unwrap()
    }

    pub(crate) fn set_pods(&mut self, machine: usize, pods: &[Pod]) {
        let machine = &mut self.machines[machine];
        machine.pods = pods.iter().copied().collect();
        if let Some(agent) = &mut machine.agent {
            agent.set_pods(&machine.pods);
        }
    }

    /// The operator ends a machine's agent, and removes its node.
    pub(crate) fn remove(&mut self, machine: usize) {
        self.kill(machine);
        let name = &self.machines[machine].identity.name;
        let rows = self.store.list(&KeyRange::One(keys().write(&Key::Node(name.clone()))));
        let ranges = self.store.list(&keys().ranges());
        self.kept.remove(name);
        let removed = name.clone();
        let mut view = View::new(keys());
        view.list(0, &rows, false);
        self.removed.extend(view.member(name).map(|member| (removed.clone(), member.row().incarnation())));
        // Another machine of the name goes on until it hears of it.
        for (place, machine) in self.machines.iter().enumerate() {
            if let Some(agent) = machine.agent.as_ref().filter(|_| machine.identity.name == *name) {
                self.unaware.insert(place, agent.membership.incarnation());
            }
        }
        let (conditions, operations) = removal(&keys(), name, rows.first(), &ranges, self.store.grant());
        assert!(self.store.commit(&conditions, &operations).unwrap().succeeded);
        self.excuse_name(&removed);
    }

    /// The operator writes a foreign VTEP, or removes it.
    pub(crate) fn set_foreign(&mut self, address: IpAddr, is_there: bool) {
        let operation = if is_there {
            let (encapsulation, vnis) = (Encapsulation::Vxlan, vec![vni(1), vni(2)]);
            let row = ForeignVtep { version: RECORD_VERSION, address, encapsulation, udp_port: 4789, vnis };
            self.foreign.insert(address);
            Operation::Put(keys().write(&Key::Foreign(address)), write(&row).into(), None)
        } else {
            self.foreign.remove(&address);
            foreign_removal(&keys(), address, self.store.grant())
        };
        assert!(self.store.commit(&[], &[operation]).unwrap().succeeded);
    }

    /// Addresses at which a data plane answers a machine: one that runs, and knows the machine.
    pub(crate) fn answering(&self, asker: usize) -> BTreeSet<IpAddr> {
        let address = self.machines[asker].identity.address;
        let knows = |agent: &SimAgent| agent.switch.tables().vtep_by_address(address).is_some();
        let is_reached = |place: usize| !self.parted.contains(&(asker.min(place), asker.max(place)));
        let answering = self
            .machines
            .iter()
            .enumerate()
            .filter(|(place, machine)| is_reached(*place) && machine.agent.as_ref().is_some_and(knows));
        answering.map(|(_, machine)| machine.identity.address).collect()
    }

    /// One agent meets the store, in part perhaps, and settles.
    pub(crate) fn meet(&mut self, machine: usize, revisions: usize, requests: usize, lose_answer: bool) {
        let answering = self.answering(machine);
        let silent = |node: &Node| !node.addresses.iter().any(|address| answering.contains(address));
        if let Some(agent) = &mut self.machines[machine].agent {
            agent.meet(&mut self.store, revisions, requests, lose_answer);
            agent.settle(silent, self.store.now);
        }
        self.check_kept();
        self.check_law(machine);
    }

    /// All agents meet the store, as long as they have to say something.
    pub(crate) fn meet_all(&mut self) {
        for machine in 0..self.machines.len() {
            self.meet(machine, 100_000, usize::MAX, false);
        }
    }

    /// Time goes on, with everybody at work.
    pub(crate) fn rest(&mut self) {
        for round in 0..ROUNDS {
            self.store.advance(ROUND);
            for agent in self.machines.iter_mut().filter_map(|machine| machine.agent.as_mut()) {
                if agent.refused {
                    agent.membership.retry();
                }
                // What agents do now and then: look after what is theirs, and believe that all others have. Once more when
                // most are at rest: who found no range free may find one by then.
                if round == 0 || round == ROUNDS * 3 / 4 {
                    agent.membership.verify();
                } else if round == ROUNDS / 2 {
                    agent.view.trust();
                }
            }
            self.meet_all();
        }
        // What was said last is heard by all.
        self.meet_all();
        self.meet_all();
    }

    /// The machines whose agents take part.
    fn joined(&self) -> Vec<usize> {
        let takes_part = |machine: &Machine| machine.agent.as_ref().is_some_and(|agent| !agent.refused);
        (0..self.machines.len()).filter(|place| takes_part(&self.machines[*place])).collect()
    }

    /// The law, once all is at rest.
    pub(crate) fn check(&mut self) {
        let joined = self.joined();
        let names: BTreeSet<&str> = joined.iter().map(|place| self.machines[*place].identity.name.as_str()).collect();
        assert_eq!(names.len(), joined.len(), "each name is had by one");
        for machine in self.machines.iter().filter(|machine| machine.agent.is_some()) {
            assert!(names.contains(machine.identity.name.as_str()), "{} is had by nobody", machine.identity.name);
        }
        let mut owners: BTreeMap<Pod, Vec<usize>> = BTreeMap::new();
        for place in &joined {
            let machine = &self.machines[*place];
            for pod in machine.pods.iter().filter(|(vni, _)| machine.identity.vnis.contains(vni)) {
                owners.entry(*pod).or_default().push(*place);
            }
        }
        self.check_ranges();
        // Where several have a pod, all the others agree on who it is.
        let mut agreed: BTreeMap<Pod, IpAddr> = BTreeMap::new();
        for place in &joined {
            self.check_tables(*place, &joined, &owners, &mut agreed);
        }
        for place in &joined {
            self.check_frames(*place, &owners);
        }
        for place in &joined {
            let known = conflicts(&self.machines[*place].agent.as_ref().unwrap().view);
            let named = known.iter().filter(|conflict| conflict.what.starts_with("MAC")).count();
            let several = owners.values().filter(|owners| owners.len() > 1).count();
            assert_eq!(named, several, "each MAC that several have is named: {known:?}");
        }
    }

    /// Each has ranges of its own, as the store and all others have it, or there are none left.
    pub(crate) fn check_ranges(&self) {
        let joined = self.joined();
        let rows = self.store.list(&keys().ranges());
        let mut given: BTreeMap<IpNet, String> = BTreeMap::new();
        for row in &rows {
            let record: AddressRange = read(&row.value).unwrap();
            given.insert(record.range, record.node);
        }
        for place in &joined {
            let Machine { identity, agent, .. } = &self.machines[*place];
            let view = &agent.as_ref().unwrap().view;
            let known: BTreeMap<IpNet, String> =
                view.ranges().map(|row| (row.record.range, row.record.node.clone())).collect();
            assert_eq!(known, given, "{}", identity.name);
            assert_eq!(view.network(), Some(&self.network));
            match self.ranges(*place) {
                None => panic!("{} does not know its ranges", identity.name),
                Some(Ok(ranges)) => {
                    let own: Vec<IpNet> =
                        given.iter().filter(|(_, node)| **node == identity.name).map(|(range, _)| *range).collect();
                    assert_eq!(own, ranges, "{} has these, and no others", identity.name);
                    for other in &joined {
                        let seen = &self.machines[*other].agent.as_ref().unwrap().view;
                        let (_, member) = seen.members().find(|(name, _)| *name == identity.name).unwrap();
                        assert_eq!(member.row().record.pod_ranges, ranges);
                    }
                }
                Some(Err(refused)) => {
                    assert!(matches!(refused, NoRanges::Exhausted { .. }), "{refused}");
                    let cluster = self.network.ranges[0];
                    assert_eq!(cluster.choose("another", None, &given.keys().copied().collect()), None);
                }
            }
        }
    }

    fn check_tables(
        &self,
        place: usize,
        joined: &[usize],
        owners: &BTreeMap<Pod, Vec<usize>>,
        agreed: &mut BTreeMap<Pod, IpAddr>,
    ) {
        let own = &self.machines[place];
        let agent = own.agent.as_ref().unwrap();
        let name = &own.identity.name;
        let wanted = wanted(&agent.view, &agent.local());
        let tables = agent.switch.tables();
        assert!(reconcile(&tables, &wanted).is_empty());
        let mut expected: BTreeMap<IpAddr, BTreeSet<Vni>> = BTreeMap::new();
        for other in joined.iter().filter(|other| **other != place) {
            let other = &self.machines[*other].identity;
            let common: BTreeSet<Vni> = own.identity.vnis.intersection(&other.vnis).copied().collect();
            if !common.is_empty() {
                expected.insert(other.address, common);
            }
        }
        expected.extend(self.foreign.iter().map(|address| (*address, own.identity.vnis.clone())));
        let seen: BTreeMap<IpAddr, BTreeSet<Vni>> = tables
            .vteps()
            .map(|(id, vtep)| {
                let domains = tables.domains().filter(|domain| domain.flood_list().contains(&id));
                (vtep.address, domains.map(weft_bridge::BridgeDomain::vni).collect())
            })
            .collect();
        assert_eq!(seen, expected, "{name}: VTEPs and whom they get floods of, by {:#?}", agent.view);
        for domain in tables.domains() {
            for (mac, attachment) in domain.static_macs() {
                let Attachment::Vtep(id) = attachment else { continue };
                let at = tables.vtep(id).unwrap().address;
                let pod = (domain.vni(), mac);
                let owns =
                    owners.get(&pod).into_iter().flatten().any(|owner| self.machines[*owner].identity.address == at);
                assert!(owns, "{name}: {pod:?} is not at {at}");
                assert_eq!(*agreed.entry(pod).or_insert(at), at, "{name}: all agree on who has {pod:?}");
            }
            for (pod, owners) in owners.iter().filter(|((vni, _), _)| *vni == domain.vni()) {
                let known = domain.static_mac(pod.1);
                assert!(known.is_some(), "{name} does not know {pod:?}");
                if owners.contains(&place) {
                    assert!(matches!(known, Some(Attachment::Port(_))), "{name} has {pod:?} itself");
                }
                let ip = IpAddr::from([10, 244, 0, pod.1.0[5]]);
                assert_eq!(domain.neighbour(ip).map(|(mac, _)| mac), Some(pod.1), "{name}: {ip}");
            }
            let has_owner = |mac| owners.contains_key(&(domain.vni(), mac));
            assert!(domain.neighbours().all(|(_, mac)| has_owner(mac)), "{name} has a neighbour that is gone");
        }
    }

    /// Every pod speaks to every other: what leaves goes to who has the receiver, and arrives.
    pub(crate) fn check_frames(&mut self, place: usize, all: &BTreeMap<Pod, Vec<usize>>) {
        let pods: Vec<Pod> = self.machines[place].agent.as_ref().unwrap().ports.keys().copied().collect();
        let source = self.machines[place].identity.address;
        for from in pods {
            for (to, owners) in all.iter().filter(|(to, _)| **to != from && to.0 == from.0) {
                let agent = self.agent(place);
                let bytes = frame(from.1, to.1);
                agent.ports[&from].1.pod_sends(bytes.clone(), Ok(Offload::default()));
                agent.switch.run(weft_bridge::Seconds(1));
                let sent = agent.switch.underlay().sent();
                if owners.contains(&place) {
                    assert!(sent.is_empty(), "{to:?} is here");
                    assert_eq!(agent.ports[to].1.pod_received().len(), 1);
                    continue;
                }
                let [sent] = sent.try_into().expect("one frame leaves");
                let owner = owners.iter().find(|owner| self.machines[**owner].identity.address == sent.peer.ip());
                let owner = *owner.unwrap_or_else(|| panic!("{to:?} is not at {}", sent.peer));
                let agent = self.agent(owner);
                agent.switch.underlay().arrives(source, Encapsulation::Vxlan, sent.segment, 0, sent.bytes);
                agent.switch.run(weft_bridge::Seconds(1));
                let received = agent.ports[to].1.pod_received();
                // What a pod says that is somewhere else too, by what others know, is refused.
                let duplicate = all.get(&from).is_some_and(|owners| owners.len() > 1);
                assert!(duplicate || received.iter().map(|frame| &frame.bytes).eq([&bytes]), "{from:?} to {to:?}");
            }
        }
    }
}

/// A small frame of an experimental EtherType.
pub(crate) fn frame(from: MacAddr, to: MacAddr) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], &[0; 46]].concat()
}
