//! Links of a lab that misbehave: what is asked for is what wire packets meet.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weft_integration::{CommandLab, Requirement, eventually, test_name, unmet};
use weft_testbed::probe::{Amount, BulkOptions, PingOptions, PingReport, ProbeError, bulk_between, ping_from};
use weft_testbed::{Lab, LabName};

/// Addresses of the nodes of `two-node.yaml` on the underlay.
const N2: &str = "10.199.0.2";
const N2_IPV6: &str = "fd99::2";

const TOOLS: [Requirement; 3] = [Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("ping")];

fn opened(lab: &CommandLab) -> Lab {
    Lab::open(&lab.name().parse::<LabName>().unwrap()).unwrap()
}

fn ping(lab: &CommandLab, to: &str, count: usize) -> PingReport {
    let mut options = PingOptions::default();
    (options.count, options.interval) = (count, Duration::from_millis(2));
    ping_from(&opened(lab).netns("n1").unwrap(), to.parse().unwrap(), &options).unwrap()
}

/// TCP between the nodes themselves: superframes, which a veth would carry whole.
fn tcp(lab: &CommandLab, to: &str, bytes: u64) -> Result<(), ProbeError> {
    let lab = opened(lab);
    let (n1, n2) = (lab.netns("n1").unwrap(), lab.netns("n2").unwrap());
    bulk_between(&n1, &n2, to.parse().unwrap(), &BulkOptions::new(Amount::Bytes(bytes))).map(|_| ())
}

fn shown(lab: &CommandLab, link: &str) -> Value {
    let shown: Value = serde_json::from_str(&lab.link(link, &["show", "--json"])).unwrap();
    shown[0].clone()
}

/// Every frame that came in went out, was lost by name, or is held.
#[track_caller]
fn assert_balanced(link: &Value) {
    for direction in ["to", "from"] {
        let seen = &link["counters"][direction];
        let number = |name: &str| seen[name].as_u64().unwrap();
        let gone: u64 =
            ["lost", "lost_in_bursts", "queue_full", "too_big", "delivered", "held"].map(number).iter().sum();
        assert_eq!(number("frames") + number("duplicated"), gone, "{direction}: {seen}");
        assert_eq!((number("refused"), number("overrun")), (0, 0), "{direction}: {seen}");
    }
}

/// What of a node's interface must not change: index, MAC, addresses, and how often carrier came and went.
fn identity(lab: &CommandLab, node: &str) -> [Value; 4] {
    let link: Value = serde_json::from_str(&lab.exec(node, &["ip", "-s", "-s", "-j", "link", "show", "eth0"])).unwrap();
    let addresses: Value = serde_json::from_str(&lab.exec(node, &["ip", "-j", "addr", "show", "eth0"])).unwrap();
    let errors = &link[0]["stats64"]["tx"];
    let local = addresses[0]["addr_info"].as_array().unwrap().iter().map(|info| info["local"].clone()).collect();
    [link[0]["ifindex"].clone(), link[0]["address"].clone(), errors["carrier_changes"].clone(), local]
}

#[test]
fn delay_and_loss_hold_in_the_direction_asked_for() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let before = identity(&lab, "n1");
    lab.link("n1", &["set", "delay=30ms", "to"]);
    let rtt = ping(&lab, N2, 20).rtt.unwrap();
    // Late for a busy machine, never early.
    assert!(rtt.min >= Duration::from_millis(30) && rtt.min < Duration::from_millis(60), "{rtt:?}");
    lab.link("n1", &["set", "loss=100%", "from"]);
    assert_eq!(ping(&lab, N2, 5).received, 0);
    let link = shown(&lab, "n1");
    assert_eq!(link["impairments"]["to"], serde_json::json!({ "delay": "30ms" }));
    assert_eq!(link["impairments"]["from"], serde_json::json!({ "loss": "100%" }));
    assert!(link["counters"]["from"]["lost"].as_u64() >= Some(5), "{link}");
    assert_balanced(&link);
    // Without an impairment there is no relay, and the cable is on the switch itself.
    lab.link("n1", &["clear"]);
    assert_eq!(ping(&lab, N2, 20).received, 20);
    assert_eq!(shown(&lab, "n1")["counters"], Value::Null);
    let interfaces = lab.exec("underlay", &["ip", "-br", "link"]);
    assert!(!interfaces.contains("in.0") && !interfaces.contains("br.0"), "{interfaces}");
    assert_eq!(identity(&lab, "n1"), before);
}

#[test]
fn chances_repeat_with_their_seed() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    // Whatever chances decide, they decide the same for the same frames: these are all there are.
    let fates = |seed: &str| {
        lab.link("n1", &["clear"]);
        lab.link("n1", &["set", "loss=30%", seed, "from"]);
        let lab = opened(&lab);
        let sent = |link: &weft_testbed::link::LinkStatus| {
            let from = link.counters.unwrap().from.channel;
            (from.frames, from.lost)
        };
        let mut fates = Vec::new();
        let mut before = sent(&lab.link("n1").unwrap());
        while before.0 < 60 {
            let mut options = PingOptions::default();
            (options.count, options.timeout) = (1, Duration::from_millis(20));
            ping_from(&lab.netns("n1").unwrap(), N2.parse().unwrap(), &options).unwrap();
            let after = sent(&lab.link("n1").unwrap());
            // More than one frame at a time: which of them was lost is not known.
            fates.push((after.0, after.1));
            before = after;
        }
        fates.into_iter().collect::<std::collections::BTreeMap<u64, u64>>()
    };
    let (one, again, other) = (fates("seed=1"), fates("seed=1"), fates("seed=2"));
    let differ = |one: &std::collections::BTreeMap<u64, u64>, other: &std::collections::BTreeMap<u64, u64>| {
        one.iter().any(|(frames, lost)| other.get(frames).is_some_and(|seen| seen != lost))
    };
    assert!(!differ(&one, &again), "{one:?}\n{again:?}");
    assert!(differ(&one, &other), "{one:?}\n{other:?}");
}

#[test]
fn ping_and_tcp_meet_the_same_mtu_hole() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let ping_of = |size: &str, to: &str| {
        let command =
            ["testbed", "exec", lab.name(), "n1", "--", "ping", "-M", "do", "-c", "3", "-i", "0.05", "-W", "1"];
        let output = CommandLab::try_run(&[&command[..], &["-s", size, to]].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    lab.link("n2", &["set", "mtu=1400"]);
    // 28 bytes of headers: 1400 passes and 1401 does not.
    assert!(ping_of("1372", N2).contains(" 0% packet loss"));
    assert!(ping_of("1373", N2).contains(" 100% packet loss"));
    // A superframe is no way round: TCP's handshake passes, and no full segment does.
    let stalled = tcp(&lab, N2, 1 << 20).unwrap_err();
    assert!(matches!(stalled, ProbeError::Stalled { .. } | ProbeError::Socket { .. }), "{stalled}");
    let link = shown(&lab, "n2");
    assert!(link["counters"]["to"]["too_big"].as_u64() > Some(3), "{link}");
    assert_balanced(&link);

    // The same hole, but the senders are told.
    lab.link("n2", &["set", "too-big=icmp"]);
    for to in [N2, N2_IPV6] {
        let told = ping_of("1400", to);
        assert!(told.replace(" = ", "=").replace(": ", "=").contains("mtu=1400"), "{told}");
        tcp(&lab, to, 1 << 20).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    assert!(shown(&lab, "n2")["counters"]["to"]["answered"].as_u64() > Some(0));
}

#[test]
fn a_rate_holds_for_tcp_and_its_queue_overflows() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    // The queue is shorter than a first flight of ten packets.
    lab.link("n2", &["set", "rate=20mbit", "queue=8", "to"]);
    let opened = opened(&lab);
    let (n1, n2) = (opened.netns("n1").unwrap(), opened.netns("n2").unwrap());
    let report = bulk_between(&n1, &n2, N2.parse().unwrap(), &BulkOptions::new(Amount::Bytes(5 << 20))).unwrap();
    // Of each 1514 bytes 1448 are payload; the receiver sees 19.1 Mbit/s at most.
    assert!(report.bits_per_second < 19.4e6, "{report:?}");
    assert!(report.bits_per_second > 12e6, "{report:?}");
    let link = shown(&lab, "n2");
    assert!(link["counters"]["to"]["queue_full"].as_u64() > Some(0), "{link}");
    let mean = link["counters"]["to"]["bytes"].as_f64().unwrap() / link["counters"]["to"]["frames"].as_f64().unwrap();
    assert!(mean <= 1514.0, "frames of {mean} bytes are no wire packets");
}

#[test]
fn impairing_a_busy_link_loses_only_what_is_on_its_way() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    /// Pings, two milliseconds apart.
    const COUNT: usize = 1000;
    /// Those that a change may cost: the cable is moved in the time of a few.
    const ON_ITS_WAY: usize = 6;
    let lab = CommandLab::up("two-node.yaml");
    assert_eq!(ping(&lab, N2, 3).received, 3);
    let changes = 6;
    let report = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping(&lab, N2, COUNT));
        for _ in 0..changes / 2 {
            lab.link("n1", &["set", "mtu=9000"]);
            lab.link("n1", &["clear"]);
        }
        pinging.join().unwrap()
    });
    println!("{report:?}");
    assert!(report.received + ON_ITS_WAY * changes >= COUNT, "{report:?}");
}

#[test]
fn links_are_unplugged_and_plugged_in_again() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let addresses = identity(&lab, "n1")[3].clone();
    lab.link("n1", &["set", "delay=1ms"]);
    for impaired in [true, false] {
        if !impaired {
            lab.link("n1", &["clear"]);
        }
        lab.link("n1", &["down"]);
        assert!(lab.exec("n1", &["ip", "-br", "link", "show", "eth0"]).contains("NO-CARRIER"));
        assert!(lab.link("n1", &[]).contains("down"));
        lab.link("n1", &["up"]);
        assert!(!lab.exec("n1", &["ip", "-br", "link", "show", "eth0"]).contains("NO-CARRIER"));
        eventually("the link carries again", || {
            let report = ping(&lab, N2, 3);
            if report.received == 3 { Ok(()) } else { Err(format!("{report:?}")) }
        });
        assert_eq!(identity(&lab, "n1")[3], addresses);
    }
}

#[test]
fn a_killed_relay_is_told_replaced_and_cleared_away() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let kill = || {
        let journal = std::fs::read_to_string(format!("/run/weft/labs/{}/lab.json", lab.name())).unwrap();
        let journal: Value = serde_json::from_str(&journal).unwrap();
        let pid = journal["links"][0]["relay"]["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        eventually("the relay ends", || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") { Ok(()) } else { Err(state) }
        });
    };
    lab.link("n1", &["set", "delay=5ms"]);
    kill();
    assert!(lab.link("n1", &[]).contains("link n1 carries nothing"));
    lab.link("n1", &["set", "loss=0"]);
    let rtt = ping(&lab, N2, 5).rtt.unwrap();
    assert!(rtt.min >= Duration::from_millis(10), "{rtt:?}");
    // A relay whose TAP was taken away ends, rather than answer for a link that carries nothing.
    lab.exec("underlay", &["ip", "link", "delete", "in.0"]);
    eventually("the relay ends", || {
        let told = lab.link("n1", &[]);
        if told.contains("link n1 carries nothing") { Ok(()) } else { Err(told) }
    });
    lab.link("n1", &["set", "loss=0"]);
    assert!(ping(&lab, N2, 5).rtt.is_some());
    kill();
    lab.link("n1", &["clear"]);
    assert_eq!(ping(&lab, N2, 5).received, 5);
    lab.link("all", &["set", "delay=5ms"]);
    kill();
    lab.run(&["testbed", "down", lab.name()]);
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn wrong_words_change_nothing() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let before = shown(&lab, "n1");
    for (link, words, told) in [
        ("n1", &["set", "loss=2"][..], "allowed are 0% to 100%"),
        ("n1", &["set", "loss=1%", "lag=3"], "there is no impairment `lag`"),
        ("n1", &["set", "reorder=1%"], "reorder without delay changes nothing"),
        ("n1", &["set", "to"], "`to` is no impairment: write KEY=VALUE"),
        ("n9", &["set", "loss=1%"], "has no link `n9`; it has n1, n2"),
    ] {
        let output = CommandLab::try_run(&[&["testbed", "link", lab.name(), link], words].concat());
        let seen = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && seen.contains(told), "{words:?}: {seen}");
    }
    assert_eq!(shown(&lab, "n1"), before);
}
