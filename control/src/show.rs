//! Answers: the agent's state as rows.

use std::collections::HashMap;

use weft_api::{
    BatchRow, ConfigReply, Counters, DropRow, FdbRow, Link, NeighbourRow, OffloadRow, PortRow, Query, Reply, Status,
    UnderlayStatus, VtepRow, WorkerRow,
};
use weft_bridge::{Attachment, Stage, Tables, Vtep, VtepId, VtepKind};
use weft_encap::search::State;
use weft_encap::{MacAddr, Vni};
use weft_netns::Netns;
use weft_switch::counters::{BATCH_CLASSES, LinkTotals, Totals, WorkerTotals};
use weft_switch::levels::{Level, Off};

use crate::agent::{Agent, AttachedPort};
use crate::config::UnderlayKind;
use crate::desired::name_of;
use crate::following::{Following, Publishers};
use crate::metrics::Snapshot;
use crate::outside::not_forwarding;
use crate::paths::GROUPS_GIVEN_UP;
use crate::threads;
use crate::trace::what_if;
use crate::uplink::Uplink;

/// What the kernel dropped before ports were read, among the counters.
const PORT_TX_DROPPED: &str = "port_tx_dropped";

pub(crate) fn reply(agent: &mut Agent, query: Query) -> Reply {
    match query {
        Query::Status => Reply::Status(Box::new(status(agent))),
        Query::Ports => {
            let mut rows: Vec<_> = agent.ports.iter().map(|port| port_row(agent, port)).collect();
            look_at_devices(&mut rows);
            Reply::Ports(rows)
        }
        Query::Vteps => Reply::Vteps(vteps(agent)),
        Query::Fdb => Reply::Fdb(fdb(agent)),
        Query::Neighbours => Reply::Neighbours(neighbours(agent)),
        Query::Nodes => Reply::Nodes(agent.following.as_ref().map_or_else(Vec::new, Following::nodes)),
        Query::Drops => Reply::Drops(drops(agent)),
        Query::Counters => {
            let ports = agent.ports.iter().map(|port| &port.config);
            let tx_dropped = ports.filter_map(|port| kernel_tx_dropped(&port.netns, &port.interface)).sum();
            Reply::Counters(Box::new(counters(agent, tx_dropped)))
        }
        Query::WhatIf(asked) => match what_if(agent, &asked) {
            Ok(told) => Reply::WhatIf(Box::new(told)),
            Err(message) => Reply::Error { message, refusal: None },
        },
        Query::Workers => Reply::Workers(workers(agent)),
        Query::Config => config(agent),
        Query::Reload => match agent.reload() {
            Ok(reloaded) => Reply::Reloaded(reloaded),
            Err(error) => Reply::Error { message: error.to_string(), refusal: None },
        },
        // What changes something, or goes on, is answered elsewhere.
        Query::Attach(_)
        | Query::Detach(_)
        | Query::Check(_)
        | Query::Retain(_)
        | Query::Unreleased(_)
        | Query::Released(_)
        | Query::Ready { .. }
        | Query::Trace(_) => Reply::Done,
    }
}

fn status(agent: &Agent) -> Status {
    let tables = agent.switch.tables();
    Status {
        node: agent.config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: agent.started.elapsed().as_secs(),
        underlay: underlay(agent),
        offloads: Level::ALL.map(|level| offload_row(agent, level)).to_vec(),
        workers: agent.switch.workers().get(),
        ports: agent.ports.len(),
        ports_lost: agent.ports.iter().filter(|port| port.lost.is_some()).count(),
        vteps: tables.vteps().count(),
        vnis: tables.domains().map(|domain| domain.vni().get()).collect(),
        fdb_entries: agent.switch.fdb().len(),
        fdb_capacity: agent.switch.fdb().capacity(),
        fdb_ageing_seconds: agent.config.fdb_ageing_seconds,
        control: agent.following.as_ref().map(Following::status),
        outside: missing_outside(agent),
        law_broken: law_broken(&agent.switch.totals()),
    }
}

/// What keeps pods from the outside, where the node has some.
fn missing_outside(agent: &Agent) -> Vec<String> {
    let network = agent.config.network.iter().filter(|_| !agent.pods.ranges.is_empty());
    agent.not_masqueraded.iter().cloned().chain(network.flat_map(not_forwarding)).collect()
}

fn offload_row(agent: &Agent, level: Level) -> OffloadRow {
    let levels = agent.switch.levels();
    let off = levels.off(level);
    let unused = if level == Level::Uplink { why_no_uplink(agent) } else { None };
    let ungrouped = if matches!(level, Level::Segment | Level::Uplink) { ungrouped(agent) } else { Vec::new() };
    let reason = match off {
        Some(Off::Configured) if level == Level::Uplink && agent.config.underlay_kind == UnderlayKind::Socket => {
            "switched off by `underlay.kind`".to_owned()
        }
        Some(Off::Configured) => format!("switched off by `offloads.{level}`"),
        Some(off) => off.to_string(),
        None => match &unused {
            Some(why) => why.clone(),
            None if !ungrouped.is_empty() => format!("not towards {}: {GROUPS_GIVEN_UP}", ungrouped.join(", ")),
            None if levels.is_proven(level) => "passed its self-test".to_owned(),
            None => "there was nothing to test".to_owned(),
        },
    };
    let demoted_seconds_ago = match off {
        Some(Off::Demoted { at, .. }) => Some(at.elapsed().as_secs()),
        _ => None,
    };
    OffloadRow { level: level.name().to_owned(), used: off.is_none() && unused.is_none(), reason, demoted_seconds_ago }
}

/// VTEPs to which packets leave one by one.
fn ungrouped(agent: &Agent) -> Vec<String> {
    let tables = agent.switch.tables();
    let vteps = tables.vteps().filter(|(id, _)| tables.is_ungrouped(*id));
    vteps.map(|(_, row)| row.address.to_string()).collect()
}

/// None too where it cannot be known.
fn law_broken(totals: &Totals) -> Option<String> {
    totals.check().err().filter(|_| totals.between_turns).map(|broken| broken.to_string())
}

fn underlay(agent: &Agent) -> UnderlayStatus {
    let (level, reason) = level(agent);
    let listen = agent.config.listen.iter().map(|listen| format!("{} {}", listen.at, listen.encapsulation));
    UnderlayStatus {
        level: level.to_owned(),
        reason,
        addresses: agent.config.addresses.iter().map(ToString::to_string).collect(),
        listen: listen.collect(),
        mtu: agent.underlay_mtu,
    }
}

/// How tunnel packets travel, and why not in a better way.
fn level(agent: &Agent) -> (&'static str, Option<String>) {
    if agent.uplink.as_ref().is_some_and(|uplink| !uplink.state.is_given_up()) {
        return ("uplink", None);
    }
    let no_uplink = why_no_uplink(agent).map(|reason| format!("no uplink: {reason}"));
    let levels = agent.switch.levels();
    let level = match (levels.uses(Level::Segment), levels.uses(Level::Gro)) {
        (true, true) => "socket+offload",
        (true, false) => "socket+segment",
        (false, true) => "socket+gro",
        (false, false) => "socket",
    };
    let off = [Level::Segment, Level::Gro].into_iter().filter_map(|level| Some((level, levels.off(level)?)));
    let reasons: Vec<_> = off.map(|(level, off)| format!("{level}: {off}")).chain(no_uplink).collect();
    (level, (!reasons.is_empty()).then(|| reasons.join("; ")))
}

/// None where there is one, or none is wanted.
fn why_no_uplink(agent: &Agent) -> Option<String> {
    let given_up = agent.uplink.as_ref().and_then(|uplink| uplink.state.reason()).map(str::to_owned);
    given_up.or_else(|| agent.no_uplink.clone())
}

/// Without what the device counted, for which [`look_at_devices`] looks.
fn port_row(agent: &Agent, port: &AttachedPort) -> PortRow {
    let attachment = Attachment::Port(port.id);
    PortRow {
        name: port.config.name.clone(),
        vni: port.config.vni.get(),
        interface: port.config.interface.clone(),
        netns: port.config.netns.clone(),
        mac: port.config.mac.to_string(),
        addresses: port.config.addresses.iter().map(ToString::to_string).collect(),
        mtu: port.mtu,
        mode: if port.config.learn_limit.is_some() { "learning" } else { "bound" }.to_owned(),
        state: port.lost.as_ref().map_or_else(|| "forwarding".to_owned(), |why| format!("lost: {why}")),
        udp_superframes: port.offloads.udp,
        offloads: port.offloads.names().map(str::to_owned).collect(),
        learned: agent.switch.fdb().len_behind(attachment),
        learn_limit: port.config.learn_limit,
        link: link(agent.switch.link_totals(attachment)),
        kernel_tx_dropped: None,
    }
}

/// Fills in what the devices of these ports counted: about a millisecond for each.
fn look_at_devices(rows: &mut [PortRow]) {
    for row in rows {
        row.kernel_tx_dropped = kernel_tx_dropped(&row.netns, &row.interface);
    }
}

/// None where the namespace or the device is gone.
fn kernel_tx_dropped(netns: &str, interface: &str) -> Option<u64> {
    let link = Netns::open(netns).ok()?.links(|links| links.get(interface)).ok()??;
    Some(link.stats.tx_dropped)
}

fn vteps(agent: &Agent) -> Vec<VtepRow> {
    let tables = agent.switch.tables();
    tables.vteps().map(|(id, vtep)| vtep_row(agent, &tables, id, vtep)).collect()
}

fn vtep_row(agent: &Agent, tables: &Tables, id: VtepId, vtep: &Vtep) -> VtepRow {
    let path = agent.paths.as_ref().and_then(|paths| paths.of(id));
    VtepRow {
        address: vtep.address.to_string(),
        port: vtep.udp_port,
        encapsulation: vtep.encapsulation.to_string(),
        kind: match vtep.kind {
            VtepKind::Managed => "managed",
            VtepKind::Foreign => "foreign",
        }
        .to_owned(),
        pod_mtu: vtep.pod_mtu,
        via: via(agent, id).to_owned(),
        path: path.map_or("off", |path| path_name(path.state)).to_owned(),
        path_mtu: path.and_then(|path| path.mtu),
        path_rtt_us: path.and_then(|path| path.rtt).map(|rtt| rtt.as_micros() as u64),
        vnis: tables.domains().filter(|domain| domain.has_member(id)).map(|domain| domain.vni().get()).collect(),
        learned: agent.switch.fdb().len_behind(Attachment::Vtep(id)),
        link: link(agent.switch.link_totals(Attachment::Vtep(id))),
    }
}

fn via(agent: &Agent, vtep: VtepId) -> &'static str {
    let through_uplink = |uplink: &Uplink| uplink.state.hops().get(vtep).is_some();
    if agent.uplink.as_ref().is_some_and(through_uplink) { "uplink" } else { "socket" }
}

pub(crate) fn path_name(state: State) -> &'static str {
    match state {
        State::Unprobed => "unprobed",
        State::Searching => "searching",
        State::Up { .. } => "up",
        State::BlackHole => "black hole",
        State::Down => "down",
    }
}

/// Who published what is in the tables.
pub(crate) fn publishers(agent: &Agent) -> Publishers<'_> {
    agent.following.as_ref().map_or_else(Publishers::default, Following::publishers)
}

pub(crate) fn publisher(
    agent: &Agent,
    tables: &Tables,
    publishers: &Publishers<'_>,
    row: (Vni, MacAddr, Attachment),
) -> Option<String> {
    let (vni, mac, at) = row;
    match at {
        Attachment::Port(_) => Some(agent.config.node.clone()),
        Attachment::Vtep(id) => publishers.get(&(vni, mac, tables.vtep(id)?.address)).map(ToString::to_string),
    }
}

fn fdb(agent: &Agent) -> Vec<FdbRow> {
    let (tables, publishers) = (agent.switch.tables(), publishers(agent));
    let (tables, publishers) = (&tables, &publishers);
    let fixed = tables.domains().flat_map(|domain| {
        let vni = domain.vni();
        domain.static_macs().map(move |(mac, at)| {
            let node = publisher(agent, tables, publishers, (vni, mac, at));
            FdbRow { node, ..fdb_row(tables, vni, mac, at) }
        })
    });
    let learned = agent.switch.fdb().rows(agent.switch.now()).filter_map(|row| {
        let vni = tables.domain_by_id(row.domain)?.vni();
        let kind = "learned".to_owned();
        Some(FdbRow { kind, age_seconds: Some(row.age), ..fdb_row(tables, vni, row.mac, row.attachment) })
    });
    let mut rows: Vec<_> = fixed.chain(learned).collect();
    rows.sort();
    rows
}

fn fdb_row(tables: &Tables, vni: Vni, mac: MacAddr, at: Attachment) -> FdbRow {
    let (attachment, at) = name_of(tables, at);
    let (attachment, kind) = (attachment.to_owned(), "static".to_owned());
    FdbRow { vni: vni.get(), mac: mac.to_string(), attachment, at, kind, node: None, age_seconds: None }
}

fn neighbours(agent: &Agent) -> Vec<NeighbourRow> {
    let (tables, publishers) = (agent.switch.tables(), publishers(agent));
    let rows = tables.domains().flat_map(|domain| {
        let vni = domain.vni();
        let behind: HashMap<MacAddr, Attachment> = domain.static_macs().collect();
        let (tables, publishers) = (&tables, &publishers);
        domain.neighbours().map(move |(address, mac)| {
            let node = behind.get(&mac).and_then(|at| publisher(agent, tables, publishers, (vni, mac, *at)));
            NeighbourRow { vni: vni.get(), address, mac: mac.to_string(), node }
        })
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

fn drops(agent: &Agent) -> Vec<DropRow> {
    let row = |(reason, count): &(weft_bridge::DropReason, u64)| DropRow {
        reason: reason.name().to_owned(),
        stage: match reason.stage() {
            Stage::Verdict => "verdict",
            Stage::Egress => "egress",
        }
        .to_owned(),
        count: *count,
        recent: agent.recent_drops.of(*reason, *count),
        meaning: reason.meaning().to_owned(),
        hint: reason.hint().to_owned(),
    };
    agent.switch.totals().drops.iter().map(row).collect()
}

/// `tx_dropped` is the sum over the devices of all ports.
fn counters(agent: &Agent, tx_dropped: u64) -> Counters {
    let totals = agent.switch.totals();
    let named = |names: &[(&str, u64)]| names.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    Counters {
        forwarding: named(&[
            ("frames_in", totals.frames_in),
            ("unicast", totals.unicast),
            ("flood", totals.flood),
            ("answered", totals.answered),
            ("early", totals.early),
            ("dropped", totals.dropped_at(Stage::Verdict)),
            ("copies", totals.copies),
            ("sent", totals.sent),
            ("copies_dropped", totals.dropped_at(Stage::Egress)),
            ("probes_sent", totals.probes_sent),
            ("probes_received", totals.probes_received),
            ("answers_sent", totals.answers_sent),
            ("answers_suppressed", totals.answers_suppressed),
            ("worker_sleeps", totals.sleeps),
            ("worker_looks", totals.looks),
            ("port_reads", totals.port_reads),
            ("port_writes", totals.port_writes),
            ("underlay_datagrams_in", totals.underlay_datagrams_in),
            ("underlay_datagrams_out", totals.underlay_datagrams_out),
            ("underlay_receives", totals.underlay_receives),
            ("underlay_sends", totals.underlay_sends),
        ]),
        learning: named(&totals.learned),
        kernel: named(&[
            ("underlay_overflow", totals.underlay_overflow),
            ("uplink_tx_dropped", agent.uplink.as_ref().map_or(0, Uplink::tx_dropped)),
            (PORT_TX_DROPPED, tx_dropped),
        ]),
        workers: agent.switch.worker_totals().enumerate().map(|(n, totals)| (worker_name(n), totals.frames)).collect(),
    }
}

fn workers(agent: &Agent) -> Vec<WorkerRow> {
    let times = threads::times();
    let row = |(number, totals): (usize, WorkerTotals)| {
        let name = worker_name(number);
        let time = times.get(&name);
        let ends = BATCH_CLASSES.map(Some).into_iter().chain([None]);
        let batches = ends.zip(totals.batches).map(|(frames_at_most, turns)| BatchRow { frames_at_most, turns });
        WorkerRow {
            frames: totals.frames,
            sleeps: totals.sleeps,
            looks: totals.looks,
            batches: batches.collect(),
            run_us: time.map(|time| time.ran.as_micros() as u64),
            waited_us: time.map(|time| time.waited.as_micros() as u64),
            name,
        }
    };
    agent.switch.worker_totals().enumerate().map(row).collect()
}

fn worker_name(number: usize) -> String {
    format!("worker-{number}")
}

fn config(agent: &Agent) -> Reply {
    let file = &agent.config.file;
    let written = toml::to_string(file).map_err(|error| error.to_string());
    let fields = serde_json::to_value(file).map_err(|error| error.to_string());
    match written.and_then(|toml| Ok(ConfigReply { toml, fields: fields? })) {
        Ok(reply) => Reply::Config(Box::new(reply)),
        Err(message) => {
            Reply::Error { message: format!("the configuration cannot be written down: {message}"), refusal: None }
        }
    }
}

/// Everything that is measured but by ports' devices: see [`with_devices`].
pub(crate) fn snapshot(agent: &Agent, has_started: bool) -> Snapshot {
    Snapshot {
        has_started,
        status: status(agent),
        ports: agent.ports.iter().map(|port| port_row(agent, port)).collect(),
        vteps: vteps(agent),
        drops: drops(agent),
        counters: counters(agent, 0),
        workers: workers(agent),
    }
}

/// A snapshot with what the devices of its ports counted. Takes its time, and needs no agent.
pub(crate) fn with_devices(mut snapshot: Snapshot) -> Snapshot {
    look_at_devices(&mut snapshot.ports);
    let sum = snapshot.ports.iter().filter_map(|row| row.kernel_tx_dropped).sum();
    snapshot.counters.kernel.insert(PORT_TX_DROPPED.to_owned(), sum);
    snapshot
}

fn link(totals: LinkTotals) -> Link {
    let LinkTotals { rx_frames, rx_bytes, tx_frames, tx_bytes, drops } = totals;
    Link { rx_frames, rx_bytes, tx_frames, tx_bytes, drops }
}
