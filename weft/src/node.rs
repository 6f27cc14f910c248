use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use weft_control::ClusterRows;
use weft_control::config::Config;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// An agent's configuration, whose `[control]` names the store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Let all nodes forget one at once that is gone for good; an agent that runs comes back by itself
    Remove {
        /// Its name
        name: String,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Verb::Remove { name } = &args.verb;
        if !ClusterRows::of(&config)?.remove_node(name).await? {
            bail!("node {name} wrote its row at the same time, so its agent runs: end that first");
        }
        Ok(ExitCode::SUCCESS)
    })
}
