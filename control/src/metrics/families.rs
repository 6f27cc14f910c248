//! The families: name, help, unit and labels of each, and where its numbers come from.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use weft_api::{ControlStatus, WorkerRow};

use super::Snapshot;

/// What [`Snapshot`]s are written as.
#[derive(Debug)]
pub(super) struct Families(pub(super) Arc<Snapshot>);

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// Counters of [`weft_api::Counters::forwarding`], each with its family and help.
pub(super) const FORWARDING: [(&str, &str, &str); 15] = [
    ("frames_in", "frames_in", "Frames that entered the switch"),
    ("early", "frames_early", "Frames of managed VTEPs that came before their membership of the VNI, and were let in"),
    ("copies", "copies", "Copies that verdicts asked for: sent, or dropped at stage egress"),
    ("sent", "copies_sent", "Copies handed to the kernel"),
    ("probes_sent", "path_probes_sent", "Path probes, questions for revisions, and answers to both, sent"),
    ("probes_received", "path_probes_received", "Path probes, questions for revisions, and answers to both, received"),
    ("answers_sent", "icmp_answers_sent", "ICMP answers to packets that were too long"),
    ("answers_suppressed", "icmp_answers_suppressed", "ICMP answers not sent, as there were too many in a second"),
    ("port_reads", "port_reads", "System calls that read a port"),
    ("port_writes", "port_writes", "System calls that wrote a port; fewer than frames where frames were merged"),
    ("underlay_datagrams_in", "underlay_packets_in", "Tunnel packets received"),
    ("underlay_datagrams_out", "underlay_packets_out", "Tunnel packets sent"),
    ("underlay_receives", "underlay_receives", "System calls that received from the underlay"),
    ("underlay_sends", "underlay_sends", "System calls that sent to the underlay"),
    ("worker_sleeps", "worker_sleeps", "How often a worker slept until something came"),
];
/// States of the store's conversation, as `weft status` names them.
const STORE_STATES: [&str; 5] = ["connected", "connecting", "publishing", "stale", "refused"];

const LINK_RX: &str = "rx";
const LINK_TX: &str = "tx";

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(&mut encoder);
        self.agent(&mut to)?;
        self.frames(&mut to)?;
        self.workers(&mut to)?;
        self.ports(&mut to)?;
        self.vteps(&mut to)?;
        self.underlay(&mut to)?;
        match &self.0.status.control {
            Some(control) => store(control, &mut to),
            None => Ok(()),
        }
    }
}

impl Families {
    fn agent(&self, to: &mut Writer<'_, '_>) -> Result<(), Error> {
        let status = &self.0.status;
        let labels = vec![("node", status.node.clone()), ("version", status.version.clone())];
        to.gauges("agent_info", "The agent: always 1", None, [(labels, 1.0)])?;
        to.gauge("uptime", "Time since the agent started", Some(&Unit::Seconds), status.uptime_seconds as f64)?;
        to.gauge(
            "counting_law_broken",
            "1 while the counters do not add up, which is an error of Weft's",
            None,
            flag(status.law_broken.is_some()),
        )?;
        to.gauge("fdb_entries", "Learned MACs", None, f64::from(status.fdb_entries))?;
        to.gauge("fdb_capacity", "Learned MACs at most", None, f64::from(status.fdb_capacity))
    }

    fn frames(&self, to: &mut Writer<'_, '_>) -> Result<(), Error> {
        let counters = &self.0.counters;
        let of = |name: &str| counters.forwarding.get(name).copied().unwrap_or_default();
        let verdicts = ["unicast", "flood", "answered", "dropped"];
        let rows = verdicts.map(|verdict| (vec![("verdict", verdict.to_owned())], of(verdict)));
        to.counters("frames", "Frames by what was decided of them", None, rows)?;
        let rows = self
            .0
            .drops
            .iter()
            .map(|row| (vec![("reason", row.reason.clone()), ("stage", row.stage.clone())], row.count));
        to.counters(
            "drops",
            "Frames (stage verdict) and copies (stage egress) that were dropped, by reason",
            None,
            rows,
        )?;
        let rows = counters.kernel.iter().map(|(place, n)| (vec![("place", place.clone())], *n));
        to.counters(
            "kernel_drops",
            "What the kernel dropped because the switch did not fetch it in time, by place",
            None,
            rows,
        )?;
        let rows = counters.learning.iter().map(|(outcome, n)| (vec![("outcome", outcome.clone())], *n));
        to.counters("learning", "Source addresses of frames, by what was learned of them", None, rows)?;
        for (counter, family, help) in FORWARDING {
            to.counter(family, help, of(counter))?;
        }
        Ok(())
    }

    fn workers(&self, to: &mut Writer<'_, '_>) -> Result<(), Error> {
        let rows = || self.0.workers.iter();
        let label = |row: &WorkerRow| vec![("worker", row.name.clone())];
        to.counters("worker_frames", "Frames that a worker took in", None, rows().map(|row| (label(row), row.frames)))?;
        to.counters(
            "worker_looks",
            "How often a worker looked for the next frame instead of sleeping",
            None,
            rows().map(|row| (label(row), row.looks)),
        )?;
        for (family, help, time) in [
            (
                "worker_run",
                "Time for which a worker had a processor, looking for frames included",
                (|row| row.run_us) as fn(&WorkerRow) -> Option<u64>,
            ),
            ("worker_wait", "Time for which a worker could have run, and others had the processor", |row| {
                row.waited_us
            }),
        ] {
            let rows = rows().filter_map(|row| Some((label(row), time(row)? as f64 / 1e6)));
            to.float_counters(family, help, &Unit::Seconds, rows)?;
        }
        to.histograms(
            "worker_batch_frames",
            "Frames that a worker took in at once",
            rows().map(|row| (label(row), row)),
        )
    }

    fn ports(&self, to: &mut Writer<'_, '_>) -> Result<(), Error> {
        let ports =
            || self.0.ports.iter().map(|row| (vec![("port", row.name.clone()), ("vni", row.vni.to_string())], row));
        to.gauges(
            "port_forwarding",
            "1 while the port has its device, 0 while it is lost",
            None,
            ports().map(|(labels, row)| (labels, flag(row.state == "forwarding"))),
        )?;
        let links = || ports().map(|(labels, row)| (labels, row.link));
        to.links("port", "a port", links)?;
        to.counters(
            "port_kernel_drops",
            "Frames that the kernel dropped because the port's queue was full before the switch read it",
            None,
            ports().filter_map(|(labels, row)| Some((labels, row.kernel_tx_dropped?))),
        )
    }

    fn vteps(&self, to: &mut Writer<'_, '_>) -> Result<(), Error> {
        let vteps = || {
            let labels = |address: &str, kind: &str| vec![("vtep", address.to_owned()), ("kind", kind.to_owned())];
            self.0.vteps.iter().map(move |row| (labels(&row.address, &row.kind), row))
        };
        let probed = || vteps().filter(|(_, row)| !["off", "unprobed"].contains(&row.path.as_str()));
        to.gauges(
            "path_up",
            "1 while the path to a VTEP is proven to carry its path MTU; no sample where it never echoed a probe",
            None,
            probed().map(|(labels, row)| (labels, flag(row.path == "up"))),
        )?;
        to.gauges(
            "path_mtu",
            "Longest outer IP packet that the path to a VTEP is proven to carry",
            Some(&Unit::Bytes),
            vteps().filter_map(|(labels, row)| Some((labels, row.path_mtu?.into()))),
        )?;
        to.gauges(
            "path_round_trip",
            "Round trip of path probes, without sleeping agents between them",
            Some(&Unit::Seconds),
            vteps().filter_map(|(labels, row)| Some((labels, row.path_rtt_us? as f64 / 1e6))),
        )?;
        to.gauges(
            "pod_mtu",
            "Longest inner IP packet that fits through the tunnel to a VTEP",
            Some(&Unit::Bytes),
            vteps().map(|(labels, row)| (labels, row.pod_mtu.into())),
        )?;
        let links = || vteps().map(|(labels, row)| (labels, row.link));
        to.links("vtep", "the tunnel to and from a VTEP", links)
    }

    fn underlay(&self, to: &mut Writer<'_, '_>) -> Result<(), Error> {
        let status = &self.0.status;
        let labels = vec![("level", status.underlay.level.clone())];
        to.gauges("underlay_info", "How tunnel packets travel: always 1", None, [(labels, 1.0)])?;
        to.gauge("underlay_mtu", "MTU of the underlay", Some(&Unit::Bytes), status.underlay.mtu.into())?;
        let rows = || status.offloads.iter().map(|row| (vec![("level", row.level.clone())], row));
        to.gauges(
            "offload_used",
            "1 for a level of offload in use, 0 for one that is off; `weft status` says why",
            None,
            rows().map(|(labels, row)| (labels, flag(row.used))),
        )?;
        to.gauges(
            "offload_demoted",
            "1 for a level of offload that failed while it was in use",
            None,
            rows().map(|(labels, row)| (labels, flag(row.demoted_seconds_ago.is_some()))),
        )
    }
}

fn store(control: &ControlStatus, to: &mut Writer<'_, '_>) -> Result<(), Error> {
    let rows = STORE_STATES.map(|state| (vec![("state", state.to_owned())], flag(control.state == state)));
    to.gauges(
        "store_state",
        "1 for the state in which the conversation with the store is, 0 for the others",
        None,
        rows,
    )?;
    let since = control.since_seconds as f64;
    to.gauge("store_state_age", "Time since the conversation came into that state", Some(&Unit::Seconds), since)?;
    to.gauge("store_revision", "Revision of the store up to which everything is known", None, control.revision as f64)?;
    to.gauge("cluster_nodes", "Nodes known, this one included", None, control.nodes as f64)?;
    to.gauge("cluster_endpoints", "Endpoints known, this node's included", None, control.endpoints as f64)?;
    to.gauge("cluster_suspects", "Nodes that do not reach the store", None, control.suspects.len() as f64)?;
    to.gauge("cluster_conflicts", "MACs and addresses that several claim now", None, control.conflicts.len() as f64)?;
    let seen = control.conflicts_total;
    to.counter("cluster_conflicts_seen", "How often something came to be claimed by several", seen)?;
    to.gauge("store_rows_refused", "Rows of the store that are refused now", None, control.refused_rows.len() as f64)?;
    to.counter("store_refusals", "How often a row of the store was refused", control.refusals)?;
    to.counter(
        "pods_unconfirmed",
        "Pods that began before all nodes that their ADD waited for had their row",
        control.unconfirmed_pods,
    )
}

const fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// One family after the other.
struct Writer<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Writer<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn float_counters(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        rows: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, Some(unit), MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn histograms<'r>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, &'r WorkerRow)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        rows.into_iter().try_for_each(|(labels, row)| {
            let end = |most: Option<u64>| most.map_or(f64::INFINITY, |most| most as f64);
            let batches: Vec<_> = row.batches.iter().map(|batch| (end(batch.frames_at_most), batch.turns)).collect();
            let turns = row.batches.iter().map(|batch| batch.turns).sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(row.frames as f64, turns, &batches, None)
        })
    }

    /// The families of one kind of link.
    fn links<I: Iterator<Item = (Labels, weft_api::Link)>>(
        &mut self,
        kind: &str,
        what: &str,
        rows: impl Fn() -> I,
    ) -> Result<(), Error> {
        let both = |labels: &Labels, rx, tx| {
            let directed = |direction: &str, n| ([&labels[..], &[("direction", direction.to_owned())]].concat(), n);
            [directed(LINK_RX, rx), directed(LINK_TX, tx)]
        };
        let frames = rows().flat_map(|(labels, link)| both(&labels, link.rx_frames, link.tx_frames));
        let help = format!("Frames through {what}");
        self.counters(&format!("{kind}_frames"), &help, None, frames)?;
        let bytes = rows().flat_map(|(labels, link)| both(&labels, link.rx_bytes, link.tx_bytes));
        let help = format!("Bytes of the frames through {what}");
        self.counters(kind, &help, Some(&Unit::Bytes), bytes)?;
        let help = format!("Frames from, and copies to, {what} that were dropped");
        self.counters(&format!("{kind}_drops"), &help, None, rows().map(|(labels, link)| (labels, link.drops)))
    }
}
