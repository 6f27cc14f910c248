//! What the agent counts, for Prometheus: [`Snapshot`] is what is known at one moment, [`encode`] its text, and
//! [`readiness`] what `/readyz` says of it. docs/metrics.md lists every family, and is written from here.

mod families;
mod readiness;
mod serve;

use std::sync::Arc;

use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::registry::Registry;
use weft_api::{Counters, DropRow, PortRow, Status, VtepRow, WorkerRow};

use families::Families;
pub use readiness::readiness;
pub use serve::MetricsError;
pub(crate) use serve::{Scrapes, Server};

/// Everything that is measured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whether it is clear how the agent stands with its store, and pods are served.
    pub has_started: bool,
    /// The agent as a whole.
    pub status: Status,
    /// Its ports.
    pub ports: Vec<PortRow>,
    /// The VTEPs it knows.
    pub vteps: Vec<VtepRow>,
    /// Every drop reason.
    pub drops: Vec<DropRow>,
    /// All other counters.
    pub counters: Counters,
    /// The threads that forward.
    pub workers: Vec<WorkerRow>,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' older text format, 0.0.4.
    Prometheus,
}

impl Format {
    /// The `Content-Type` that names it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What a client takes whose `Accept` is this.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// All metrics as text.
///
/// # Errors
/// None that a `String` makes.
pub fn encode(snapshot: Snapshot, format: Format) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("weft");
    registry.register_collector(Box::new(Families(Arc::new(snapshot))));
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => older(&text),
    })
}

/// OpenMetrics in the older format: there a counter's family is called as its samples are, and neither a unit nor an end is
/// written.
fn older(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut older = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword), Some(name), Some(rest)) if counters.contains(&name) => {
                older.push_str(&format!("# {keyword} {name}_total {rest}"));
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

#[cfg(test)]
mod tests;
