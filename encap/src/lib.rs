//! Wire formats of the overlay: pure, without I/O, clock or threads.
//!
//! What comes from the wire or from a pod is untrusted: every reader returns an error or an answer, and
//! none can panic. Nothing here allocates, except [`merge::Merger::with_capacity`], once.
#![warn(clippy::wildcard_enum_match_arm, clippy::cast_possible_truncation)]

mod bytes;
pub mod checksum;
pub mod ecn;
mod flow;
pub mod fragment;
pub mod geneve;
pub mod inner;
pub mod l4;
mod mac;
pub mod merge;
pub mod mss;
pub mod mtu;
pub mod neighbour;
mod offload;
pub mod outer;
pub mod probe;
pub mod recover;
pub mod search;
pub mod split;
pub mod too_big;
mod tunnel;
mod tunnel_offload;
mod vni;
pub mod vxlan;

pub use checksum::ChecksumError;
pub use ecn::{Decapsulated, Dscp, Ecn};
pub use flow::FlowHash;
pub use fragment::{FragmentError, Fragmenter};
pub use inner::{ArpView, Inner, InnerError, Ipv4View, Ipv6View, Network};
pub use l4::{L4, L4Error};
pub use mac::{MacAddr, MacAddrError};
pub use merge::{Group, Merger, MergerFull};
pub use mss::{clamp_mss, mss_for};
pub use offload::{Checksum, Gso, GsoKind, Offload, OffloadError, VIRTIO_NET_HDR_LEN};
pub use outer::{Outer, OuterError};
pub use probe::{Probe, ProbeError};
pub use recover::{RecoverError, recover_offload};
pub use search::{ProbeToSend, Search};
pub use split::{SplitError, Splitter};
pub use too_big::{NoReply, too_big};
pub use tunnel::{DecapError, Encapsulation, EncapsulationError, TunnelHeader};
pub use tunnel_offload::{TunnelGso, TunnelOffload, VIRTIO_NET_HDR_TUNNEL_LEN};
pub use vni::{Vni, VniError};
