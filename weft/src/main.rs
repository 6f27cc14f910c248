//! The weft command: command line and wiring only.

mod agent;
mod show;
mod table;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A userspace VXLAN/Geneve overlay switch.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this node's agent: attach its pods and forward their frames until stopped
    Agent(agent::Args),
    /// Show how an agent is doing
    Status(show::StatusArgs),
    /// Show an agent's ports, VTEPs, MACs, drops or counters
    Show(show::ShowArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(&args),
        Command::Status(args) => show::status(&args),
        Command::Show(args) => show::show(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
