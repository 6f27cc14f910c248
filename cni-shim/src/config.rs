//! The network configuration: what the runtime gives on standard input.

use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use weft_api::{PodRoute, Wait};

use crate::error::{CniError, Code};
use crate::request::{Call, parse_address};
use crate::result::CniResult;

/// Bytes of a network configuration at most.
const CONFIG_BYTES: u64 = 1 << 20;
/// The IPAM that needs no plugin: the agent's own.
const BUILT_IN: &str = "weft";

/// What is read of it. Keys that are not known are another plugin's, or the runtime's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NetworkConfig {
    pub(crate) cni_version: Option<String>,
    pub(crate) name: Option<String>,
    /// The agent's run directory.
    pub(crate) run_dir: Option<PathBuf>,
    /// The virtual network; none: that of the cluster's network.
    pub(crate) vni: Option<u32>,
    /// MTU in bytes; none: what fits.
    pub(crate) mtu: Option<u16>,
    /// Whether the pod gets default routes; none: if it has none yet.
    pub(crate) is_default_gateway: Option<bool>,
    /// Further routes.
    routes: Vec<Route>,
    /// What ADD waits for.
    pub(crate) wait_for: Wait,
    /// For how long it waits for other nodes, in milliseconds; none: as the agent has it.
    pub(crate) wait_timeout_ms: Option<u32>,
    ipam: Option<Ipam>,
    pub(crate) dns: Option<Value>,
    runtime_config: Wishes,
    args: Args,
    pub(crate) prev_result: Option<CniResult>,
    #[serde(rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    pub(crate) valid_attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type", default)]
    plugin: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Route {
    dst: String,
    gw: Option<IpAddr>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: Wishes,
}

/// What is wished for one pod: by `runtimeConfig`, or by `args` as of the conventions of CNI.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Wishes {
    ips: Vec<String>,
    mac: Option<String>,
}

/// An attachment that is in use.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    #[serde(rename = "ifname")]
    pub(crate) interface: String,
}

impl NetworkConfig {
    /// Reads all of a bounded input; an empty one is an empty configuration. The bytes are for an IPAM plugin.
    pub(crate) fn read(input: impl Read) -> Result<(Self, Vec<u8>), CniError> {
        let mut bytes = Vec::new();
        input.take(CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(|error| {
            CniError::new(
                Code::Io,
                format!("reading standard input: {error}"),
                "the network configuration belongs there",
            )
        })?;
        if bytes.len() as u64 > CONFIG_BYTES {
            let msg = format!("the network configuration is longer than {CONFIG_BYTES} bytes");
            return Err(CniError::new(Code::Undecodable, msg, "it is one JSON object"));
        }
        if bytes.trim_ascii().is_empty() {
            return Ok((Self::default(), bytes));
        }
        // A list would be taken for the fields in their order.
        let object = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes);
        let config = object.and_then(|object| Self::deserialize(Value::Object(object))).map_err(|error| {
            CniError::new(Code::Undecodable, format!("the network configuration: {error}"), "it is one JSON object")
        })?;
        Ok((config, bytes))
    }

    pub(crate) fn name(&self) -> Result<&str, CniError> {
        let missing = || {
            CniError::new(
                Code::InvalidConfig,
                "the network configuration has no `name`",
                "all nodes call the network by one",
            )
        };
        self.name.as_deref().filter(|name| !name.is_empty()).ok_or_else(missing)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| PathBuf::from("/run/weft"))
    }

    /// The plugin that gives addresses, where that is not the agent itself.
    pub(crate) fn ipam(&self) -> Option<&str> {
        self.ipam.as_ref().map(|ipam| ipam.plugin.as_str()).filter(|plugin| !plugin.is_empty() && *plugin != BUILT_IN)
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = PodRoute> {
        self.routes.iter().map(|route| PodRoute { destination: route.dst.clone(), gateway: route.gw })
    }

    /// The addresses that are wished for: of what the runtime says, or else the arguments.
    pub(crate) fn wished_addresses(&self, call: &Call) -> Result<Vec<IpAddr>, CniError> {
        let first = [&self.runtime_config.ips, &self.args.cni.ips].into_iter().find(|ips| !ips.is_empty());
        let Some(ips) = first else { return Ok(call.args.address.into_iter().collect()) };
        let read = |text: &String| {
            let wrong = || {
                CniError::new(
                    Code::InvalidConfig,
                    format!("`ips` has `{text}`"),
                    "allowed are addresses, as in 10.244.3.7",
                )
            };
            parse_address(text).ok_or_else(wrong)
        };
        ips.iter().map(read).collect()
    }

    pub(crate) fn wished_mac(&self, call: &Call) -> Option<String> {
        let wishes = [&self.runtime_config.mac, &self.args.cni.mac, &call.args.mac];
        wishes.into_iter().flatten().find(|mac| !mac.is_empty()).cloned()
    }
}
