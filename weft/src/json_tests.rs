//! The fields that `--json` prints: they stay, and docs/json.md has them all.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_api::{ControlStatus, FlowKey, OffloadRow, Reply, Status, TraceBatch, TraceRow, WorkerRow};
use weft_control::doctor::{Finding, Report, Severity, Unseen};

use crate::documents_tests::root;
use crate::flows::Tally;
use crate::show::{What, compact};

const HEAD: &str = "## All fields

A dot stands before a field of an object, `[]` behind a list of them. Keys that are names themselves, such as those of
counters, are left out. Written from the code: `UPDATE_DOCS=1 cargo test -p weft json`.

| command | fields |
|---|---|
";

/// One of its kind, with what has to be given.
fn row<T: DeserializeOwned>(given: Value) -> T {
    serde_json::from_value(given).unwrap()
}

/// What the command prints of an answer.
fn printed(reply: &Reply) -> Value {
    serde_json::from_str(&compact(reply).unwrap()).unwrap()
}

fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}

/// What is shown, with one of everything in it; nothing of the configuration, whose fields are those of its own page.
fn shown(what: What) -> Option<Value> {
    let link = json!({"rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "drops": 0});
    let with_link = |given: Value| {
        let (Value::Object(mut given), Value::Object(link)) = (given, link) else { panic!("no objects") };
        given.extend(link);
        Value::Object(given)
    };
    Some(printed(&match what {
        What::Config => return None,
        What::Flows => {
            let mut tally = Tally::default();
            let flow = row::<FlowKey>(json!({"source": "10.0.0.1", "destination": "10.0.0.2"}));
            tally.take(TraceBatch { rows: vec![TraceRow { flow: Some(flow), ..TraceRow::default() }], lost: 0 });
            return Some(value(tally.sample(Duration::from_secs(1))));
        }
        What::Ports => Reply::Ports(vec![row(with_link(json!({
            "name": "", "vni": 1, "interface": "", "netns": "", "mac": "", "addresses": [], "mtu": 1450, "mode": "",
            "state": "", "udp_superframes": true, "offloads": [], "learned": 0,
        })))]),
        What::Vteps => Reply::Vteps(vec![row(with_link(json!({
            "address": "", "port": 4789, "encapsulation": "", "kind": "", "pod_mtu": 1450, "path": "", "vnis": [], "learned": 0,
        })))]),
        What::Fdb => Reply::Fdb(vec![row(json!({"vni": 1, "mac": "", "attachment": "", "at": "", "kind": ""}))]),
        What::Neighbours => Reply::Neighbours(vec![row(json!({"vni": 1, "address": "10.0.0.1", "mac": ""}))]),
        What::Nodes => {
            Reply::Nodes(vec![row(json!({"name": "", "addresses": [], "state": "", "vnis": [], "endpoints": 0}))])
        }
        What::Drops => {
            Reply::Drops(vec![row(json!({"reason": "", "stage": "", "count": 0, "meaning": "", "hint": ""}))])
        }
        What::Counters => Reply::Counters(Box::default()),
        What::Workers => Reply::Workers(vec![WorkerRow { batches: vec![Default::default()], ..WorkerRow::default() }]),
    }))
}

/// Each command with what it prints.
fn commands() -> Vec<(String, Option<Value>)> {
    let status =
        Status { offloads: vec![OffloadRow::default()], control: Some(ControlStatus::default()), ..Status::default() };
    let text = String::new;
    let report = Report {
        node: None,
        agent_answers: true,
        findings: vec![Finding {
            severity: Severity::Note,
            name: "",
            what: text(),
            why: text(),
            fix: text(),
            command: None,
        }],
        unseen: vec![Unseen { part: "", reason: text() }],
    };
    let frame = TraceRow {
        flow: Some(row(json!({"source": "10.0.0.1", "destination": "10.0.0.2"}))),
        dropped: Some(row(json!({"reason": "", "meaning": "", "hint": ""}))),
        identity: Some(Default::default()),
        ..TraceRow::default()
    };
    let mut commands = vec![("weft status".to_owned(), Some(printed(&Reply::Status(Box::new(status)))))];
    commands.extend(What::value_variants().iter().map(|what| {
        let name = what.to_possible_value().unwrap().get_name().to_owned();
        (format!("weft show {name}"), shown(*what))
    }));
    commands.push(("weft doctor".to_owned(), Some(value(report))));
    commands.push(("weft trace --live".to_owned(), Some(value([frame]))));
    commands
}

/// The names of all fields, each with those above it.
fn fields(value: &Value, above: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            let path = format!("{above}{name}");
            let inside = if value.is_array() { format!("{path}[].") } else { format!("{path}.") };
            fields(value, &inside, found);
            found.insert(path);
        }),
        Value::Array(items) => items.iter().for_each(|item| fields(item, above, found)),
        _ => {}
    }
}

#[test]
fn the_page_has_every_field() {
    let path = root().join("docs/json.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (rest, _) = page.split_once("## All fields").unwrap_or((&page, ""));
    let mut written = format!("{}\n\n{HEAD}", rest.trim_end());
    for (command, printed) in commands() {
        assert!(
            rest.contains(&format!("| `{command} --json` |")),
            "docs/json.md does not say what `{command} --json` prints"
        );
        let Some(printed) = printed else { continue };
        let mut found = BTreeSet::new();
        fields(&printed, "", &mut found);
        assert!(found.len() > 2, "{command}: {printed}");
        let found: Vec<String> = found.iter().map(|field| format!("`{field}`")).collect();
        let _ = writeln!(written, "| `{command}` | {} |", found.join(", "));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(
        now == written,
        "docs/json.md is behind the code: a field that is gone, or has another name, breaks programs. For a new one: \
         UPDATE_DOCS=1 cargo test -p weft json"
    );
}
