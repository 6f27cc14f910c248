//! `weft show flows`: which flows carry most now, by a live trace of a moment.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_api::{FlowKey, TraceBatch, TraceFilter, TraceRow};

use crate::out::say;
use crate::table::{bytes, print};
use crate::target::Target;
use crate::trace::live::hand_on;
use crate::watch::Watch;

/// For how long frames are looked at.
const MOMENT: Duration = Duration::from_secs(1);
/// Flows that are shown at most; as JSON all are.
const SHOWN: usize = 20;

pub(crate) fn show(target: &Target, watch: &Watch, json: bool) -> anyhow::Result<ExitCode> {
    let look = || {
        let sample = listen(target)?;
        match json {
            true if watch.is_on() => say!("{}", serde_json::to_string(&sample)?),
            true => say!("{}", serde_json::to_string_pretty(&sample)?),
            false => tell(&sample),
        }
    };
    watch.run(look, json)
}

/// What passed a node in a moment.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    /// For how long was looked.
    seconds: f64,
    /// What became of frames and was not told, for want of room: figures are of the rest.
    lost: u64,
    /// The flows, those with most bytes first.
    flows: Vec<Flow>,
}

/// One direction of one flow.
#[derive(Debug, Serialize)]
struct Flow {
    #[serde(flatten)]
    key: Key,
    /// The port's name, or the VTEP's address, where it enters.
    from: String,
    /// Where it leaves.
    to: BTreeSet<String>,
    /// Frames; a superframe is one.
    frames: u64,
    /// Packets that they stand for.
    packets: u64,
    /// Bytes of the frames.
    bytes: u64,
    /// Frames, and copies of them, that were dropped.
    drops: u64,
}

/// What frames of one flow have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
struct Key {
    /// The virtual network, where it can be told.
    vni: Option<u32>,
    /// Addresses, protocol and ports; none of what is not IP.
    flow: Option<FlowKey>,
    /// In words.
    what: String,
}

/// Listens for a moment.
fn listen(target: &Target) -> anyhow::Result<Sample> {
    let trace = target.connect()?.trace(TraceFilter::default())?;
    let hang_up = trace.hang_up()?;
    let (sender, batches) = channel();
    hand_on(trace, sender, |told| told);
    let started = Instant::now();
    let mut tally = Tally::default();
    while let Some(left) = MOMENT.checked_sub(started.elapsed()) {
        match batches.recv_timeout(left) {
            Ok(told) => tally.take(told?),
            Err(_) => break,
        }
    }
    hang_up();
    Ok(tally.sample(started.elapsed()))
}

/// What was told until now.
#[derive(Default)]
pub(crate) struct Tally {
    flows: HashMap<(Key, String), Flow>,
    /// Frames that were counted: each of its copies tells of a frame.
    frames: HashSet<(usize, u64)>,
    lost: u64,
}

impl Tally {
    pub(crate) fn take(&mut self, batch: TraceBatch) {
        self.lost = batch.lost;
        for row in batch.rows {
            self.take_row(row);
        }
    }

    fn take_row(&mut self, row: TraceRow) {
        let what = row.flow.as_ref().map_or_else(|| row.packet.clone(), in_words);
        let key = Key { vni: row.vni, flow: row.flow, what };
        let flow = self.flows.entry((key.clone(), row.from.clone())).or_insert_with(|| Flow {
            key,
            from: row.from,
            to: BTreeSet::new(),
            frames: 0,
            packets: 0,
            bytes: 0,
            drops: 0,
        });
        flow.to.extend(row.to);
        flow.drops += u64::from(row.dropped.is_some());
        if self.frames.insert((row.worker, row.frame)) {
            flow.frames += 1;
            flow.packets += u64::from(row.packets_in);
            flow.bytes += row.bytes as u64;
        }
    }

    pub(crate) fn sample(self, looked: Duration) -> Sample {
        let mut flows: Vec<Flow> = self.flows.into_values().collect();
        flows.sort_by(|one, other| (Reverse(one.bytes), &one.key).cmp(&(Reverse(other.bytes), &other.key)));
        Sample { seconds: looked.as_secs_f64(), lost: self.lost, flows }
    }
}

fn in_words(flow: &FlowKey) -> String {
    let FlowKey { source, destination, protocol, source_port, destination_port } = flow;
    let name = match protocol {
        Some(6) => " TCP".to_owned(),
        Some(17) => " UDP".to_owned(),
        Some(1 | 58) => " ICMP".to_owned(),
        Some(132) => " SCTP".to_owned(),
        Some(other) => format!(" protocol {other}"),
        None => " ARP".to_owned(),
    };
    let end = |address: &std::net::IpAddr, port: &Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(*address, *port).to_string(),
        None => address.to_string(),
    };
    format!("{} > {}{name}", end(source, source_port), end(destination, destination_port))
}

fn tell(sample: &Sample) -> anyhow::Result<()> {
    if sample.flows.is_empty() {
        return say!("no frame passed within {:.1} s", sample.seconds);
    }
    let per_second = |n: u64| (n as f64 / sample.seconds).round() as u64;
    let row = |flow: &Flow| {
        vec![
            flow.key.what.clone(),
            flow.key.vni.map_or_else(|| "-".to_owned(), |vni| vni.to_string()),
            flow.from.clone(),
            if flow.to.is_empty() { "-".to_owned() } else { Vec::from_iter(flow.to.iter().cloned()).join(", ") },
            format!("{}/s", bytes(per_second(flow.bytes))),
            per_second(flow.packets).to_string(),
            per_second(flow.frames).to_string(),
            flow.drops.to_string(),
        ]
    };
    print(
        &["flow", "vni", "from", "to", "#bytes", "#packets/s", "#frames/s", "#drops"],
        sample.flows.iter().take(SHOWN).map(row),
    )?;
    let more = sample.flows.len().saturating_sub(SHOWN);
    if more > 0 {
        say!("and {more} more: --json has all")?;
    }
    if sample.lost > 0 {
        say!("{} frames and copies were not looked at, for want of room: all figures are too low", sample.lost)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(frame: u64, from: &str, to: &str, port: u16, bytes: usize) -> TraceRow {
        let flow = FlowKey {
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            protocol: Some(6),
            source_port: Some(40_000),
            destination_port: Some(port),
        };
        TraceRow {
            frame,
            from: from.to_owned(),
            to: Some(to.to_owned()),
            flow: Some(flow),
            vni: Some(7),
            bytes,
            packets_in: 2,
            ..TraceRow::default()
        }
    }

    #[test]
    fn a_frame_counts_once_and_the_greatest_flow_comes_first() {
        let mut tally = Tally::default();
        let rows = vec![
            row(1, "a", "192.0.2.2", 80, 100),
            row(2, "a", "192.0.2.2", 443, 1000),
            row(2, "a", "192.0.2.3", 443, 1000),
            row(3, "a", "192.0.2.2", 80, 100),
        ];
        tally.take(TraceBatch { rows, lost: 5 });
        let sample = tally.sample(Duration::from_secs(2));
        let told = sample.flows.iter().map(|flow| (flow.key.what.as_str(), flow.frames, flow.packets, flow.bytes));
        let told: Vec<_> = told.collect();
        assert_eq!(
            told,
            [("10.0.0.1:40000 > 10.0.0.2:443 TCP", 1, 2, 1000), ("10.0.0.1:40000 > 10.0.0.2:80 TCP", 2, 4, 200)]
        );
        assert_eq!(sample.flows[0].to.len(), 2);
        assert_eq!((sample.lost, sample.seconds), (5, 2.0));
    }

    #[test]
    fn what_is_no_ip_is_a_flow_too() {
        let mut tally = Tally::default();
        let packet = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type 0x88b5".to_owned();
        let rows = vec![TraceRow { packet: packet.clone(), bytes: 60, ..TraceRow::default() }];
        tally.take(TraceBatch { rows, lost: 0 });
        let sample = tally.sample(MOMENT);
        assert_eq!(sample.flows[0].key, Key { vni: None, flow: None, what: packet });
        let json = serde_json::to_value(&sample).unwrap();
        assert_eq!(json["flows"][0]["flow"], serde_json::Value::Null);
    }
}
