//! What the agent answers on its local socket, and the blocking client for it.
//!
//! One request, one reply, each a line of JSON; to [`Query::Trace`] replies go on until one side hangs up. Every message carries [`API_VERSION`]; a peer of another
//! version is refused by name, before anything else of the message is looked at.

mod client;
mod rows;
mod trace;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError, SOCKET_NAME, TraceClient};
pub use rows::{
    BatchRow, ConfigReply, ControlStatus, Counters, DropRow, FdbRow, Link, NeighbourRow, NodeRow, OffloadRow, PortRow,
    Reloaded, Status, UnderlayStatus, VtepRow, WorkerRow,
};
pub use trace::{
    CapturedRow, CopyEnd, CopyForetold, DropHint, Foretold, HexBytes, IdentityRow, PacketSpec, Protocol, Step,
    TraceBatch, TraceFilter, TraceRow, WhatIf,
};

/// The version of requests, replies and rows. Changes with every change that an older peer would misread.
pub const API_VERSION: u32 = 1;
/// Bytes in one request at most: a packet of 64 KiB in hex, and what is around it.
pub const MAX_REQUEST_BYTES: u64 = 256 * 1024;

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
    /// The request was refused.
    Error {
        /// Why, and what to do.
        message: String,
    },
}
