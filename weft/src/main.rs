//! The weft command: command line and wiring only.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod bench;
mod capture;
mod cni;
mod demo;
#[cfg(test)]
mod deploy_tests;
mod doctor;
#[cfg(test)]
mod documents_tests;
mod flows;
mod interrupt;
#[cfg(test)]
mod json_tests;
mod keeper;
mod log;
mod manual;
mod node;
mod out;
mod peer;
mod pki;
mod progress;
mod reload;
mod show;
mod store;
mod table;
mod target;
mod testbed;
mod top;
mod trace;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::out::{NobodyReads, complain};

/// Where to go from `weft --help`.
const EXAMPLES: &str = "\
Begin here:
  weft demo                               two nodes and four pods, shown and removed
  weft testbed up examples/two-node.yaml  a lab that stays, on this machine
  weft agent --config FILE --check        is this configuration in order?

When something is wrong:
  weft doctor                             what, why, and the command that fixes it
  weft top                                ports, peers, drops and workers, live
  weft status                             how packets travel, and why not better
  weft trace --from POD --to IP           what would become of a packet, step by step
  weft show drops                         why frames were dropped, and what to do

`weft COMMAND --help` says more. `--node LAB.NODE` names an agent of a lab.";

/// A userspace VXLAN/Geneve overlay switch.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this node's agent: attach its pods and forward their frames until stopped
    Agent(agent::Args),
    /// Have an agent read its configuration again, and say what of it needs more than that
    Reload(reload::Args),
    /// End the process that holds the pods' devices while no agent runs
    Keeper(keeper::Args),
    /// Serve the control plane's store: what agents use of etcd's v3 API
    Store(store::Args),
    /// Make the certificates by which stores and agents know each other
    Pki(pki::Args),
    /// Install the CNI plugin, by which container runtimes attach pods
    Cni(cni::Args),
    /// Remove a node that is gone for good
    Node(node::Args),
    /// Change the foreign VTEPs that all nodes of a cluster have
    Peer(peer::Args),
    /// Show how an agent is doing
    Status(show::StatusArgs),
    /// Show an agent's ports, VTEPs, MACs, drops, counters, workers, configuration, or the flows that carry most
    Show(show::ShowArgs),
    /// Say what would become of a packet, step by step, or watch what becomes of those that pass
    Trace(trace::Args),
    /// Write frames, inside and outside of the tunnel, with what became of them, to a capture file
    Capture(capture::Args),
    /// Watch an agent's ports, peers, drops and workers live
    Top(top::Args),
    /// Find out what is wrong on a node, why, and which command fixes it
    Doctor(doctor::Args),
    /// Show the whole path in a lab of two nodes and four pods, and remove it again
    Demo(demo::Args),
    /// Measure overlays side by side
    Bench(bench::Args),
    /// Make whole labs of network namespaces on this machine
    Testbed(testbed::Args),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Write manual pages into a directory
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Keeper(args) => keeper::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Pki(args) => pki::run(&args),
        Command::Cni(args) => cni::run(&args),
        Command::Node(args) => node::run(&args),
        Command::Peer(args) => peer::run(&args),
        Command::Status(args) => show::status(&args),
        Command::Show(args) => show::show(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Testbed(args) => testbed::run(&args),
        Command::Completions(args) => manual::completions(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<NobodyReads>() => ExitCode::SUCCESS,
        Err(error) => {
            let told = told_once(&error);
            // A file's problems come as snippets, which begin like this.
            complain!("{}", told.strip_prefix("error: ").unwrap_or(&told));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those that it has in its own words already.
fn told_once(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    causes
        .reduce(|told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
        .unwrap_or_default()
}
