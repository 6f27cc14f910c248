use std::io;
use std::path::PathBuf;

use thiserror::Error;
use weft_api::ClientError;
use weft_netns::NetnsError;

use crate::LabName;
use crate::link::{ImpairmentError, RelayError};

/// Why something about a lab failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// A lab of that name exists.
    #[error("a lab named `{name}` exists already; `weft testbed down {name}` removes it")]
    NameTaken {
        /// The name asked for.
        name: LabName,
    },
    /// A namespace the lab would need exists, and no lab made it.
    #[error(
        "a network namespace named `{namespace}` exists already and belongs to no lab; `ip netns delete {namespace}` removes it"
    )]
    NamespaceTaken {
        /// The namespace in the way.
        namespace: String,
    },
    /// There is no lab of that name.
    #[error("no lab named `{name}`; {}", existing(known))]
    NoSuchLab {
        /// The name asked for.
        name: LabName,
        /// The labs there are.
        known: Vec<String>,
    },
    /// The lab has no node or pod of that name.
    #[error("lab `{lab}` has no node or pod `{name}`; it has {}", known.join(", "))]
    NoSuchMember {
        /// The lab.
        lab: LabName,
        /// The name asked for.
        name: String,
        /// Its nodes and pods.
        known: Vec<String>,
    },
    /// The lab was taken down while it was being made.
    #[error("lab `{name}` was taken down while it was being made")]
    TakenDown {
        /// The lab.
        name: LabName,
    },
    /// The lab was begun, and its journal does not exist yet or cannot be understood.
    #[error("the journal of lab `{name}` is of no use: {reason}; `weft testbed down {name}` removes what it made")]
    Journal {
        /// The lab.
        name: LabName,
        /// What is wrong with it.
        reason: String,
    },
    /// The journal was written by a version that does it differently.
    #[error(
        "lab `{name}` was made by another version of weft (journal version {seen}, this one knows {known}): take it down with that one"
    )]
    JournalVersion {
        /// The lab.
        name: LabName,
        /// The version in the journal.
        seen: u32,
        /// The version understood.
        known: u32,
    },
    /// The agent's executable cannot be run.
    #[error("the agent {} cannot be run: {reason}", path.display())]
    NoAgent {
        /// The path given.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// An agent or a relay did not become ready.
    #[error("the {who} did not become ready: {reason}{}", tail(log))]
    NotReady {
        /// What it is, and of what.
        who: String,
        /// What it did instead.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// Agents that do not find each other by the store.
    #[error(
        "after {seconds} s {missing}: links have to let agents reach the store, or write `control: none` into the lab file{}",
        tail(log)
    )]
    NotJoined {
        /// Seconds that were waited.
        seconds: u64,
        /// Who is missing, and to whom.
        missing: String,
        /// The end of the log of who misses somebody.
        log: String,
    },
    /// A process of the lab is there even after SIGKILL.
    #[error("process {pid} of lab `{name}` did not end after SIGKILL")]
    Unkillable {
        /// The lab.
        name: LabName,
        /// Its process id.
        pid: i32,
    },
    /// The lab has no link of that name.
    #[error("lab `{lab}` has no link `{name}`; it has {}", known.join(", "))]
    NoSuchLink {
        /// The lab.
        lab: LabName,
        /// The name asked for.
        name: String,
        /// Its links.
        known: Vec<String>,
    },
    /// A node without an agent.
    #[error("node `{node}` has no agent that could stop or start; `partition` and `heal` cut its link off and mend it")]
    NoAgentThere {
        /// The node.
        node: String,
    },
    /// Impairments that do not go together.
    #[error(transparent)]
    Impairment(#[from] ImpairmentError),
    /// An agent does not answer.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// A relay does not answer.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A command without a program.
    #[error("there is no command to run")]
    NoCommand,
    /// The agent's configuration could not be written as TOML.
    #[error("cannot write the configuration of node `{node}`: {source}")]
    AgentConfig {
        /// The node.
        node: String,
        /// What the serialiser said.
        source: toml::ser::Error,
    },
    /// A namespace or a link refused.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A file or process refused.
    #[error("cannot {operation} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or process.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no room for the nodes' neighbours, and does not let us make any.
    #[error(
        "the kernel keeps {limit} neighbours at most on this machine ({}: {source}), which all nodes together exceed; \
         as root, `echo {wanted} > {}` makes room", path.display(), path.display()
    )]
    TooManyNeighbours {
        /// The limit's file.
        path: PathBuf,
        /// Entries that the kernel's table of neighbours takes (`net.ipv4.neigh.default.gc_thresh3`).
        limit: usize,
        /// Entries that the lab needs.
        wanted: usize,
        /// Why it cannot be raised.
        source: io::Error,
    },
    /// Making the lab failed, and so did removing what there was of it.
    #[error("{cause}\nand what was made until then could not be removed: {cleanup}")]
    Leftover {
        /// Why the lab could not be made.
        cause: Box<LabError>,
        /// Why it could not be removed.
        cleanup: Box<LabError>,
    },
}

/// An [`LabError::Io`] with its operation and file.
pub(crate) fn io_error<E: Into<io::Error>>(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> LabError {
    let path = path.into();
    move |source| LabError::Io { operation, path, source: source.into() }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (labs need root)",
        _ => "",
    }
}

fn existing(known: &[String]) -> String {
    if known.is_empty() { "there is none at all".to_owned() } else { format!("there are: {}", known.join(", ")) }
}

fn tail(log: &str) -> String {
    if log.is_empty() { "; its log is empty".to_owned() } else { format!("; its log ends with:\n{log}") }
}
