//! Drawings of labs.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::Path;

use weft_testbed::{LabSpec, Live};

fn example(name: &str) -> LabSpec {
    LabSpec::read(format!("{}/../examples/{name}.yaml", env!("CARGO_MANIFEST_DIR")).as_ref()).unwrap()
}

fn draw(spec: &LabSpec, title: &str, width: usize) -> String {
    weft_testbed::draw(spec, &Live::default(), title, width)
}

fn ten_nodes() -> LabSpec {
    let nodes: String = (1..=10)
        .map(|n| {
            let pods: String = (1..=n % 4)
                .map(|p| format!("{{name: p{n}-{p}, vni: {}, addresses: [10.244.{n}.{p}/16]}}, ", 100 * p))
                .collect();
            format!("  - {{name: n{n}, pods: [{pods}]}}\n")
        })
        .collect();
    LabSpec::parse(&format!("nodes:\n{nodes}"), "ten.yaml").unwrap()
}

/// Compares with what was looked at and found good; writes what is new beside it.
fn assert_drawn(name: &str, drawing: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/drawings/{name}.txt"));
    if std::env::var_os("UPDATE_DRAWINGS").is_some() {
        std::fs::write(&path, drawing).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(drawing, expected, "{name}: UPDATE_DRAWINGS=1 accepts this drawing:\n{drawing}");
}

#[test]
fn labs_are_drawn_as_before() {
    assert_drawn("two-node", &draw(&example("two-node"), "demo", 100));
    assert_drawn("two-node-narrow", &draw(&example("two-node"), "demo", 80));
    assert_drawn("two-vnis", &draw(&example("two-vnis"), "two-vnis", 100));
    assert_drawn("learning", &draw(&example("learning"), "learning", 100));
    assert_drawn("ten-nodes", &draw(&ten_nodes(), "ten", 100));
}

#[test]
fn a_lab_that_runs_shows_what_was_counted() {
    let mut live = Live::default();
    live.set_pod("a", "↑ 1204 ↓ 1198".to_owned());
    live.set_node("n1", "tunnels ↑ 1204 ↓ 1198, 6 dropped".to_owned());
    live.set_node("n2", "no agent, partitioned".to_owned());
    assert_drawn("two-node-live", &weft_testbed::draw(&example("two-node"), &live, "demo", 100));
}

#[test]
fn a_drawing_keeps_to_its_width_and_shows_everything() {
    for spec in [example("two-node"), example("two-vnis"), example("learning"), ten_nodes()] {
        for width in 50..150 {
            let drawing = draw(&spec, "lab", width);
            for line in drawing.lines() {
                assert!(line.chars().count() <= width && line == line.trim_end(), "{width}: {line}");
            }
            for member in spec.members() {
                assert!(drawing.contains(&format!("{member} ")), "{member} is missing in\n{drawing}");
            }
        }
    }
}

#[test]
fn even_a_pod_wider_than_the_terminal_is_drawn() {
    assert!(draw(&example("two-node"), "demo", 1).contains("fd00:244::2:3/64"));
}
