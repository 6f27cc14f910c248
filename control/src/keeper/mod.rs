//! The keeper: a small process that holds the descriptors of pods' devices, so that their carrier outlives an agent.
//!
//! Theory of operation. A TAP has carrier as long as somebody holds a queue of it open, and frames wait in the queue for
//! whoever reads it next. So the agent deposits a copy of every queue with a process that does nothing else; when the agent
//! is gone, its successor fetches them and reads on. Descriptors speak for themselves: the kernel tells of each which
//! device of which network namespace it is of, so that nothing has to be believed that was written down beside it.
//!
//! One request, one answer, each one message. [`serve`] is the process, [`client`] the agent's end.

mod client;
mod serve;

use serde::{Deserialize, Serialize};

pub use client::{KeeperError, end};
pub use serve::serve;

pub(crate) use client::Keeper;

/// Its socket in the run directory.
pub(crate) const SOCKET: &str = "keeper.sock";
/// The version of requests and answers. [`Request::End`] is understood by every version.
pub(crate) const VERSION: u32 = 1;
/// Devices held at most: all ports of a node.
pub(crate) const DEVICES: usize = weft_bridge::tables::MAX_PORTS;
/// Descriptors held at most.
pub(crate) const DESCRIPTORS: usize = 65_536;

/// What the keeper is asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Which version it speaks.
    Version,
    /// Hold what comes with this, in place of what is held for that port.
    Hold {
        /// The port's name.
        port: String,
    },
    /// Close what is held for that port.
    Release {
        /// The port's name.
        port: String,
    },
    /// Copies of what is held for the first port whose name comes after this one.
    Next {
        /// The name; none for the first of all.
        after: Option<String>,
    },
    /// Close everything, and end.
    End,
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// To [`Request::Version`].
    Version(u32),
    /// It is so.
    Done,
    /// To [`Request::Next`]: what comes with this is held for that port.
    Held {
        /// The port's name.
        port: String,
    },
    /// To [`Request::Next`]: there is no other.
    NoMore,
    /// It is not.
    Refused {
        /// Why.
        why: String,
    },
}
