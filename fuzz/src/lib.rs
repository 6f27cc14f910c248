//! The bodies of the fuzz targets, which the replay in `encap/tests/fuzz_replay.rs` runs too.
//!
//! Each takes any bytes, and holds what the crate makes of them against what has to be true of it. The first
//! [`KNOBS_LEN`] bytes of most are [`Knobs`], the rest is the frame.

#![warn(missing_docs)]

mod headers;
mod knobs;
mod sizes;
mod superframes;

pub use headers::{geneve, inner, outer, probe, tunnel_offload, vxlan};
pub use knobs::{KNOBS_LEN, Knobs};
pub use sizes::{fragment, mss, too_big};
pub use superframes::{merge, recover_frame, split};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("inner", inner),
    ("vxlan", vxlan),
    ("geneve", geneve),
    ("outer", outer),
    ("tunnel_offload", tunnel_offload),
    ("split", split),
    ("merge", merge),
    ("recover", recover_frame),
    ("too_big", too_big),
    ("mss", mss),
    ("fragment", fragment),
    ("probe", probe),
];
