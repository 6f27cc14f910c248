use std::fmt;

/// What has just been done to a lab, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The lab has its directory and journal.
    Claimed,
    /// A limit of the machine's was too low for the lab.
    LimitRaised {
        /// The file in /proc/sys.
        path: &'a str,
        /// Entries that the table took before.
        from: usize,
        /// Entries that it takes now, and goes on to take.
        to: usize,
    },
    /// A network namespace was made.
    Namespace {
        /// Its name, as `ip netns list` shows it.
        name: &'a str,
    },
    /// A node or router is connected to the underlay.
    Connected {
        /// The link.
        link: &'a str,
    },
    /// A node without an agent has its tunnels and pods.
    NodeMade {
        /// The node.
        node: &'a str,
    },
    /// A pod's command was started.
    CommandStarted {
        /// The pod.
        pod: &'a str,
        /// Its process id.
        pid: u32,
    },
    /// An agent was started; it is not ready yet.
    AgentStarted {
        /// Its node.
        node: &'a str,
        /// Its process id.
        pid: i32,
    },
    /// An agent forwards for all its pods.
    AgentReady {
        /// Its node.
        node: &'a str,
    },
    /// The store, or what leads to it, was started; it does not answer yet.
    StoreStarted {
        /// Its process id.
        pid: i32,
    },
    /// The store answers.
    StoreReady,
    /// Every agent knows every other.
    AgentsJoined,
    /// A relay for an impaired link was started; it carries nothing yet.
    RelayStarted {
        /// The link.
        link: &'a str,
        /// Its process id.
        pid: i32,
    },
    /// A relay can carry frames.
    LinkReady {
        /// The link.
        link: &'a str,
    },
    /// An agent ended.
    AgentEnded {
        /// Its node.
        node: &'a str,
        /// Its process id.
        pid: i32,
    },
    /// A process in one of the lab's namespaces was killed.
    Killed {
        /// Its process id.
        pid: i32,
    },
    /// A network namespace was removed.
    Removed {
        /// Its name.
        name: &'a str,
    },
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed => write!(f, "journal written"),
            Self::LimitRaised { path, from, to } => {
                write!(f, "raised {path} from {from} to {to}: this machine's kernel had no room for as many neighbours")
            }
            Self::Namespace { name } => write!(f, "namespace {name} made"),
            Self::Connected { link } => write!(f, "link {link} connected to the underlay"),
            Self::NodeMade { node } => write!(f, "tunnels and pods of node {node} made"),
            Self::CommandStarted { pod, pid } => write!(f, "command of pod {pod} started (process {pid})"),
            Self::AgentStarted { node, pid } => write!(f, "agent of {node} started (process {pid})"),
            Self::AgentReady { node } => write!(f, "agent of {node} ready"),
            Self::StoreStarted { pid } => write!(f, "store started (process {pid})"),
            Self::StoreReady => write!(f, "store ready"),
            Self::AgentsJoined => write!(f, "all agents know each other"),
            Self::RelayStarted { link, pid } => write!(f, "relay of link {link} started (process {pid})"),
            Self::LinkReady { link } => write!(f, "relay of link {link} ready"),
            Self::AgentEnded { node, pid } => write!(f, "agent of {node} ended (process {pid})"),
            Self::Killed { pid } => write!(f, "process {pid} killed"),
            Self::Removed { name } => write!(f, "namespace {name} removed"),
        }
    }
}
