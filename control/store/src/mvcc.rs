//! What the store is, without I/O, clock and threads: every version of every key, leases, and what requests do to them.

mod admit;
mod history;
mod lease;
mod range;
mod state;
mod txn;

#[cfg(test)]
mod model_tests;

pub use history::{History, Revision};
pub use lease::{LeaseTable, MAX_TTL, MIN_TTL};
pub use state::{Change, QUOTA, State};
