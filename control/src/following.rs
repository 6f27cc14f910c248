//! What the agent makes of the store's news: the view, tables by it, and what it says of itself.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_api::{ControlStatus, NodeRow};
use weft_bridge::{Attachment, Tables};
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_store::client::Store;
use weft_switch::Switch;

use crate::agent::{AgentError, AttachedPort};
use crate::cluster::ranges::overlay_address;
use crate::cluster::record::{
    Attached, Network, Node, PROBES, RECORD_VERSION, REVISIONS, Receives, Standing as NodeStanding,
};
use crate::cluster::{
    Edit, Holder, Keys, KnownEndpoint, Local, Member, NAME_GRACE, NoRanges, Own, OwnEndpoint, Part, Presence, View,
    apply, conflicts, edits, wanted,
};
use crate::config::{Config, PortConfig};
use crate::instance::instance;
use crate::paths::Paths;
use crate::roaming::{Mac, Roaming, seen};
use crate::silence::is_silent;
use crate::sync::{self, Endpoints, LEASE_SECONDS, News, Standing, Sync};

/// After how long an agent that took over believes a store which went back before: as long as one that saw it does.
const TRUST: Duration = Duration::from_secs(60);
const _: () = assert!(NAME_GRACE.as_secs() > LEASE_SECONDS as u64, "a predecessor's lease ends within the grace");

/// Who published a MAC of a virtual network behind a VTEP address.
pub(crate) type Publishers<'a> = HashMap<(Vni, MacAddr, IpAddr), &'a str>;

/// The cluster, as this agent follows it.
pub(crate) struct Following {
    sync: Sync,
    stores: Vec<String>,
    view: View,
    local: Local,
    standing: Standing,
    /// Since when it has stood so.
    since: Instant,
    part: Part,
    /// Whether the tables in force are those of nobody.
    is_out: bool,
    /// When an agent that took over believes what it was handed in doubt.
    trust_at: Option<Instant>,
    suspected: HashMap<String, Instant>,
    /// This node's, or why it has none.
    ranges: Option<Result<Vec<IpNet>, NoRanges>>,
    /// What was told last of all that is in the store, and the revision at which it is.
    published: (u64, i64),
    new_ranges: bool,
    /// What is claimed by several, as it was when this looked last, and how often there was something new.
    contested: BTreeSet<String>,
    /// Whether it has to look again: the view is another.
    look: bool,
    contested_total: u64,
    /// How often a pod began before all nodes that it waited for had its row.
    unconfirmed_pods: u64,
    roaming: Roaming,
}

impl Following {
    /// Begins to, in the runtime that it is called in, with what is `known` already; none without a store.
    pub(crate) fn start(
        config: &Config,
        ports: &[AttachedPort],
        underlay_mtu: u16,
        known: Option<View>,
    ) -> Result<Option<Self>, AgentError> {
        let Some(control) = &config.control else { return Ok(None) };
        let store = Store::new(control.access()?)?;
        let keys = Keys::new(&control.prefix);
        let network = match &config.network {
            Some(network) => {
                let had = ports.iter().filter(|port| port.config.routes).flat_map(|port| &port.config.addresses);
                let had = had.filter_map(|address| network.range_of(address.addr())).collect();
                Some((Network::new(network.vni, network.ranges.clone()), had))
            }
            None => None,
        };
        let node = node(config, control.encapsulation, underlay_mtu)?;
        // Whose view it takes over had joined under this name.
        let had_joined = known.as_ref().and_then(|view| view.member(&node.name));
        let had_joined = had_joined.is_some_and(|member| member.row().record.instance == node.instance);
        let trust_at = known.as_ref().filter(|view| view.is_doubting()).map(|_| Instant::now() + TRUST);
        let own = Own { node, network, endpoints: endpoints(ports) };
        Ok(Some(Self {
            sync: sync::start(store, keys.clone(), own),
            stores: control.stores.clone(),
            view: known.unwrap_or_else(|| View::new(keys)),
            local: local(config, underlay_mtu),
            standing: Standing::Connecting,
            since: Instant::now(),
            part: Part::new(had_joined),
            is_out: false,
            trust_at,
            suspected: HashMap::new(),
            ranges: None,
            published: (0, 0),
            new_ranges: false,
            contested: BTreeSet::new(),
            look: true,
            contested_total: 0,
            unconfirmed_pods: 0,
            roaming: Roaming::default(),
        }))
    }

    /// What the store tells next.
    pub(crate) async fn next(&mut self) -> Option<News> {
        self.sync.news.recv().await
    }

    /// Takes that, and what waits behind it; says whether other tables may be wanted by it.
    pub(crate) fn take(&mut self, news: News) -> Result<bool, Holder> {
        let (mut next, mut changes) = (Some(news), false);
        while let Some(news) = next {
            changes |= !matches!(news, News::Published { .. } | News::Ranges(_));
            self.look |= match &news {
                News::Written { events, .. } => !events.is_empty(),
                News::Listed { .. } | News::Trust => true,
                _ => false,
            };
            match news {
                News::Listed { revision, listing, replaced } => {
                    self.view.take_listing(revision, listing, replaced);
                    // Then it is told when that is to be believed.
                    self.trust_at = self.trust_at.filter(|_| !replaced);
                }
                News::Written { revision, events } => self.view.watch(revision, &events),
                News::Trust => self.view.trust(),
                News::Standing(standing) => {
                    // Why it is away may change, and it is away all the same.
                    if std::mem::discriminant(&standing) != std::mem::discriminant(&self.standing) {
                        self.since = Instant::now();
                    }
                    match standing {
                        Standing::Connected => self.part.join(),
                        Standing::Publishing => self.part.claim(),
                        Standing::Refused(_) => self.part.refuse(Instant::now()),
                        Standing::Connecting | Standing::Away(_) | Standing::Denied(_) => {}
                    }
                    self.standing = standing;
                }
                News::Ranges(ranges) => {
                    self.ranges = Some(ranges);
                    self.new_ranges = true;
                }
                News::Published { number, revision } => self.published = (number, revision),
                News::NameTaken(holder) => return Err(holder),
            }
            next = self.sync.news.try_recv().ok();
        }
        Ok(changes)
    }

    /// What became of the node's ranges, once for each time.
    pub(crate) fn new_ranges(&mut self) -> Option<Result<Vec<IpNet>, NoRanges>> {
        self.ranges.clone().filter(|_| std::mem::take(&mut self.new_ranges))
    }

    /// Whether it is clear how the agent stands with its store, for now.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.standing, Standing::Connected | Standing::Away(_) | Standing::Denied(_))
    }

    /// Says what this node has behind its ports now.
    ///
    /// Returns the number of what was told, which [`Self::published`] reaches when the store has it.
    pub(crate) fn tell(&self, ports: &[AttachedPort]) -> u64 {
        let mut now: Endpoints = self.roaming.endpoints().collect();
        now.extend(endpoints(ports));
        self.sync.endpoints.send_if_modified(|told| {
            let changed = told.endpoints != now;
            told.number += u64::from(changed);
            told.endpoints = now;
            changed
        });
        self.sync.endpoints.borrow().number
    }

    /// The number of what was told last of all that is in the store, and the revision at which it is.
    pub(crate) fn published(&self) -> (u64, i64) {
        self.published
    }

    /// A pod begins before all nodes that it waited for have its row.
    pub(crate) fn count_unconfirmed(&mut self) {
        self.unconfirmed_pods += 1;
    }

    /// How the conversation with the store stands, in a word.
    pub(crate) fn state(&self) -> &'static str {
        match self.standing {
            Standing::Connecting => "connecting",
            Standing::Connected => "connected",
            Standing::Publishing => "publishing",
            Standing::Away(_) | Standing::Denied(_) => "stale",
            Standing::Refused(_) => "refused",
        }
    }

    /// Whether the store answers, and has all our rows or is about to.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.standing, Standing::Connected | Standing::Publishing)
    }

    /// Forwards by what is known.
    pub(crate) fn publish(&mut self, switch: &Switch, paths: Option<&mut Paths>) {
        self.is_out = self.is_nobody();
        let nothing = self.is_out.then(|| View::new(Keys::new("")));
        for (vni, mac) in forward_by(nothing.as_ref().unwrap_or(&self.view), &self.local, switch, paths) {
            self.roaming.lose((vni, mac), Instant::now());
        }
    }

    /// Whose name another has is nobody to the others, unless it had the name just now.
    fn is_nobody(&self) -> bool {
        matches!(self.standing, Standing::Refused(_)) && self.part.is_over(Instant::now())
    }

    /// Asks something else of the cluster from now on.
    pub(crate) fn be(&mut self, local: Local) {
        self.local = local;
    }

    /// The cluster as it is known.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// What is due once a second.
    pub(crate) fn keep_house(&mut self, ports: &[AttachedPort], switch: &Switch, paths: Option<&mut Paths>) {
        self.look_for_learned(ports, switch);
        self.tell(ports);
        let trusts = self.trust_at.take_if(|at| *at <= Instant::now()).is_some();
        if trusts {
            self.view.trust();
        }
        let forgets = self.forget_suspects(switch, paths.as_deref());
        self.look |= trusts || forgets;
        self.look_for_conflicts();
        if trusts || forgets || self.is_nobody() != self.is_out {
            self.publish(switch, paths);
        }
    }

    fn look_for_learned(&mut self, ports: &[AttachedPort], switch: &Switch) {
        let own = self.view.member(&self.local.node);
        let in_store: HashSet<Mac> = own
            .into_iter()
            .flat_map(|member| self.view.endpoints(member))
            .filter(|row| row.attached == Attached::Learned)
            .map(|row| (row.vni, row.mac))
            .collect();
        self.roaming.look(seen(ports, switch), Instant::now(), |mac| in_store.contains(mac));
    }

    /// Counts and logs what several claim by now. Once a second: a pod that moves is claimed twice for a moment.
    fn look_for_conflicts(&mut self) {
        if !std::mem::take(&mut self.look) {
            return;
        }
        let mut contested = BTreeSet::new();
        for conflict in conflicts(&self.view) {
            if !self.contested.contains(&conflict.what) {
                self.contested_total += 1;
                tracing::warn!(%conflict, "two claim the same");
            }
            contested.insert(conflict.what);
        }
        self.contested = contested;
    }

    fn forget_suspects(&mut self, switch: &Switch, paths: Option<&Paths>) -> bool {
        let members = self.view.members();
        let suspects: Vec<String> = members
            .filter(|(_, member)| member.presence() == Presence::Suspect)
            .map(|(name, _)| name.to_owned())
            .collect();
        self.suspected.retain(|name, _| suspects.contains(name));
        for name in suspects {
            self.suspected.entry(name).or_insert_with(Instant::now);
        }
        let (tables, suspected) = (switch.tables(), &self.suspected);
        let is_silent = |node: &Node| {
            let paths = paths.filter(|_| node.capabilities.iter().any(|one| one == PROBES));
            let vteps = node.addresses.iter().filter_map(|address| tables.vtep_by_address(*address));
            let states = paths.map(|paths| vteps.map(|vtep| paths.of(vtep).map(|path| path.state)).collect::<Vec<_>>());
            let since = suspected.get(&node.name);
            is_silent(states.as_deref(), since.map_or(Duration::ZERO, Instant::elapsed))
        };
        self.view.forget_suspects(|node| {
            let silent = is_silent(node);
            if silent {
                tracing::info!(node = node.name, "let go: its lease has ended, and its path is silent");
            }
            silent
        })
    }

    /// Who has which MAC of a virtual network, by the VTEP address.
    pub(crate) fn publishers(&self) -> Publishers<'_> {
        let mut publishers = Publishers::new();
        for (name, member) in self.view.members() {
            for KnownEndpoint { vni, mac, .. } in self.view.endpoints(member) {
                publishers.extend(member.row().record.addresses.iter().map(|address| ((*vni, *mac, *address), name)));
            }
        }
        publishers
    }

    /// The nodes of the cluster, by name.
    pub(crate) fn nodes(&self) -> Vec<NodeRow> {
        let row = |(name, member): (&str, &Member)| {
            let node = &member.row().record;
            let state = match (member.presence(), node.standing) {
                (Presence::Suspect, _) => "suspect",
                (Presence::Present, NodeStanding::Joined) if !member.is_stale() && !member.is_doubted() => "present",
                (Presence::Present, _) => "joining",
            };
            NodeRow {
                name: name.to_owned(),
                addresses: node.addresses.clone(),
                state: state.to_owned(),
                vnis: node.vnis.iter().map(|vni| vni.get()).collect(),
                ranges: node.pod_ranges.iter().map(ToString::to_string).collect(),
                overlay_addresses: node.overlay_addresses.clone(),
                endpoints: self.view.endpoints(member).count(),
            }
        };
        self.view.members().map(row).collect()
    }

    pub(crate) fn status(&self) -> ControlStatus {
        let reason = match &self.standing {
            Standing::Connecting | Standing::Connected | Standing::Publishing => None,
            Standing::Away(reason) | Standing::Denied(reason) => Some(reason.clone()),
            Standing::Refused(holder) => {
                let addresses: Vec<_> = holder.addresses.iter().map(ToString::to_string).collect();
                Some(format!("another agent, at {}, has this node's name", addresses.join(", ")))
            }
        };
        let named = |wanted: fn(&Member) -> bool| {
            let members = self.view.members().filter(|(_, member)| wanted(member));
            members.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        let ranges = self.ranges.as_ref().and_then(|ranges| ranges.as_deref().ok()).unwrap_or_default();
        ControlStatus {
            stores: self.stores.clone(),
            state: self.state().to_owned(),
            since_seconds: self.since.elapsed().as_secs(),
            reason,
            denied: matches!(self.standing, Standing::Denied(_)),
            revision: self.view.revision(),
            nodes: self.view.members().count(),
            endpoints: self.view.members().map(|(_, member)| self.view.endpoints(member).count()).sum(),
            suspects: named(|member| member.presence() == Presence::Suspect),
            held: named(|member| member.presence() == Presence::Present && (member.is_stale() || member.is_doubted())),
            conflicts: conflicts(&self.view).iter().map(ToString::to_string).collect(),
            conflicts_total: self.contested_total,
            refused_rows: self.view.refused().map(|(key, error)| format!("{key}: {error}")).collect(),
            refusals: self.view.refusals(),
            unconfirmed_pods: self.unconfirmed_pods,
            ranges: ranges.iter().map(ToString::to_string).collect(),
            overlay_addresses: ranges.iter().map(|range| overlay_address(*range)).collect(),
            no_ranges: self.ranges.as_ref().and_then(|ranges| ranges.as_ref().err()).map(ToString::to_string),
        }
    }
}

fn node(config: &Config, preferred: Encapsulation, underlay_mtu: u16) -> Result<Node, AgentError> {
    let no_instance = |source| AgentError::Process { what: "this node's instance, in the run directory", source };
    let mut receives: Vec<Receives> = Vec::new();
    for listen in &config.listen {
        let one = Receives { encapsulation: listen.encapsulation, udp_port: listen.at.port() };
        if !receives.contains(&one) {
            receives.push(one);
        }
    }
    // Others send by the first: as this node prefers it, and to the registered port where it is there.
    let registered = |one: &Receives| one.udp_port == one.encapsulation.default_port();
    receives.sort_by_key(|one| (one.encapsulation != preferred, !registered(one)));
    Ok(Node {
        version: RECORD_VERSION,
        name: config.node.clone(),
        instance: instance(&config.run_dir).map_err(no_instance)?,
        incarnation: 0,
        epoch: 0,
        standing: NodeStanding::Joining,
        addresses: config.addresses.clone(),
        receives,
        underlay_mtu,
        vnis: config.vnis.iter().map(|(vni, _)| *vni).collect(),
        pod_ranges: Vec::new(),
        overlay_addresses: Vec::new(),
        capabilities: [PROBES, REVISIONS].map(str::to_owned).into(),
    })
}

/// What this node has behind its ports, but for those whose device is gone.
fn endpoints(ports: &[AttachedPort]) -> Endpoints {
    let there = ports.iter().filter(|port| port.lost.is_none());
    there.map(|port| ((port.config.vni, port.config.mac), endpoint(&port.config))).collect()
}

fn endpoint(port: &PortConfig) -> OwnEndpoint {
    OwnEndpoint {
        ips: port.addresses.iter().map(|net| net.addr()).collect(),
        port: port.name.clone(),
        attached: match port.learn_limit {
            Some(_) => Attached::Learning,
            None if port.routes => Attached::Host,
            None => Attached::Bound,
        },
    }
}

/// What this node asks of the cluster.
pub(crate) fn local(config: &Config, underlay_mtu: u16) -> Local {
    Local {
        node: config.node.clone(),
        addresses: config.addresses.clone(),
        vnis: config.vnis.iter().map(|(vni, _)| *vni).collect::<BTreeSet<_>>(),
        underlay_mtu,
        vteps: config.vteps.clone(),
    }
}

/// Puts tables in force that are as this view says. Returns the MACs that were learned here and that others have by now.
pub(crate) fn forward_by(view: &View, local: &Local, switch: &Switch, paths: Option<&mut Paths>) -> BTreeSet<Mac> {
    let wanted = wanted(view, local);
    let tables = switch.tables();
    for (vni, mac) in &wanted.taken_over {
        tables.domain(*vni).inspect(|domain| _ = switch.fdb().forget(domain.id(), *mac));
    }
    let mut edits = edits(&tables, &wanted).peekable();
    if edits.peek().is_none() && tables.revision() == view.revision() {
        drop(edits);
        return wanted.taken_over;
    }
    // What was learned behind a VTEP that is gone, or has left a network, leads nowhere.
    let left = |edit: &Edit| match edit {
        Edit::RemoveVtep(id) | Edit::SetMembers(id, _) => Some(Attachment::Vtep(*id)),
        _ => None,
    };
    let (mut gone, mut new) = (Vec::new(), Tables::clone(&tables));
    match apply(&mut new, edits.inspect(|edit| gone.extend(left(edit)))) {
        Ok(()) => new.set_revision(view.revision()),
        Err((error, count)) => tracing::error!(%error, count, "not all of the cluster fits into the tables"),
    }
    if let Some(paths) = paths {
        paths.follow(&new, local.underlay_mtu);
    }
    switch.publish(new);
    for vtep in gone {
        switch.fdb().purge(vtep);
    }
    wanted.taken_over
}
