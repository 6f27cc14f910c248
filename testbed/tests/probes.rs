//! Probes between pods. Needs root.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use support::{FakeAgent, Name, READY, alone, two_nodes};
use weft_testbed::probe::{Amount, BulkOptions, PingOptions, ProbeError, bulk, ping};
use weft_testbed::{Family, Lab};

/// Runs `body` in the lab of two nodes, with pods `a` and `c` joined by a cable in place of an overlay.
fn joined(test: &'static str, purpose: &str, body: impl FnOnce(&Lab) + Send) {
    alone(test, || {
        let (name, agent) = (Name::new(purpose), FakeAgent::new(purpose, READY));
        let lab = Lab::up(&two_nodes(), &name, &agent.options(), &mut |_| {}).unwrap();
        let (a, c) = (lab.netns("a").unwrap(), lab.netns("c").unwrap());
        a.links(|links| links.add_veth("eth0", "eth0", &c)).unwrap();
        for (pod, netns) in [("a", &a), ("c", &c)] {
            let addresses = &lab.spec().pod(pod).unwrap().addresses;
            netns.links(|links| links.set_up("eth0").and_then(|()| links.set_addresses("eth0", addresses))).unwrap();
        }
        body(&lab);
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn ping_counts_answers_of_both_families() {
    joined("ping_counts_answers_of_both_families", "ping", |lab| {
        let mut options = PingOptions::default();
        (options.count, options.interval, options.payload) = (20, Duration::from_millis(2), 1000);
        for to in ["10.244.2.2", "fd00:244::2:2"] {
            let report = ping(lab, "a", ip(to), &options).unwrap();
            assert_eq!((report.sent, report.received, report.duplicates), (20, 20, 0), "{to}: {report:?}");
            let rtt = report.rtt.unwrap();
            assert!(rtt.min <= rtt.median && rtt.median <= rtt.max && rtt.max < Duration::from_secs(1), "{rtt:?}");
        }
        assert_eq!(ping(lab, "a", ip("10.244.1.2"), &options).unwrap().received, 20, "of itself");
        assert_eq!(ping(lab, "n1", ip("10.199.0.2"), &options).unwrap().received, 20, "of a node");
    });
}

#[test]
fn pings_at_the_same_time_do_not_mix() {
    joined("pings_at_the_same_time_do_not_mix", "pings", |lab| {
        let mut options = PingOptions::default();
        (options.count, options.interval) = (50, Duration::from_millis(1));
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| ping(lab, "a", ip("10.244.2.2"), &options))).collect();
            for report in all {
                let report = report.join().unwrap().unwrap();
                assert_eq!((report.received, report.duplicates), (50, 0));
            }
        });
    });
}

#[test]
fn a_ping_without_answers_ends_in_time() {
    joined("a_ping_without_answers_ends_in_time", "silence", |lab| {
        let mut options = PingOptions::default();
        options.timeout = Duration::from_millis(300);
        let begin = Instant::now();
        let report = ping(lab, "a", ip("10.244.9.9"), &options).unwrap();
        assert_eq!((report.sent, report.received, report.rtt), (3, 0, None));
        assert!(begin.elapsed() < Duration::from_secs(3));
        let no_route = ping(lab, "b", ip("10.244.2.2"), &options).unwrap_err();
        assert!(no_route.to_string().contains("pod `b`: Network is unreachable"), "{no_route}");
        options.count = 0;
        assert!(matches!(ping(lab, "a", ip("10.244.2.2"), &options), Err(ProbeError::Limit { .. })));
    });
}

#[test]
fn bulk_moves_and_checks_every_byte() {
    joined("bulk_moves_and_checks_every_byte", "bulk", |lab| {
        for (family, bytes) in [(None, 10_000_001), (Some(Family::Ipv6), 70_000), (None, 1), (None, 0)] {
            let mut options = BulkOptions::new(Amount::Bytes(bytes));
            options.family = family;
            let report = bulk(lab, "a", "c", &options).unwrap();
            assert_eq!(report.bytes, bytes);
            assert!(!report.congestion_control.is_empty());
        }
        let mut options = BulkOptions::new(Amount::For(Duration::from_millis(300)));
        options.congestion_control = Some("reno".to_owned());
        let report = bulk(lab, "c", "a", &options).unwrap();
        assert!(report.elapsed >= Duration::from_millis(300) && report.bits_per_second > 1e6, "{report:?}");
        assert_eq!(report.congestion_control, "reno");
        eprintln!("{:.1} Gbit/s", report.bits_per_second / 1e9);
        assert!(matches!(bulk(lab, "a", "zz", &options), Err(ProbeError::Lab(_))));
    });
}

#[test]
fn bulk_to_a_pod_that_cannot_be_reached_says_so() {
    joined("bulk_to_a_pod_that_cannot_be_reached_says_so", "unreachable", |lab| {
        let error = bulk(lab, "b", "c", &BulkOptions::new(Amount::Bytes(1))).unwrap_err().to_string();
        assert!(error.starts_with("cannot connect in pod `b`: Network is unreachable"), "{error}");
    });
}
