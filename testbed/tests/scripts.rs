//! Scripts: what is read from them, and what is said about wrong ones.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::path::Path;
use std::time::Duration;

use weft_testbed::link::{Direction, LinkChange};
use weft_testbed::script::{Action, Expectation, Script};
use weft_testbed::{LabSpec, NodeEvent};

fn two_nodes() -> LabSpec {
    LabSpec::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-node.yaml")).unwrap()
}

fn refused(text: &str) -> String {
    Script::parse(text, "script.yaml", &two_nodes()).unwrap_err().to_string()
}

#[test]
fn the_example_is_a_script() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/scripts/outage.yaml");
    let script = Script::read(&path, &two_nodes()).unwrap_or_else(|error| panic!("{error}"));
    assert!(script.steps.len() > 10);
    assert!(script.steps.iter().any(|step| step.action.is_beside()));
}

#[test]
fn every_step_is_read() {
    let text = "steps:\n\
                - expect: ping a->c within 2s\n\
                - {at: 3s, expect: no ping a -> c during 500ms}\n\
                - expect: no loss n1->n2 during 5s\n\
                - expect: tcp a->c\n\
                - link: all set loss=1% delay=2ms from\n\
                - node: n2 restart\n\
                - wait: 1.5s\n";
    let script = Script::parse(text, "script.yaml", &two_nodes()).unwrap_or_else(|error| panic!("{error}"));
    let expect = |from: &str, to: &str, expectation| Action::Expect { from: from.into(), to: to.into(), expectation };
    let expected = [
        expect("a", "c", Expectation::PingWithin(Duration::from_secs(2))),
        expect("a", "c", Expectation::NoPingDuring(Duration::from_millis(500))),
        expect("n1", "n2", Expectation::NoLossDuring(Duration::from_secs(5))),
        expect("a", "c", Expectation::TcpWithin(Duration::from_secs(10))),
        Action::Link {
            links: vec!["n1".to_owned(), "n2".to_owned()],
            change: LinkChange::Set {
                direction: Some(Direction::From),
                words: vec!["loss=1%".to_owned(), "delay=2ms".to_owned()],
            },
        },
        Action::Node { node: "n2".to_owned(), event: NodeEvent::Restart },
        Action::Wait(Duration::from_millis(1500)),
    ];
    assert_eq!(script.steps.iter().map(|step| step.action.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(script.steps.iter().map(|step| step.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(script.steps[1].at, Some(Duration::from_secs(3)));
    assert_eq!(script.steps[0].text, "expect ping a->c within 2s");
}

#[test]
fn wrong_steps_are_refused_before_anything_is_done() {
    for (step, told) in [
        ("expect: ping a->z within 2s", "`z` is no pod or node with an address"),
        ("expect: ping a c within 2s", "allowed are: ping A->B within TIME"),
        ("expect: ping a->c within 2", "allowed are times up to 600 s"),
        ("expect: no loss a->c during 1h", "allowed are times up to 600 s"),
        ("link: n9 down", "there is no link `n9`"),
        ("link: n1 sideways", "`sideways` is no change of a link"),
        ("link: n1 set loss=7", "loss: `7` is not allowed"),
        ("node: n1 explode", "`explode` is nothing that happens to a node"),
        ("node: a stop", "there is no node `a`"),
        ("wait: soon", "allowed are times up to 600 s"),
        ("{wait: 1s, node: n1 stop}", "a step does one thing"),
        ("at: 1s", "a step does one thing"),
        ("hope: for the best", "unknown field `hope`"),
    ] {
        let error = refused(&format!("steps:\n- wait: 1s\n- {step}\n"));
        assert!(error.contains(told) && error.contains("script.yaml:3:"), "{step}\n{error}");
    }
}
