mod capture;
mod graph;
mod link;
mod matrix;
mod node;
mod script;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Subcommand;
use weft_testbed::{AgentState, Lab, LabName, LabSpec, LabState, LabStatus, Progress as Made, UpOptions};

use crate::interrupt::Guard;
use crate::out::{complain, say};
use crate::progress::Progress;
use crate::table::print;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a lab from a file: its nodes, pods and links, with an agent on every node
    Up {
        /// The lab file (YAML; docs/testbed.md lists every field, examples/ has some)
        file: PathBuf,
        /// Name of the lab, instead of the one in the file
        #[arg(long, value_name = "LAB")]
        name: Option<LabName>,
    },
    /// Remove a lab and everything in it, also one that was never finished
    Down {
        /// The lab
        lab: LabName,
    },
    /// List the labs of this machine
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how links misbehave, and change it while the lab runs
    Link(link::Args),
    /// Stop, kill or start a node's agent, or cut its link off
    Node(node::Args),
    /// Try ping and TCP between every two pods of each virtual network
    Matrix(matrix::Args),
    /// Do the steps of a script and check what it expects; fails if anything is otherwise
    Script(script::Args),
    /// Write what passes a link or a pod's interface to a capture file
    Capture(capture::Args),
    /// Open a shell in a pod's or node's network namespace
    Shell {
        /// The lab
        lab: LabName,
        /// The pod, the node, the router, or `underlay`
        pod: String,
    },
    /// Print the logs of the store, agents, relays and pods' commands
    Logs {
        /// The lab
        lab: LabName,
        /// The node, link or pod, or `store`; all that have a log if nobody is named
        name: Option<String>,
    },
    /// Draw a lab
    Graph(graph::Args),
    /// Carry the frames of an impaired link; labs start this themselves
    #[command(hide = true)]
    Relay {
        /// What to carry, as the lab wrote it
        file: PathBuf,
    },
    /// Lead to an etcd outside of the lab; labs start this themselves
    #[command(hide = true)]
    Forward {
        /// Where to, as the lab wrote it
        file: PathBuf,
    },
    /// Run a command in a pod's or node's network namespace; its exit code becomes ours
    Exec {
        /// The lab
        lab: LabName,
        /// The pod, the node, or `underlay`
        pod: String,
        /// The command and its arguments, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let open_to_all = matches!(
        &args.command,
        // What is wrong with a file is told to everybody.
        Command::Up { .. }
            | Command::List { .. }
            | Command::Logs { .. }
            | Command::Graph(_)
            | Command::Relay { .. }
            | Command::Forward { .. }
    );
    if !open_to_all {
        as_root()?;
    }
    match &args.command {
        Command::Up { file, name } => up(file, name.as_ref()),
        Command::Down { lab } => down(lab),
        Command::List { json } => list(*json),
        Command::Link(args) => link::run(args),
        Command::Node(args) => node::run(args),
        Command::Matrix(args) => matrix::run(args),
        Command::Script(args) => script::run(args),
        Command::Capture(args) => capture::run(args),
        Command::Shell { lab, pod } => shell(lab, pod),
        Command::Logs { lab, name } => logs(lab, name.as_deref()),
        Command::Graph(args) => graph::run(args),
        Command::Relay { file } => relay(file),
        Command::Forward { file } => forward(file),
        Command::Exec { lab, pod, command } => exec(lab, pod, command),
    }
}

/// Makes a lab whose agents are this very program. While the guard lives, Ctrl-C removes the lab; it begins to
/// live once the lab is ours, so that another one of that name stays.
pub(crate) fn make(spec: &LabSpec, name: &LabName) -> anyhow::Result<(Lab, Option<Guard>)> {
    let own = own_executable()?;
    let line = Progress::start(&format!("lab {name}"));
    let mut guard = None;
    let lab = Lab::up(spec, name, &UpOptions::new(own), &mut |step| {
        match step {
            // It outlives the lab.
            Made::LimitRaised { .. } => line.keep(step),
            _ => line.say(step),
        }
        if step == Made::Claimed {
            guard = guard_of(name);
        }
    })?;
    Ok((lab, guard))
}

fn guard_of(name: &LabName) -> Option<Guard> {
    let name = name.clone();
    let clean_up = move || {
        if let Err(error) = Lab::down(&name, &mut |_| {}) {
            complain!("{error}");
        }
    };
    Guard::arm(clean_up).inspect_err(|error| complain!("Ctrl-C will not clean up: {error:#}")).ok()
}

/// Removes a lab.
pub(crate) fn remove(name: &LabName) -> anyhow::Result<()> {
    let progress = Progress::start(&format!("lab {name}"));
    Ok(Lab::down(name, &mut |step| progress.say(step))?)
}

fn up(file: &Path, name: Option<&LabName>) -> anyhow::Result<ExitCode> {
    let spec = LabSpec::read(file)?;
    as_root()?;
    let name = &lab_name(file, name, &spec)?;
    let started = Instant::now();
    let (lab, guard) = make(&spec, name)?;
    drop(guard);
    let (nodes, pods) = (lab.spec().nodes.len(), lab.spec().pods().count());
    say!("{}", weft_testbed::draw(lab.spec(), &weft_testbed::Live::default(), name.as_str(), terminal_width()))?;
    say!("lab {name}: {nodes} nodes, {pods} pods, up in {:.2} s", started.elapsed().as_secs_f64())?;
    if let Some((_, pod)) = lab.spec().pods().next() {
        say!("  weft testbed exec {name} {} -- COMMAND     in a pod", pod.name)?;
        say!("  weft show fdb --node {name}.{}             what a node knows", lab.spec().nodes[0].name)?;
    }
    say!("  weft testbed down {name}                   remove it all")?;
    Ok(ExitCode::SUCCESS)
}

/// The name asked for, or the one in the file, or the file's own.
fn lab_name(file: &Path, asked: Option<&LabName>, spec: &LabSpec) -> anyhow::Result<LabName> {
    if let Some(name) = asked.or(spec.name.as_ref()) {
        return Ok(name.clone());
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.parse().with_context(|| format!("{} has no `name`: add one, or give --name LAB", file.display()))
}

fn down(lab: &LabName) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    remove(lab)?;
    say!("lab {lab}: removed in {:.2} s", started.elapsed().as_secs_f64())?;
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    let labs = Lab::list()?;
    if json {
        let value: Vec<_> = labs.iter().map(lab_json).collect();
        say!("{}", serde_json::to_string_pretty(&value)?)?;
    } else if labs.is_empty() {
        say!("no labs: `weft testbed up FILE` makes one, examples/ has files for it")?;
    } else {
        let rows = labs.iter().flat_map(|lab| {
            let state = state_name(&lab.state);
            let nothing = vec![lab.name.to_string(), state.clone(), "-".to_owned(), "-".to_owned(), "-".to_owned()];
            let nodes = lab.nodes.iter().map(|node| {
                let place = format!("{}.{}", lab.name, node.name);
                vec![lab.name.to_string(), state.clone(), place, agent_name(node.agent), node.pods.join(" ")]
            });
            let store = (lab.store != AgentState::NotNeeded).then(|| {
                let place = format!("{} (store)", lab.name);
                vec![lab.name.to_string(), state.clone(), place, agent_name(lab.store), "-".to_owned()]
            });
            let rows: Vec<_> = store.into_iter().chain(nodes).collect();
            if rows.is_empty() { vec![nothing] } else { rows }
        });
        print(&["lab", "state", "node", "agent", "pods"], rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn relay(file: &Path) -> anyhow::Result<ExitCode> {
    weft_testbed::link::run_relay(file, crate::agent::say_ready)?;
    Ok(ExitCode::SUCCESS)
}

fn forward(file: &Path) -> anyhow::Result<ExitCode> {
    weft_testbed::store::run_forwarder(file, crate::agent::say_ready)?;
    Ok(ExitCode::SUCCESS)
}

/// This program's own file, to start agents and relays with.
fn own_executable() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding this program's own file, to start agents and relays with")
}

fn exec(lab: &LabName, pod: &str, argv: &[String]) -> anyhow::Result<ExitCode> {
    let mut command = Lab::open(lab)?.command(pod, argv)?;
    let error = command.exec();
    Err(error).with_context(|| format!("running `{}` in {lab}.{pod}", argv.join(" ")))
}

fn shell(lab: &LabName, pod: &str) -> anyhow::Result<ExitCode> {
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let place = format!("{lab}.{pod}");
    let mut command = Lab::open(lab)?.command(pod, &[&shell])?;
    crate::out::remark(format_args!("a shell in the network namespace {place}; `exit` leaves it"));
    let error = command.env("WEFT_LAB", &place).env("PS1", format!("[{place}] \\w \\$ ")).exec();
    Err(error).with_context(|| format!("running {} in {place}", shell.to_string_lossy()))
}

fn logs(lab: &LabName, name: Option<&str>) -> anyhow::Result<ExitCode> {
    let logs: Vec<_> =
        Lab::open(lab)?.logs().into_iter().filter(|log| name.is_none_or(|name| log.of == name)).collect();
    if let (Some(name), true) = (name, logs.is_empty()) {
        anyhow::bail!("nothing in lab `{lab}` that has a log is named `{name}`");
    }
    for log in &logs {
        if logs.len() > 1 {
            say!("==> {} {} ({}) <==", log.kind, log.of, log.path.display())?;
        }
        let bytes = std::fs::read(&log.path).with_context(|| format!("reading {}", log.path.display()))?;
        say!("{}", String::from_utf8_lossy(&bytes).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what only root can do, before anything is begun.
fn as_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "labs need root. Without it, and where /dev/net/tun is open to everybody, this gives a shell that may make \
         labs of its own: unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run && exec \"$SHELL\"'"
    );
    Ok(())
}

fn lab_json(lab: &LabStatus) -> serde_json::Value {
    let pid = |state| match state {
        AgentState::Running { pid } => Some(pid),
        _ => None,
    };
    let nodes = lab.nodes.iter().map(|node| {
        let (agent, pid) = (agent_name(node.agent), pid(node.agent));
        serde_json::json!({ "name": node.name, "agent": agent, "pid": pid, "pods": node.pods })
    });
    let nodes: Vec<_> = nodes.collect();
    let store = serde_json::json!({ "state": agent_name(lab.store), "pid": pid(lab.store) });
    serde_json::json!({ "lab": lab.name, "state": state_name(&lab.state), "store": store, "nodes": nodes })
}

fn state_name(state: &LabState) -> String {
    match state {
        LabState::Complete => "up".to_owned(),
        LabState::HalfMade => "half made".to_owned(),
        LabState::Unreadable { reason } => format!("unreadable: {reason}"),
        _ => "unknown".to_owned(),
    }
}

fn agent_name(state: AgentState) -> String {
    match state {
        AgentState::Running { .. } => "running".to_owned(),
        AgentState::Ended => "ended".to_owned(),
        AgentState::NotStarted => "not started".to_owned(),
        AgentState::NotNeeded => "none".to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Columns of the terminal, or what fits most of them.
pub(crate) fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(100, |size| usize::from(size.ws_col).max(40))
}
