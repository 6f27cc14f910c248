//! What the agent answers on its local socket, and the blocking client for it.
//!
//! One request, one reply, each a line of JSON. Every message carries [`API_VERSION`]; a peer of another
//! version is refused by name, before anything else of the message is looked at.

mod client;
mod rows;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError, SOCKET_NAME};
pub use rows::{
    ControlStatus, Counters, DropRow, FdbRow, Link, NeighbourRow, NodeRow, OffloadRow, PortRow, Status, UnderlayStatus,
    VtepRow,
};

/// The version of requests, replies and rows. Changes with every change that an older peer would misread.
pub const API_VERSION: u32 = 1;
/// Bytes in one request at most.
pub const MAX_REQUEST_BYTES: u64 = 64 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
    /// The request was refused.
    Error {
        /// Why, and what to do.
        message: String,
    },
}
