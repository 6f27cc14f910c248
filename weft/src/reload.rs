use std::process::ExitCode;

use anyhow::bail;
use weft_api::{Query, Reloaded, Reply};

use crate::out::say;
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let reloaded = match args.target.ask(Query::Reload)? {
        Reply::Reloaded(reloaded) => reloaded,
        Reply::Error { message, .. } => bail!("{message}"),
        _ => bail!("the agent answered something else"),
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&reloaded)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Reloaded { applied, takeover, restart } = &reloaded;
    if applied.is_empty() && takeover.is_empty() && restart.is_empty() {
        say!("nothing has changed")?;
    }
    let kinds = [
        (applied, "in force now"),
        (takeover, "needs a takeover (`systemctl reload weft-agent`, or `weft agent --takeover` without systemd)"),
        (restart, "needs a restart of the agent"),
    ];
    for (fields, what) in kinds.into_iter().filter(|(fields, _)| !fields.is_empty()) {
        say!("{what}: {}", fields.join(", "))?;
    }
    Ok(ExitCode::SUCCESS)
}
