//! Every lab of `examples/`, and scripts, by the command line alone.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_integration::{CommandLab, Requirement, eventually, test_name, unmet};

const TOOLS: [Requirement; 3] = [Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("ping")];

/// Every pair of pods, in JSON.
#[track_caller]
fn matrix(lab: &CommandLab) -> Vec<Value> {
    let pairs: Value = serde_json::from_str(&lab.run(&["testbed", "matrix", lab.name(), "--json"])).unwrap();
    pairs.as_array().unwrap().clone()
}

#[track_caller]
fn whole(example: &str, pairs: usize) -> CommandLab {
    let lab = CommandLab::up(example);
    assert_eq!(matrix(&lab).len(), pairs, "{example}");
    lab
}

/// What `weft testbed script` says, and whether it passed.
fn script(lab: &CommandLab, steps: &str) -> (bool, Value) {
    let file = std::env::temp_dir().join(format!("weft-it-script-{}.yaml", lab.name()));
    std::fs::write(&file, steps).unwrap();
    let output = CommandLab::try_run(&["testbed", "script", lab.name(), file.to_str().unwrap(), "--json"]);
    std::fs::remove_file(&file).unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), report)
}

#[test]
fn small_examples_reach_every_pair() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    for (example, pairs) in [
        // Four pods, of both families.
        ("two-node.yaml", 24),
        ("two-vnis.yaml", 4),
        ("dual-stack.yaml", 4),
        ("learning.yaml", 2),
        ("star-of-10.yaml", 90),
    ] {
        let lab = whole(example, pairs);
        lab.run(&["testbed", "down", lab.name()]);
        assert_eq!(lab.traces(), [""; 0], "{example}");
    }
}

#[test]
fn a_kernel_peer_and_its_command_answer() {
    let needed = [&TOOLS[..], &[Requirement::KernelVxlan, Requirement::Tool("python3")]].concat();
    if unmet(test_name!(), &needed) {
        return;
    }
    let lab = whole("kernel-peer.yaml", 6);
    let ask = "import urllib.request; print(urllib.request.urlopen('http://10.244.3.2:8000/', timeout=2).status)";
    eventually("the command answers", || {
        let output = CommandLab::try_run(&["testbed", "exec", lab.name(), "a", "--", "python3", "-c", ask]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if told.trim() == "200" { Ok(()) } else { Err(told) }
    });
    let refused = CommandLab::try_run(&["testbed", "node", lab.name(), "k", "restart"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("node `k` has no agent"), "{refused:?}");
    lab.run(&["testbed", "down", lab.name()]);
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn a_wan_is_as_slow_as_it_says() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = whole("lossy-wan.yaml", 6);
    let pairs = matrix(&lab);
    let ping = |from: &str, to: &str| {
        let pair = pairs.iter().find(|pair| pair["from"] == from && pair["to"] == to).unwrap();
        Duration::from_micros(pair["ping_us"].as_u64().unwrap())
    };
    // Twice 15 ms, less at most twice the jitter of 3 ms; and nothing of that beside it.
    assert!(ping("a", "b") >= Duration::from_millis(24), "{:?}", ping("a", "b"));
    assert!(ping("a", "c") < Duration::from_millis(24), "{:?}", ping("a", "c"));
}

#[test]
fn agents_find_their_way_round_a_black_hole() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("mtu-black-hole.yaml");
    let ping = |size: &str| {
        let command = ["testbed", "exec", lab.name(), "a", "--", "ping", "-M", "do", "-c", "1", "-W", "1", "-s", size];
        CommandLab::try_run(&[&command[..], &["10.244.2.2"]].concat()).status.success()
    };
    // 1400 less 50 of VXLAN leave 1350, of which 28 are headers.
    assert!(ping("1322"));
    assert!(!ping("1323"));
    eventually("TCP gets through", || {
        let (passed, report) = script(&lab, "steps: [{expect: tcp a->b within 5s}]");
        if passed { Ok(()) } else { Err(report.to_string()) }
    });
}

#[test]
fn a_lab_comes_up_soon() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    for (example, bound) in [("two-node.yaml", Duration::from_secs(1)), ("twenty-nodes.yaml", Duration::from_secs(10))]
    {
        let begin = Instant::now();
        let lab = CommandLab::up(example);
        let taken = begin.elapsed();
        assert!(taken < bound, "{example}: {taken:?}");
        if example == "twenty-nodes.yaml" {
            let (passed, report) =
                script(&lab, "steps: [{expect: tcp red1-1->red20-2}, {expect: ping blue7-1->blue13-2 within 5s}]");
            assert!(passed, "{report}");
        }
        lab.run(&["testbed", "down", lab.name()]);
        assert_eq!(lab.traces(), [""; 0]);
    }
}

#[test]
fn the_script_of_the_examples_passes() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/scripts/outage.yaml");
    let told = lab.run(&["testbed", "script", lab.name(), file.to_str().unwrap()]);
    assert!(told.contains("passed: 18 steps"), "{told}");
}

#[test]
fn a_script_fails_by_the_expectation_that_was_not_met() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    // What is sent before its neighbour is known waits in the kernel, and would outlast the partition.
    let (passed, report) = script(
        &lab,
        "steps:\n\
         - expect: ping a->c within 5s\n\
         - expect: no loss a->c during 1s\n\
         - node: n2 partition\n\
         - expect: ping a->c within 300ms\n\
         - expect: ping c->d within 1s\n\
         - node: n2 heal\n\
         - expect: ping a->c within 5s\n",
    );
    assert!(!passed);
    let failures: Vec<_> = report["steps"].as_array().unwrap().iter().map(|step| step["failure"].is_string()).collect();
    assert_eq!(failures, [false, true, false, true, false, false, false], "{report}");
    assert_eq!(report["steps"][3]["line"], 5);
    // Carrier was there all the time.
    assert!(!lab.exec("n2", &["ip", "-br", "link", "show", "eth0"]).contains("NO-CARRIER"));
}

#[test]
fn agents_stop_and_start_with_links_kept() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    lab.link("n2", &["set", "delay=5ms"]);
    let node = |event: &str| lab.run(&["testbed", "node", lab.name(), "n2", event]);
    let state = || {
        let labs: Value = serde_json::from_str(&lab.run(&["testbed", "list", "--json"])).unwrap();
        let own = labs.as_array().unwrap().iter().find(|listed| listed["lab"] == lab.name()).unwrap();
        own["nodes"][1]["agent"].as_str().unwrap().to_owned()
    };
    for (event, expected) in
        [("stop", "ended"), ("stop", "ended"), ("start", "running"), ("kill", "ended"), ("restart", "running")]
    {
        node(event);
        assert_eq!(state(), expected, "after {event}");
    }
    let (passed, report) = script(&lab, "steps: [{expect: ping a->c within 5s}, {expect: tcp c->b within 5s}]");
    assert!(passed, "{report}");
    assert!(lab.link("n2", &[]).contains("delay=5ms"));
    let unknown = CommandLab::try_run(&["testbed", "node", lab.name(), "n9", "stop"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("has no node or pod `n9`"), "{unknown:?}");
}
