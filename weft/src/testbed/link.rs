use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use weft_testbed::link::{DirectionCounters, Impairment, Impairments, LinkChange, LinkSettings, LinkStatus};
use weft_testbed::{Lab, LabName};

use super::own_executable;
use crate::out::say;
use crate::progress::Progress;
use crate::table::print;

/// Every link of the lab.
const ALL: &str = "all";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab
    lab: LabName,
    /// The link, named like the node at its end, or `all`
    #[arg(default_value = ALL)]
    link: String,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Show how links are set and what became of their frames (the default)
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Impair a link, on top of what is set already
    ///
    /// delay=20ms jitter=5ms loss=1% burst=1%/25% duplicate=1% reorder=5% corrupt=0.1% rate=10mbit queue=100
    /// mtu=1400 too-big=icmp seed=7; 0 or `off` takes one back. docs/testbed.md says what each does.
    Set {
        /// KEY=VALUE, and `to` or `from` for frames towards the node or from it only
        #[arg(required = true, value_name = "KEY=VALUE|to|from")]
        settings: Vec<String>,
    },
    /// Take every impairment back
    Clear,
    /// Unplug a link: the node's interface loses its carrier
    Down,
    /// Plug it in again
    Up,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { lab, link, action } = args;
    match action {
        None => show(lab, link, false),
        Some(Action::Show { json }) => show(lab, link, *json),
        Some(Action::Set { settings }) => {
            let words: Vec<&str> = settings.iter().map(String::as_str).collect();
            change(lab, link, &LinkChange::read_set(&words)?)
        }
        Some(Action::Clear) => change(lab, link, &LinkChange::Clear),
        Some(Action::Down) => change(lab, link, &LinkChange::Down),
        Some(Action::Up) => change(lab, link, &LinkChange::Up),
    }
}

fn names(lab: &LabName, link: &str) -> anyhow::Result<Vec<String>> {
    let lab = Lab::open(lab)?;
    if link == ALL {
        return Ok(lab.spec().links().collect());
    }
    Ok(vec![lab.link(link)?.link])
}

/// Changes links one after the other.
fn change(lab: &LabName, link: &str, change: &LinkChange) -> anyhow::Result<ExitCode> {
    let own = own_executable()?;
    let progress = Progress::start(&format!("lab {lab}"));
    for link in names(lab, link)? {
        Lab::change_link(lab, &link, &own, |settings| change.apply(settings), &mut |step| progress.say(step))
            .with_context(|| format!("link {link}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(lab: &LabName, link: &str, json: bool) -> anyhow::Result<ExitCode> {
    let names = names(lab, link)?;
    let lab = Lab::open(lab)?;
    let links = names.iter().map(|link| lab.link(link)).collect::<Result<Vec<_>, _>>()?;
    if json {
        say!("{}", serde_json::to_string_pretty(&links)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings = ["link", "state", "frames", "impairment", "#in", "#out", "#lost", "#too big", "#held"];
    print(&headings, links.iter().flat_map(rows))?;
    for LinkStatus { link, broken, .. } in &links {
        if let Some(broken) = broken {
            say!("link {link} carries nothing: {broken}; `weft testbed link {} {link} set ...` mends it", lab.name())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One row for a link whose directions are alike, and otherwise one for each.
fn rows(status: &LinkStatus) -> Vec<Vec<String>> {
    let LinkStatus { link, settings, counters, .. } = status;
    let state = match settings {
        LinkSettings { down: true, .. } => "down",
        LinkSettings { partitioned: true, .. } => "partitioned",
        _ => "up",
    };
    let Impairments { to, from, .. } = &settings.impairments;
    let row = |direction: &str, impairment: &Impairment, counted: Option<DirectionCounters>| {
        let text = impairment.to_string();
        let text = if text.is_empty() { "-".to_owned() } else { text };
        [link.clone(), state.to_owned(), direction.to_owned(), text].into_iter().chain(numbers(counted)).collect()
    };
    match counters {
        None if to == from => vec![row("both", to, None)],
        counters => {
            vec![row("to", to, counters.map(|seen| seen.to)), row("from", from, counters.map(|seen| seen.from))]
        }
    }
}

fn numbers(counted: Option<DirectionCounters>) -> [String; 5] {
    let Some(DirectionCounters { channel, overrun, .. }) = counted else {
        return std::array::from_fn(|_| "-".to_owned());
    };
    let lost = channel.lost + channel.lost_in_bursts + channel.queue_full + overrun;
    [channel.frames, channel.delivered, lost, channel.too_big, channel.held].map(|number| number.to_string())
}
