//! `weft top` on a terminal.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use weft_integration::{CommandLab, Requirement, test_name, unmet, weft};

const TOOLS: [Requirement; 2] = [Requirement::Root, Requirement::Tool("script")];
/// What terminals are told for a screen of its own, and for their own again.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// What a terminal is told until `weft top` has drawn and ends by this: keys that are typed, or nothing and a signal.
fn told(lab: &CommandLab, keys: &[u8]) -> String {
    let command = format!("stty rows 24 cols 80; exec {} top --node {}.n1", weft().display(), lab.name());
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &command, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped());
    let mut terminal = terminal.stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let (mut told, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&told).contains("worker-0") {
        let read = output.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&told));
        told.extend(&buffer[..read]);
    }
    if keys.is_empty() {
        // The shell that `script` started has become the program.
        let script = terminal.id();
        let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children")).unwrap();
        let pid = children.trim();
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    input.write_all(keys).unwrap();
    output.read_to_end(&mut told).unwrap();
    terminal.wait().unwrap();
    String::from_utf8_lossy(&told).into_owned()
}

#[test]
fn it_leaves_the_terminal_as_it_was() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    for keys in [&b"q"[..], b"\x03", b""] {
        let told = told(&lab, keys);
        let place = |words: &str| told.rfind(words).unwrap_or_else(|| panic!("{keys:?}: {words:?} is not in {told:?}"));
        assert!(place(ENTER) < place(LEAVE), "{keys:?}: {told:?}");
        assert!(place("worker-0") < place(LEAVE), "{keys:?}: drawn on a screen of its own");
        assert!(place(SHOW_CURSOR) > place(ENTER), "{keys:?}: the cursor is shown again");
    }
}
