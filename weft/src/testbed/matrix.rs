use std::process::ExitCode;

use weft_testbed::probe::{Pair, matrix};
use weft_testbed::{Lab, LabName};

use crate::out::say;
use crate::progress::Progress;
use crate::table::print;

/// Pods of a virtual network whose pairs are shown as a square; of more, only what failed is told.
const SQUARE_MAX: usize = 16;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab
    lab: LabName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lab = Lab::open(&args.lab)?;
    let progress = Progress::start(&format!("lab {}", args.lab));
    let pairs = matrix(&lab, &|pair: &Pair| progress.say(format_args!("{} -> {}", pair.from, pair.to)))?;
    drop(progress);
    let failed: Vec<&Pair> = pairs.iter().filter(|pair| !pair.is_whole()).collect();
    if args.json {
        say!("{}", serde_json::to_string_pretty(&pairs)?)?;
    } else {
        for vni in &lab.spec().vnis {
            let pods = lab.spec().pods().filter(|(_, pod)| pod.vni == vni.id && !pod.addresses.is_empty());
            let pods: Vec<&str> = pods.map(|(_, pod)| pod.name.as_str()).collect();
            if pods.len() <= SQUARE_MAX {
                say!("VNI {}: shortest ping in us, over every family; x where ping or TCP failed", vni.id)?;
                square(&pods, &pairs)?;
            }
        }
        for pair in &failed {
            let ping = pair.ping.is_none().then_some("no ping was answered");
            let tcp = pair.tcp_error.as_ref().map(|error| format!("TCP: {error}"));
            let told: Vec<String> = ping.map(str::to_owned).into_iter().chain(tcp).collect();
            say!("{} -> {} ({}): {}", pair.from, pair.to, pair.address, told.join("; "))?;
        }
        say!("{} of {} pairs have ping and TCP", pairs.len() - failed.len(), pairs.len())?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn square(pods: &[&str], pairs: &[Pair]) -> anyhow::Result<()> {
    let headings: Vec<String> = pods.iter().map(|pod| format!("#{pod}")).collect();
    let headings: Vec<&str> = ["from"].into_iter().chain(headings.iter().map(String::as_str)).collect();
    let rows = pods.iter().map(|from| {
        let cells = pods.iter().map(|to| cell(pairs.iter().filter(|pair| pair.from == *from && pair.to == *to)));
        [(*from).to_owned()].into_iter().chain(cells).collect()
    });
    print(&headings, rows)
}

fn cell<'a>(pairs: impl Iterator<Item = &'a Pair>) -> String {
    let pairs: Vec<&Pair> = pairs.collect();
    if pairs.iter().any(|pair| !pair.is_whole()) {
        return "x".to_owned();
    }
    let shortest = pairs.iter().filter_map(|pair| pair.ping).min();
    shortest.map_or_else(|| "-".to_owned(), |ping| ping.as_micros().to_string())
}
