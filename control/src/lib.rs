//! The node agent: desired state to tables, and the local API.

mod agent;
mod api;
mod attach;
pub mod cluster;
pub mod config;
mod desired;
pub mod doctor;
mod following;
mod host_port;
mod instance;
pub mod keeper;
mod lock;
pub mod metrics;
mod outside;
mod passing;
mod paths;
mod pods;
mod privileges;
mod prove;
mod recent;
mod reload;
mod roaming;
mod rows;
mod serve;
mod show;
mod spread;
mod supervisor;
mod sync;
mod takeover;
mod threads;
mod trace;
mod uplink;

pub use agent::{Agent, AgentError};
pub use pods::LedgerError;
pub use rows::{ClusterRows, RowsError};
pub use takeover::TakeoverError;
