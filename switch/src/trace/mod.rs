//! What became of frames, told one by one, as long as somebody asks.
//!
//! Theory of operation. A worker has no tracer until a [`Trace`] begins. It looks once a turn whether it has one: a turn
//! without is code that was compiled without. While one is on, the worker notes every frame's verdict; each copy waits,
//! beside the queues that it went to, until the queue is flushed and its fate known, and is then put into a bounded ring.
//! Whoever reads too slowly loses records, which are counted; the worker never waits. See docs/adr/0018-live-traces.md.

mod filter;
mod identity;
mod record;
mod ring;
mod tracer;

pub use filter::Filter;
pub use identity::{Identity, MARK_BYTES, Place};
pub use record::{Bytes, Captured, CopyTold, Ingress, Record, Sent, SourcePort, Summary, Told, TunnelBytes};
pub(crate) use ring::Listener;
pub use ring::{CAPTURE_BYTES, Depth, RING_RECORDS, Trace};
pub use tracer::MAX_LISTENERS;
pub(crate) use tracer::{Arrived, OptionalTracer};
