//! `weft doctor` where nothing is wrong, and where there is nothing to look at. What it finds is in the drill.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use serde_json::Value;
use weft_control::doctor::SETTLED;
use weft_integration::{CommandLab, Requirement, eventually, test_name, unmet};
use weft_testbed::{AgentState, Lab};

const TOOLS: [Requirement; 4] =
    [Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("nft"), Requirement::KernelVxlan];

/// Exit code and report.
fn doctor(lab: &CommandLab, node: &str) -> (i32, Value) {
    let place = format!("{}.{node}", lab.name());
    let output = CommandLab::try_run(&["doctor", "--json", "--node", &place]);
    let text = String::from_utf8_lossy(&output.stdout);
    let report =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

fn names(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap()).collect()
}

#[test]
fn healthy_labs_have_no_finding() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let examples = ["two-node.yaml", "two-vnis.yaml", "dual-stack.yaml", "learning.yaml", "kernel-peer.yaml"];
    let labs = examples.map(CommandLab::up);
    let nodes: Vec<(&CommandLab, String)> = labs
        .iter()
        .flat_map(|lab| {
            let opened = Lab::open(&lab.name().parse().unwrap()).unwrap();
            let nodes = opened.status().nodes.into_iter().filter(|node| node.agent != AgentState::NotNeeded);
            nodes.map(move |node| (lab, node.name)).collect::<Vec<_>>()
        })
        .collect();
    let all_are_well = || {
        for (lab, node) in &nodes {
            let (code, report) = doctor(lab, node);
            assert_eq!((code, names(&report)), (0, Vec::new()), "{} {node}: {report:#}", lab.name());
            assert_eq!(report["agent_answers"], true);
        }
    };
    all_are_well();
    labs.iter().for_each(|lab| drop(lab.run(&["testbed", "matrix", lab.name()])));
    // Until then what a start brings is not told of.
    for (lab, node) in &nodes {
        let place = format!("{}.{node}", lab.name());
        eventually("it has settled", || {
            let status: Value = serde_json::from_str(&lab.run(&["status", "--json", "--node", &place])).unwrap();
            let seconds = status["uptime_seconds"].as_u64().unwrap();
            if seconds >= SETTLED.as_secs() { Ok(()) } else { Err(format!("{seconds} s")) }
        });
    }
    all_are_well();
    println!("{} nodes of {} healthy labs: no finding", nodes.len(), labs.len());
}

#[test]
fn without_an_agent_it_says_so_and_without_rights_it_does_not_guess() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let directory = std::env::temp_dir().join(format!("weft-it-doctor-{}", std::process::id()));
    let output = CommandLab::try_run(&["doctor", "--run-dir", directory.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("[no_agent]") && told.contains("weft agent --config FILE"), "{told}");
    let mut unprivileged = std::process::Command::new("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(weft_integration::weft());
    let output = unprivileged.args(["doctor"]).output().unwrap();
    // Where that user may not even start the program, setpriv has codes of its own.
    if output.status.code() != Some(126) && output.status.code() != Some(127) {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("as root"), "{output:?}");
    }
}
