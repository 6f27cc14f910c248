//! What the switch decides: tables, FDB and forward(), pure.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

mod admit;
mod drop_reason;
pub mod fdb;
mod forward;
mod how;
mod id;
mod size;
mod sync;
pub mod tables;

pub use admit::{Admitted, Arrival, Group, TunnelPacket, admit, group};
pub use drop_reason::{DropReason, Stage};
pub use fdb::{Fdb, Learn, Learned, Seconds};
pub use forward::{Decision, Flood, FloodCause, Ingress, VTEP_LEARN_LIMIT, Verdict, forward};
pub use how::How;
pub use id::{Attachment, PortId, VtepId};
pub use size::wire_len;
pub use tables::{BridgeDomain, DomainId, Port, PortMode, Tables, Vtep, VtepKind};
