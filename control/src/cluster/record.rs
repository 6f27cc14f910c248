//! The rows of the store, as JSON. Fields that are not known are ignored; a version that is not known is refused.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_encap::{Encapsulation, MacAddr, Vni};

use super::ranges::ClusterRange;

/// The version of rows that this program writes, and the newest that it reads. It changes with every change that an
/// older reader would misread; what it may ignore is a new field.
pub const RECORD_VERSION: u32 = 1;
/// Bytes in one row at most.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// A node that echoes path probes has this among its capabilities (docs/adr/0006-path-probes.md).
pub const PROBES: &str = "probes";
/// A node that says by which revision of the store it forwards has this among them
/// (docs/adr/0021-revisions-by-the-data-plane.md).
pub const REVISIONS: &str = "revisions";

/// How far a node's publication is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has claimed its name, and its endpoints are on their way.
    #[default]
    Joining,
    /// All its endpoints are there.
    Joined,
    /// It was removed on purpose: nothing of it counts any more.
    Left,
}

/// A node, under its name. It goes with the lease of the agent that claimed the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Who claims the name: the same as long as the node keeps its run directory.
    pub instance: String,
    /// The store's revision at which the name was claimed. 0 in the row that claims: then it is that row's own.
    #[serde(default)]
    pub incarnation: i64,
    /// A Lamport clock of claims: greater in each claim of the name than in the one before and than all revisions that the
    /// claimant has seen. So it grows where incarnations do not, when a store goes back to a backup.
    #[serde(default)]
    pub epoch: i64,
    /// How far its publication is.
    #[serde(default)]
    pub standing: Standing,
    /// Its VTEP addresses.
    pub addresses: Vec<IpAddr>,
    /// What it receives; the first is what it likes best.
    pub receives: Vec<Receives>,
    /// MTU of its underlay in bytes.
    pub underlay_mtu: u16,
    /// The virtual networks that it takes part in.
    pub vnis: Vec<Vni>,
    /// Where its pods' addresses are from.
    #[serde(default)]
    pub pod_ranges: Vec<IpNet>,
    /// By which it reaches pods itself: one of each range.
    #[serde(default)]
    pub overlay_addresses: Vec<IpAddr>,
    /// What else it can do: [`PROBES`], [`REVISIONS`].
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// A UDP port on which a node receives tunnel packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receives {
    /// Of what kind.
    pub encapsulation: Encapsulation,
    /// The port, 1 to 65,535.
    pub udp_port: u16,
}

/// Whether a MAC is its port's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attached {
    /// The pod's own.
    #[default]
    Bound,
    /// That of a port behind which there may be others.
    Learning,
    /// The node's own: its addresses are the node's overlay addresses.
    Host,
    /// Not the port's own: learned behind a learning port. It may turn up elsewhere.
    Learned,
}

/// A pod's MAC and addresses on a node, under the node's name, VNI and MAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The virtual network.
    pub vni: Vni,
    /// The MAC.
    pub mac: MacAddr,
    /// Its addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// The node's name.
    pub node: String,
    /// The incarnation of the node that wrote it: void when the node's row has another one.
    pub incarnation: i64,
    /// The store's revision at which the node first published it, carried on when it is published again. 0 the first
    /// time: then it is the revision at which this row was created.
    #[serde(default)]
    pub sequence: i64,
    /// Name of the port on its node.
    pub port: String,
    /// Whether the MAC is the port's own.
    #[serde(default)]
    pub attached: Attached,
}

/// A VTEP that is no node: a kernel, Open vSwitch, hardware. Under its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignVtep {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Its address.
    pub address: IpAddr,
    /// How frames travel to it.
    pub encapsulation: Encapsulation,
    /// UDP destination port, 1 to 65,535.
    pub udp_port: u16,
    /// The virtual networks that it takes part in; none of one that was removed.
    pub vnis: Vec<Vni>,
}

/// The network that all pods share. The first agent writes it; it goes with nothing, and does not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The virtual network that has the addresses.
    pub vni: Vni,
    /// Its ranges: one of each family at most.
    pub ranges: Vec<ClusterRange>,
}

/// A range of addresses that was given to a node, under the range. It goes with nothing: the node keeps it until it is
/// removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The addresses.
    pub range: IpNet,
    /// The node's name.
    pub node: String,
}

/// Why a row is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum RecordError {
    #[error("it has {bytes} bytes, allowed are {MAX_RECORD_BYTES}")]
    TooLong {
        /// Bytes of the row.
        bytes: usize,
    },
    #[error("version {seen} is newer than {RECORD_VERSION}, which is the last that this agent reads: update the agent")]
    Version {
        /// The version seen.
        seen: u32,
    },
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("its key says {key}, and the row {row}")]
    OtherKey { key: String, row: String },
    #[error("{0}")]
    Unusable(String),
    #[error("its key names nothing known")]
    UnknownKey,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads a row.
///
/// # Errors
/// [`RecordError`].
pub fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    if value.len() > MAX_RECORD_BYTES {
        return Err(RecordError::TooLong { bytes: value.len() });
    }
    let unreadable = |error: serde_json::Error| RecordError::Unreadable(error.to_string());
    let Versioned { version } = serde_json::from_slice(value).map_err(unreadable)?;
    if version > RECORD_VERSION {
        return Err(RecordError::Version { seen: version });
    }
    serde_json::from_slice(value).map_err(unreadable)
}

/// Writes a row.
#[must_use]
pub fn write(record: &impl Serialize) -> Vec<u8> {
    // Records have neither maps with odd keys nor types that can fail.
    serde_json::to_vec(record).unwrap_or_default()
}

/// Why an address is no VTEP's.
pub(super) fn not_of_vtep(address: IpAddr) -> Option<RecordError> {
    crate::config::not_of_vtep(address).map(|why| RecordError::Unusable(format!("the address {address}, {why}")))
}

impl Node {
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        if self.standing == Standing::Left {
            return Ok(());
        }
        if let Some(error) = self.addresses.iter().find_map(|address| not_of_vtep(*address)) {
            return Err(error);
        }
        let unusable = if self.addresses.is_empty() {
            "it has no VTEP address"
        } else if self.receives.iter().all(|receives| receives.udp_port == 0) {
            "it receives on no UDP port"
        } else {
            return Ok(());
        };
        Err(RecordError::Unusable(unusable.to_owned()))
    }
}

impl Endpoint {
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        if self.mac.is_multicast() || self.mac == MacAddr::ZERO {
            return Err(RecordError::Unusable(format!("{} is no MAC of a single device", self.mac)));
        }
        Ok(())
    }
}

impl ForeignVtep {
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        match not_of_vtep(self.address) {
            Some(error) => Err(error),
            None if self.udp_port == 0 => Err(RecordError::Unusable("its UDP port is 0".to_owned())),
            None => Ok(()),
        }
    }
}
