//! Wire formats of the overlay: pure, without I/O, clock or threads.

mod mac;
mod offload;
mod vni;

pub use mac::{MacAddr, MacAddrError};
pub use offload::{Checksum, Gso, GsoKind, Offload, OffloadError, VIRTIO_NET_HDR_LEN};
pub use vni::{Vni, VniError};
