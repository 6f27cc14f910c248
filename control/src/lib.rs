//! The node agent: desired state to tables, and the local API.

mod agent;
mod api;
mod attach;
pub mod cluster;
pub mod config;
mod desired;
mod following;
mod host_port;
mod instance;
mod lock;
mod paths;
mod prove;
mod roaming;
mod rows;
mod serve;
mod show;
mod sync;
mod trace;
mod uplink;

pub use agent::{Agent, AgentError};
pub use rows::{ClusterRows, RowsError};
