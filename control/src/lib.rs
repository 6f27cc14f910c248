//! The node agent: desired state to tables, and the local API.

mod agent;
mod api;
mod attach;
pub mod cluster;
pub mod config;
mod desired;
mod lock;
mod paths;
mod prove;
mod serve;
mod show;
mod uplink;

pub use agent::{Agent, AgentError};
