//! What holds at every moment since a store went back: who forwarded to a pod that is where it was goes on to do so, as
//! long as nothing happens to the pod, to its machine or to who forwards, and both reach each other.

use std::net::IpAddr;

use weft_bridge::Attachment;

use crate::agent::{Pod, SimAgent};
use crate::store::Backup;
use crate::world::{Machine, World};

/// That a machine forwards for a pod to the machine that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwards {
    from: usize,
    to: usize,
    pod: Pod,
    at: IpAddr,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Law {
    holds: Vec<Forwards>,
    /// How often something was looked after.
    pub(crate) looks: usize,
}

impl World {
    /// The store goes back, and some may not see that once its revisions have caught up.
    pub(crate) fn restore_unheard(&mut self, backup: &Backup) {
        self.store.restore(backup, false);
        self.store_went_back = true;
        self.law.holds.clear();
    }

    /// The store goes back, or is another one with what it had then. Who is not cut off hears of it at once.
    pub(crate) fn restore(&mut self, backup: &Backup, new_cluster: bool) {
        if new_cluster {
            self.store.restore(backup, true);
            self.store_went_back = true;
            self.begin_law(|_| true);
            return;
        }
        self.restore_unheard(backup);
        self.begin_law(|agent| !agent.cut_off);
        for machine in 0..self.machines.len() {
            self.meet(machine, 0, 0, false);
        }
    }

    /// Of each agent that learns that the store went back.
    fn begin_law(&mut self, learns: impl Fn(&SimAgent) -> bool) {
        for from in 0..self.machines.len() {
            let Some(agent) = self.machines[from].agent.as_ref().filter(|agent| learns(agent)) else { continue };
            let name = &self.machines[from].identity.name;
            let others =
                self.machines.iter().enumerate().filter(|(place, other)| *place != from && other.agent.is_some());
            let has_rival = others.into_iter().any(|(_, other)| other.identity.name == *name);
            if has_rival || agent.is_nobody(self.store.now) || self.is_unaware(from) {
                continue;
            }
            let tables = agent.switch.tables();
            for domain in tables.domains() {
                for (mac, attachment) in domain.static_macs() {
                    let Attachment::Vtep(id) = attachment else { continue };
                    let (pod, at) = ((domain.vni(), mac), tables.vtep(id).unwrap().address);
                    let held = self.owner(pod, at).filter(|to| *to != from && self.is_known(from, *to, pod));
                    let forwards = held.map(|to| Forwards { from, to, pod, at });
                    self.law.holds.extend(forwards.filter(|forwards| !self.law.holds.contains(forwards)));
                }
            }
        }
    }

    /// The machine that has a pod at an address, if no other has it, or its name.
    fn owner(&self, pod: Pod, at: IpAddr) -> Option<usize> {
        let mut owners = (0..self.machines.len()).filter(|place| self.machines[*place].pods.contains(&pod));
        let owner = owners.next().filter(|_| owners.next().is_none())?;
        let machine = &self.machines[owner];
        let agent = machine.agent.as_ref()?;
        let others = self.machines.iter().enumerate().filter(|(place, other)| *place != owner && other.agent.is_some());
        let is_another = |other: &Machine| other.identity.name != machine.identity.name && other.identity.address != at;
        let is_one = others.into_iter().all(|(_, other)| is_another(other));
        // Others may have heard of its removal already.
        let is_out = agent.is_nobody(self.store.now) || self.is_unaware(owner);
        (is_one && machine.identity.address == at && !is_out).then_some(owner)
    }

    /// Whether one machine knows a pod of another as that one's, and nobody else's.
    fn is_known(&self, from: usize, to: usize, pod: Pod) -> bool {
        let view = &self.machines[from].agent.as_ref().unwrap().view;
        let claims = |member| view.endpoints(member).any(|row| (row.vni, row.mac) == pod);
        let mut claimants = view.members().filter(|(_, member)| claims(member));
        let Some((name, member)) = claimants.next().filter(|_| claimants.next().is_none()) else { return false };
        let owner = &self.machines[to].identity;
        // A backup may have the end of the claim, and not the next one.
        let was_removed = self.removed.contains(&(name.to_owned(), member.row().incarnation()));
        // Who does not know it does not answer its probes, and is let go when its lease ends.
        let is_answered = self.answering(from).contains(&owner.address);
        name == owner.name && member.row().record.instance == owner.instance && is_answered && !was_removed
    }

    fn is_parted(&self, one: usize, other: usize) -> bool {
        self.parted.contains(&(one.min(other), one.max(other)))
    }

    /// A machine ends, or is another one: nothing has to hold of it.
    pub(crate) fn excuse(&mut self, machine: usize) {
        self.law.holds.retain(|forwards| ![forwards.from, forwards.to].contains(&machine));
    }

    /// Machines of a name are no more alone in it.
    pub(crate) fn excuse_name(&mut self, name: &str) {
        let machines = &self.machines;
        let is_of_name = |place: usize| machines[place].identity.name == name;
        self.law.holds.retain(|forwards| !is_of_name(forwards.from) && !is_of_name(forwards.to));
    }

    /// What has to hold of a machine.
    pub(crate) fn check_law(&mut self, machine: usize) {
        let (mut law, now) = (std::mem::take(&mut self.law), self.store.now);
        let is_out = |place: usize| self.machines[place].agent.as_ref().is_none_or(|agent| agent.is_nobody(now));
        law.holds.retain(|Forwards { from, to, pod, at }| {
            self.owner(*pod, *at) == Some(*to) && !is_out(*from) && !self.is_parted(*from, *to)
        });
        for Forwards { pod: (vni, mac), at, to, .. } in law.holds.iter().filter(|forwards| forwards.from == machine) {
            law.looks += 1;
            let agent = self.machines[machine].agent.as_ref().unwrap();
            let tables = agent.switch.tables();
            let owner = tables.domain(*vni).unwrap().static_mac(*mac);
            let known = owner.and_then(|owner| match owner {
                Attachment::Vtep(id) => tables.vtep(id).map(|vtep| vtep.address),
                Attachment::Port(_) => None,
            });
            let name = &self.machines[machine].identity.name;
            assert_eq!(known, Some(*at), "{name} forgot {vni} {mac}, which is at machine {to}: {:#?}", agent.view);
        }
        self.law = law;
    }
}
