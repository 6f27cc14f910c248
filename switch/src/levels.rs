//! What the kernel may do for us: each level of it by name, whether it is used, and why not.
//!
//! A level that was turned off stays off, with the first reason that was given, for as long as the switch runs.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// One thing that the kernel can do for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Pods leave checksums to us, and we to them (TUN_F_CSUM, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Checksum,
    /// TCP superframes of IPv4, from and to pods (TUN_F_TSO4).
    Tcp4,
    /// TCP superframes of IPv6 (TUN_F_TSO6).
    Tcp6,
    /// UDP superframes of IPv4 (TUN_F_USO4, Linux 6.2).
    Udp4,
    /// UDP superframes of IPv6 (TUN_F_USO6, Linux 6.2).
    Udp6,
    /// Groups of tunnel packets sent as one (UDP_SEGMENT, Linux 4.18).
    Segment,
    /// Groups of tunnel packets received as one (UDP_GRO, Linux 5.0).
    Gro,
    /// Superframes inside tunnels through a TAP that is joined to the NIC (TUN_F_UDP_TUNNEL_GSO, Linux 6.17).
    Uplink,
}

/// Why a level is not used.
#[derive(Clone, Debug)]
pub enum Off {
    /// The configuration says so.
    Configured,
    /// It did not pass its self-test, or could not be tested: what was seen instead of what was expected.
    Failed(String),
    /// It needs another one, which is off.
    Without(Level),
    /// It failed while it was in use.
    Demoted {
        /// What the kernel said to what.
        error: String,
        /// When.
        at: Instant,
    },
}

/// All levels of one switch, readable by anyone at any time.
#[derive(Debug, Default)]
pub struct Levels {
    records: [Record; Level::ALL.len()],
}

#[derive(Debug, Default)]
struct Record {
    off: OnceLock<Off>,
    proven: AtomicBool,
}

impl Level {
    /// Every level, in the order in which they are shown.
    pub const ALL: [Self; 8] =
        [Self::Checksum, Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6, Self::Segment, Self::Gro, Self::Uplink];

    /// What it is called in the configuration and in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Segment => "segment",
            Self::Gro => "gro",
            Self::Uplink => "uplink",
        }
    }

    /// Those without which it cannot be had. The kernel gives superframes only with checksums, and both kinds of
    /// UDP superframes only together (`set_offload`, drivers/net/tun.c).
    const fn needs(self) -> &'static [Self] {
        match self {
            Self::Tcp4 | Self::Tcp6 => &[Self::Checksum],
            Self::Udp4 => &[Self::Checksum, Self::Udp6],
            Self::Udp6 => &[Self::Checksum, Self::Udp4],
            Self::Checksum | Self::Segment | Self::Gro | Self::Uplink => &[],
        }
    }
}

impl Levels {
    /// Whether it is used.
    #[inline]
    #[must_use]
    pub fn uses(&self, level: Level) -> bool {
        self.off(level).is_none()
    }

    /// Why it is not used; none if it is.
    #[inline]
    #[must_use]
    pub fn off(&self, level: Level) -> Option<&Off> {
        self.records[level as usize].off.get()
    }

    /// Whether it has passed its self-test.
    #[must_use]
    pub fn is_proven(&self, level: Level) -> bool {
        self.records[level as usize].proven.load(Ordering::Relaxed)
    }

    /// Notes that it has passed its self-test.
    pub fn prove(&self, level: Level) {
        self.records[level as usize].proven.store(true, Ordering::Relaxed);
    }

    /// Turns it off, and with it those that need it. False if it was off already; the first reason stays.
    pub fn turn_off(&self, level: Level, reason: Off) -> bool {
        if self.records[level as usize].off.set(reason).is_err() {
            return false;
        }
        for other in Level::ALL.into_iter().filter(|other| other.needs().contains(&level)) {
            self.turn_off(other, Off::Without(level));
        }
        true
    }

    /// Turns it off for an error that it made while it was in use. False if it was off already.
    pub fn demote(&self, level: Level, error: String) -> bool {
        self.turn_off(level, Off::Demoted { error, at: Instant::now() })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("switched off in the configuration"),
            Self::Failed(why) => write!(f, "self-test: {why}"),
            Self::Without(level) => write!(f, "cannot be had without {level}"),
            Self::Demoted { error, at } => write!(f, "demoted {} s ago: {error}", at.elapsed().as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(levels: &Levels) -> Vec<&'static str> {
        Level::ALL.into_iter().filter(|level| levels.uses(*level)).map(Level::name).collect()
    }

    #[test]
    fn each_stands_in_its_own_record() {
        for (place, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(level as usize, place);
        }
    }

    #[test]
    fn what_needs_a_level_goes_with_it() {
        for (level, left) in [
            (Level::Checksum, &["segment", "gro", "uplink"][..]),
            (Level::Tcp4, &["checksum", "tcp6", "udp4", "udp6", "segment", "gro", "uplink"]),
            (Level::Udp6, &["checksum", "tcp4", "tcp6", "segment", "gro", "uplink"]),
            (Level::Gro, &["checksum", "tcp4", "tcp6", "udp4", "udp6", "segment", "uplink"]),
        ] {
            let levels = Levels::default();
            assert!(levels.turn_off(level, Off::Configured));
            assert_eq!(used(&levels), left, "without {level}");
        }
    }

    #[test]
    fn the_first_reason_stays() {
        let levels = Levels::default();
        assert!(levels.turn_off(Level::Udp4, Off::Failed("three bytes differ".to_owned())));
        assert!(!levels.turn_off(Level::Udp4, Off::Configured));
        assert!(!levels.demote(Level::Udp6, "EIO".to_owned()));
        let told = |level| levels.off(level).map(ToString::to_string);
        assert_eq!(told(Level::Udp4).as_deref(), Some("self-test: three bytes differ"));
        assert_eq!(told(Level::Udp6).as_deref(), Some("cannot be had without udp4"));
        assert!(levels.demote(Level::Segment, "EIO".to_owned()));
        assert_eq!(told(Level::Segment).as_deref(), Some("demoted 0 s ago: EIO"));
    }
}
