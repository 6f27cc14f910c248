//! What is measured between the pods of a lab, without any program from outside.

mod bulk;
mod icmp;
mod matrix;
mod pattern;
mod ping;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

pub use bulk::{Amount, BulkOptions, BulkReport, bulk, bulk_between};
pub use matrix::{Pair, matrix};
pub use ping::{PING_COUNT_MAX, PING_PAYLOAD_MAX, PingOptions, PingReport, ping, ping_from};

use crate::LabError;

/// Why nothing was measured, or what was measured is worth nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The lab or one of its members is not there.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A socket refused.
    #[error("cannot {operation} in pod `{pod}`: {source}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// In which pod.
        pod: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pod has no address to send to.
    #[error("pod `{pod}` has no address of a family that pod `{other}` has too")]
    NoCommonFamily {
        /// The pod.
        pod: String,
        /// The pod at the other end.
        other: String,
    },
    /// A number beyond its limit.
    #[error("{what} {seen} is beyond its limit: allowed are {min} to {max}")]
    Limit {
        /// What the number is.
        what: &'static str,
        /// The number given, in the unit that the message names.
        seen: usize,
        /// The least allowed, in the same unit.
        min: usize,
        /// The greatest allowed, in the same unit.
        max: usize,
    },
    /// Nothing moved.
    #[error("no byte moved from pod `{from}` to {to} for {} s", idle.as_secs())]
    Stalled {
        /// The sending pod.
        from: String,
        /// The address sent to.
        to: IpAddr,
        /// For how long.
        idle: Duration,
    },
    /// What arrived is not what was sent.
    #[error("byte {position} from pod `{from}` to {to} arrived as {seen:#04x} instead of {expected:#04x}")]
    Corrupt {
        /// The sending pod.
        from: String,
        /// The address sent to.
        to: IpAddr,
        /// Bytes before it in the stream.
        position: u64,
        /// The byte that was sent there.
        expected: u8,
        /// The byte that arrived.
        seen: u8,
    },
    /// The end of the stream is missing.
    #[error("of {sent} bytes from pod `{from}` to {to}, {received} arrived")]
    Truncated {
        /// The sending pod.
        from: String,
        /// The address sent to.
        to: IpAddr,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
}

fn socket_error(operation: &'static str, pod: &str) -> impl FnOnce(io::Error) -> ProbeError {
    let pod = pod.to_owned();
    move |source| ProbeError::Socket { operation, pod, source }
}
