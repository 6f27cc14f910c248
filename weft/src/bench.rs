use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use weft_benches::load::Timing;
use weft_benches::{
    Cable, CableKind, Case, Comparison, Forwarder, Machine, Options, Pinning, Plane, PodPort, Progress as Step, Stages,
    all_cases, compare, quick_cases, report,
};

use crate::interrupt::Guard;
use crate::out::{remark, say};
use crate::progress::Progress;
use crate::table;

/// What is kept of a run, and what is made of it.
const SAMPLES: &str = "comparison.json";
const PAGE: &str = "report.html";
/// MTUs of the underlay in bytes: Ethernet's, and jumbo frames.
const MTUS: [u16; 2] = [1500, 9000];
const ROUNDS: u32 = 5;
const FULL: Timing = Timing { warm_up: Duration::from_millis(200), period: Duration::from_secs(1) };
const QUICK: Timing = Timing { warm_up: Duration::from_millis(40), period: Duration::from_millis(160) };
/// How long a quick run may measure, so that it ends within three minutes.
const QUICK_LIMIT: Duration = Duration::from_secs(160);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put kernel VXLAN, a plain bridge, Open vSwitch, a naive forwarder and Weft side by side, in one run
    Compare(CompareArgs),
    /// Make the report of a comparison again, from its samples
    Report {
        /// Its directory
        dir: PathBuf,
    },
    /// Forward frames one by one; comparisons start this themselves
    #[command(hide = true)]
    Forward {
        /// This node's address
        #[arg(long)]
        local: std::net::Ipv4Addr,
        /// The other node's address
        #[arg(long)]
        remote: std::net::Ipv4Addr,
        /// The virtual network
        #[arg(long)]
        vni: u32,
        /// MTU of the pods in bytes
        #[arg(long)]
        mtu: u16,
        /// A pod's namespace and address
        #[arg(long = "pod", value_name = "NETNS=ADDRESS/LENGTH")]
        pods: Vec<PodPort>,
    },
    /// Keep the processors awake; comparisons start this themselves
    #[command(hide = true)]
    Spin,
}

#[derive(clap::Args)]
struct CompareArgs {
    /// Directory for samples (JSON) and report (HTML); made if it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The four cases that say most, MTU 1500, short periods: under three minutes
    #[arg(long)]
    quick: bool,
    /// Only this plane, or those whose names begin like this; several times for several
    #[arg(long = "plane", value_name = "PLANE")]
    planes: Vec<String>,
    /// Only this case, or those whose names begin like this; several times for several
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<String>,
    /// Only cables of this kind
    #[arg(long, value_enum)]
    cable: Option<CableWord>,
    /// Only this MTU of the underlay in bytes, 600 to 65535; any is possible
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(600..))]
    mtu: Option<u16>,
    /// Rounds, each of which measures everything once
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds that each load is measured, 0.05 to 60
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Where programs may run: wherever the kernel wants, or each node with its pods on half of the processors
    #[arg(long, value_enum, default_value = "none")]
    pin: PinWord,
    /// Another build of `weft`, compared as plane weft-other-1, and so on; several times for several
    #[arg(long = "other", value_name = "PROGRAM")]
    others: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CableWord {
    /// A veth pair as it comes
    Offloaded,
    /// A veth pair like a NIC without tunnel offloads
    Wire,
}

#[derive(Clone, Copy, ValueEnum)]
enum PinWord {
    None,
    Node,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Compare(args) => run_comparison(args),
        Command::Report { dir } => {
            let path = dir.join(SAMPLES);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{}: `weft bench compare --out DIR` writes it", path.display()))?;
            let comparison: Comparison =
                serde_json::from_str(&text).with_context(|| format!("{} is no comparison", path.display()))?;
            publish(&comparison, dir)?;
            print(&comparison, dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Forward { local, remote, vni, mtu, pods } => {
            let forwarder = Forwarder { local: *local, remote: *remote, vni: *vni, mtu: *mtu, pods: pods.clone() };
            weft_benches::forward(&forwarder)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Spin => {
            weft_benches::spin();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_comparison(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let options = options(args)?;
    if !rustix::process::geteuid().is_root() {
        bail!("the comparison makes network namespaces: run it as root");
    }
    fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    let stages = Stages::new();
    let to_close = stages.clone();
    let guard = Guard::arm(move || to_close.close())?;
    let progress = Progress::start("compare");
    let mut broken = None;
    let outcome = compare(&stages, &options, &mut |step| match step {
        Step::SettingUp { cable, plane } => progress.say(format!("{cable}: setting up {plane}")),
        Step::Skipped(skipped) => {
            remark(format_args!("skipped {} ({}): {}", skipped.plane, skipped.cable, skipped.reason));
        }
        Step::Measuring { cable, round, plane, case } => {
            progress.say(format!("{cable}: round {round} of {}, {case}, {plane}", options.rounds));
        }
        // What is there so far stays if the rest does not come.
        Step::Round(comparison) => broken = broken.take().or(publish(comparison, &args.out).err()),
        _ => {}
    });
    drop(progress);
    stages.close();
    drop(guard);
    let comparison = outcome?;
    broken.map_or(Ok(()), Err)?;
    publish(&comparison, &args.out)?;
    print(&comparison, &args.out)?;
    Ok(ExitCode::SUCCESS)
}

fn options(args: &CompareArgs) -> anyhow::Result<Options> {
    let controls = Machine::here().compared_congestion_controls();
    let mut planes = choose("plane", &args.planes, Plane::all(), |plane| plane.name())?;
    planes.extend((0..).zip(&args.others).map(|(index, _)| Plane::OtherWeft(index)));
    // What is asked for by name is measured, whether it is one of the quick ones or not.
    let cases = if args.quick && args.cases.is_empty() { quick_cases(&controls) } else { all_cases(&controls) };
    let cases = choose("case", &args.cases, cases, Case::name)?;
    let mtus = match args.mtu {
        Some(mtu) => vec![mtu],
        None if args.quick => vec![MTUS[0]],
        None => MTUS.to_vec(),
    };
    let kinds = match args.cable {
        Some(CableWord::Offloaded) => vec![CableKind::Offloaded],
        Some(CableWord::Wire) => vec![CableKind::Wire],
        None => vec![CableKind::Offloaded, CableKind::Wire],
    };
    let cables = mtus.iter().flat_map(|mtu| kinds.iter().map(|kind| Cable { kind: *kind, mtu: *mtu })).collect();
    let mut timing = if args.quick { QUICK } else { FULL };
    if let Some(seconds) = args.seconds {
        if !(0.05..=60.0).contains(&seconds) {
            bail!("--seconds {seconds}: allowed are 0.05 to 60");
        }
        timing.period = Duration::from_secs_f64(seconds);
    }
    Ok(Options {
        planes,
        cases,
        cables,
        rounds: args.rounds,
        timing,
        pinning: match args.pin {
            PinWord::None => Pinning::None,
            PinWord::Node => Pinning::Node,
        },
        limit: args.quick.then_some(QUICK_LIMIT),
        start_each_round: !args.quick,
        weft: std::env::current_exe().context("looking for this very program")?,
        others: args
            .others
            .iter()
            .map(|path| fs::canonicalize(path).with_context(|| format!("--other {}", path.display())))
            .collect::<Result<_, _>>()?,
    })
}

/// Those that are named, by their whole name or by what some names begin with; all if none is.
fn choose<T>(what: &str, words: &[String], all: Vec<T>, name: impl Fn(&T) -> String) -> anyhow::Result<Vec<T>> {
    let names: Vec<String> = all.iter().map(&name).collect();
    if let Some(word) = words.iter().find(|word| names.iter().all(|name| !name.starts_with(word.as_str()))) {
        bail!("--{what} {word}: no {what} begins like this; there are {}", names.join(", "));
    }
    let means = |word: &String, name: &String| {
        if names.contains(word) { name == word } else { name.starts_with(word.as_str()) }
    };
    let chosen = |item: &T| words.is_empty() || words.iter().any(|word| means(word, &name(item)));
    Ok(all.into_iter().filter(chosen).collect())
}

/// Writes samples and report, each whole or not at all.
fn publish(comparison: &Comparison, dir: &Path) -> anyhow::Result<()> {
    for (name, text) in [(SAMPLES, serde_json::to_string_pretty(comparison)?), (PAGE, report::html(comparison))] {
        let (path, draft) = (dir.join(name), dir.join(format!("{name}.draft")));
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path));
        written.with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn print(comparison: &Comparison, dir: &Path) -> anyhow::Result<()> {
    for report::Table { title, headings, rows } in report::ratios(comparison) {
        say!("{title}")?;
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        table::print(&headings, rows)?;
        say!()?;
    }
    say!(
        "{} has the figures, the rest multiples of them; ~ marks rounds that overlap with its own.",
        report::BASELINE
    )?;
    for skipped in &comparison.skipped {
        say!("skipped {} ({}): {}", skipped.plane, skipped.cable, skipped.reason)?;
    }
    for failure in &comparison.failures {
        let weft_benches::Failure { plane, cable, case, round, reason } = failure;
        say!("failed {case} on {plane} ({cable}), round {round}: {reason}")?;
    }
    say!("report: {}", dir.join(PAGE).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(words: &[&str]) -> anyhow::Result<Vec<&'static str>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        choose("case", &words, vec!["rr-tcp", "rr-tcp-awake", "rr-udp"], |name| (*name).to_owned())
    }

    #[test]
    fn a_whole_name_means_that_one_alone() {
        assert_eq!(chosen(&[]).unwrap(), ["rr-tcp", "rr-tcp-awake", "rr-udp"]);
        assert_eq!(chosen(&["rr-tcp"]).unwrap(), ["rr-tcp"]);
        assert_eq!(chosen(&["rr-t", "rr-udp"]).unwrap(), ["rr-tcp", "rr-tcp-awake", "rr-udp"]);
        assert!(chosen(&["tcp"]).unwrap_err().to_string().contains("there are rr-tcp, "));
    }
}
