//! The agent's configuration: [`file`] is what is written, [`Config`] is what was checked.

mod allowed;
mod check;
mod control;
mod error;
pub mod file;
mod network;
mod reading;
mod word_or_number;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use weft_bridge::tables::DomainOptions;
use weft_encap::ecn::Dscp;
use weft_encap::outer::Ttl;
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_switch::levels::Level;
use weft_switch::polling::Polling;
use weft_switch::underlay::{Listen, SocketOptions};

use crate::pods::PodPlace;

pub(crate) use allowed::{HOST_PORT, is_host, is_interface, not_of_vtep};
pub use control::{ControlConfig, FileError};
pub use error::ConfigError;
pub use file::{File, LogFormat, MetricsListen, UnderlayKind};
pub use network::NetworkConfig;

/// A configuration in which every value is allowed and fits the others.
#[derive(Clone, Debug)]
pub struct Config {
    /// What was written, with every default.
    pub file: Box<File>,
    /// Where it was read from.
    pub path: PathBuf,
    /// Name of this node.
    pub node: String,
    /// Directory of the agent's socket and lock.
    pub run_dir: PathBuf,
    /// What is logged, in the syntax of tracing's `EnvFilter`.
    pub log: String,
    /// How a line of the log looks.
    pub log_format: LogFormat,
    /// Where metrics are served, if they are.
    pub metrics: Option<MetricsListen>,
    /// Whether a keeper holds the pods' devices, so that they outlive an agent that is killed.
    pub keeper: bool,
    /// Whether it gives up privileges that it does not need.
    pub confinement: bool,
    /// This node's own VTEP addresses.
    pub addresses: Vec<IpAddr>,
    /// MTU of the underlay in bytes, where it is not to be read from the interface.
    pub underlay_mtu: Option<u16>,
    /// Where tunnel packets arrive.
    pub listen: Vec<Listen>,
    /// How its sockets are set up.
    pub socket: SocketOptions,
    /// What is not left to the kernel, whatever it can do.
    pub switched_off: Vec<Level>,
    /// Whether tunnel packets go through the sockets alone.
    pub underlay_kind: UnderlayKind,
    /// Whether the paths to VTEPs are probed.
    pub path_probes: bool,
    /// Where the DSCP of tunnel packets comes from.
    pub dscp: Dscp,
    /// Threads that forward, 1 to 64.
    pub workers: NonZero<usize>,
    /// Processors that they run on, by the kernel's index from 0; none: any.
    pub cpus: Vec<usize>,
    /// What workers do that have nothing to do.
    pub polling: Polling,
    /// Where the TTL, or hop limit, of tunnel packets comes from.
    pub ttl: Ttl,
    /// Learned MACs at most, 64 to 1,048,576.
    pub fdb_capacity: u32,
    /// Seconds after which a silent MAC is forgotten, 1 to 86,400.
    pub fdb_ageing_seconds: u32,
    /// The store by which nodes find each other, if there is one.
    pub control: Option<ControlConfig>,
    /// The addresses of the cluster's pods, if nodes are to have ranges of them.
    pub network: Option<NetworkConfig>,
    /// The virtual networks, and what each does beyond forwarding.
    pub vnis: Vec<(Vni, DomainOptions)>,
    /// The other nodes' tunnel ends.
    pub vteps: Vec<VtepConfig>,
    /// The pods.
    pub ports: Vec<PortConfig>,
}

/// Another node's tunnel end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VtepConfig {
    /// Its address and UDP port.
    pub at: SocketAddr,
    /// How frames travel to it.
    pub encapsulation: Encapsulation,
    /// The virtual networks it takes part in.
    pub vnis: Vec<Vni>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its name on this node.
    pub name: String,
    /// Its network namespace: a name, or an absolute path.
    pub netns: String,
    /// Name of the device in it.
    pub interface: String,
    /// Its virtual network.
    pub vni: Vni,
    /// Its MAC.
    pub mac: MacAddr,
    /// Addresses of the device, with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// MTU in bytes, where it is not to be derived from the underlay's.
    pub mtu: Option<u16>,
    /// MACs learned behind it at most, 1 to 65,536; none for a bound port.
    pub learn_limit: Option<u32>,
    /// Whether it sends for other addresses too, though it is bound: the node's own.
    pub routes: bool,
    /// Where it is, for one that a runtime brought.
    pub(crate) pod: Option<Arc<PodPlace>>,
}

impl Config {
    /// Reads and checks a file. Nothing else is touched.
    ///
    /// # Errors
    /// [`ConfigError`], which shows the line and says what is allowed there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Checks a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file = toml::from_str(text).map_err(|error| reading::refused(text, &error));
        let config = file.and_then(check::check).map_err(|wrong| ConfigError::new(path, text, wrong))?;
        Ok(Self { path: path.to_owned(), ..config })
    }
}
