//! The tutorial of docs/testbed.md, command by command, on a machine's view of its own.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use weft_integration::{Requirement, test_name, unmet, weft};

/// What the reader is to type, as a script that ends at the first command that fails.
fn commands(page: &str) -> String {
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let typed = blocks.flat_map(str::lines).map(|line| line.strip_prefix("$ ").unwrap_or(line));
    typed.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root, Requirement::KernelVxlan][..], &tools].concat()) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/testbed.md")).unwrap();
    // What it writes goes away with the test.
    let directory = std::env::temp_dir().join(format!("weft-it-tutorial-{}", std::process::id()));
    let script = commands(&page).replace("/tmp/", &format!("{}/", directory.display()));
    assert!(script.lines().count() > 30, "{script}");
    // Processes and mounts of its own: whatever happens, they go with the shell.
    let own = "mount -t tmpfs tmpfs /run && exec bash -ex /dev/stdin";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", own]);
    let weft = weft().canonicalize().unwrap();
    let path = format!("{}:{}", weft.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let shell =
        shell.env("PATH", path).current_dir(&root).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    std::fs::create_dir(&directory).unwrap();
    let mut shell = shell.spawn().unwrap();
    let last = "weft testbed list; ls /run/netns; ls /run/weft || echo nothing stays\n";
    shell.stdin.take().unwrap().write_all([script.as_str(), last].concat().as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}");
    for expected in [
        "24 of 24 pairs have ping and TCP",
        "nothing comes back",
        "c and d are away",
        "passed: 18 steps",
        "2 of 2 pairs have ping and TCP",
        "nothing stays",
    ] {
        assert!(said.contains(expected), "`{expected}` is missing:\n{said}\n{told}");
    }
    // What the black hole leaves of 1500 is found, and shown.
    assert!(said.lines().any(|line| line.contains("10.199.0.2") && line.contains("1350")), "{said}");
}
