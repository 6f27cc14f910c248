use std::io::Read;

use serde::Deserialize;

use crate::CONFIG_BYTES;
use crate::error::{CniError, Code};

pub(crate) const COMMAND: &str = "CNI_COMMAND";
const CONTAINER_ID: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";
const PATH: &str = "CNI_PATH";

/// What a runtime can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The part of a network configuration that is read so far.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct NetworkConfig {
    #[serde(rename = "cniVersion")]
    pub(crate) cni_version: Option<String>,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The verb, if all that it needs is set.
    pub(crate) fn from_environment(environment: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let names = Self::ALL.map(Self::name).join(", ");
        let Some(command) = environment(COMMAND) else {
            return Err(CniError::new(
                Code::InvalidEnvironment,
                format!("{COMMAND} is not set"),
                format!("one of {names}"),
            ));
        };
        let Some(verb) = Self::ALL.into_iter().find(|verb| verb.name() == command) else {
            let msg = format!("{COMMAND} is `{command}`");
            return Err(CniError::new(Code::InvalidEnvironment, msg, format!("one of {names}")));
        };
        let absent = |name: &&&str| environment(name).is_none_or(|value| value.is_empty());
        let missing: Vec<&str> = verb.needs().iter().filter(absent).copied().collect();
        if missing.is_empty() {
            return Ok(verb);
        }
        let msg = format!("not set: {}", missing.join(", "));
        Err(CniError::new(Code::InvalidEnvironment, msg, format!("{command} needs {}", verb.needs().join(", "))))
    }

    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINER_ID, NETNS, IFNAME],
            Self::Del => &[CONTAINER_ID, IFNAME],
            Self::Gc => &[PATH],
            Self::Status | Self::Version => &[],
        }
    }
}

impl NetworkConfig {
    /// Reads all of a bounded input; an empty one is an empty configuration.
    pub(crate) fn read(input: impl Read) -> Result<Self, CniError> {
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
            return Ok(Self::default());
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            CniError::new(Code::Undecodable, format!("the network configuration: {error}"), "it is one JSON object")
        })
    }
}
