//! The loads of the comparison, by what they count.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::sync::LazyLock;
use std::time::Duration;

use weft_benches::load::{Datagrams, Figures, Side, Timing, bulk, datagrams, udp_round_trips};
use weft_benches::{Cable, CableKind, Pinning, Plane, Pod, Stage, Stages};
use weft_integration::{Requirement, test_name, unmet, weft};
use weft_netns::LinkStats;

const TIMING: Timing = Timing { warm_up: Duration::from_millis(100), period: Duration::from_secs(1) };
const BITS_PER_GIGABIT: f64 = 1e9;

/// Pods behind a plain bridge.
fn stage() -> Stage {
    static STAGES: LazyLock<Stages> = LazyLock::new(Stages::new);
    let stage = Stage::new(&STAGES, Cable { kind: CableKind::Offloaded, mtu: 1500 }, Pinning::None).unwrap();
    Plane::Bridge.set_up(&stage, &weft()).unwrap();
    Plane::Bridge.wait_until_joined(&stage).unwrap();
    stage
}

fn figure(figures: &Figures, name: &str) -> f64 {
    figures.iter().find(|(known, _)| *known == name).unwrap().1
}

/// What a pod's interface took in during a load, as its kernel counts it.
fn taken_in(pod: &Pod, load: impl FnOnce()) -> (u64, u64) {
    let stats = || -> LinkStats { pod.netns.links(|links| links.get("eth0")).unwrap().unwrap().stats };
    let before = stats();
    load();
    let after = stats();
    (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes)
}

#[test]
fn a_load_counts_nothing_that_did_not_arrive() {
    if unmet(test_name!(), &[Requirement::Root]) {
        return;
    }
    let stage = stage();
    let [a, _, c] = stage.pods();
    let sides = [a, c].map(|pod| Side::new(pod, Pinning::None));
    let seconds = TIMING.period.as_secs_f64();

    let mut counted = 0.0;
    let (_, bytes) = taken_in(c, || {
        let figures = bulk(&sides[0], &sides[1], 1, "cubic", TIMING).unwrap();
        counted = figure(&figures, "throughput") * BITS_PER_GIGABIT * seconds / 8.0;
    });
    assert!(counted > 0.0 && counted <= bytes as f64, "{counted} bytes of {bytes}");

    let what = Datagrams { size: 64, flows: 4, rate: None };
    let (packets, _) = taken_in(c, || {
        counted = figure(&datagrams(&sides[0], &sides[1], what, TIMING).unwrap(), "received") * seconds;
    });
    assert!(counted > 0.0 && counted <= packets as f64, "{counted} datagrams of {packets}");

    let (packets, _) = taken_in(c, || {
        counted = figure(&udp_round_trips(&sides[0], &sides[1], TIMING).unwrap(), "rate") * seconds;
    });
    assert!(counted > 0.0 && counted <= packets as f64, "{counted} round trips of {packets}");
}

#[test]
fn what_is_paced_arrives_at_its_rate_and_in_order() {
    if unmet(test_name!(), &[Requirement::Root]) {
        return;
    }
    let stage = stage();
    let [a, _, c] = stage.pods();
    let sides = [a, c].map(|pod| Side::new(pod, Pinning::None));
    let what = Datagrams { size: 64, flows: 16, rate: Some(5_000) };
    let figures = datagrams(&sides[0], &sides[1], what, TIMING).unwrap();
    let received = figure(&figures, "received");
    assert!((4_000.0..6_000.0).contains(&received), "{received} a second");
    assert_eq!((figure(&figures, "loss"), figure(&figures, "reordered")), (0.0, 0.0));
}
