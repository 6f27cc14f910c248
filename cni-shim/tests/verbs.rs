//! The plugin as a runtime runs it.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const CONTAINER: [(&str, &str); 3] =
    [("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/run/netns/c1"), ("CNI_IFNAME", "eth0")];

fn run(environment: &[(&str, &str)], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-cni"));
    command.env_clear().envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn call(verb: &str, extra: &[(&str, &str)], input: &str) -> (Option<i32>, Value) {
    let environment = [&[("CNI_COMMAND", verb)], extra].concat();
    let output = run(&environment, input.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

fn version(cni_version: &str) -> Value {
    json!({ "cniVersion": cni_version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
}

#[track_caller]
fn assert_refused((status, answer): (Option<i32>, Value), code: u32, words: &[&str]) {
    assert_eq!(status, Some(1));
    assert_eq!((&answer["code"], &answer["cniVersion"]), (&json!(code), &json!("1.1.0")), "{answer}");
    let said = format!("{} {}", answer["msg"].as_str().unwrap(), answer["details"].as_str().unwrap());
    for word in words {
        assert!(said.contains(word), "`{word}` in `{said}`");
    }
}

#[test]
fn version_is_answered_in_the_callers_words() {
    for asked in ["0.3.1", "1.0.0", "1.1.0", "9.9.9"] {
        let input = json!({ "cniVersion": asked, "name": "pods", "type": "weft-cni" }).to_string();
        assert_eq!(call("VERSION", &[], &input), (Some(0), version(asked)));
    }
}

#[test]
fn version_is_answered_without_a_configuration_too() {
    for input in ["", "\n", "{}"] {
        assert_eq!(call("VERSION", &[], input), (Some(0), version("1.1.0")));
    }
}

#[test]
fn a_result_is_one_line() {
    let output = run(&[("CNI_COMMAND", "VERSION")], b"{}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(output.stdout.last(), Some(&b'\n'));
}

#[test]
fn what_is_not_implemented_says_what_works() {
    let path = [("CNI_PATH", "/opt/cni/bin")];
    for (verb, environment) in [("ADD", &CONTAINER[..]), ("DEL", &CONTAINER), ("CHECK", &CONTAINER), ("GC", &path)] {
        let answer = call(verb, environment, r#"{"cniVersion": "1.1.0"}"#);
        assert_refused(answer, 100, &[verb, "not implemented", "VERSION works"]);
    }
}

#[test]
fn status_says_that_add_would_not_work() {
    assert_refused(call("STATUS", &[], r#"{"cniVersion": "1.1.0"}"#), 50, &["STATUS"]);
}

#[test]
fn versions_we_do_not_speak_are_refused() {
    for input in [r#"{"cniVersion": "0.2.0"}"#, r#"{"cniVersion": "2.0.0"}"#, "{}"] {
        assert_refused(call("ADD", &CONTAINER, input), 1, &["cniVersion", "0.3.1, 0.4.0, 1.0.0, 1.1.0"]);
    }
}

#[test]
fn a_bad_environment_is_named() {
    assert_refused(call("FLY", &[], "{}"), 4, &["CNI_COMMAND", "`FLY`", "ADD", "VERSION"]);
    assert_refused(call("", &[], "{}"), 4, &["CNI_COMMAND", "VERSION"]);
    assert_refused(call("ADD", &CONTAINER[..1], "{}"), 4, &["not set: CNI_NETNS, CNI_IFNAME"]);
    assert_refused(call("DEL", &CONTAINER[..2], "{}"), 4, &["not set: CNI_IFNAME"]);
    assert_refused(call("GC", &[], "{}"), 4, &["CNI_PATH"]);
}

#[test]
fn what_cannot_be_read_is_refused() {
    for input in ["{", "[]", "null", r#"{"cniVersion": 1}"#, "\u{0}\u{1}", "{} {}"] {
        assert_refused(call("VERSION", &[], input), 6, &["network configuration", "JSON"]);
    }
}

#[test]
fn an_endless_configuration_is_refused() {
    let output = run(&[("CNI_COMMAND", "VERSION")], &vec![b' '; 3 << 20]);
    let answer = serde_json::from_slice(&output.stdout).unwrap();
    assert_refused((output.status.code(), answer), 6, &["longer than 1048576 bytes"]);
}

#[test]
fn a_human_is_told_what_this_is() {
    let output = run(&[], b"");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("CNI plugin") && said.contains("CNI_COMMAND=VERSION"), "{said}");
    let answer = serde_json::from_slice(&output.stdout).unwrap();
    assert_refused((output.status.code(), answer), 4, &["CNI_COMMAND is not set"]);
}
