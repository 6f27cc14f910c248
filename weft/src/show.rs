use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use weft_api::{
    ControlStatus, Counters, DropRow, FdbRow, NeighbourRow, NodeRow, PortRow, Query, Reply, Status, VtepRow, WorkerRow,
};

use crate::flows;
use crate::out::say;
use crate::table::{bytes, print};
use crate::target::Target;
use crate::watch::Watch;

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    watch: Watch,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// What to show
    what: What,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    watch: Watch,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// With `drops`: also the reasons that never happened
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum What {
    /// Pods' devices, with what went through them
    Ports,
    /// Other nodes' tunnel ends
    Vteps,
    /// Static and learned MACs
    Fdb,
    /// The MACs of pods' addresses, with which pods' questions (ARP, ND) are answered
    Neighbours,
    /// The nodes of the cluster
    Nodes,
    /// Why frames were dropped, and what to do
    Drops,
    /// All other counters
    Counters,
    /// The threads that forward: their load, and how many frames they take at once
    Workers,
    /// The configuration in force, with every default
    Config,
    /// Which flows carry most, of the frames that pass within a second
    Flows,
}

pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    show_again(&args.target, &args.watch, &Query::Status, args.json, false)
}

pub(crate) fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    if args.all && !matches!(args.what, What::Drops) {
        bail!("`--all` goes with `drops` alone: weft show drops --all");
    }
    let query = match args.what {
        What::Flows => return flows::show(&args.target, &args.watch, args.json),
        What::Ports => Query::Ports,
        What::Vteps => Query::Vteps,
        What::Fdb => Query::Fdb,
        What::Neighbours => Query::Neighbours,
        What::Nodes => Query::Nodes,
        What::Drops => Query::Drops,
        What::Counters => Query::Counters,
        What::Workers => Query::Workers,
        What::Config => Query::Config,
    };
    show_again(&args.target, &args.watch, &query, args.json, args.all)
}

fn show_again(target: &Target, watch: &Watch, query: &Query, json: bool, all: bool) -> anyhow::Result<ExitCode> {
    let show = || match target.ask(query.clone())? {
        reply if json && watch.is_on() => say!("{}", compact(&reply)?),
        reply => print_reply(&reply, json, all).map(|_| ()),
    };
    watch.run(show, json)
}

/// What `--json` prints, in one line.
pub(crate) fn compact(reply: &Reply) -> anyhow::Result<String> {
    let by_name = serde_json::to_value(reply)?;
    let inside = by_name.as_object().and_then(|reply| reply.values().next());
    let shown = match reply {
        Reply::Config(config) => Some(&config.fields),
        _ => inside,
    };
    Ok(serde_json::to_string(&shown)?)
}

pub(crate) fn print_reply(reply: &Reply, json: bool, all: bool) -> anyhow::Result<ExitCode> {
    match reply {
        Reply::Status(status) if json => print_json(status)?,
        Reply::Status(status) => print_status(status)?,
        Reply::Ports(rows) if json => print_json(rows)?,
        Reply::Ports(rows) => print_ports(rows)?,
        Reply::Vteps(rows) if json => print_json(rows)?,
        Reply::Vteps(rows) => print_vteps(rows)?,
        Reply::Fdb(rows) if json => print_json(rows)?,
        Reply::Fdb(rows) => print_fdb(rows)?,
        Reply::Neighbours(rows) if json => print_json(rows)?,
        Reply::Neighbours(rows) => print_neighbours(rows)?,
        Reply::Nodes(rows) if json => print_json(rows)?,
        Reply::Nodes(rows) => print_nodes(rows)?,
        Reply::Drops(rows) if json => print_json(rows)?,
        Reply::Drops(rows) => print_drops(rows, all)?,
        Reply::Counters(counters) if json => print_json(counters)?,
        Reply::Counters(counters) => print_counters(counters)?,
        Reply::WhatIf(_)
        | Reply::Tracing { .. }
        | Reply::Trace(_)
        | Reply::Reloaded(_)
        | Reply::Attached(_)
        | Reply::Detached(_)
        | Reply::Done => {
            bail!("the agent answered another question")
        }
        Reply::Workers(rows) if json => print_json(rows)?,
        Reply::Workers(rows) => print_workers(rows)?,
        Reply::Config(config) if json => print_json(&config.fields)?,
        Reply::Config(config) => say!("{}", config.toml.trim_end())?,
        Reply::Error { message, .. } => bail!("{message}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?)
}

fn print_status(status: &Status) -> anyhow::Result<()> {
    let Status { underlay, .. } = status;
    let line = |name: &str, value: String| say!("{name:<10}{value}");
    line(
        "node",
        format!("{} (weft {}, process {}, up {} s)", status.node, status.version, status.pid, status.uptime_seconds),
    )?;
    let reason = underlay.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    line("underlay", format!("{}{reason}, MTU {}", underlay.level, underlay.mtu))?;
    line("addresses", underlay.addresses.join(", "))?;
    line("listening", underlay.listen.join(", "))?;
    for (place, offload) in status.offloads.iter().enumerate() {
        let used = if offload.used { "on" } else { "off" };
        let name = if place == 0 { "offloads" } else { "" };
        line(name, format!("{:<10}{used:<5}{}", offload.level, offload.reason))?;
    }
    line("workers", status.workers.to_string())?;
    let lost = if status.ports_lost > 0 { format!(" ({} lost)", status.ports_lost) } else { String::new() };
    line("ports", format!("{}{lost}", status.ports))?;
    line("vteps", status.vteps.to_string())?;
    line("vnis", status.vnis.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))?;
    let (entries, capacity, ageing) = (status.fdb_entries, status.fdb_capacity, status.fdb_ageing_seconds);
    line("fdb", format!("{entries} of {capacity} learned, ageing {ageing} s"))?;
    if let Some(control) = &status.control {
        print_control(control)?;
    }
    for missing in &status.outside {
        line("outside", missing.clone())?;
    }
    if let Some(broken) = &status.law_broken {
        line("counters", format!("do not add up: {broken}"))?;
    }
    Ok(())
}

fn print_control(control: &ControlStatus) -> anyhow::Result<()> {
    let line = |name: &str, value: String| say!("{name:<10}{value}");
    let reason = control.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    line("control", format!("{} for {} s{reason}", control.state, control.since_seconds))?;
    let (nodes, endpoints, revision) = (control.nodes, control.endpoints, control.revision);
    line("cluster", format!("{nodes} nodes, {endpoints} endpoints, revision {revision}"))?;
    let addresses = joined(&control.overlay_addresses);
    match (&control.no_ranges, control.ranges.as_slice()) {
        (Some(reason), _) => line("ranges", format!("none: {reason}"))?,
        (None, []) => {}
        (None, ranges) => line("ranges", format!("{}; this node is {addresses}", ranges.join(", ")))?,
    }
    for (name, names) in [("suspects", &control.suspects), ("held", &control.held)] {
        if !names.is_empty() {
            line(name, names.join(", "))?;
        }
    }
    if control.conflicts_total > 0 {
        line("conflicts", format!("{} since the start, {} now", control.conflicts_total, control.conflicts.len()))?;
    }
    for (name, texts) in [("conflict", &control.conflicts), ("refused", &control.refused_rows)] {
        for text in texts {
            line(name, text.clone())?;
        }
    }
    Ok(())
}

fn print_ports(rows: &[PortRow]) -> anyhow::Result<()> {
    let headings = [
        "port",
        "#vni",
        "mac",
        "addresses",
        "#mtu",
        "mode",
        "state",
        "#rx",
        "#rx bytes",
        "#tx",
        "#tx bytes",
        "#drops",
        "#kernel drops",
    ];
    print(
        &headings,
        rows.iter().map(|row| {
            vec![
                row.name.clone(),
                row.vni.to_string(),
                row.mac.clone(),
                row.addresses.join(" "),
                row.mtu.to_string(),
                row.mode.clone(),
                row.state.clone(),
                row.link.rx_frames.to_string(),
                bytes(row.link.rx_bytes),
                row.link.tx_frames.to_string(),
                bytes(row.link.tx_bytes),
                row.link.drops.to_string(),
                row.kernel_tx_dropped.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            ]
        }),
    )
}

fn print_vteps(rows: &[VtepRow]) -> anyhow::Result<()> {
    let headings = [
        "vtep",
        "#port",
        "encap",
        "kind",
        "through",
        "path",
        "#path mtu",
        "#pod mtu",
        "vnis",
        "#learned",
        "#rx",
        "#rx bytes",
        "#tx",
        "#tx bytes",
        "#drops",
    ];
    print(
        &headings,
        rows.iter().map(|row| {
            vec![
                row.address.clone(),
                row.port.to_string(),
                row.encapsulation.clone(),
                row.kind.clone(),
                row.via.clone(),
                row.path.clone(),
                row.path_mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
                row.pod_mtu.to_string(),
                row.vnis.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                row.learned.to_string(),
                row.link.rx_frames.to_string(),
                bytes(row.link.rx_bytes),
                row.link.tx_frames.to_string(),
                bytes(row.link.tx_bytes),
                row.link.drops.to_string(),
            ]
        }),
    )
}

fn print_fdb(rows: &[FdbRow]) -> anyhow::Result<()> {
    print(
        &["#vni", "mac", "via", "at", "kind", "of node", "#age"],
        rows.iter().map(|row| {
            vec![
                row.vni.to_string(),
                row.mac.clone(),
                row.attachment.clone(),
                row.at.clone(),
                row.kind.clone(),
                or_dash(row.node.as_ref()),
                row.age_seconds.map_or_else(|| "-".to_owned(), |age| format!("{age} s")),
            ]
        }),
    )
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn print_neighbours(rows: &[NeighbourRow]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return say!("no neighbours: without a control plane pods ask each other, through floods");
    }
    print(
        &["#vni", "address", "mac", "of node"],
        rows.iter()
            .map(|row| vec![row.vni.to_string(), row.address.to_string(), row.mac.clone(), or_dash(row.node.as_ref())]),
    )
}

fn print_nodes(rows: &[NodeRow]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return say!("no nodes: this agent has no control plane, or has not heard of it yet; `weft status` says which");
    }
    print(
        &["node", "addresses", "state", "vnis", "ranges", "in the overlay", "#endpoints"],
        rows.iter().map(|row| {
            vec![
                row.name.clone(),
                joined(&row.addresses),
                row.state.clone(),
                joined(&row.vnis),
                joined(&row.ranges),
                joined(&row.overlay_addresses),
                row.endpoints.to_string(),
            ]
        }),
    )
}

fn joined(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn print_drops(rows: &[DropRow], all: bool) -> anyhow::Result<()> {
    let shown: Vec<_> = rows.iter().filter(|row| all || row.count > 0).collect();
    if shown.is_empty() {
        return say!("nothing was dropped");
    }
    print(
        &["reason", "#count", "#recent", "of", "meaning", "what to do"],
        shown.iter().map(|row| {
            let of = if row.stage == "verdict" { "frames" } else { "copies" };
            let counts = [row.count, row.recent].map(|count| count.to_string());
            let [count, recent] = counts;
            vec![row.reason.clone(), count, recent, of.to_owned(), row.meaning.clone(), row.hint.clone()]
        }),
    )
}

fn print_counters(counters: &Counters) -> anyhow::Result<()> {
    let groups = [
        ("forwarding", &counters.forwarding),
        ("learning", &counters.learning),
        ("kernel", &counters.kernel),
        ("frames_in of", &counters.workers),
    ];
    let rows = groups.iter().flat_map(|(group, counters)| {
        counters.iter().map(|(name, n)| vec![(*group).to_owned(), name.clone(), n.to_string()])
    });
    print(&["group", "counter", "#value"], rows)
}

fn print_workers(rows: &[WorkerRow]) -> anyhow::Result<()> {
    let seconds = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.1} s", us as f64 / 1e6));
    print(
        &["worker", "#frames", "#ran", "#waited", "#sleeps", "#looks", "frames at once: turns"],
        rows.iter().map(|row| {
            vec![
                row.name.clone(),
                row.frames.to_string(),
                seconds(row.run_us),
                seconds(row.waited_us),
                row.sleeps.to_string(),
                row.looks.to_string(),
                batches(row),
            ]
        }),
    )
}

/// Classes that have turns, as in `1: 40  3-4: 7  129-: 1`.
fn batches(row: &WorkerRow) -> String {
    let mut least = 1;
    let mut shown = Vec::new();
    for batch in &row.batches {
        let class = match batch.frames_at_most {
            Some(most) if most == least => most.to_string(),
            Some(most) => format!("{least}-{most}"),
            None => format!("{least}-"),
        };
        if batch.turns > 0 {
            shown.push(format!("{class}: {}", batch.turns));
        }
        least = batch.frames_at_most.map_or(least, |most| most + 1);
    }
    if shown.is_empty() { "-".to_owned() } else { shown.join("  ") }
}
