//! `weft doctor`: what is wrong on a node, and what to type.

use std::path::PathBuf;
use std::process::ExitCode;

use weft_control::config::Config;
use weft_control::doctor::gather::{GatherError, gather};
use weft_control::doctor::{Report, Severity, examine};

use crate::out::{complain, say};
use crate::target::Target;

/// Exit code where something was found.
const FOUND: u8 = 1;
/// Exit code where nothing was found, and not everything could be looked at.
const NOT_SEEN: u8 = 2;

/// What `weft doctor --help` says at its end.
const CODES: &str = "\
Exit code: 0 nothing was found, 1 something was, 2 it could not look. Notes count as nothing. Changes nothing.";

#[derive(clap::Args)]
#[command(after_help = CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// A configuration, to look for what its agent would meet, where none runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().map(Config::load).transpose()?;
    let facts = match gather(&args.target.place(config)?) {
        Ok(facts) => facts,
        Err(error @ (GatherError::NotRoot | GatherError::Netns(_))) => {
            complain!("{error}");
            return Ok(NOT_SEEN.into());
        }
    };
    let report = examine(&facts);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report, args.target.inside().as_deref())?;
    }
    Ok(match &report {
        report if report.has_findings() => FOUND.into(),
        report if !report.unseen.is_empty() => NOT_SEEN.into(),
        _ => ExitCode::SUCCESS,
    })
}

fn print(report: &Report, inside: Option<&str>) -> anyhow::Result<()> {
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => "ERROR  ",
            Severity::Warning => "WARNING",
            Severity::Note => "NOTE   ",
        };
        say!("{severity}  {} [{}]", finding.what, finding.name)?;
        say!("         why: {}", finding.why)?;
        say!("         fix: {}", finding.fix)?;
    }
    for unseen in &report.unseen {
        say!("UNSEEN   {}: {}", unseen.part, unseen.reason)?;
    }
    let of = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let node = report.node.as_deref().map_or(String::new(), |node| format!("{node}: "));
    if report.has_findings()
        && let Some(command) = inside
    {
        say!("commands of fixes are for inside the node: {command} COMMAND")?;
    }
    match (of(Severity::Error), of(Severity::Warning)) {
        (0, 0) if report.agent_answers => say!("{node}nothing is wrong that could be seen from here"),
        (0, 0) => say!("nothing is wrong that could be seen without an agent"),
        (errors, warnings) => say!("{node}errors: {errors}, warnings: {warnings}"),
    }
}
