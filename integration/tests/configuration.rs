//! A wrong configuration, as an operator meets it. What is said of each value is tested beside the checks, in
//! `control/tests/config.rs`.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weft_control::config::file::unspanned;
use weft_integration::{AgentConfig, Encapsulation, Family, Output, Overlay, ping_all, site, weft};

const RIGHT: &str = "run_dir = \"RUN_DIR\"\n\n[underlay]\naddresses = [\"192.0.2.1\"]\nmtu = 1500\n";

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-it.{}.{test}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn agent(file: &Path, further: &[&str]) -> Output {
    Command::new(weft()).args(["agent", "--config"]).arg(file).args(further).output().unwrap().into()
}

#[test]
fn a_wrong_value_is_shown_with_file_line_field_and_what_is_allowed() {
    let directory = Directory::new("wrong");
    let (file, run_dir) = (directory.0.join("agent.toml"), directory.0.join("run"));
    let right = RIGHT.replace("RUN_DIR", run_dir.to_str().unwrap());
    fs::write(&file, &right).unwrap();
    let output = agent(&file, &["--check"]);
    assert!(output.status.success() && output.stdout.contains("in order"), "{output:?}");
    fs::write(&file, right.replace("1500", "575")).unwrap();
    for further in [&["--check"][..], &[]] {
        let Output { status, stdout, stderr } = agent(&file, further);
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
        for word in [&format!("{}:5:", file.display()), "`mtu` is 575", "576 to 65535", "mtu = 575"] {
            assert!(stderr.contains(word), "no `{word}` in\n{stderr}");
        }
    }
    assert!(!run_dir.exists(), "something was made for a configuration that is wrong");
}

#[test]
fn a_file_that_cannot_be_read() {
    let directory = Directory::new("unreadable");
    let bytes = directory.0.join("bytes.toml");
    fs::write(&bytes, [0xff, 0xfe, 0]).unwrap();
    for file in [&directory.0.join("missing.toml"), &directory.0, &bytes] {
        let Output { status, stdout, stderr } = agent(file, &["--check"]);
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(file.to_str().unwrap()) && stderr.contains("--config"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_wrong_configuration_changes_nothing_that_runs() {
    let site = site!();
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    let (pod, agent) = (&overlay.pods[0], &overlay.agents[0]);
    let before = (pod.link("eth0").index, pod.mac("eth0"), agent.pid());
    let mut wrong = AgentConfig::new(&site, &overlay.nodes[0], &[Family::Ipv4]).vni(1).port(pod, 1, &["10.0.0.9/24"]);
    wrong.file.underlay.addresses = unspanned(Vec::new());
    wrong.attempt().unwrap_err().assert_says(&["`addresses`"]);
    assert_eq!((pod.link("eth0").index, pod.mac("eth0"), agent.status().pid), before);
    assert_eq!(agent.port("a").addresses, Overlay::NETWORKS[0]);
    ping_all(pod, Overlay::IPV4[1]);
    overlay.finish();
}
