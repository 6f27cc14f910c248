//! What a comparison leaves: every sample, and all that is needed to understand it. Its JSON is read again.

use serde::{Deserialize, Serialize};

use crate::{Cable, Machine, Pinning};

/// Everything that was measured in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of the format: 1.
    pub version: u32,
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// What was compared, in order.
    pub planes: Vec<PlaneRecord>,
    /// Between what, in order.
    pub cables: Vec<Cable>,
    /// What was measured, in order.
    pub metrics: Vec<Metric>,
    /// What does not run here.
    pub skipped: Vec<Skipped>,
    /// Loads that failed on a plane which runs.
    pub failures: Vec<Failure>,
    /// Every figure of every round.
    pub samples: Vec<Sample>,
}

/// How a comparison was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds asked for.
    pub rounds: u32,
    /// Seconds of each load that are measured.
    pub period_seconds: f64,
    /// Seconds of each load before that.
    pub warm_up_seconds: f64,
    /// Where programs may run.
    pub pinning: Pinning,
    /// Seconds that the whole run took.
    pub took_seconds: f64,
}

/// A plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneRecord {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Whether it is Weft.
    pub weft: bool,
}

/// A figure that is read off a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, unique: the case and the figure.
    pub id: String,
    /// Where it belongs.
    pub group: Group,
    /// For people.
    pub title: String,
    /// Its unit.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is.
    Higher,
    /// Less is.
    Lower,
}

/// Metrics that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// TCP throughput.
    Bulk,
    /// Datagrams a second.
    Datagrams,
    /// Times of round trips and connections.
    Latency,
    /// Round trips and connections a second.
    Rates,
    /// Processor time, memory, start.
    Cost,
    /// Loss and order.
    Fidelity,
}

/// A plane that does not run between a cable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The plane.
    pub plane: String,
    /// The cable.
    pub cable: Cable,
    /// Why.
    pub reason: String,
}

/// A load that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The plane.
    pub plane: String,
    /// The cable.
    pub cable: Cable,
    /// The case.
    pub case: String,
    /// The round, from 1.
    pub round: u32,
    /// Why.
    pub reason: String,
}

/// One figure of one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The plane.
    pub plane: String,
    /// The cable.
    pub cable: Cable,
    /// The metric.
    pub metric: String,
    /// The round, from 1.
    pub round: u32,
    /// The value, in the metric's unit.
    pub value: f64,
}
