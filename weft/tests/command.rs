//! The command as a user meets it: what it prints, and how it ends.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A user without rights.
const NOBODY: u32 = 65_534;

fn weft(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory that no other test has; it goes away with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(purpose: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-command-{}-{purpose}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An agent that gives one client one answer.
fn agent(run_dir: &Path, reply: String) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(run_dir.join(weft_api::SOCKET_NAME)).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new()).unwrap();
        stream.get_mut().write_all(format!("{reply}\n").as_bytes()).unwrap();
    })
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    for json in [false, true] {
        let directory = Directory::new(&format!("reader-{json}"));
        let row =
            r#"{"vni":1,"mac":"02:00:00:00:00:01","attachment":"port","at":"a","kind":"static","age_seconds":null}"#;
        let agent = agent(directory.path(), format!(r#"{{"api":1,"fdb":[{}]}}"#, vec![row; 500].join(",")));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = weft(&["show", "fdb", "--run-dir"]);
        command.arg(directory.path()).args(json.then_some("--json")).stdout(writer);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
        assert_eq!(stderr(&output), "");
        agent.join().unwrap();
    }
}

#[test]
fn errors_need_no_reader() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = weft(&["agent", "--config", "/nowhere.toml"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1), "{status:?}");
}

#[test]
fn the_demo_says_at_once_that_it_needs_root() {
    // The program may lie where only root may go.
    let directory = Directory::new("demo");
    let program = directory.path().join("weft");
    std::fs::copy(env!("CARGO_BIN_EXE_weft"), &program).unwrap();
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY);
    }
    let output = command.arg("demo").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("run it as root"), "{}", stderr(&output));
}

#[test]
fn a_lab_that_is_not_there_is_named_as_a_lab() {
    let output = weft(&["show", "fdb", "--node", "no-such-lab.n1"]).output().unwrap();
    assert!(stderr(&output).contains("no lab named `no-such-lab`"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("weft agent"), "{}", stderr(&output));
}

#[test]
fn all_goes_with_drops_alone() {
    let output = weft(&["show", "fdb", "--all"]).output().unwrap();
    assert!(stderr(&output).contains("`--all` goes with `drops`"), "{}", stderr(&output));
}

#[test]
fn a_lab_file_that_is_none_says_what_to_do() {
    let output = weft(&["testbed", "up", "/nowhere.yaml"]).output().unwrap();
    assert!(stderr(&output).contains("examples/"), "{}", stderr(&output));
    let directory = Directory::new("no-yaml");
    let file = directory.path().join("lab.yaml");
    std::fs::write(&file, "just words").unwrap();
    let output = weft(&["testbed", "up"]).arg(&file).output().unwrap();
    assert!(stderr(&output).starts_with("weft: this has fields"), "{}", stderr(&output));
}

#[test]
fn a_log_filter_that_is_none_names_its_file() {
    let directory = Directory::new("log");
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, "node = \"n1\"\nlog = \"warn,=\"\n[underlay]\naddresses = [\"10.0.0.1\"]\n").unwrap();
    let output = weft(&["agent", "--check", "--config"]).arg(&file).output().unwrap();
    let told = stderr(&output);
    assert!(told.contains(file.to_str().unwrap()) && told.contains("`log` is \"warn,=\""), "{told}");
}

#[test]
fn completions_and_manual_pages_come_of_the_command_line_itself() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef weft"), ("fish", "complete -c weft")] {
        let output = weft(&["completions", shell]).output().unwrap();
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && script.contains(word) && script.contains("testbed"), "{shell}");
    }
    let directory = Directory::new("man");
    assert!(weft(&["man"]).arg(directory.path()).status().unwrap().success());
    let page = std::fs::read_to_string(directory.path().join("weft-show.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains("weft\\-show") && page.contains("\\-\\-watch"), "{page}");
}

#[test]
fn a_watch_in_json_is_a_line_each_time_and_outlives_the_agent() {
    let directory = Directory::new("watch");
    let row = r#"{"name":"worker-0","frames":1,"sleeps":0,"looks":0,"batches":[],"run_us":null,"waited_us":null}"#;
    let start = || agent(directory.path(), format!(r#"{{"api":1,"workers":[{row}]}}"#));
    let first = start();
    let mut command = weft(&["show", "workers", "--watch", "--json", "--run-dir"]);
    let mut child = command.arg(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut look = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(look()[0]["name"], "worker-0");
    first.join().unwrap();
    // The agent answers once, and is not there at the second look.
    let complaint = complaints.next().unwrap().unwrap();
    assert!(complaint.contains("looking again"), "{complaint}");
    std::fs::remove_file(directory.path().join(weft_api::SOCKET_NAME)).unwrap();
    let second = start();
    assert_eq!(look()[0]["frames"], 1);
    second.join().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}
