//! The data plane: workers, ports, underlays, counters.
//!
//! A frame's way: [`port`] reads it, `worker` has it decided, `egress` queues its copies, [`underlay`] or
//! [`port`] sends them.

mod answers;
mod budget;
mod complaints;
pub mod counters;
mod egress;
pub mod gather;
pub mod levels;
pub mod memory;
pub mod polling;
pub mod port;
mod ports;
mod runtime;
pub mod self_test;
mod switch;
mod sys;
pub mod trace;
pub mod underlay;
pub mod what_if;
mod worker;
#[cfg(test)]
mod worker_tests;

pub use runtime::PortGone;
pub use switch::{Options, StartError, Switch};
pub use sys::clock::{ClockState, clock_state};
pub use sys::descriptors::keep_descriptors_from_children;
pub use sys::netns_cookie::netns_cookie;
pub use sys::packet::{PacketTap, SeenFrame};
pub use sys::plain_tap::open_plain_tap;
pub use sys::tap::device_of;
pub use worker::{ProbeEcho, RevisionReply};
