use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use weft_control::keeper;

use crate::out::say;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// End the keeper and let go of the pods' devices; an agent that runs starts another
    End(Place),
    /// What agents start: hold the pods' devices, for agents that come to the socket on standard input
    #[command(hide = true)]
    Serve(Place),
}

#[derive(clap::Args)]
struct Place {
    /// The agent's run directory
    #[arg(long, value_name = "DIR", default_value = "/run/weft")]
    run_dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::End(Place { run_dir }) => {
            let ended = keeper::end(run_dir)?;
            say!("{}", if ended { "the keeper has ended" } else { "no keeper runs there" })?;
        }
        Verb::Serve(Place { run_dir }) => {
            keeper::serve(run_dir, std::io::stdin()).context("serving as keeper")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
