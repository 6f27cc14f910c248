use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use weft_control::Agent;
use weft_control::config::{Config, LogFormat};

use crate::log;
use crate::out::say;

/// Names the descriptor on which whoever started the agent waits for the word `ready`.
const READY_FD: &str = "WEFT_READY_FD";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The node's configuration (TOML; docs/configuration.md lists every field)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, change nothing, and end
    #[arg(long)]
    check: bool,
    /// Take over from the agent that runs in the same run directory, without losing a frame
    #[arg(long, conflicts_with = "check")]
    takeover: bool,
    /// Log as lines of JSON, whatever `log_format` says
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let filter = log_filter(&config.log).with_context(|| args.config.display().to_string())?;
    if args.check {
        say!("{} is in order: node {}", args.config.display(), config.node)?;
        return Ok(ExitCode::SUCCESS);
    }
    let format = if args.log_json { LogFormat::Json } else { config.log_format };
    log::start(filter, format);
    let agent = if args.takeover { Agent::take_over(config)? } else { Agent::start(config)? };
    agent.run(say_ready)?;
    Ok(ExitCode::SUCCESS)
}

fn log_filter(text: &str) -> anyhow::Result<EnvFilter> {
    let example = "allowed is a filter such as \"info\" or \"warn,weft_switch=debug\"";
    EnvFilter::try_new(text).with_context(|| format!("`log` is \"{text}\": {example}"))
}

/// Says on the descriptor that [`READY_FD`] names, if it names one, that this process is ready.
pub(crate) fn say_ready() {
    let Ok(number) = std::env::var(READY_FD) else { return };
    let open = OpenOptions::new().write(true).open(format!("/proc/self/fd/{number}"));
    if let Err(error) = open.and_then(|mut file| file.write_all(b"ready\n")) {
        tracing::warn!(%error, "{READY_FD} names no descriptor that can be written");
    }
}
