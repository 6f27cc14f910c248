//! The cases: which loads, between which pods, and what is read off them.

use std::fmt;

use crate::load::{self, Datagrams, Figures, Side, Timing};
use crate::record::{Better, Group, Metric};
use crate::{BenchError, Stage};

/// Datagrams a second of the load whose loss and order are looked at: well below what any plane can do.
const PACED: u32 = 10_000;
/// Connections of the case with many of them.
const MANY: usize = 64;

/// A load between two pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Where the pods are.
    pub place: Place,
    /// What they do.
    pub load: Load,
    /// Whether a process of idle priority keeps the processors awake meanwhile.
    pub awake: bool,
}

/// Where two pods are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On two nodes.
    Across,
    /// On one node.
    SameNode,
}

/// What two pods do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP at full speed.
    Bulk {
        /// Connections.
        streams: usize,
        /// Congestion control, by the kernel's name.
        congestion_control: String,
    },
    /// UDP one way.
    Datagrams(Datagrams),
    /// One byte there and one back.
    RoundTrips {
        /// By what.
        protocol: Protocol,
        /// Connections; more than one over TCP only.
        connections: usize,
    },
    /// New TCP connections, one after the other.
    Connections,
}

/// What carries round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Every case, for those congestion controls that this kernel has.
#[must_use]
pub fn all_cases(congestion_controls: &[String]) -> Vec<Case> {
    let mut cases = Vec::new();
    for congestion_control in congestion_controls {
        for streams in [1, 4, 16] {
            cases.push(Case::across(Load::Bulk { streams, congestion_control: congestion_control.clone() }));
        }
    }
    for size in [64, 1400] {
        for flows in [1, 16, 256] {
            cases.push(Case::across(Load::Datagrams(Datagrams { size, flows, rate: None })));
        }
    }
    cases.push(Case::across(Load::Datagrams(Datagrams { size: 64, flows: 16, rate: Some(PACED) })));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for awake in [false, true] {
            cases.push(Case { awake, ..Case::across(Load::RoundTrips { protocol, connections: 1 }) });
        }
    }
    cases.push(Case::across(Load::RoundTrips { protocol: Protocol::Tcp, connections: MANY }));
    cases.push(Case::across(Load::Connections));
    let first = congestion_controls.first().cloned();
    cases.extend(first.map(|congestion_control| Case::same_node(Load::Bulk { streams: 1, congestion_control })));
    cases.push(Case::same_node(Load::Datagrams(Datagrams { size: 64, flows: 1, rate: None })));
    cases.push(Case::same_node(Load::RoundTrips { protocol: Protocol::Tcp, connections: 1 }));
    cases
}

/// The few that say most.
#[must_use]
pub fn quick_cases(congestion_controls: &[String]) -> Vec<Case> {
    let first = congestion_controls.first().cloned();
    let bulk =
        |streams| first.clone().map(|congestion_control| Case::across(Load::Bulk { streams, congestion_control }));
    let mut cases: Vec<Case> = [1, 4].into_iter().filter_map(bulk).collect();
    cases.push(Case::across(Load::Datagrams(Datagrams { size: 64, flows: 1, rate: None })));
    cases.push(Case::across(Load::RoundTrips { protocol: Protocol::Tcp, connections: 1 }));
    cases
}

impl Case {
    const fn across(load: Load) -> Self {
        Self { place: Place::Across, load, awake: false }
    }

    const fn same_node(load: Load) -> Self {
        Self { place: Place::SameNode, load, awake: false }
    }

    /// Its name, unique.
    #[must_use]
    pub fn name(&self) -> String {
        let load = match &self.load {
            Load::Bulk { streams, congestion_control } => format!("tcp-{streams}-{congestion_control}"),
            Load::Datagrams(Datagrams { size, flows, rate: None }) => format!("udp-{size}-{flows}"),
            Load::Datagrams(Datagrams { size, flows, rate: Some(_) }) => format!("udp-{size}-{flows}-paced"),
            Load::RoundTrips { protocol, connections: 1 } => format!("rr-{protocol}"),
            Load::RoundTrips { protocol, connections } => format!("rr-{protocol}-{connections}"),
            Load::Connections => "connections".to_owned(),
        };
        let awake = if self.awake { "-awake" } else { "" };
        let place = if self.place == Place::SameNode { "-same-node" } else { "" };
        format!("{load}{awake}{place}")
    }

    /// Does it once.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn run(&self, stage: &Stage, timing: Timing) -> Result<Figures, BenchError> {
        let [a, b, c] = stage.pods().each_ref().map(|pod| Side::new(pod, stage.pinning()));
        let (client, server) = (&a, if self.place == Place::Across { &c } else { &b });
        match &self.load {
            Load::Bulk { streams, congestion_control } => {
                load::bulk(client, server, *streams, congestion_control, timing)
            }
            Load::Datagrams(what) => load::datagrams(client, server, *what, timing),
            Load::RoundTrips { protocol: Protocol::Udp, .. } => load::udp_round_trips(client, server, timing),
            Load::RoundTrips { protocol: Protocol::Tcp, connections: 1 } => {
                load::tcp_round_trips(client, server, timing)
            }
            Load::RoundTrips { protocol: Protocol::Tcp, connections } => {
                load::many_round_trips(client, server, *connections, timing)
            }
            Load::Connections => load::connections(client, server, timing),
        }
    }

    /// What is read off it, of the figures that the load gives.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let mut title = match &self.load {
            Load::Bulk { streams: 1, congestion_control } => format!("TCP, 1 stream, {congestion_control}"),
            Load::Bulk { streams, congestion_control } => format!("TCP, {streams} streams, {congestion_control}"),
            Load::Datagrams(Datagrams { size, flows, rate }) => {
                let flows = if *flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") };
                let paced = rate.map_or(String::new(), |rate| format!(", {rate} a second"));
                format!("UDP {size} B, {flows}{paced}")
            }
            Load::RoundTrips { protocol: Protocol::Tcp, connections: 1 } => "TCP round trip".to_owned(),
            Load::RoundTrips { protocol: Protocol::Udp, .. } => "UDP round trip".to_owned(),
            Load::RoundTrips { connections, .. } => format!("TCP round trip, {connections} connections"),
            Load::Connections => "new TCP connection with one round trip".to_owned(),
        };
        if self.awake {
            title += ", processors kept awake";
        }
        if self.place == Place::SameNode {
            title += ", same node";
        }
        let case = self.name();
        let metric = |group, key: &str, unit: &str, what: &str, better| Metric {
            id: format!("{case} {key}"),
            group,
            title: if what.is_empty() { title.clone() } else { format!("{title}: {what}") },
            unit: unit.to_owned(),
            better,
        };
        match &self.load {
            Load::Bulk { .. } => vec![
                metric(Group::Bulk, "throughput", "Gbit/s", "", Better::Higher),
                metric(Group::Cost, "cpu", "CPU s/GB", "processor time", Better::Lower),
                metric(Group::Cost, "calls", "calls/frame", "system calls of Weft's workers", Better::Lower),
            ],
            Load::Datagrams(Datagrams { rate: Some(_), .. }) => vec![
                metric(Group::Fidelity, "loss", "%", "lost", Better::Lower),
                metric(Group::Fidelity, "reordered", "%", "reordered", Better::Lower),
                metric(Group::Cost, "cpu", "CPU s/million", "processor time", Better::Lower),
            ],
            Load::Datagrams(_) => vec![
                metric(Group::Datagrams, "received", "packets/s", "received", Better::Higher),
                metric(Group::Fidelity, "loss", "%", "lost of what the sender could send", Better::Lower),
                metric(Group::Fidelity, "reordered", "%", "reordered", Better::Lower),
                metric(Group::Cost, "cpu", "CPU s/million", "processor time", Better::Lower),
                metric(Group::Cost, "calls", "calls/frame", "system calls of Weft's workers", Better::Lower),
            ],
            Load::RoundTrips { .. } | Load::Connections => {
                let mut metrics: Vec<_> =
                    ["p50", "p99", "p99.9"].map(|key| metric(Group::Latency, key, "µs", key, Better::Lower)).into();
                metrics.push(metric(Group::Rates, "rate", "per second", "rate", Better::Higher));
                metrics
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_metrics_are_unique() {
        let cases = all_cases(&["cubic".to_owned(), "bbr".to_owned()]);
        let names: HashSet<_> = cases.iter().map(Case::name).collect();
        let metrics: Vec<_> = cases.iter().flat_map(Case::metrics).collect();
        let ids: HashSet<_> = metrics.iter().map(|metric| &metric.id).collect();
        let titles: HashSet<_> = metrics.iter().map(|metric| &metric.title).collect();
        assert_eq!((names.len(), ids.len(), titles.len()), (cases.len(), metrics.len(), metrics.len()));
        assert!(names.contains("tcp-16-bbr") && names.contains("rr-udp-awake") && names.contains("udp-1400-256"));
    }

    #[test]
    fn the_quick_ones_are_of_the_same_kind() {
        let controls = ["cubic".to_owned()];
        assert!(quick_cases(&controls).iter().all(|case| all_cases(&controls).contains(case)));
    }
}
