//! The plugin as a runtime runs it.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
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

/// A directory of a test's own, and a configuration whose agent would run there.
fn without_agent(test: &str, more: &Value) -> (PathBuf, String) {
    let directory = std::env::temp_dir().join(format!("weft-cni-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    let mut config =
        json!({ "cniVersion": "1.1.0", "name": "pods", "type": "weft-cni", "runDir": directory.join("run") });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    (directory, config.to_string())
}

/// A container in the namespace of whoever calls.
const HERE: [(&str, &str); 3] = [("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/proc/self/ns/net"), ("CNI_IFNAME", "eth0")];

#[test]
fn without_an_agent_all_verbs_say_so_and_del_is_noted_for_the_next() {
    let more = json!({ "prevResult": { "interfaces": [{ "name": "eth0", "mac": "x", "sandbox": "/proc/self/ns/net" }] },
        "cni.dev/valid-attachments": [] });
    let (directory, config) = without_agent("none", &more);
    let path = [("CNI_PATH", "/nowhere")];
    assert_refused(call("STATUS", &[], &config), 51, &["no agent answers", "run/agent.sock", "runDir"]);
    for (verb, environment) in [("ADD", &HERE[..]), ("CHECK", &HERE), ("GC", &path)] {
        assert_refused(call(verb, environment, &config), 11, &["no agent answers", "start the agent"]);
    }
    assert!(!directory.join("run").exists(), "nothing is left of that");
    for environment in [&HERE[..], &[HERE[0], HERE[2]]] {
        let environment = [&[("CNI_COMMAND", "DEL")], environment].concat();
        let output = run(&environment, config.as_bytes());
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let noted = weft_api::spool::list(&directory.join("run")).unwrap();
    let [(_, Ok(pod))] = &noted[..] else { panic!("{noted:?}") };
    assert_eq!((pod.network.as_str(), pod.container.as_str(), pod.interface.as_str()), ("pods", "c1", "eth0"));
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_a_verb_needs_of_the_configuration_is_named() {
    let (directory, config) = without_agent("needs", &json!({}));
    assert_refused(call("CHECK", &HERE, &config), 7, &["prevResult"]);
    assert_refused(call("GC", &[("CNI_PATH", "/nowhere")], &config), 7, &["cni.dev/valid-attachments"]);
    assert_refused(call("ADD", &HERE, r#"{"cniVersion": "1.1.0"}"#), 7, &["name"]);
    let gone = [HERE[0], ("CNI_NETNS", "/run/netns/weft-cni-none"), HERE[2]];
    assert_refused(call("ADD", &gone, &config), 3, &["/run/netns/weft-cni-none", "CNI_NETNS"]);
    for (verb, version) in [("GC", "1.0.0"), ("STATUS", "1.0.0"), ("CHECK", "0.3.1")] {
        let environment = [&HERE[..], &[("CNI_PATH", "/nowhere")]].concat();
        let input = json!({ "cniVersion": version, "name": "pods" }).to_string();
        let (status, answer) = call(verb, &environment, &input);
        assert_eq!((status, &answer["code"], &answer["cniVersion"]), (Some(1), &json!(1), &json!(version)), "{answer}");
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn an_ipam_plugin_is_run_as_a_runtime_would_and_gets_back_what_is_not_used() {
    let (directory, config) = without_agent("ipam", &json!({ "ipam": { "type": "giver", "x": 1 } }));
    assert_refused(call("ADD", &HERE, &config), 7, &["`giver`", "CNI_PATH"]);
    let plugin = directory.join("giver");
    let script = r#"#!/bin/sh
read -r config
echo "$CNI_COMMAND $CNI_CONTAINERID $config" >> "$0.calls"
case "$config" in *'"cniVersion":"1.1.0"'*) echo '{"code": 1, "msg": "too new"}'; exit 1;; esac
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}]}'
exit 0
"#;
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.to_str().unwrap().to_owned();
    let environment = [&HERE[..], &[("CNI_PATH", path.as_str()), ("PATH", "/usr/bin:/bin")]].concat();
    assert_refused(call("ADD", &environment, &config), 11, &["no agent answers"]);
    let calls = fs::read_to_string(directory.join("giver.calls")).unwrap();
    let said: Vec<(&str, bool)> =
        calls.lines().map(|line| (line.split(' ').next().unwrap(), line.contains(r#""cniVersion":"1.0.0""#))).collect();
    assert_eq!(said, [("ADD", false), ("ADD", true), ("DEL", false), ("DEL", true)], "{calls}");
    assert!(
        calls.lines().all(|line| line.contains(" c1 ") && line.contains(r#""ipam":{"type":"giver","x":1}"#)),
        "{calls}"
    );
    fs::remove_dir_all(directory).unwrap();
}

/// What was a network configuration when pods were attached, and no longer is one.
#[test]
fn a_value_that_only_add_needs_is_refused_by_add_alone() {
    for (key, value) in [
        ("mtu", json!(70_000)),
        ("vni", json!(-1)),
        ("waitFor", json!("x")),
        ("waitTimeoutMs", json!("soon")),
        ("isDefaultGateway", json!(1)),
        ("routes", json!([{ "gw": "10.0.0.1" }])),
        ("runtimeConfig", json!([1])),
        ("args", json!({ "cni": { "ips": 7 } })),
        ("prevResult", json!({ "ips": 7 })),
    ] {
        let mut more = json!({ "cni.dev/valid-attachments": [] });
        more[key] = value.clone();
        let (directory, config) = without_agent("edited", &more);
        let shown = value.to_string();
        assert_refused(call("ADD", &HERE, &config), 7, &[&format!("`{key}`"), &shown, "docs/cni.md"]);
        assert_refused(call("GC", &[("CNI_PATH", "/nowhere")], &config), 11, &["no agent answers"]);
        let output = run(&[&[("CNI_COMMAND", "DEL")], &HERE[..]].concat(), config.as_bytes());
        assert!(output.status.success() && output.stdout.is_empty(), "{key}: {output:?}");
        assert_eq!(weft_api::spool::list(&directory.join("run")).unwrap().len(), 1, "{key}");
        fs::remove_dir_all(directory).unwrap();
    }
}

/// Bytes of the program in memory: what is read of it at each start, whatever is in its file besides.
fn loaded_bytes(program: &str) -> u64 {
    let output = Command::new("readelf").args(["-lW", program]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let loads = told.lines().filter(|line| line.trim_start().starts_with("LOAD"));
    let bytes = |line: &str| {
        let size = line.split_whitespace().nth(5).unwrap();
        u64::from_str_radix(size.trim_start_matches("0x"), 16).unwrap()
    };
    loads.map(bytes).sum()
}

#[test]
fn the_plugin_is_small_and_needs_nothing_but_the_c_library() {
    /// Of a build without optimisation, which is three times as large as a release.
    const LOADED_BYTES: u64 = 4 << 20;
    let program = env!("CARGO_BIN_EXE_weft-cni");
    let loaded = loaded_bytes(program);
    assert!((1 << 16..LOADED_BYTES).contains(&loaded), "{loaded} bytes are loaded");
    let output = Command::new("readelf").args(["-dW", program]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let needed = told.lines().filter(|line| line.contains("(NEEDED)"));
    let needed: Vec<&str> = needed.map(|line| line.split(['[', ']']).nth(1).unwrap()).collect();
    assert!(needed.contains(&"libc.so.6"), "{told}");
    // The compiler's own, and the loader.
    let allowed = |name: &str| ["libc.so.6", "libgcc_s.so.1"].contains(&name) || name.starts_with("ld-linux");
    assert!(needed.iter().all(|name| allowed(name)), "{needed:?}");
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
