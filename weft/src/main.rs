//! The weft command: command line and wiring only.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod agent;
mod bench;
mod capture;
mod demo;
mod interrupt;
mod node;
mod out;
mod peer;
mod pki;
mod progress;
mod show;
mod store;
mod table;
mod target;
mod testbed;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::out::{NobodyReads, complain};

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
    /// Serve the control plane's store: what agents use of etcd's v3 API
    Store(store::Args),
    /// Make the certificates by which stores and agents know each other
    Pki(pki::Args),
    /// Remove a node that is gone for good
    Node(node::Args),
    /// Change the foreign VTEPs that all nodes of a cluster have
    Peer(peer::Args),
    /// Show how an agent is doing
    Status(show::StatusArgs),
    /// Show an agent's ports, VTEPs, MACs, drops or counters
    Show(show::ShowArgs),
    /// Say what would become of a packet, step by step, or watch what becomes of those that pass
    Trace(trace::Args),
    /// Write frames, inside and outside of the tunnel, with what became of them, to a capture file
    Capture(capture::Args),
    /// Show the whole path in a lab of two nodes and four pods, and remove it again
    Demo(demo::Args),
    /// Measure overlays side by side
    Bench(bench::Args),
    /// Make whole labs of network namespaces on this machine
    Testbed(testbed::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Pki(args) => pki::run(&args),
        Command::Node(args) => node::run(&args),
        Command::Peer(args) => peer::run(&args),
        Command::Status(args) => show::status(&args),
        Command::Show(args) => show::show(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Testbed(args) => testbed::run(&args),
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
