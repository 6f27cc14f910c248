//! The agent's configuration.

pub mod file;
