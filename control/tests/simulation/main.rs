//! Many agents on one store, with everything that goes wrong: random schedules that a seed makes and repeats, and the
//! failures that others are known for, one by one.
//!
//! `WEFT_SEED=N` repeats one schedule; `WEFT_SCHEDULES=N` makes so many. A schedule that fails says its seed.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod agent;
mod law;
mod named;
mod ranges;
mod restored;
mod schedule;
mod store;
mod traffic;
mod world;
