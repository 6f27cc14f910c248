//! Which processors the nodes have, and how busy all of them were.

use std::fs;
use std::thread::available_parallelism;

use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::BenchError;

/// Where the programs of a node and of its pods may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// Wherever the kernel wants.
    #[default]
    None,
    /// What belongs to the first node on the first half of the processors, the rest on the other half.
    Node,
}

impl Pinning {
    /// Keeps the calling thread, and what it starts, to the processors of a node (0 or 1).
    pub(crate) fn keep_to(self, node: usize) {
        let processors = available_parallelism().map_or(1, usize::from);
        if self == Self::None || processors < 2 {
            return;
        }
        let half = processors / 2;
        let mut set = CpuSet::new();
        (0..processors).filter(|cpu| (*cpu >= half) == (node == 1)).for_each(|cpu| set.set(cpu));
        // A machine that forbids it measures unpinned, as one with a single processor does.
        let _ = sched_setaffinity(None, &set);
    }
}

/// Seconds that all processors together have been busy since boot, with whatever: programs, the kernel, interrupts.
/// From the first line of `/proc/stat` (proc(5)), in steps of the kernel's clock tick.
pub(crate) fn busy_seconds() -> Result<f64, BenchError> {
    let path = "/proc/stat";
    let stat = fs::read_to_string(path).map_err(crate::error::file("read", path))?;
    let ticks = busy_ticks(&stat).ok_or(BenchError::Unreadable { path, what: "how busy the processors were" })?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// user, nice, system, irq and softirq; what runs at idle priority counts too.
fn busy_ticks(stat: &str) -> Option<u64> {
    const BUSY: [usize; 5] = [0, 1, 2, 5, 6];
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    BUSY.iter().map(|index| fields.get(*index)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 10 30 9000 700 5 4 800 60 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(149));
        assert_eq!(busy_ticks("cpu  100 10"), None);
        assert!(busy_seconds().unwrap() > 0.0);
    }
}
