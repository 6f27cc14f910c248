//! What a node knows of the others, and what it lets them know: pure, without I/O and clock.
//!
//! [`View`] is built from what the store lists and then tells; [`Wanted`] is what of it concerns one node; and
//! [`reconcile()`] is how its tables get there. The other way, [`Membership`] says what a node has to write so that the
//! store has its rows, all of them and no others. docs/control-plane.md has the rules.

mod claims;
mod grant;
pub mod keys;
mod membership;
mod part;
pub mod ranges;
mod reconcile;
pub mod record;
mod removal;
mod view;
mod wanted;

pub use keys::{Key, Keys};
pub use membership::{Holder, Membership, Own, OwnEndpoint, Step};
pub use part::{NAME_GRACE, Part};
pub use ranges::{ClusterRange, NoRanges};
pub use reconcile::{Edit, apply, edits, reconcile};
pub use removal::{foreign_removal, removal};
pub use view::{Ips, KnownEndpoint, Listing, Member, Presence, Row, View};
pub use wanted::{Behind, Conflict, Local, Wanted, WantedVtep, conflicts, wanted};
