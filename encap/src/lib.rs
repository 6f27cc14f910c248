//! Wire formats of the overlay: pure, without I/O, clock or threads.
//!
//! What comes from the wire or from a pod is untrusted: every reader returns an error or an answer, and
//! none can panic. Nothing here allocates.
#![warn(clippy::wildcard_enum_match_arm, clippy::cast_possible_truncation)]

mod bytes;
mod flow;
pub mod geneve;
pub mod inner;
mod mac;
pub mod mtu;
mod offload;
mod tunnel;
mod vni;
pub mod vxlan;

pub use flow::FlowHash;
pub use inner::{ArpView, Inner, InnerError, Ipv4View, Ipv6View, Network};
pub use mac::{MacAddr, MacAddrError};
pub use offload::{Checksum, Gso, GsoKind, Offload, OffloadError, VIRTIO_NET_HDR_LEN};
pub use tunnel::{DecapError, Encapsulation, EncapsulationError, TunnelHeader};
pub use vni::{Vni, VniError};
