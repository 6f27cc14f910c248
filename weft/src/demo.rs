use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_api::{Client, Query, Reply};
use weft_testbed::probe::{Amount, BulkOptions, PingOptions, bulk, ping};
use weft_testbed::{Encapsulation, Lab, LabName, LabSpec};

use crate::out::say;
use crate::progress::Progress;
use crate::{show, table, testbed};

/// The lab that is shown.
const LAB_FILE: &str = include_str!("../../examples/two-node.yaml");
/// What is shown of a node, and what it means.
const SHOWN: [(&str, Query, &str); 5] = [
    ("nodes", Query::Nodes, "who is there, by the lab's store; no peer stands in any configuration"),
    ("fdb", Query::Fdb, "where every MAC is: each node published its own, and nothing had to be learned from frames"),
    ("neighbours", Query::Neighbours, "by these n1 answers its pods' ARP and neighbour discovery itself"),
    ("counters", Query::Counters, "every frame is counted: frames_in = unicast + flood + answered + dropped"),
    ("drops", Query::Drops, "and every drop has a name"),
];
/// Echo requests between each two pods.
const PINGS: usize = 20;
/// How long each bulk transfer takes.
const BULK: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the lab while it exists
    #[arg(long, value_name = "LAB", default_value = "demo")]
    name: LabName,
    /// Print what was measured as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct PingRow {
    encapsulation: String,
    from: String,
    to: String,
    sent: usize,
    received: usize,
    min_us: Option<u128>,
    median_us: Option<u128>,
}

#[derive(serde::Serialize)]
struct BulkRow {
    encapsulation: String,
    from: String,
    to: String,
    bytes: u64,
    gigabits_per_second: f64,
    congestion_control: String,
}

#[derive(Default, serde::Serialize)]
struct Measured {
    pings: Vec<PingRow>,
    bulks: Vec<BulkRow>,
}

/// Shows the whole path: a lab of two nodes with each encapsulation in turn, everything checked.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demo makes network namespaces: run it as root");
    }
    let mut spec = LabSpec::parse(LAB_FILE, "examples/two-node.yaml")?;
    let mut measured = Measured::default();
    for (round, encapsulation) in [Encapsulation::Vxlan, Encapsulation::Geneve].into_iter().enumerate() {
        spec.encapsulation = encapsulation;
        let started = Instant::now();
        let (lab, guard) = testbed::make(&spec, &args.name)?;
        let up = started.elapsed();
        let outcome =
            introduce(&lab, up, round == 0, args.json).and_then(|()| exercise(&lab, args.json, &mut measured));
        testbed::remove(&args.name)?;
        drop(guard);
        outcome?;
    }
    if args.json {
        say!("{}", serde_json::to_string_pretty(&measured)?)?;
    } else {
        print_measured(&measured)?;
        say!("\nThe lab is gone again. `weft testbed up examples/two-node.yaml` makes one that stays.")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn introduce(lab: &Lab, up: Duration, first: bool, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(());
    }
    if first {
        say!(
            "{}",
            weft_testbed::draw(
                lab.spec(),
                &weft_testbed::Live::default(),
                lab.name().as_str(),
                testbed::terminal_width()
            )
        )?;
    }
    say!("{}: lab up in {:.2} s", lab.spec().encapsulation, up.as_secs_f64())
}

fn exercise(lab: &Lab, json: bool, measured: &mut Measured) -> anyhow::Result<()> {
    let encapsulation = lab.spec().encapsulation.to_string();
    let progress = Progress::start(&format!("{encapsulation}: ping"));
    for (from, to) in [("a", "b"), ("a", "c"), ("d", "b")] {
        progress.say(format!("{from} -> {to}"));
        measured.pings.push(ping_between(lab, &encapsulation, from, to)?);
    }
    drop(progress);
    let progress = Progress::start(&format!("{encapsulation}: bulk TCP"));
    for (from, to) in [("a", "c"), ("c", "a")] {
        progress.say(format!("{from} -> {to}, {} s, every byte compared", BULK.as_secs()));
        let report = bulk(lab, from, to, &BulkOptions::new(Amount::For(BULK)))?;
        measured.bulks.push(BulkRow {
            encapsulation: encapsulation.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            bytes: report.bytes,
            gigabits_per_second: report.bits_per_second / 1e9,
            congestion_control: report.congestion_control,
        });
    }
    drop(progress);
    if !json {
        print_node(lab, "n1")?;
    }
    Ok(())
}

fn ping_between(lab: &Lab, encapsulation: &str, from: &str, to: &str) -> anyhow::Result<PingRow> {
    let pod = lab.spec().pod(to).and_then(|pod| pod.addresses.first());
    let address = pod.with_context(|| format!("pod {to} has no address"))?.addr();
    let mut options = PingOptions::default();
    // The first echo waits for the answer to the pod's ARP, and is not measured.
    options.count = 1;
    ping(lab, from, address, &options)?;
    options.count = PINGS;
    let report = ping(lab, from, address, &options)?;
    if report.received != report.sent {
        bail!("{from} -> {to}: {} of {} pings were answered; `weft show drops` says why", report.received, report.sent);
    }
    Ok(PingRow {
        encapsulation: encapsulation.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        sent: report.sent,
        received: report.received,
        min_us: report.rtt.map(|rtt| rtt.min.as_micros()),
        median_us: report.rtt.map(|rtt| rtt.median.as_micros()),
    })
}

/// What the node knows and counted, as the commands of the same name show it.
fn print_node(lab: &Lab, node: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(&lab.run_dir_of(node))?;
    for (command, query, meaning) in SHOWN {
        say!("\n# {meaning}\n$ weft show {command} --node {}.{node}", lab.name())?;
        show::print_reply(&client.ask(query)?, false, false)?;
    }
    let Reply::Status(status) = client.ask(Query::Status)? else { bail!("the agent answered something else") };
    if let Some(broken) = status.law_broken {
        bail!("the counters of {node} do not add up: {broken}");
    }
    say!()
}

fn microseconds(time: Option<u128>) -> String {
    time.map_or_else(|| "-".to_owned(), |us| format!("{us} us"))
}

fn print_measured(measured: &Measured) -> anyhow::Result<()> {
    say!("Measured")?;
    table::print(
        &["encap", "ping", "#sent", "#answered", "#min", "#median"],
        measured.pings.iter().map(|row| {
            let place = if row.from == "a" && row.to == "b" { "same node" } else { "across" };
            vec![
                row.encapsulation.clone(),
                format!("{} -> {} ({place})", row.from, row.to),
                row.sent.to_string(),
                row.received.to_string(),
                microseconds(row.min_us),
                microseconds(row.median_us),
            ]
        }),
    )?;
    say!()?;
    table::print(
        &["encap", "bulk tcp", "#bytes checked", "#Gbit/s", "congestion control"],
        measured.bulks.iter().map(|row| {
            vec![
                row.encapsulation.clone(),
                format!("{} -> {}", row.from, row.to),
                table::bytes(row.bytes),
                format!("{:.2}", row.gigabits_per_second),
                row.congestion_control.clone(),
            ]
        }),
    )
}
