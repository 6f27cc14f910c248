use super::*;
use crate::record::{Failure, Group, PlaneRecord, Sample, Settings, Skipped};
use crate::{CableKind, Machine, Pinning};

const CABLE: Cable = Cable { kind: CableKind::Offloaded, mtu: 1500 };

/// Samples of which every figure below can be worked out by hand.
fn comparison() -> Comparison {
    let metric = |id: &str, group, unit: &str, better| Metric {
        id: id.to_owned(),
        group,
        title: format!("title of {id}"),
        unit: unit.to_owned(),
        better,
    };
    let plane = |name: &str, weft| PlaneRecord { name: name.to_owned(), about: format!("about {name}"), weft };
    let samples = [
        (BASELINE, "tcp-1-cubic throughput", [10.0, 8.0, 9.0]),
        ("bridge", "tcp-1-cubic throughput", [18.0, 17.0, 19.0]),
        ("naive", "tcp-1-cubic throughput", [0.8, 0.9, 1.0]),
        ("weft-uplink-vxlan", "tcp-1-cubic throughput", [8.5, 7.0, 9.9]),
        (BASELINE, "rr-tcp p50", [120.0, 130.0, 125.0]),
        ("bridge", "rr-tcp p50", [100.0, 110.0, 105.0]),
        ("weft-uplink-vxlan", "rr-tcp p50", [200.0, 250.0, 150.0]),
        (BASELINE, "udp-64-1 received", [70_000.0, 80_000.0, 75_000.0]),
        ("weft-uplink-vxlan", "udp-64-1 received", [150_000.0, 160_000.0, 140_000.0]),
    ];
    let samples = samples.into_iter().flat_map(|(plane, metric, values)| {
        (1..).zip(values).map(move |(round, value)| {
            let (plane, metric) = (plane.to_owned(), metric.to_owned());
            Sample { plane, cable: CABLE, metric, round, value }
        })
    });
    Comparison {
        version: 1,
        machine: Machine { kernel: "6.18".to_owned(), processors: 2, ..Machine::default() },
        settings: Settings {
            rounds: 5,
            period_seconds: 0.2,
            warm_up_seconds: 0.05,
            pinning: Pinning::None,
            took_seconds: 61.0,
        },
        planes: vec![
            plane(BASELINE, false),
            plane("bridge", false),
            plane("naive", false),
            plane("weft-uplink-vxlan", true),
        ],
        cables: vec![CABLE],
        metrics: vec![
            metric("tcp-1-cubic throughput", Group::Bulk, "Gbit/s", Better::Higher),
            metric("udp-64-1 received", Group::Datagrams, "packets/s", Better::Higher),
            metric("rr-tcp p50", Group::Latency, "µs", Better::Lower),
            metric("rr-tcp p99", Group::Latency, "µs", Better::Lower),
        ],
        skipped: vec![Skipped {
            plane: "ovs<1>".to_owned(),
            cable: CABLE,
            reason: "no `ovs-vswitchd` & so on".to_owned(),
        }],
        failures: vec![Failure {
            plane: "naive".to_owned(),
            cable: CABLE,
            case: "rr-tcp".to_owned(),
            round: 2,
            reason: "nothing arrived".to_owned(),
        }],
        samples: samples.collect(),
    }
}

#[test]
fn medians_of_odd_and_even_counts() {
    assert_eq!(Summary::of(vec![3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0, samples: 3 }));
    assert_eq!(Summary::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    assert_eq!(Summary::of(Vec::new()), None);
}

#[test]
fn only_rounds_that_do_not_overlap_make_a_winner() {
    let summary = |min, max| Summary { median: f64::midpoint(min, max), min, max, samples: 5 };
    let baseline = summary(10.0, 12.0);
    assert_eq!(summary(12.5, 14.0).beside(&baseline, Better::Higher), Standing::Better);
    assert_eq!(summary(12.5, 14.0).beside(&baseline, Better::Lower), Standing::Worse);
    assert_eq!(summary(11.9, 14.0).beside(&baseline, Better::Higher), Standing::Even);
    assert_eq!(summary(8.0, 9.9).beside(&baseline, Better::Lower), Standing::Better);
    assert_eq!(summary(8.0, 9.9).beside(&baseline, Better::Higher), Standing::Worse);
    let once = Summary { samples: 1, ..summary(8.0, 8.0) };
    assert_eq!(once.beside(&baseline, Better::Higher), Standing::Even, "one round proves nothing");
}

#[test]
fn golden_figures_make_the_golden_table() {
    let tables = ratios(&comparison());
    let rows = |index: usize| -> Vec<String> { tables[index].rows.iter().map(|row| row.join(" ")).collect() };
    assert_eq!(tables[0].title, "TCP throughput, Gbit/s; offloaded, MTU 1500");
    assert_eq!(tables[0].headings, ["plane", "#tcp-1-cubic"]);
    assert_eq!(rows(0), ["kernel-vxlan 9.00", "bridge 2.00x", "naive 0.10x", "weft-uplink-vxlan ~0.94x"]);
    assert_eq!(rows(1), ["kernel-vxlan 75,000", "weft-uplink-vxlan 2.00x"]);
    assert_eq!(rows(2), ["kernel-vxlan 125", "bridge 0.84x", "weft-uplink-vxlan 1.60x"]);
    assert_eq!(tables.len(), 3);
}

#[test]
fn without_the_baseline_the_figures_themselves_stand_there() {
    let mut comparison = comparison();
    comparison.samples.retain(|sample| sample.plane != BASELINE);
    assert_eq!(ratios(&comparison)[0].rows[0], ["bridge", "18.0"]);
    assert!(html(&comparison).contains("nothing to weigh"));
}

#[test]
fn the_page_says_who_wins_and_what_is_missing() {
    let page = html(&comparison());
    let after = |start: &str| page.split_once(start).unwrap_or_else(|| panic!("no {start}")).1;
    let section = |title: &str| after(title).split_once("</section>").unwrap().0;
    assert!(section("Where kernel VXLAN wins").contains("title of rr-tcp p50"));
    assert!(section("Where Weft wins").contains("title of udp-64-1 received"));
    assert!(section("do not tell them apart").contains("title of tcp-1-cubic throughput"));
    assert!(after("What is missing").contains("ovs&lt;1&gt;"));
    assert!(after("What is missing").contains("no `ovs-vswitchd` &amp; so on"));
    assert!(after("What is missing").contains("rr-tcp, round 2"));
    assert!(page.contains("3 of 5 that were asked for"), "three rounds were done");
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = html(&comparison());
    for word in ["<script", "http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("<svg viewBox").count(), page.matches("</svg>").count() - comparison().planes.len());
}

#[test]
fn a_report_is_made_again_from_its_json() {
    let comparison = comparison();
    let text = serde_json::to_string(&comparison).unwrap();
    let again: Comparison = serde_json::from_str(&text).unwrap();
    assert_eq!(again, comparison);
    assert_eq!(html(&again), html(&comparison));
}

#[test]
fn numbers_have_the_digits_that_mean_something() {
    let expected =
        [(0.0, "0"), (0.0123, "0.012"), (0.5, "0.50"), (9.876, "9.88"), (45.67, "45.7"), (123_456.7, "123,457")];
    for (value, text) in expected {
        assert_eq!(number(value), text);
    }
}
