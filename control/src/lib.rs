//! The node agent: desired state to tables, and the local API.

pub mod config;
