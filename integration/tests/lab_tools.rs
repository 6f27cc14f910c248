//! What looks into a lab: captures, logs, drawings; and that nothing stays of labs whose makers were killed.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weft_integration::{CommandLab, Requirement, eventually, test_name, unmet, weft};

const TOOLS: [Requirement; 3] = [Requirement::Root, Requirement::Tool("ip"), Requirement::Tool("ping")];
/// A user who may nothing.
const NOBODY: u32 = 65_534;

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(purpose: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-it-{}-{purpose}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn captures_are_read_by_others() {
    if unmet(test_name!(), &[&TOOLS[..], &[Requirement::Tool("tshark")]].concat()) {
        return;
    }
    let (lab, directory) = (CommandLab::up("two-node.yaml"), Directory::new("capture"));
    for (place, filter) in [("a", "icmp"), ("n2", "vxlan && icmp")] {
        let file = directory.0.join(format!("{place}.pcapng"));
        let mut capture = Command::new(weft());
        capture.args(["testbed", "capture", lab.name(), place, "-w"]).arg(&file).stderr(Stdio::piped());
        let mut capture = capture.spawn().unwrap();
        let mut told = BufReader::new(capture.stderr.take().unwrap()).lines();
        let first = told.next().unwrap().unwrap();
        assert!(first.starts_with(&format!("capturing at {}.{place}", lab.name())), "{first}");
        assert!(lab.exec("a", &["ping", "-c", "3", "-i", "0.01", "10.244.2.2"]).contains(" 0% packet loss"));
        let read = |fields: &[&str]| {
            let mut tshark = Command::new("tshark");
            tshark.arg("-r").arg(&file).args(["-Y", filter, "-T", "fields"]);
            let output = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let seen = eventually("three requests and three answers", || {
            let seen = read(&["icmp.type", "frame.packet_flags_direction", "frame.time_epoch"]);
            if seen.lines().count() >= 6 { Ok(seen) } else { Err(seen) }
        });
        let rows: Vec<Vec<&str>> = seen.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows.len(), 6, "{seen}");
        // Requests leave the pod and answers come to it; at the switch's end of n2's link too, as it lies between.
        for row in &rows {
            let outbound = matches!(row[1], "0x00000002" | "2" | "0x2");
            assert_eq!(outbound, row[0] == "8", "{seen}");
            assert!(row[2].parse::<f64>().unwrap() > 1e9, "{seen}");
        }
        Command::new("kill").args(["-INT", &capture.id().to_string()]).status().unwrap();
        let last = told.map_while(Result::ok).last().unwrap_or_default();
        assert!(last.ends_with(" frames"), "{last}");
        capture.wait().unwrap();
    }
    let unknown = CommandLab::try_run(&["testbed", "capture", lab.name(), "z", "-w", "/dev/null"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("has no link `z`; it has n1, n2, a, b, c, d"));
}

#[test]
fn a_capture_ends_with_its_interface() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let mut capture = Command::new(weft());
    capture.args(["testbed", "capture", lab.name(), "n1", "-w", "/dev/null"]).stderr(Stdio::piped());
    let mut capture = capture.spawn().unwrap();
    let mut told = BufReader::new(capture.stderr.take().unwrap()).lines();
    assert!(told.next().unwrap().unwrap().starts_with("capturing at "));
    lab.link("n1", &["down"]);
    lab.link("n1", &["up"]);
    lab.run(&["testbed", "down", lab.name()]);
    // Not before its standard error is closed, and so not before it has ended.
    let told: Vec<String> = told.map_while(Result::ok).collect();
    assert!(!capture.wait().unwrap().success() && told.concat().contains("the interface was removed"), "{told:?}");
}

#[test]
fn logs_shells_and_drawings() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("kernel-peer.yaml");
    let logs = lab.run(&["testbed", "logs", lab.name()]);
    assert!(
        logs.contains("==> agent n1 (") && logs.contains("==> command c (") && logs.contains("forwarding"),
        "{logs}"
    );
    assert!(lab.run(&["testbed", "logs", lab.name(), "n2"]).contains("forwarding node=\"n2\""));
    let mut shell = Command::new(weft());
    shell.args(["testbed", "shell", lab.name(), "c"]).env("SHELL", "/bin/sh").stderr(Stdio::null());
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"echo $WEFT_LAB; ip -br addr show eth0\n").unwrap();
    let told = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
    assert!(told.contains(&format!("{}.c", lab.name())) && told.contains("10.244.3.2/16"), "{told}");
    lab.ping_all("a", "10.244.2.2");
    lab.run(&["testbed", "link", lab.name(), "n1", "set", "delay=1ms"]);
    lab.run(&["testbed", "node", lab.name(), "n2", "kill"]);
    let drawing = lab.run(&["testbed", "graph", lab.name()]);
    for part in ["k, kernel VXLAN", "link n1: delay=1ms", "no agent", "tunnels ↑ "] {
        assert!(drawing.contains(part), "{part} is missing in\n{drawing}");
    }
    let svg = lab.run(&["testbed", "graph", lab.name(), "--svg", "-"]);
    assert!(
        svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && svg.contains(">k (kernel VXLAN)<"),
        "{svg}"
    );
}

#[test]
fn an_ordinary_user_is_told_what_helps() {
    if unmet(test_name!(), &[Requirement::Root]) {
        return;
    }
    let directory = Directory::new("nobody");
    // The program may lie where only root may go.
    let program = directory.0.join("weft");
    std::fs::copy(weft(), &program).unwrap();
    let lab = directory.file("lab.yaml", "nodes: [{name: n1}]\n");
    let lab = lab.to_str().unwrap();
    for arguments in [&["up", lab][..], &["down", "lab"], &["link", "lab", "n1", "set", "loss=1%"], &["matrix", "lab"]]
    {
        let output = Command::new(&program).arg("testbed").args(arguments).uid(NOBODY).gid(NOBODY).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && told.contains("labs need root") && told.contains("unshare -Urnm"),
            "{told}"
        );
    }
    let output = Command::new(&program).args(["testbed", "graph", lab]).uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A lab with everything that runs: agents, relays and a command.
const BUSY: &str = "
nodes:
  - {name: n1, link: {delay: 1ms}, pods: [{name: a, vni: 1, addresses: [10.0.0.1/24], cmd: sleep 1000000}]}
  - {name: n2, link: {loss: 1%}, pods: [{name: b, vni: 1, addresses: [10.0.0.2/24]}]}
";

#[test]
fn nothing_stays_of_labs_whose_processes_were_all_killed() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let directory = Directory::new("busy");
    let file = directory.file("busy.yaml", BUSY);
    let (one, other) = (CommandLab::up_file(&file), CommandLab::up_file(&file));
    let running = |lab: &CommandLab| -> Vec<String> {
        lab.traces()
            .iter()
            .filter_map(|trace| Some(trace.strip_prefix("/proc/")?.split_once(':')?.0.to_owned()))
            .collect()
    };
    // Two agents, two relays and the store; the command names no file of the lab.
    assert_eq!(running(&one).len(), 5, "{:?}", one.traces());
    for pid in running(&one) {
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
    let before = other.traces();
    one.run(&["testbed", "down", one.name()]);
    assert_eq!(one.traces(), [""; 0]);
    assert_eq!(other.traces(), before);
    assert!(other.link("n1", &[]).contains("delay=1ms"));
    other.run(&["testbed", "down", other.name()]);
    assert_eq!(other.traces(), [""; 0]);
}

#[test]
fn nothing_stays_of_a_maker_killed_at_any_moment() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    /// From one moment to the next; making the lab takes some 150 ms.
    const STRIDE: std::time::Duration = std::time::Duration::from_millis(11);
    let directory = Directory::new("moments");
    let file = directory.file("busy.yaml", BUSY);
    for number in 1..=16 {
        let name = format!("it-{}-m{number}", std::process::id());
        let mut maker = Command::new(weft());
        maker.args(["testbed", "up", file.to_str().unwrap(), "--name", &name]).stdout(Stdio::null());
        let mut maker = maker.spawn().unwrap();
        std::thread::sleep(STRIDE * number);
        maker.kill().unwrap();
        maker.wait().unwrap();
        let down = CommandLab::try_run(&["testbed", "down", &name]);
        let told = String::from_utf8_lossy(&down.stderr);
        assert!(down.status.success() || told.contains("no lab named"), "killed at moment {number}: {told}");
        assert!(!Path::new("/run/weft/labs").join(&name).exists());
        let namespaces =
            String::from_utf8(Command::new("ip").args(["netns", "list"]).output().unwrap().stdout).unwrap();
        assert!(!namespaces.contains(&format!("{name}.")), "killed at moment {number}: {namespaces}");
    }
}
