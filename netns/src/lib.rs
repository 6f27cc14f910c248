//! Network namespaces and the links in them, by netlink, with blocking calls.
//!
//! Entering a namespace is a property of a thread, so nothing here changes the caller's thread: each call
//! that has to be inside a namespace runs on a thread of its own, which ends with the call. [`Netns::run`]
//! gives that thread to the caller, and [`Netns::links`] adds a netlink connection to it.
//!
//! Named namespaces are those of `ip netns`: a bind mount in [`RUN_DIR`], visible to every tool.

mod addresses;
mod child;
mod error;
mod in_force;
mod link;
mod links;
mod masquerade;
mod named;
mod namespace;
mod next_hop;
mod queueing;
mod redirect;
mod routes;
mod vxlan;
mod watch;

pub use addresses::ADDRESS_MARK;
pub use child::enter_in_child;
pub use error::{LinkError, NetnsError};
pub use link::{Link, LinkStats};
pub use links::{INTERFACE_NAME_MAX, LinkSettings, Links};
pub use masquerade::Masquerade;
pub use named::RUN_DIR;
pub use namespace::Netns;
pub use next_hop::{Neighbour, Route};
pub use redirect::{REDIRECT_PRIORITY, Redirect};
pub use watch::{News, Watch};
