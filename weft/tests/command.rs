//! The command as a user meets it: what it prints, and how it ends.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
