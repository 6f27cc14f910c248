//! The loads of the comparison beside iperf3 and sockperf: the same pods, the same minute, about the same figures.
//!
//! `cargo bench -p weft-integration --bench generators`; it ends in failure where two tools are too far apart.
#![expect(clippy::unwrap_used, reason = "a bench says so by failing")]

use std::process::{Command, Stdio};
use std::time::Duration;

use weft_benches::load::{Datagrams, Figures, Side, Timing, bulk, datagrams, udp_round_trips};
use weft_benches::{Cable, CableKind, Pinning, Plane, Pod, Stage, Stages, report::Summary};
use weft_integration::{Child, Output, Requirement, eventually, unmet, weft};
use weft_netns::{Netns, enter_in_child};

const TIMING: Timing = Timing { warm_up: Duration::from_millis(100), period: Duration::from_secs(1) };
const ROUNDS: usize = 3;
/// How far two tools may be apart, as a factor: they differ in buffers and threads, and the machine has other work.
const APART: f64 = 2.0;

/// Pods behind a plain bridge, in which nothing but the tools differs.
fn stage() -> Stage {
    let stage = Stage::new(&Stages::new(), Cable { kind: CableKind::Offloaded, mtu: 1500 }, Pinning::None).unwrap();
    Plane::Bridge.set_up(&stage, &weft()).unwrap();
    Plane::Bridge.wait_until_joined(&stage).unwrap();
    stage
}

fn in_pod(pod: &Pod, argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null());
    enter_in_child(&mut command, Netns::open(pod.netns.label()).unwrap());
    command
}

/// A server in the pod, for as long as the value lives.
fn server(pod: &Pod, argv: &[&str]) -> Child {
    let mut command = in_pod(pod, argv);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Child::spawn(command)
}

/// What a client prints, once its server listens.
fn client(pod: &Pod, argv: &[&str]) -> String {
    eventually(argv[0], || {
        let output = Output::from(in_pod(pod, argv).output().unwrap());
        if output.status.success() { Ok(output.stdout) } else { Err(format!("{}{}", output.stdout, output.stderr)) }
    })
}

fn figure(figures: &Figures, name: &str) -> f64 {
    figures.iter().find(|(known, _)| *known == name).unwrap().1
}

fn median(samples: Vec<f64>) -> f64 {
    Summary::of(samples).unwrap().median
}

/// Both by turns, and the medians of each.
fn beside(mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> [f64; 2] {
    let (ours, theirs) = (0..ROUNDS).map(|_| (ours(), theirs())).unzip();
    [median(ours), median(theirs)]
}

fn bulk_is_about_what_iperf3_says(stage: &Stage) {
    let [a, _, c] = stage.pods();
    let _server = server(c, &["iperf3", "-s"]);
    let sides = [a, c].map(|pod| Side::new(pod, Pinning::None));
    // One stream: with several, the two differ in how many threads ask for a processor.
    let [ours, theirs] = beside(
        || figure(&bulk(&sides[0], &sides[1], 1, "cubic", TIMING).unwrap(), "throughput"),
        || {
            let text = client(a, &["iperf3", "-c", "10.244.0.3", "-t", "1", "-C", "cubic", "-J"]);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            json["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e9
        },
    );
    println!("{ours:.2} Gbit/s, iperf3 {theirs:.2}");
    assert!(ours < theirs * APART && theirs < ours * APART, "{ours} and {theirs} Gbit/s");
}

fn datagrams_are_about_what_iperf3_says_or_more(stage: &Stage) {
    let [a, _, c] = stage.pods();
    let _server = server(c, &["iperf3", "-s"]);
    let sides = [a, c].map(|pod| Side::new(pod, Pinning::None));
    let what = Datagrams { size: 64, flows: 1, rate: None };
    let [ours, theirs] = beside(
        || figure(&datagrams(&sides[0], &sides[1], what, TIMING).unwrap(), "received"),
        || {
            let text = client(a, &["iperf3", "-u", "-c", "10.244.0.3", "-t", "1", "-b", "0", "-l", "64", "-J"]);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let sum = |name: &str| json["end"]["sum"][name].as_f64().unwrap();
            (sum("packets") - sum("lost_packets")) / sum("seconds")
        },
    );
    println!("{ours:.0} datagrams a second, iperf3 {theirs:.0}");
    // It sends one datagram a system call, and looks at the clock for each; the kernel's way is the same.
    assert!(ours > theirs / APART && ours < theirs * APART * 2.0, "{ours} and {theirs} datagrams a second");
}

fn round_trips_are_about_what_sockperf_says(stage: &Stage) {
    let [a, _, c] = stage.pods();
    let target = ["-i", "10.244.0.3", "-p", "11111"];
    let _server = server(c, &[&["sockperf", "server"][..], &target].concat());
    let sides = [a, c].map(|pod| Side::new(pod, Pinning::None));
    let [ours, theirs] = beside(
        || figure(&udp_round_trips(&sides[0], &sides[1], TIMING).unwrap(), "p50"),
        || {
            let text = client(a, &[&["sockperf", "ping-pong", "-t", "1", "--full-rtt"][..], &target].concat());
            let line = text.lines().find(|line| line.contains("percentile 50.000")).unwrap_or_else(|| panic!("{text}"));
            line.rsplit('=').next().unwrap().trim().parse().unwrap()
        },
    );
    println!("p50 {ours:.1} µs, sockperf {theirs:.1}");
    assert!(ours < theirs * APART && theirs < ours * APART, "{ours} and {theirs} µs");
}

/// What a comparison needs beside root, and what it is.
type Case = (&'static str, fn(&Stage));

const CASES: [Case; 3] = [
    ("iperf3", bulk_is_about_what_iperf3_says),
    ("iperf3", datagrams_are_about_what_iperf3_says_or_more),
    ("sockperf", round_trips_are_about_what_sockperf_says),
];

fn main() {
    // `cargo test` runs benches to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for (tool, case) in CASES {
        if !unmet("generators", &[Requirement::Root, Requirement::Tool(tool)]) {
            case(&stage());
        }
    }
}
