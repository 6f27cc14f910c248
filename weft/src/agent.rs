use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use weft_control::Agent;
use weft_control::config::{Config, LogFormat};
use weft_testbed::{READY, READY_FD};

use crate::log;
use crate::out::say;

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
    /// Take over in a process of its own, and end once that one forwards: what systemd's `ExecReload=` asks for
    #[arg(long, requires = "takeover")]
    background: bool,
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
    if args.background {
        return take_over_in_background(args);
    }
    let format = if args.log_json { LogFormat::Json } else { config.log_format };
    log::start(filter, format);
    let agent = if args.takeover { Agent::take_over(config)? } else { Agent::start(config)? };
    agent.run(say_ready)?;
    Ok(ExitCode::SUCCESS)
}

/// Has a process of its own take over, which stays. Returns when that one is ready, or has said why it is not and ended.
fn take_over_in_background(args: &Args) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("finding the program that is to take over")?;
    let (word, own_end) = std::io::pipe().context("making a pipe for the process that is to take over")?;
    let mut command = Command::new(&program);
    command.args(["agent", "--takeover", "--config"]).arg(&args.config);
    command.args(args.log_json.then_some("--log-json"));
    // What a terminal sends to this process is not meant for that one.
    command.stdin(own_end).env(READY_FD, "0").process_group(0);
    // Nobody here waits for it: whoever adopts it, systemd, is to learn how the service's process ended.
    command.spawn().with_context(|| format!("starting {}", program.display()))?;
    // With it goes this process's copy of the pipe's other end.
    drop(command);
    let mut said = String::new();
    BufReader::new(word).read_line(&mut said).context("waiting for the process that takes over")?;
    // What it says of its failure stands above.
    Ok(if said.trim_end() == READY { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn log_filter(text: &str) -> anyhow::Result<EnvFilter> {
    let example = "allowed is a filter such as \"info\" or \"warn,weft_switch=debug\"";
    EnvFilter::try_new(text).with_context(|| format!("`log` is \"{text}\": {example}"))
}

/// Says on the descriptor that [`READY_FD`] names, if it names one, that this process is ready.
pub(crate) fn say_ready() {
    let Ok(number) = std::env::var(READY_FD) else { return };
    let open = OpenOptions::new().write(true).open(format!("/proc/self/fd/{number}"));
    if let Err(error) = open.and_then(|mut file| file.write_all(format!("{READY}\n").as_bytes())) {
        tracing::warn!(%error, "{READY_FD} names no descriptor that can be written");
    }
}
