//! The network configuration: what the runtime gives on standard input.

use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use weft_api::{PodRoute, Wait};

use crate::error::{CniError, Code};
use crate::request::{Call, parse_address};
use crate::result::CniResult;

/// Bytes of a network configuration at most.
const CONFIG_BYTES: u64 = 1 << 20;
/// The IPAM that needs no plugin: the agent's own.
const BUILT_IN: &str = "weft";
/// Characters that an error shows of a value at most.
const SEEN_CHARS: usize = 80;

/// What is read of it, key by key: a verb is refused only for what it needs. Keys that are not known are another plugin's, or
/// the runtime's.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkConfig {
    pub(crate) cni_version: Option<String>,
    fields: Map<String, Value>,
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
        let undecodable = |error: serde_json::Error| {
            CniError::new(Code::Undecodable, format!("the network configuration: {error}"), "it is one JSON object")
        };
        let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(undecodable)?;
        let version = fields.get("cniVersion").unwrap_or(&Value::Null);
        let cni_version = Option::deserialize(version).map_err(undecodable)?;
        Ok((Self { cni_version, fields }, bytes))
    }

    /// What a key has; none where it is missing or `null`.
    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CniError> {
        let Some(value) = self.fields.get(key) else { return Ok(None) };
        Option::deserialize(value).map_err(|error| {
            let seen: String = value.to_string().chars().take(SEEN_CHARS).collect();
            let msg = format!("`{key}` of the network configuration is {seen}: {error}");
            CniError::new(Code::InvalidConfig, msg, "docs/cni.md lists what a network configuration may have")
        })
    }

    pub(crate) fn name(&self) -> Result<String, CniError> {
        let missing = || {
            CniError::new(
                Code::InvalidConfig,
                "the network configuration has no `name`",
                "all nodes call the network by one",
            )
        };
        self.get("name")?.filter(|name: &String| !name.is_empty()).ok_or_else(missing)
    }

    /// The agent's run directory.
    pub(crate) fn run_dir(&self) -> Result<PathBuf, CniError> {
        Ok(self.get("runDir")?.unwrap_or_else(|| PathBuf::from("/run/weft")))
    }

    /// The plugin that gives addresses, where that is not the agent itself.
    pub(crate) fn ipam(&self) -> Result<Option<String>, CniError> {
        let ipam: Option<Ipam> = self.get("ipam")?;
        Ok(ipam.map(|ipam| ipam.plugin).filter(|plugin| !plugin.is_empty() && plugin != BUILT_IN))
    }

    /// The virtual network; none: that of the cluster's network.
    pub(crate) fn vni(&self) -> Result<Option<u32>, CniError> {
        self.get("vni")
    }

    /// MTU in bytes; none: what fits.
    pub(crate) fn mtu(&self) -> Result<Option<u16>, CniError> {
        self.get("mtu")
    }

    /// Whether the pod gets default routes; none: if it has none yet.
    pub(crate) fn is_default_gateway(&self) -> Result<Option<bool>, CniError> {
        self.get("isDefaultGateway")
    }

    /// Further routes.
    pub(crate) fn routes(&self) -> Result<Vec<PodRoute>, CniError> {
        let routes: Vec<Route> = self.get("routes")?.unwrap_or_default();
        Ok(routes.into_iter().map(|route| PodRoute { destination: route.dst, gateway: route.gw }).collect())
    }

    /// What ADD waits for.
    pub(crate) fn wait_for(&self) -> Result<Wait, CniError> {
        Ok(self.get("waitFor")?.unwrap_or_default())
    }

    /// For how long it waits for other nodes, in milliseconds; none: as the agent has it.
    pub(crate) fn wait_timeout_ms(&self) -> Result<Option<u32>, CniError> {
        self.get("waitTimeoutMs")
    }

    pub(crate) fn dns(&self) -> Result<Option<Value>, CniError> {
        self.get("dns")
    }

    pub(crate) fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        self.get("prevResult")
    }

    /// What the runtime knows to be in use.
    pub(crate) fn valid_attachments(&self) -> Result<Option<Vec<ValidAttachment>>, CniError> {
        match self.get("cni.dev/valid-attachments")? {
            None => self.get("cni.dev/attachments"),
            found => Ok(found),
        }
    }

    /// What is wished for the pod: by the runtime, and by the arguments.
    fn wishes(&self) -> Result<[Wishes; 2], CniError> {
        let of_runtime = self.get("runtimeConfig")?.unwrap_or_default();
        let args: Args = self.get("args")?.unwrap_or_default();
        Ok([of_runtime, args.cni])
    }

    /// The addresses that are wished for: of what the runtime says, or else the arguments.
    pub(crate) fn wished_addresses(&self, call: &Call) -> Result<Vec<IpAddr>, CniError> {
        let first = self.wishes()?.into_iter().map(|wishes| wishes.ips).find(|ips| !ips.is_empty());
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

    pub(crate) fn wished_mac(&self, call: &Call) -> Result<Option<String>, CniError> {
        let wished = self.wishes()?.into_iter().map(|wishes| wishes.mac).chain([call.args.mac.clone()]);
        Ok(wished.flatten().find(|mac| !mac.is_empty()))
    }
}
