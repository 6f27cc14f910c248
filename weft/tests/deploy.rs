//! Alerts, their runbook and the dashboard, against the metrics that there are.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

#[expect(dead_code, reason = "the other tests read more of it")]
mod workspace;

#[path = "../../integration/src/skip.rs"]
mod skip;

use std::fs;
use std::process::Command;

use skip::skip;
use workspace::root;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Names of metrics in a text: words that begin with the product's name.
fn metrics(text: &str) -> Vec<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("weft_")).collect()
}

#[test]
fn what_is_asked_for_is_served() {
    let page = read("docs/metrics.md");
    let served = |name: &str| {
        // A histogram's samples have endings of their own.
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        [name, family].iter().any(|name| page.contains(&format!("| `{name}` |")))
    };
    for path in ["deploy/prometheus/weft.rules.yaml", "deploy/prometheus/weft.test.yaml", "deploy/grafana/weft.json"] {
        let text = read(path);
        let names = metrics(&text);
        assert!(names.len() > 10, "{path} asks for {}", names.len());
        for name in names {
            assert!(served(name), "{path} asks for {name}, which docs/metrics.md does not have");
        }
    }
}

#[test]
fn every_alert_has_its_line_in_the_runbook_and_its_test() {
    let (rules, runbook, tests) =
        (read("deploy/prometheus/weft.rules.yaml"), read("docs/runbook.md"), read("deploy/prometheus/weft.test.yaml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in &alerts {
        assert!(runbook.contains(&format!("\n### {alert}\n")), "docs/runbook.md has no section {alert}");
        assert!(
            rules.contains(&format!("runbook: docs/runbook.md#{}\n", alert.to_lowercase())),
            "{alert} names no runbook"
        );
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not tried");
    }
    assert_eq!(runbook.matches("\n### ").count(), alerts.len(), "the runbook has what is no alert");
}

#[test]
fn the_dashboard_is_one() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana/weft.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].is_string()), "{}", panel["title"]);
    }
}

#[test]
fn promtool_finds_rules_and_their_tests_in_order() {
    if Command::new("promtool").arg("--version").output().is_err() {
        skip("promtool_finds_rules_and_their_tests_in_order", "needs the program `promtool`");
        return;
    }
    for arguments in [
        ["check", "rules", "weft.rules.yaml"],
        ["test", "rules", "weft.test.yaml"],
        ["check", "config", "prometheus.yaml"],
    ] {
        let output =
            Command::new("promtool").args(arguments).current_dir(root().join("deploy/prometheus")).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&told));
    }
}
