//! What the agent answers on its local socket, and the blocking client for it.
//!
//! One request, one reply, each a line of JSON; to [`Query::Trace`] replies go on until one side hangs up. Every message carries [`API_VERSION`]; a peer of another
//! version is refused by name, before anything else of the message is looked at.

mod client;
mod pods;
mod rows;
pub mod spool;
mod trace;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError, SOCKET_NAME, TraceClient};
pub use pods::{
    AddressSource, Attach, Attached, Check, MAX_WAIT_MS, PodAddress, PodInterface, PodRoute, Refusal, Retain, Wait,
};
pub use rows::{
    BatchRow, ConfigReply, ControlStatus, Counters, DropRow, FdbRow, Link, NeighbourRow, NodeRow, OffloadRow, PortRow,
    Reloaded, Status, UnderlayStatus, VtepRow, WorkerRow,
};
pub use trace::{
    CapturedRow, CopyEnd, CopyForetold, DropHint, FlowKey, Foretold, HexBytes, IdentityRow, PacketSpec, Protocol, Step,
    TraceBatch, TraceFilter, TraceRow, WhatIf,
};

/// The version of requests, replies and rows. Changes with every change that an older peer would misread.
pub const API_VERSION: u32 = 1;
/// Bytes in one request at most: the longest names every interface that a node can have.
pub const MAX_REQUEST_BYTES: u64 = 1024 * 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The agent as a whole.
    Status,
    /// Its ports.
    Ports,
    /// The VTEPs it knows.
    Vteps,
    /// Static and learned MACs.
    Fdb,
    /// The MACs of pods' addresses.
    Neighbours,
    /// The nodes of the cluster; none without a control plane.
    Nodes,
    /// Every drop reason with its count.
    Drops,
    /// All other counters.
    Counters,
    /// What would become of a packet.
    WhatIf(Box<WhatIf>),
    /// What becomes of frames from now on.
    Trace(Box<TraceFilter>),
    /// The threads that forward.
    Workers,
    /// The configuration in force, defaults included.
    Config,
    /// To read the configuration's file again.
    Reload,
    /// Give a pod an interface. Done again, it says what the first time came to.
    Attach(Box<Attach>),
    /// Take a pod's interface away; one that is not there is fine.
    Detach(PodInterface),
    /// Compare a pod's interface with what it is expected to be.
    Check(Check),
    /// Take all interfaces of a network away but these. Those with addresses of an IPAM plugin stay known until they are
    /// [released](Query::Released).
    Retain(Retain),
    /// The interfaces of a network that were taken away, and whose addresses an IPAM plugin has to take back yet.
    Unreleased(String),
    /// It has taken back the addresses of these, which need not be known any longer.
    Released(Vec<PodInterface>),
    /// Whether pods could be attached; with addresses of the node's own, if that is said.
    Ready {
        /// Whether the addresses come from the node's ranges.
        addresses: bool,
    },
}

/// A request as it travels.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Request {
    /// [`API_VERSION`] of the sender.
    pub api: u32,
    /// What it asks for.
    pub query: Query,
}

/// The part of a message that every version understands.
#[derive(Clone, Debug, Deserialize)]
pub struct Versioned {
    /// [`API_VERSION`] of the sender.
    pub api: u32,
}

/// A reply as it travels.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Response {
    /// [`API_VERSION`] of the sender.
    pub api: u32,
    /// What it says.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Query::Status`].
    Status(Box<Status>),
    /// To [`Query::Ports`].
    Ports(Vec<PortRow>),
    /// To [`Query::Vteps`].
    Vteps(Vec<VtepRow>),
    /// To [`Query::Fdb`].
    Fdb(Vec<FdbRow>),
    /// To [`Query::Neighbours`].
    Neighbours(Vec<NeighbourRow>),
    /// To [`Query::Nodes`].
    Nodes(Vec<NodeRow>),
    /// To [`Query::Drops`].
    Drops(Vec<DropRow>),
    /// To [`Query::Counters`].
    Counters(Box<Counters>),
    /// To [`Query::WhatIf`].
    WhatIf(Box<Foretold>),
    /// To [`Query::Trace`], first: the trace is on.
    Tracing {
        /// Name of the node.
        node: String,
    },
    /// To [`Query::Trace`], again and again.
    Trace(TraceBatch),
    /// To [`Query::Workers`].
    Workers(Vec<WorkerRow>),
    /// To [`Query::Config`].
    Config(Box<ConfigReply>),
    /// To [`Query::Reload`].
    Reloaded(Reloaded),
    /// To [`Query::Attach`]: it forwards.
    Attached(Box<Attached>),
    /// To [`Query::Retain`] and [`Query::Unreleased`]: what was taken away.
    Detached(Vec<PodInterface>),
    /// To [`Query::Detach`], [`Query::Check`], [`Query::Released`] and [`Query::Ready`]: so it is.
    Done,
    /// The request was refused.
    Error {
        /// Why, and what to do.
        message: String,
        /// The same for programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refusal: Option<Refusal>,
    },
}
