#[path = "../../../integration/src/skip.rs"]
mod skip;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use weft_api::{BatchRow, ControlStatus, OffloadRow};

use self::skip::skip;
use super::families::FORWARDING;
use super::*;

/// Counters that are verdicts, drops or of each worker, in families with labels.
const ELSEWHERE: [&str; 6] = ["unicast", "flood", "answered", "dropped", "copies_dropped", "worker_looks"];
const PAGE: &str = "../docs/metrics.md";
const HEAD: &str = "# Metrics

An agent whose configuration has `[metrics]` answers `GET /metrics` with what stands below, in OpenMetrics or in
Prometheus' older text format, as the client wishes. `GET /healthz` says `ok` as long as the agent's control loop turns. `GET
/readyz` says `ready`, or 503 and what is missing: the agent serves its pods, every port has its device, and a probe of
full length was answered by a managed peer that is alive, if there is one; dead peers and an absent store block nothing.

```toml
[metrics]
listen = \"127.0.0.1:9469\"        # or the absolute path of a Unix socket
```

```console node
$ curl -s http://127.0.0.1:9469/metrics
$ curl -s http://127.0.0.1:9469/readyz
```

Of a Unix socket: `curl -s --unix-socket /run/weft/metrics.sock http://weft/readyz`.

There is no password: whoever reaches the address may read, so let it be one of this node. Counters begin at zero when the
agent starts, those of a port or VTEP when it comes. rx and tx are as the switch sees them: rx of a port is what its pod
sent. A scrape looks at the device of every port, which takes about a millisecond each, on a thread of its own.

[deploy/prometheus/](../deploy/prometheus/) has alert rules, each with the line of a runbook ([runbook.md](runbook.md)), and
[deploy/grafana/](../deploy/grafana/) a dashboard.

This page is written from the code: `UPDATE_DOCS=1 cargo test -p weft-control metrics`.

| name | type | labels | meaning |
|---|---|---|---|
";

/// One of everything.
fn snapshot() -> Snapshot {
    let row = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let port = r#"{"name": "web", "vni": 100, "interface": "eth0", "netns": "web", "mac": "02:00:00:00:00:01",
        "addresses": [], "mtu": 1450, "mode": "bound", "state": "forwarding", "udp_superframes": true, "offloads": [],
        "learned": 0, "rx_frames": 1, "rx_bytes": 2, "tx_frames": 3, "tx_bytes": 4, "drops": 5, "kernel_tx_dropped": 6}"#;
    let vtep = r#"{"address": "192.0.2.2", "port": 4789, "encapsulation": "vxlan", "kind": "managed", "pod_mtu": 1450,
        "path": "up", "path_mtu": 1500, "path_rtt_us": 120, "vnis": [100], "learned": 0, "rx_frames": 1, "rx_bytes": 2,
        "tx_frames": 3, "tx_bytes": 4, "drops": 5}"#;
    let drop = r#"{"reason": "unknown_vni", "stage": "verdict", "count": 1, "meaning": "", "hint": ""}"#;
    let names = FORWARDING.iter().map(|(counter, ..)| *counter).chain(ELSEWHERE);
    let batches = [Some(1), Some(2), None].map(|frames_at_most| BatchRow { frames_at_most, turns: 3 });
    Snapshot {
        has_started: true,
        status: Status {
            node: "n1".to_owned(),
            version: "0.1.0".to_owned(),
            offloads: vec![OffloadRow { level: "gro".to_owned(), used: true, ..OffloadRow::default() }],
            control: Some(ControlStatus { state: "connected".to_owned(), ..ControlStatus::default() }),
            ..Status::default()
        },
        ports: vec![serde_json::from_value(row(port)).unwrap()],
        vteps: vec![serde_json::from_value(row(vtep)).unwrap()],
        drops: vec![serde_json::from_value(row(drop)).unwrap()],
        counters: Counters {
            forwarding: names.zip(1..).map(|(name, n)| (name.to_owned(), n)).collect(),
            learning: [("learned".to_owned(), 1)].into(),
            kernel: [("underlay_overflow".to_owned(), 1)].into(),
            ..Counters::default()
        },
        workers: vec![WorkerRow {
            name: "worker-0".to_owned(),
            frames: 12,
            batches: batches.to_vec(),
            run_us: Some(1_500_000),
            waited_us: Some(1),
            ..WorkerRow::default()
        }],
    }
}

/// Name, type, help and labels of every family in the older format.
fn families(text: &str) -> Vec<(String, String, String, String)> {
    let mut families: Vec<(String, String, String, String)> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.push((name.to_owned(), String::new(), help.to_owned(), String::new()));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let family = families.last_mut().unwrap();
            assert_eq!(family.0, name);
            family.1 = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let names = labels.split('=').filter_map(|part| part.rsplit([',', '"', '{']).next()).map(str::to_owned);
            let mut names: Vec<String> = names.filter(|name| !name.is_empty() && !name.starts_with('}')).collect();
            names.dedup();
            families.last_mut().unwrap().3 =
                names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        }
    }
    families
}

#[test]
fn every_counter_of_the_switch_has_its_family() {
    // What the agent counts by name is what stands here: `show.rs` and this file name them apart.
    let shown = include_str!("../show.rs");
    let listed = shown.split("forwarding: named(&[").nth(1).unwrap().split("]),").next().unwrap();
    let names: Vec<_> = listed.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in &names {
        let known = FORWARDING.iter().any(|(counter, ..)| counter == name) || ELSEWHERE.contains(name);
        assert!(known, "`{name}` is in no family");
    }
    for (name, ..) in FORWARDING {
        assert!(names.contains(&name), "`{name}` is counted by nobody");
    }
}

#[test]
fn numbers_stand_where_they_belong() {
    let text = encode(snapshot(), Format::Prometheus).unwrap();
    for line in [
        r#"weft_agent_info{node="n1",version="0.1.0"} 1.0"#,
        "# TYPE weft_frames_in_total counter",
        r#"weft_drops_total{reason="unknown_vni",stage="verdict"} 1"#,
        r#"weft_port_frames_total{port="web",vni="100",direction="rx"} 1"#,
        r#"weft_port_bytes_total{port="web",vni="100",direction="tx"} 4"#,
        r#"weft_port_kernel_drops_total{port="web",vni="100"} 6"#,
        r#"weft_path_up{vtep="192.0.2.2",kind="managed"} 1.0"#,
        r#"weft_path_round_trip_seconds{vtep="192.0.2.2",kind="managed"} 0.00012"#,
        r#"weft_worker_run_seconds_total{worker="worker-0"} 1.5"#,
        r#"weft_worker_batch_frames_bucket{le="2.0",worker="worker-0"} 6"#,
        r#"weft_worker_batch_frames_bucket{le="+Inf",worker="worker-0"} 9"#,
        r#"weft_worker_batch_frames_count{worker="worker-0"} 9"#,
        r#"weft_store_state{state="connected"} 1.0"#,
        r#"weft_store_state{state="stale"} 0.0"#,
    ] {
        assert!(text.lines().any(|written| written == line), "no line `{line}` in\n{text}");
    }
}

#[test]
fn a_path_that_never_echoed_has_no_state() {
    for (path, lines) in [("up", 1), ("down", 1), ("black hole", 1), ("unprobed", 0), ("off", 0)] {
        let mut snapshot = snapshot();
        snapshot.vteps[0].path = path.to_owned();
        let text = encode(snapshot, Format::Prometheus).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("weft_path_up{")).count(), lines, "{path}");
    }
}

#[test]
fn both_formats_say_the_same() {
    let (new, old) =
        (encode(snapshot(), Format::OpenMetrics).unwrap(), encode(snapshot(), Format::Prometheus).unwrap());
    assert!(new.ends_with("# EOF\n") && !old.contains("# EOF") && !old.contains("# UNIT"));
    let samples =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(samples(&new), samples(&old));
    assert_eq!(Format::accepted("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), Format::OpenMetrics);
    assert_eq!(Format::accepted("*/*"), Format::Prometheus);
}

#[test]
fn promtool_has_nothing_to_complain_of() {
    let Ok(mut promtool) =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
    else {
        skip("promtool_has_nothing_to_complain_of", "needs the program `promtool`");
        return;
    };
    let text = encode(snapshot(), Format::Prometheus).unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_page_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let mut page = HEAD.to_owned();
    for (name, kind, help, labels) in families(&encode(snapshot(), Format::Prometheus).unwrap()) {
        let help = help.strip_suffix('.').unwrap_or(&help);
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help}. |");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/metrics.md is behind the code: UPDATE_DOCS=1 cargo test -p weft-control metrics");
}
