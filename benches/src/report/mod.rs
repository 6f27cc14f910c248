//! What people read of a comparison. Nothing here looks at the machine or the clock: a report is made again from its
//! samples at any time.

mod chart;
mod html;
mod table;

pub use html::html;
pub use table::{Table, ratios};

use crate::record::{Better, Metric};
use crate::{Cable, Comparison};

/// The plane that all others are compared with.
pub const BASELINE: &str = crate::plane::KERNEL;

/// Rounds that either has to have before one of them wins.
const ROUNDS_TO_WIN: usize = 3;

/// What is known of one metric on one plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle sample, or the mean of the two in the middle.
    pub median: f64,
    /// The least sample.
    pub min: f64,
    /// The greatest sample.
    pub max: f64,
    /// How many samples there are.
    pub samples: usize,
}

/// How a plane does beside the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its worst round is better than the baseline's best.
    Better,
    /// Its best round is worse than the baseline's worst.
    Worse,
    /// The rounds of both overlap, or there are too few.
    Even,
}

impl Summary {
    /// Of these samples; none of none.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let middle = samples.len() / 2;
        let median =
            if samples.len() % 2 == 1 { samples[middle] } else { f64::midpoint(samples[middle - 1], samples[middle]) };
        Some(Self { median, min, max, samples: samples.len() })
    }

    /// Beside a baseline, for a metric of that kind.
    #[must_use]
    pub fn beside(&self, baseline: &Self, better: Better) -> Standing {
        if self.samples.min(baseline.samples) < ROUNDS_TO_WIN {
            return Standing::Even;
        }
        let (above, below) = (self.min > baseline.max, self.max < baseline.min);
        match better {
            Better::Higher if above => Standing::Better,
            Better::Lower if below => Standing::Better,
            Better::Higher if below => Standing::Worse,
            Better::Lower if above => Standing::Worse,
            _ => Standing::Even,
        }
    }
}

impl Comparison {
    /// What is known of a metric on a plane.
    #[must_use]
    pub fn summary(&self, cable: Cable, plane: &str, metric: &str) -> Option<Summary> {
        let samples = self.samples.iter();
        let samples =
            samples.filter(|sample| sample.cable == cable && sample.plane == plane && sample.metric == metric);
        Summary::of(samples.map(|sample| sample.value).collect())
    }

    /// The metrics that some plane has a sample of between that cable's ends.
    fn measured(&self, cable: Cable) -> Vec<&Metric> {
        let has =
            |metric: &&Metric| self.samples.iter().any(|sample| sample.cable == cable && sample.metric == metric.id);
        self.metrics.iter().filter(has).collect()
    }
}

/// A number, in whatever unit, with the digits that mean something.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let groups: Vec<&str> = {
        let first = whole.len() % 3;
        let (head, tail) = whole.split_at(first);
        let tail = tail.as_bytes().chunks(3).filter_map(|group| std::str::from_utf8(group).ok());
        (!head.is_empty()).then_some(head).into_iter().chain(tail).collect()
    };
    let whole = groups.join(",");
    rest.map_or_else(|| format!("{sign}{whole}"), |rest| format!("{sign}{whole}.{rest}"))
}

#[cfg(test)]
mod tests;
