//! What a scrape of a running agent says.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_integration::{BOUND, CommandLab, Requirement, eventually, site, test_name, unmet, weft};

const TOOLS: [Requirement; 2] = [Requirement::Root, Requirement::Tool("promtool")];

/// The status line and the body of an answer.
fn get(lab: &CommandLab, node: &str, request: &str) -> (String, String) {
    let path = format!("/run/weft/labs/{}/{node}/metrics.sock", lab.name());
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: weft\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn value(metrics: &str, sample: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("no {sample}"));
    line.trim().parse().unwrap()
}

#[test]
fn a_scrape_tells_what_happened_and_readiness_follows_the_ports_and_a_live_peer() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    lab.ping_all("a", "10.244.2.2");
    let ready = || match get(&lab, "n1", "GET /readyz") {
        (status, _) if status == "HTTP/1.1 200 OK" => Ok(()),
        (status, body) => Err(format!("{status}: {body}")),
    };
    eventually("ready", ready);
    assert_eq!(get(&lab, "n1", "GET /healthz").0, "HTTP/1.1 200 OK");
    assert_eq!(get(&lab, "n1", "GET /").0, "HTTP/1.1 404 Not Found");
    assert_eq!(get(&lab, "n1", "POST /metrics").0, "HTTP/1.1 405 Method Not Allowed");

    let (_, metrics) = get(&lab, "n1", "GET /metrics");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}\n{metrics}", String::from_utf8_lossy(&checked.stderr));
    assert!(value(&metrics, "weft_frames_in_total ") >= 6.0, "{metrics}");
    assert!(metrics.contains(",kind=\"managed\"} 1.0"), "{metrics}");
    assert!(value(&metrics, "weft_store_state{state=\"connected\"} ") > 0.0);
    let turns = value(&metrics, "weft_worker_batch_frames_count{worker=\"worker-0\"} ");
    assert!(turns > 0.0 && turns <= value(&metrics, "weft_worker_frames_total{worker=\"worker-0\"} "), "{metrics}");
    assert!(value(&metrics, "weft_worker_run_seconds_total{worker=\"worker-0\"} ") > 0.0);

    // A peer that dies is no reason.
    lab.run(&["testbed", "node", lab.name(), "n2", "kill"]);
    eventually("the peer is down", || {
        let (_, metrics) = get(&lab, "n1", "GET /metrics");
        let down = metrics.contains("kind=\"managed\"} 0") || !metrics.contains("weft_path_up{");
        if down { Ok(()) } else { Err(metrics) }
    });
    ready().unwrap();
    // A port whose device is gone is one.
    lab.exec("a", &["sh", "-c", "ip link delete eth0; ip link add eth0 type bridge"]);
    let seen = eventually("not ready", || match get(&lab, "n1", "GET /readyz") {
        (status, body) if status == "HTTP/1.1 503 Service Unavailable" => Ok(body),
        (status, _) => Err(status),
    });
    assert!(seen.contains("port `a` is lost"), "{seen}");
}

#[test]
fn systemd_hears_of_readiness_state_watchdog_and_end_and_the_log_is_json() {
    let site = site!();
    let directory = site.directory();
    let place = |name: &str| directory.join(name).display().to_string();
    let supervisor = UnixDatagram::bind(directory.join("notify")).unwrap();
    supervisor.set_read_timeout(Some(BOUND)).unwrap();
    let config = format!(
        "node = \"n1\"\nrun_dir = \"{}\"\nlog_format = \"json\"\n[underlay]\naddresses = [\"127.0.0.1\"]\n\
         [metrics]\nlisten = \"{}\"\n",
        place("run"),
        place("metrics.sock")
    );
    std::fs::write(directory.join("agent.toml"), config).unwrap();
    let mut agent = Command::new(weft());
    agent.args(["agent", "--config", &place("agent.toml")]).env("NOTIFY_SOCKET", place("notify"));
    agent.env("WATCHDOG_USEC", Duration::from_secs(30).as_micros().to_string()).stderr(Stdio::piped());
    let mut agent = site.host("n1").netns().run(|| agent.spawn().unwrap()).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 1024];
        loop {
            let length = supervisor.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted} was not said: {error}"));
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    hear("READY=1");
    hear("STATUS=0 ports, 0 VTEPs");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    let pid = rustix::process::Pid::from_child(&agent);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    hear("STOPPING=1");
    let mut log = String::new();
    agent.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(agent.wait().unwrap().success(), "{log}");
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "forwarding"), "{log}");
}
