use std::process::ExitCode;

use weft_testbed::{Lab, LabName, NodeEvent};

use super::own_executable;
use crate::progress::Progress;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The lab
    lab: LabName,
    /// The node
    node: String,
    /// stop, kill (SIGKILL), start or restart its agent; partition its link behind its back, or heal it
    #[arg(value_name = "stop|kill|start|restart|partition|heal")]
    event: NodeEvent,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let progress = Progress::start(&format!("lab {}", args.lab));
    Lab::node_event(&args.lab, &args.node, args.event, &own_executable()?, &mut |step| progress.say(step))?;
    Ok(ExitCode::SUCCESS)
}
