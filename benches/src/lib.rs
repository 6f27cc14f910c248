//! The comparison: the same two nodes and three pods, joined by the kernel, by Open vSwitch, by a naive forwarder and
//! by Weft, under the same load, in one run.
//!
//! A [`Plane`] is set up on a [`Stage`]; a [`Case`] is a load between two pods of it; [`compare`] does them round by
//! round and keeps every sample in a [`Comparison`]. [`report`] makes of that what people read, and of nothing else.

mod case;
mod compare;
mod error;
mod forwarder;
pub mod load;
mod machine;
mod plane;
mod processor;
mod record;
pub mod report;
mod spinner;
mod stage;

pub use case::{Case, Load, Place, Protocol, all_cases, quick_cases};
pub use compare::{Options, Progress, compare};
pub use error::BenchError;
pub use forwarder::{Forwarder, PodPort, forward};
pub use machine::Machine;
pub use plane::{Plane, WeftUnderlay};
pub use processor::Pinning;
pub use record::{Better, Comparison, Failure, Group, Metric, PlaneRecord, Sample, Settings, Skipped};
pub use spinner::spin;
pub use stage::{Cable, CableKind, Pod, Stage, Stages};
