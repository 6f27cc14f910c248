//! The agent's configuration file as it is written: TOML, every field with its unit and default.
//!
//! Types are checked while reading; ranges, and what values must be to each other, in [`super::Config`].

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;
use weft_bridge::tables::FloodLimits;
pub use weft_encap::Encapsulation;
use weft_encap::ecn::Dscp;
use weft_encap::outer::Ttl;
use weft_encap::{MacAddr, Vni};
use weft_switch::levels::Level;

use super::word_or_number::{WordOrNumber, Written};

mod control;
mod metrics;
mod network;
mod workers;

pub use control::Control;
pub use metrics::{LogFormat, Metrics, MetricsListen};
pub use network::Network;
pub use workers::{PollingEntry, Workers};

pub(super) const INHERIT: &str = "inherit";
const AUTO: &str = "auto";
const OFF: &str = "off";
pub(super) const DSCP: RangeInclusive<u8> = 0..=63;
/// Hops.
pub(super) const TTL: RangeInclusive<u8> = 1..=u8::MAX;

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name of this node, 1 to 63 characters of `a-z`, `0-9`, `-` and `.`. Default: the host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Spanned<String>>,
    /// Directory of the agent's socket and lock, an absolute path. Default: `/run/weft`.
    #[serde(default = "default_run_dir")]
    pub run_dir: Spanned<PathBuf>,
    /// What is logged, in the syntax of tracing's `EnvFilter`. Default: `info`.
    #[serde(default = "default_log")]
    pub log: String,
    /// How a line of the log looks: `text` or `json`. Default: `text`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Where metrics are served. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Whether a process of its own holds the pods' devices, so that they keep their links when the agent is killed:
    /// `auto` or `off`. Default: `auto`.
    #[serde(default)]
    pub keeper: Switch,
    /// Whether the agent gives up the capabilities and system calls that it does not need: `auto` or `off`. Default:
    /// `auto`.
    #[serde(default)]
    pub confinement: Switch,
    /// Where tunnel packets leave and arrive.
    pub underlay: Underlay,
    /// What is left to the kernel.
    #[serde(default)]
    pub offloads: Offloads,
    /// The learned forwarding table.
    #[serde(default)]
    pub fdb: Fdb,
    /// The threads that forward.
    #[serde(default)]
    pub workers: Workers,
    /// The store by which nodes find each other. Default: none, and peers are those of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// The addresses of the cluster's pods, of which each node gets ranges. Default: none; needs `[control]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The virtual networks of this node.
    #[serde(default, rename = "vni", skip_serializing_if = "Vec::is_empty")]
    pub vnis: Vec<VniEntry>,
    /// The other nodes' tunnel ends.
    #[serde(default, rename = "vtep", skip_serializing_if = "Vec::is_empty")]
    pub vteps: Vec<VtepEntry>,
    /// The pods attached to this node.
    #[serde(default, rename = "port", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortEntry>,
}

/// `[underlay]`: where tunnel packets leave and arrive.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Underlay {
    /// This node's own VTEP addresses: at most one IPv4 and one IPv6, at least one of them.
    pub addresses: Spanned<Vec<IpAddr>>,
    /// MTU of the underlay in bytes, 576 to 65,535. Default: that of the interface which has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Spanned<u16>>,
    /// UDP ports on which VXLAN is received, 1 to 65,535. Default: `[4789]`.
    #[serde(default = "default_vxlan_ports")]
    pub vxlan_ports: Spanned<Vec<u16>>,
    /// UDP ports on which Geneve is received, 1 to 65,535. Default: `[6081]`.
    #[serde(default = "default_geneve_ports")]
    pub geneve_ports: Spanned<Vec<u16>>,
    /// TTL, or hop limit, of tunnel packets, 1 to 255, or `inherit` for that of the inner packet; of frames that are
    /// not IP it is 64 then. Default: 64.
    #[serde(default)]
    pub ttl: TtlEntry,
    /// DSCP of tunnel packets, 0 to 63, or `inherit` for that of the inner packet. ECN is always carried
    /// (RFC 6040). Default: 0.
    #[serde(default)]
    pub dscp: DscpEntry,
    /// Receive tunnel packets without a UDP checksum over IPv6 (RFC 6935), as some hardware sends; over IPv4 they
    /// are always received. Default: false.
    #[serde(default)]
    pub zero_checksums_over_ipv6: bool,
    /// Probes that find out which MTU the path to each VTEP carries: `auto` follows those that answer, `off` sends
    /// none. Default: `auto`.
    #[serde(default)]
    pub path_probes: Switch,
    /// How tunnel packets travel: `uplink` through a TAP that is joined to the NIC, `socket` through UDP sockets,
    /// `auto` through an uplink where there can be one. Default: `auto`.
    #[serde(default)]
    pub kind: UnderlayKind,
}

/// `[offloads]`: what is left to the kernel, level by level. `auto` uses a level that passes its self-test, `off`
/// never. Default of each: `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offloads {
    /// Checksums, from and to pods. Superframes go with it.
    pub checksum: Switch,
    /// TCP superframes of IPv4, from and to pods.
    pub tcp4: Switch,
    /// TCP superframes of IPv6, from and to pods.
    pub tcp6: Switch,
    /// UDP superframes of IPv4, from and to pods. The kernel has them only together with `udp6`.
    pub udp4: Switch,
    /// UDP superframes of IPv6, from and to pods. The kernel has them only together with `udp4`.
    pub udp6: Switch,
    /// Groups of tunnel packets sent as one (UDP_SEGMENT).
    pub segment: Switch,
    /// Groups of tunnel packets received as one (UDP_GRO).
    pub gro: Switch,
    /// Superframes inside tunnels, through a TAP that is joined to the NIC.
    pub uplink: Switch,
}

impl Offloads {
    /// What is written for a level.
    pub fn switch(&mut self, level: Level) -> &mut Switch {
        match level {
            Level::Checksum => &mut self.checksum,
            Level::Tcp4 => &mut self.tcp4,
            Level::Tcp6 => &mut self.tcp6,
            Level::Udp4 => &mut self.udp4,
            Level::Udp6 => &mut self.udp6,
            Level::Segment => &mut self.segment,
            Level::Gro => &mut self.gro,
            Level::Uplink => &mut self.uplink,
        }
    }
}

/// Where the DSCP of tunnel packets comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DscpEntry(pub Dscp);

impl Default for DscpEntry {
    fn default() -> Self {
        Self(Dscp::Fixed(0))
    }
}

/// Where the TTL, or hop limit, of tunnel packets comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TtlEntry(pub Ttl);

impl Serialize for DscpEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Dscp::Inherit => serializer.serialize_str(INHERIT),
            Dscp::Fixed(value) => serializer.serialize_u8(value),
        }
    }
}

impl<'de> Deserialize<'de> for DscpEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(number_or_inherit(deserializer, DSCP)?.map_or(Dscp::Inherit, Dscp::Fixed)))
    }
}

impl Serialize for TtlEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Ttl::Inherit => serializer.serialize_str(INHERIT),
            Ttl::Fixed(hops) => serializer.serialize_u8(hops),
        }
    }
}

impl<'de> Deserialize<'de> for TtlEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(number_or_inherit(deserializer, TTL)?.map_or(Ttl::Inherit, Ttl::Fixed)))
    }
}

/// A number of this range, or none for [`INHERIT`].
fn number_or_inherit<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: RangeInclusive<u8>,
) -> Result<Option<u8>, D::Error> {
    let numbers = (*range.start()).into()..=(*range.end()).into();
    Ok(match (WordOrNumber { words: &[INHERIT], numbers }).read(deserializer)? {
        Written::Word(_) => None,
        // The range fits a byte.
        Written::Number(number) => Some(number as u8),
    })
}

/// How tunnel packets travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnderlayKind {
    /// Through an uplink where there can be one, else through sockets.
    #[default]
    Auto,
    /// Through an uplink; without one the agent does not start.
    Uplink,
    /// Through sockets.
    Socket,
}

/// Whether something is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Where it works.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// `[fdb]`: the learned forwarding table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fdb {
    /// Learned MACs on this node at most, 64 to 1,048,576. Default: 65,536.
    pub capacity: Spanned<u32>,
    /// Seconds after which a silent MAC is forgotten, 1 to 86,400. Default: 300.
    pub ageing_seconds: Spanned<u32>,
}

/// `[[vni]]`: one virtual network.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VniEntry {
    /// Its identifier, 1 to 16,777,215.
    pub id: Spanned<Vni>,
    /// Carry 802.1Q and 802.1ad tagged frames unchanged instead of dropping them. Default: false.
    #[serde(default)]
    pub vlan_transparent: bool,
    /// Lower TCP's maximum segment size, in SYNs that cross a tunnel, to what the tunnel carries. Default: false.
    #[serde(default)]
    pub clamp_mss: bool,
    /// Frames to MACs that nobody knows which one port may flood in a second, 0 to 10,000,000. Default: 1,000.
    #[serde(default = "default_flood_unknown")]
    pub flood_unknown_per_second: Spanned<u32>,
    /// Broadcast and multicast frames which one port may send in a second, 0 to 10,000,000. Default: 10,000.
    #[serde(default = "default_flood_group")]
    pub flood_group_per_second: Spanned<u32>,
}

impl Underlay {
    /// These addresses, and every default.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self {
            addresses: unspanned(addresses),
            mtu: None,
            vxlan_ports: default_vxlan_ports(),
            geneve_ports: default_geneve_ports(),
            ttl: TtlEntry::default(),
            dscp: DscpEntry::default(),
            zero_checksums_over_ipv6: false,
            path_probes: Switch::default(),
            kind: UnderlayKind::default(),
        }
    }
}

impl VniEntry {
    /// This identifier, and every default.
    #[must_use]
    pub fn new(id: Vni) -> Self {
        Self {
            id: unspanned(id),
            vlan_transparent: false,
            clamp_mss: false,
            flood_unknown_per_second: default_flood_unknown(),
            flood_group_per_second: default_flood_group(),
        }
    }
}

/// `[[vtep]]`: another node's tunnel end. Those in the file are foreign: flooded to, and learned from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VtepEntry {
    /// Its address, of a family in which this node has an address too.
    pub address: Spanned<IpAddr>,
    /// How frames travel to it: `vxlan` or `geneve`. Default: `vxlan`.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// UDP destination port, 1 to 65,535. Default: 4789 for VXLAN, 6081 for Geneve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Spanned<u16>>,
    /// The virtual networks it takes part in; each must have a `[[vni]]`.
    pub vnis: Spanned<Vec<Vni>>,
}

/// What a port may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// Its own MAC and, where `addresses` are given, its own IPs only.
    #[default]
    Bound,
    /// Any MAC: a router or a nested bridge, whose MACs are learned.
    Learning,
}

/// `[[port]]`: one pod.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortEntry {
    /// Its name on this node, 1 to 63 characters.
    pub name: Spanned<String>,
    /// The pod's network namespace: a name in `/run/netns`, or an absolute path.
    pub netns: Spanned<String>,
    /// Name of the device in the pod, 1 to 15 characters. Default: `eth0`.
    #[serde(default = "default_interface")]
    pub interface: Spanned<String>,
    /// The virtual network it belongs to; must have a `[[vni]]`.
    pub vni: Spanned<Vni>,
    /// Its MAC, unicast. Default: derived from the node's and the port's name, and so always the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Spanned<MacAddr>>,
    /// Addresses given to the device, with prefix lengths. Default: none.
    #[serde(default = "default_addresses", skip_serializing_if = "is_empty")]
    pub addresses: Spanned<Vec<IpNet>>,
    /// MTU of the device in bytes, 68 to 65,535. Default: what fits through the underlay to every VTEP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Spanned<u16>>,
    /// What it may send: `bound` or `learning`. Default: `bound`.
    #[serde(default)]
    pub mode: PortMode,
    /// MACs learned behind a learning port at most, 1 to 65,536. Default: 256.
    #[serde(default = "default_learn_limit")]
    pub learn_limit: Spanned<u32>,
}

impl Default for Fdb {
    fn default() -> Self {
        Self { capacity: unspanned(65_536), ageing_seconds: unspanned(300) }
    }
}

/// A value that stands in no file.
pub fn unspanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn is_empty<T>(list: &Spanned<Vec<T>>) -> bool {
    list.get_ref().is_empty()
}

fn default_run_dir() -> Spanned<PathBuf> {
    unspanned(PathBuf::from("/run/weft"))
}

fn default_log() -> String {
    "info".to_owned()
}

fn default_vxlan_ports() -> Spanned<Vec<u16>> {
    unspanned(vec![4789])
}

fn default_geneve_ports() -> Spanned<Vec<u16>> {
    unspanned(vec![6081])
}

fn default_addresses() -> Spanned<Vec<IpNet>> {
    unspanned(Vec::new())
}

fn default_flood_unknown() -> Spanned<u32> {
    unspanned(FloodLimits::default().unknown)
}

fn default_flood_group() -> Spanned<u32> {
    unspanned(FloodLimits::default().group)
}

fn default_interface() -> Spanned<String> {
    unspanned("eth0".to_owned())
}

fn default_learn_limit() -> Spanned<u32> {
    unspanned(256)
}
