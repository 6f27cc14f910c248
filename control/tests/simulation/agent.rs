//! An agent's pure halves and a switch in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_bridge::tables::DomainOptions;
use weft_bridge::{Port, PortId, PortMode, Tables};
use weft_control::cluster::record::{Attached, Network, Node, PROBES, RECORD_VERSION, Receives, Standing};
use weft_control::cluster::{
    Keys, Local, Membership, Own, OwnEndpoint, Part, Step, View, Wanted, apply, reconcile, wanted,
};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_switch::memory::{MemoryPort, MemorySwitch};

use crate::store::{SimStore, TTL};

pub(crate) type Pod = (Vni, MacAddr);

const UDP_PORT: u16 = 4789;
/// Requests of one round at most: more than any publication here takes.
const REQUESTS: usize = 20;

/// What survives the process.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) address: IpAddr,
    pub(crate) vnis: BTreeSet<Vni>,
    /// Of which it wants ranges.
    pub(crate) network: Network,
    /// What it keeps of them.
    pub(crate) had: Vec<IpNet>,
}

pub(crate) struct SimAgent {
    pub(crate) identity: Identity,
    pub(crate) membership: Membership,
    pub(crate) view: View,
    pub(crate) switch: MemorySwitch,
    pub(crate) ports: BTreeMap<Pod, (PortId, MemoryPort)>,
    pub(crate) cut_off: bool,
    pub(crate) refused: bool,
    /// How fast its clock goes, in percent.
    pub(crate) clock: u32,
    part: Part,
    /// Its store's time 0.
    epoch: Instant,
    keys: Keys,
    lease: Option<i64>,
    renewed: Duration,
    listed: bool,
    seen: (u64, i64),
}

pub(crate) fn keys() -> Keys {
    Keys::new("/weft")
}

fn endpoint((_, mac): Pod) -> OwnEndpoint {
    let [.., last] = mac.0;
    OwnEndpoint { ips: vec![IpAddr::from([10, 244, 0, last])], port: format!("pod{last}"), attached: Attached::Bound }
}

impl SimAgent {
    pub(crate) fn start(identity: Identity, pods: &BTreeSet<Pod>) -> Self {
        let mut tables = Tables::new(vec![identity.address], vec![UDP_PORT]);
        for vni in &identity.vnis {
            tables.add_domain(*vni, DomainOptions::default()).unwrap();
        }
        let node = Node {
            version: RECORD_VERSION,
            name: identity.name.clone(),
            instance: identity.instance.clone(),
            incarnation: 0,
            epoch: 0,
            standing: Standing::Joining,
            addresses: vec![identity.address],
            receives: vec![Receives { encapsulation: Encapsulation::Vxlan, udp_port: UDP_PORT }],
            underlay_mtu: 1500,
            vnis: identity.vnis.iter().copied().collect(),
            pod_ranges: Vec::new(),
            overlay_addresses: Vec::new(),
            capabilities: vec![PROBES.to_owned()],
        };
        let network = Some((identity.network.clone(), identity.had.clone()));
        let mut agent = Self {
            identity,
            membership: Membership::new(keys(), Own { node, network, endpoints: BTreeMap::new() }),
            view: View::new(keys()),
            switch: MemorySwitch::new(tables, 64),
            ports: BTreeMap::new(),
            cut_off: false,
            refused: false,
            clock: 100,
            part: Part::default(),
            epoch: Instant::now(),
            keys: keys(),
            lease: None,
            renewed: Duration::ZERO,
            listed: false,
            seen: (0, 0),
        };
        agent.set_pods(pods);
        agent
    }

    pub(crate) fn local(&self) -> Local {
        Local {
            node: self.identity.name.clone(),
            addresses: vec![self.identity.address],
            vnis: self.identity.vnis.clone(),
            underlay_mtu: 1500,
            vteps: Vec::new(),
        }
    }

    /// Pods come and go.
    pub(crate) fn set_pods(&mut self, pods: &BTreeSet<Pod>) {
        let mut tables = Tables::clone(&self.switch.tables());
        let gone: Vec<Pod> = self.ports.keys().filter(|pod| !pods.contains(pod)).copied().collect();
        for pod in gone {
            if let Some((id, _)) = self.ports.remove(&pod) {
                tables.remove_port(id);
                self.switch.detach(id);
            }
        }
        let new: Vec<Pod> = pods.iter().filter(|pod| !self.ports.contains_key(pod)).copied().collect();
        let mut ids = Vec::new();
        for (vni, mac) in new {
            let mode = PortMode::Bound { addresses: Vec::new() };
            let id = tables.add_port(Port { name: mac.to_string(), vni, mac, mtu: 1450, mode }).unwrap();
            ids.push(((vni, mac), id));
        }
        self.switch.publish(tables);
        for (pod, id) in ids {
            let port = self.switch.attach(id);
            self.ports.insert(pod, (id, port));
        }
        self.membership.set_endpoints(pods.iter().map(|pod| (*pod, endpoint(*pod))).collect());
    }

    /// The watch broke in a way that only a listing mends.
    pub(crate) fn list_again(&mut self) {
        self.listed = false;
    }

    /// Meets the store: hears of up to so many revisions, and makes up to so many requests, of which the last one's
    /// answer may be lost.
    pub(crate) fn meet(&mut self, store: &mut SimStore, revisions: usize, requests: usize, lose_answer: bool) {
        if self.cut_off {
            return;
        }
        self.keep_lease(store);
        self.hear(store, revisions);
        for request in 0..requests.min(REQUESTS) {
            let lost = lose_answer && request + 1 == requests;
            if !self.ask(store, lost) {
                break;
            }
        }
    }

    /// Looks whether it is the store that it was, as every answer of the client does.
    fn observe(&mut self, store: &SimStore) -> bool {
        let (cluster, revision) = self.seen;
        let replaced = cluster != 0 && (cluster != store.cluster || store.revision() < revision);
        self.seen = (store.cluster, store.revision());
        if replaced {
            self.membership.replaced();
            self.lease = None;
        }
        replaced
    }

    fn hear(&mut self, store: &SimStore, revisions: usize) {
        let replaced = self.observe(store);
        let range = self.keys.all();
        if self.listed && !replaced && revisions > 0 {
            let next = self.view.revision() + 1;
            match store.events(&range, next, revisions) {
                Ok((revision, events)) => self.view.watch(revision, &events),
                Err(_) => self.listed = false,
            }
        }
        if !self.listed || replaced {
            self.view.list(store.revision(), store.list(&range), replaced);
            self.membership.verify();
            self.listed = true;
        }
    }

    /// One request; says whether there was one.
    fn ask(&mut self, store: &mut SimStore, lose_answer: bool) -> bool {
        if self.observe(store) {
            self.view.list(store.revision(), store.list(&self.keys.all()), true);
        }
        let step = self.membership.step();
        self.refused = matches!(step, Step::Refused(_));
        match step {
            Step::Rest => self.part.join(),
            Step::Refused(_) => self.part.refuse(self.epoch + store.now),
            Step::Lease | Step::Write(..) => self.part.claim(),
            Step::Read(_) => {}
        }
        match step {
            Step::Rest | Step::Refused(_) => return false,
            Step::Read(operations) => {
                let read = store.commit(&[], &operations).unwrap();
                self.membership.read(read.revision, &read.rows);
            }
            Step::Lease => {
                let lease = store.grant();
                (self.lease, self.renewed) = (Some(lease), store.now);
                self.membership.leased(lease);
            }
            Step::Write(conditions, operations) => match store.commit(&conditions, &operations) {
                _ if lose_answer => self.membership.uncertain(),
                Some(committed) => self.membership.written(&committed),
                None => self.membership.lease_lost(),
            },
        }
        self.seen = (store.cluster, store.revision());
        true
    }

    /// Renews by its own clock, and notices what that clock lets it notice.
    fn keep_lease(&mut self, store: &mut SimStore) {
        let Some(lease) = self.lease else { return };
        let passed = (store.now - self.renewed) * self.clock / 100;
        if passed < Duration::from_secs(TTL as u64) / 3 {
            return;
        }
        if store.keep_alive(lease) {
            self.renewed = store.now;
        } else {
            self.lease = None;
            self.membership.lease_lost();
        }
    }

    /// Whether another has its name, and it is nobody to the others.
    pub(crate) fn is_nobody(&self, now: Duration) -> bool {
        self.refused && self.part.is_over(self.epoch + now)
    }

    /// Lets go of suspects, and brings the switch to what is known.
    pub(crate) fn settle(&mut self, is_silent: impl Fn(&Node) -> bool, now: Duration) {
        self.view.forget_suspects(is_silent);
        let wanted = if self.is_nobody(now) { Wanted::default() } else { wanted(&self.view, &self.local()) };
        let mut tables = Tables::clone(&self.switch.tables());
        let edits = reconcile(&tables, &wanted);
        apply(&mut tables, edits).unwrap();
        assert!(reconcile(&tables, &wanted).is_empty(), "what is reconciled needs no more edits");
        self.switch.publish(tables);
    }
}
