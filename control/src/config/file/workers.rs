use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;
use weft_switch::polling::{MAX_POLLING, Polling};

use super::super::word_or_number::{WordOrNumber, Written};
use super::{AUTO, OFF, is_empty, unspanned};

/// `[workers]`: the threads that forward.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// How many workers, 1 to 64. Default: 1.
    pub count: Spanned<u16>,
    /// Numbers of the processors that they run on, 0 to 1023, one after the other and from the start again. Default: any.
    #[serde(skip_serializing_if = "is_empty")]
    pub cpus: Spanned<Vec<u16>>,
    /// Microseconds, 1 to 10,000, for which a worker without frames looks for the next one before it sleeps; `auto`
    /// does so for a short time while conversations go on, `off` never. Default: `auto`.
    pub polling: PollingEntry,
}

impl Default for Workers {
    fn default() -> Self {
        Self { count: unspanned(1), cpus: unspanned(Vec::new()), polling: PollingEntry::default() }
    }
}

/// For how long a worker looks for frames before it sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollingEntry(pub Polling);

impl Serialize for PollingEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Polling::Auto => serializer.serialize_str(AUTO),
            Polling::Off => serializer.serialize_str(OFF),
            Polling::For(time) => serializer.serialize_u64(time.as_micros() as u64),
        }
    }
}

impl<'de> Deserialize<'de> for PollingEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written =
            WordOrNumber { words: &[AUTO, OFF], numbers: 1..=MAX_POLLING.as_micros() as u16 }.read(deserializer)?;
        Ok(Self(match written {
            Written::Word(0) => Polling::Auto,
            Written::Word(_) => Polling::Off,
            Written::Number(microseconds) => Polling::For(Duration::from_micros(microseconds.into())),
        }))
    }
}
