//! Who waits for a pod to be known elsewhere: in the store, or at the other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_api::{Attach, Attached, PodInterface, Refusal, Reply, Wait};
use weft_bridge::{VtepId, VtepKind};
use weft_encap::Vni;
use weft_encap::search::State;

use super::answers::refusal;
use super::inquiry::{Answered, Inquiry, ROUND};
use super::ledger::Refused;
use crate::agent::Agent;
use crate::api::Answer;
use crate::cluster::Presence;
use crate::cluster::record::REVISIONS;
use crate::following::Following;
use crate::paths::nonce;

/// For how long a pod that was attached waits for its row to be in the store.
const STORE_PATIENCE: Duration = Duration::from_secs(20);
/// And after that for other nodes, where it says nothing else.
const NODES_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked who of them is up.
const LOOK: Duration = Duration::from_millis(100);
/// Nodes that are named in a log line at most.
const NAMED: usize = 5;

/// Those who wait, and those whom they wait for.
#[derive(Default)]
pub(crate) struct Waits {
    pods: Vec<Waiting>,
    inquiry: Inquiry,
    round_at: Option<Instant>,
    looked: Option<Instant>,
}

/// What became of what was asked for.
pub(super) struct Added {
    pub(super) vni: Vni,
    pub(super) attached: Attached,
    /// What the store has to have for its row to be there; none without a store.
    pub(super) number: Option<u64>,
    /// Whether it was not attached before.
    pub(super) is_new: bool,
}

/// One who waits.
struct Waiting {
    id: PodInterface,
    vni: Vni,
    wait: Wait,
    /// For how long it waits for other nodes.
    patience: Duration,
    /// What the store has to have.
    number: u64,
    until: Instant,
    /// None until the store has it.
    others: Option<Others>,
    attached: Attached,
    is_new: bool,
    answer: Answer,
}

/// The nodes that are waited for.
struct Others {
    revision: i64,
    until: Instant,
    /// Those who may still have to come so far; the last is looked at first.
    vteps: Vec<VtepId>,
}

/// What becomes of one who waits.
enum Outcome {
    Waits,
    /// All that he waits for know the pod, or do not count.
    Known,
    /// Time is over, and these do not know it.
    Late(Vec<VtepId>),
    /// Time is over, and the store does not have its row.
    Unpublished,
}

impl Waiting {
    /// `published`: what the store has.
    fn outcome(&mut self, published: u64, inquiry: &Inquiry, now: Instant) -> Outcome {
        if self.number > published {
            return if self.until > now { Outcome::Waits } else { Outcome::Unpublished };
        }
        let Some(Others { revision, until, vteps }) = &mut self.others else { return Outcome::Known };
        let is_missing = |vtep: &VtepId| inquiry.answered(*vtep, *revision, now) == Answered::NotYet;
        while vteps.pop_if(|vtep| !is_missing(vtep)).is_some() {}
        if vteps.is_empty() {
            Outcome::Known
        } else if *until > now {
            Outcome::Waits
        } else {
            Outcome::Late(vteps.iter().copied().filter(is_missing).collect())
        }
    }
}

impl Waits {
    /// When somebody is to be asked next.
    pub(crate) fn round_at(&self) -> Option<Instant> {
        self.round_at
    }

    /// Takes him out who waits for this pod.
    pub(super) fn take(&mut self, id: &PodInterface) -> Option<Answer> {
        let place = self.pods.iter().position(|waiting| waiting.id == *id)?;
        Some(self.pods.swap_remove(place).answer)
    }
}

impl Agent {
    pub(super) fn answer_attached(&mut self, ask: &Attach, added: Added, answer: Answer) {
        let Added { vni, attached, number, is_new } = added;
        let Some(number) = number.filter(|_| ask.wait != Wait::Node) else {
            return answer.give(Reply::Attached(Box::new(attached)));
        };
        let patience = ask.wait_timeout_ms.map_or(NODES_PATIENCE, |ms| Duration::from_millis(ms.into()));
        let (id, wait, until) = (ask.pod.clone(), ask.wait, Instant::now() + STORE_PATIENCE);
        let others = None;
        let waiting = Waiting { id, vni, wait, patience, number, until, others, attached, is_new, answer };
        self.pods.waits.pods.push(waiting);
        self.answer_the_patient();
    }

    /// Answers those whose rows the store has by now, or the other nodes, and those that have waited too long for that.
    pub(crate) fn answer_the_patient(&mut self) {
        let now = Instant::now();
        for reply in self.switch.revision_replies() {
            self.pods.waits.inquiry.hear(reply.vtep, reply.nonce, reply.revision, now);
        }
        let (published, revision) = self.following.as_ref().map_or((u64::MAX, 0), Following::published);
        for mut waiting in std::mem::take(&mut self.pods.waits.pods) {
            if waiting.wait == Wait::Cluster && waiting.others.is_none() && waiting.number <= published {
                waiting.others = Some(self.others(waiting.vni, revision, now + waiting.patience));
            }
            match waiting.outcome(published, &self.pods.waits.inquiry, now) {
                Outcome::Waits => self.pods.waits.pods.push(waiting),
                Outcome::Unpublished => self.refuse_unpublished(waiting),
                Outcome::Late(missing) => {
                    self.tell_late(&waiting, &missing);
                    waiting.answer.give(Reply::Attached(Box::new(waiting.attached)));
                }
                Outcome::Known => waiting.answer.give(Reply::Attached(Box::new(waiting.attached))),
            }
        }
        self.ask_others(now);
    }

    fn tell_late(&mut self, waiting: &Waiting, missing: &[VtepId]) {
        self.following.iter_mut().for_each(Following::count_unconfirmed);
        let tables = self.switch.tables();
        let addresses = missing.iter().filter_map(|vtep| tables.vtep(*vtep)).map(|row| row.address.to_string());
        let addresses: Vec<String> = addresses.take(NAMED).collect();
        tracing::warn!(
            container = waiting.id.container,
            interface = waiting.id.interface,
            nodes = missing.len(),
            vteps = addresses.join(", "),
            "the pod begins, and these nodes do not have its row yet: until then they flood what goes to it"
        );
    }

    /// Takes away what was attached for him, and leaves alone what there was before.
    fn refuse_unpublished(&mut self, waiting: Waiting) {
        let undone = if waiting.is_new { self.detach_pod(&waiting.id) } else { Ok(()) };
        let message = format!(
            "the store does not have the pod's row after {} s, so other nodes would not find it: `weft status` says how the \
             store stands{}",
            STORE_PATIENCE.as_secs(),
            undone.err().map_or(String::new(), |refused| format!("; and it is still attached: {refused}"))
        );
        waiting.answer.give(refusal(Refused::new(Refusal::Later, message)));
    }

    /// Those that are up and take part in a network, from now on asked for this revision.
    fn others(&mut self, vni: Vni, revision: i64, until: Instant) -> Others {
        let tables = self.switch.tables();
        let takes_part = |vtep: &VtepId| tables.domain(vni).is_some_and(|domain| domain.has_member(*vtep));
        let vteps: Vec<VtepId> = self.up().into_iter().filter(takes_part).collect();
        vteps.iter().for_each(|vtep| self.pods.waits.inquiry.want(*vtep, revision, nonce));
        Others { revision, until, vteps }
    }

    /// The VTEPs of nodes that can say what they have, whose lease has not ended, and whose path is not down.
    fn up(&self) -> BTreeSet<VtepId> {
        let (Some(following), tables) = (&self.following, self.switch.tables()) else { return BTreeSet::new() };
        let paths: Option<BTreeMap<VtepId, State>> = self.paths.as_ref().map(|paths| paths.states().collect());
        let is_reached = |vtep: &VtepId| match &paths {
            None => true,
            Some(paths) => !matches!(paths.get(vtep), None | Some(State::Down | State::Unprobed)),
        };
        let is_managed = |vtep: &VtepId| tables.vtep(*vtep).is_some_and(|row| row.kind == VtepKind::Managed);
        let members = following.view().members().filter(|(_, member)| member.presence() == Presence::Present);
        let nodes = members.map(|(_, member)| &member.row().record);
        let nodes = nodes.filter(|node| node.capabilities.iter().any(|one| one == REVISIONS));
        let vteps = nodes.flat_map(|node| &node.addresses).filter_map(|address| tables.vtep_by_address(*address));
        vteps.filter(|vtep| is_managed(vtep) && is_reached(vtep)).collect()
    }

    fn ask_others(&mut self, now: Instant) {
        if !self.pods.waits.pods.iter().any(|waiting| waiting.others.is_some()) {
            self.pods.waits.inquiry.close();
        }
        self.pods.waits.round_at = self.pods.waits.inquiry.is_open().then(|| now + ROUND);
        if !self.pods.waits.inquiry.is_open() {
            return;
        }
        if self.pods.waits.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            self.pods.waits.looked = Some(now);
            let up = self.up();
            self.pods.waits.inquiry.look(&up);
        }
        for (vtep, nonce) in self.pods.waits.inquiry.due(now) {
            self.switch.ask_revision(vtep, nonce);
        }
    }
}
