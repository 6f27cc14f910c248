//! `weft bench compare` as a user runs it.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use weft_benches::{Better, Comparison, report};
use weft_integration::{Child, Requirement, eventually, test_name, unmet, weft};
use weft_netns::Netns;

const PLANES: [&str; 2] = ["kernel-vxlan", "weft-socket-vxlan"];
const NEEDED: [Requirement; 2] = [Requirement::Root, Requirement::KernelVxlan];

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(purpose: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-comparison-{}-{purpose}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(weft()).arg("bench").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Namespaces and directories of comparisons that this process made.
fn traces(pid: u32) -> Vec<String> {
    let own = |name: &String| name.starts_with(&format!("weft-bench.{pid}."));
    let files = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let files = files.filter_map(|entry| entry.file_name().into_string().ok()).filter(own);
    Netns::list().unwrap().into_iter().filter(own).chain(files).collect()
}

/// Programs whose command line names one of its directories or namespaces.
fn programs(pid: u32) -> Vec<String> {
    let lines = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&format!("weft-bench.{pid}."))).collect()
}

fn read(directory: &Path) -> Comparison {
    serde_json::from_str(&fs::read_to_string(directory.join("comparison.json")).unwrap()).unwrap()
}

#[test]
fn two_planes_and_one_case_leave_samples_and_a_report() {
    if unmet(test_name!(), &NEEDED) {
        return;
    }
    let directory = Directory::new("two");
    let out = directory.0.to_str().unwrap();
    let planes = PLANES.map(|plane| ["--plane", plane]).concat();
    let how = ["compare", "--quick", "--cable", "offloaded", "--rounds", "2", "--case", "rr-tcp", "--out", out];
    let output = run(&[&how[..], &planes].concat());
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let comparison = read(&directory.0);
    assert_eq!(comparison.planes.iter().map(|plane| plane.name.as_str()).collect::<Vec<_>>(), PLANES);
    assert_eq!((comparison.skipped.len(), comparison.failures.len()), (0, 0), "{stderr}");
    let [cable] = comparison.cables[..] else { panic!("{:?}", comparison.cables) };
    for plane in PLANES {
        for metric in &comparison.metrics {
            let summary =
                comparison.summary(cable, plane, &metric.id).unwrap_or_else(|| panic!("{plane} {}", metric.id));
            let (samples, least) = if metric.id == "start" { (1, 0.0) } else { (2, 0.0) };
            assert_eq!(summary.samples, samples, "{plane} {}", metric.id);
            // The kernel has no process, and so no memory of one.
            assert!(summary.min > least || metric.id == "memory", "{plane} {}: {summary:?}", metric.id);
        }
        let median = |figure: &str| comparison.summary(cable, plane, &format!("rr-tcp {figure}")).unwrap().median;
        assert!(median("p50") <= median("p99") && median("p99") <= median("p99.9"));
        // Of round trips one after another, half take no longer than twice their mean.
        let mean = 1e6 / median("rate");
        assert!(median("p50") < mean * 3.0, "{mean} µs on average");
    }
    let memory = |plane| comparison.summary(cable, plane, "memory").unwrap().median;
    assert!(memory(PLANES[0]) == 0.0 && memory(PLANES[1]) > 1.0, "only Weft has processes");
    assert!(comparison.metrics.iter().any(|metric| metric.id == "rr-tcp p50" && metric.better == Better::Lower));
    assert!(stdout.contains("weft-socket-vxlan") && stdout.contains('x'), "{stdout}");

    let page = fs::read_to_string(directory.0.join("report.html")).unwrap();
    assert_eq!(page, report::html(&comparison));
    fs::remove_file(directory.0.join("report.html")).unwrap();
    let again = run(&["report", out]);
    assert!(again.status.success());
    assert_eq!(fs::read_to_string(directory.0.join("report.html")).unwrap(), page);
    assert_eq!(again.stdout, output.stdout);
}

#[test]
fn an_interrupt_leaves_nothing() {
    if unmet(test_name!(), &NEEDED) {
        return;
    }
    let directory = Directory::new("interrupt");
    let mut command = Command::new(weft());
    command.args(["bench", "compare", "--rounds", "100", "--plane", "naive", "--plane", "weft-socket-vxlan", "--out"]);
    command.arg(&directory.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut comparison = Child::spawn(command);
    let pid = comparison.pid();
    eventually("both planes", || {
        let programs = programs(pid);
        if programs.len() >= 4 { Ok(()) } else { Err(format!("{programs:?}")) }
    });
    comparison.signal(Signal::INT);
    assert_eq!(comparison.wait().code(), Some(130));
    assert_eq!(traces(pid), Vec::<String>::new());
    assert_eq!(programs(pid), Vec::<String>::new());
}

#[test]
fn what_a_killed_comparison_left_goes_with_the_next() {
    if unmet(test_name!(), &NEEDED) {
        return;
    }
    let directory = Directory::new("killed");
    let start = |arguments: &[&str]| {
        let mut command = Command::new(weft());
        command
            .args(["bench", "compare", "--quick", "--cable", "offloaded", "--out"])
            .arg(&directory.0)
            .args(arguments);
        Child::spawn({
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        })
    };
    let mut killed = start(&["--plane", "weft-socket-vxlan"]);
    let pid = killed.pid();
    eventually("agents", || if programs(pid).len() >= 2 { Ok(()) } else { Err(String::new()) });
    killed.signal(Signal::KILL);
    killed.wait();
    assert!(!traces(pid).is_empty());
    let mut next = start(&["--plane", "bridge", "--case", "rr-tcp", "--rounds", "1"]);
    assert!(next.wait().success());
    assert_eq!(traces(pid), Vec::<String>::new());
    eventually("the end of its programs", || {
        let programs = programs(pid);
        if programs.is_empty() { Ok(()) } else { Err(format!("{programs:?}")) }
    });
}

#[test]
fn a_plane_that_does_not_exist_is_answered_with_those_that_do() {
    let output = run(&["compare", "--out", "/nowhere", "--plane", "cilium"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("kernel-vxlan, bridge, ovs-vxlan"), "{told}");
}
