//! What documents tell readers to type, command by command, on a machine's view of its own.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weft_integration::{Requirement, test_name, unmet, weft};

/// The pages that have blocks to be run: each has its test here.
const PAGES: [&str; 2] = ["docs/quick-start.md", "docs/testbed.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the reader is to type, as a script that ends at the first command that fails. Blocks of `console cluster` need
/// machines of their own, and are none of it.
fn commands(page: &str) -> String {
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let typed = blocks.flat_map(str::lines).map(|line| line.strip_prefix("$ ").unwrap_or(line));
    typed.flat_map(|line| [line, "\n"]).collect()
}

/// Runs a page from top to bottom, and returns what that printed.
fn run(page: &str) -> String {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    // What it writes goes away with the test.
    let name = page.trim_start_matches("docs/").trim_end_matches(".md");
    let directory = std::env::temp_dir().join(format!("weft-it-{name}-{}", std::process::id()));
    let script = commands(&text).replace("/tmp/", &format!("{}/", directory.display()));
    println!("{page}: {} lines are run", script.lines().count());
    // Processes and mounts of its own: whatever happens, they go with the shell.
    let own = "mount -t tmpfs tmpfs /run && exec bash -ex /dev/stdin";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", own]);
    let weft = weft().canonicalize().unwrap();
    let path = format!("{}:{}", weft.parent().unwrap().display(), std::env::var("PATH").unwrap());
    shell.env("PATH", path).current_dir(root());
    let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    std::fs::create_dir(&directory).unwrap();
    let mut shell = shell.spawn().unwrap();
    let last = "weft testbed list; ls /run/netns; ls /run/weft || echo nothing stays\n";
    shell.stdin.take().unwrap().write_all([script.as_str(), last].concat().as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let logs = || {
        let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}\n{}", logs());
    std::fs::remove_dir_all(&directory).unwrap();
    said.into_owned()
}

fn says(said: &str, expected: &[&str]) {
    for expected in expected {
        assert!(said.contains(expected), "`{expected}` is missing:\n{said}");
    }
}

#[test]
fn every_page_with_blocks_to_be_run_has_its_test() {
    let pages = [root().join("docs"), root().join("docs/adr"), root()].into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect::<Vec<_>>()
    });
    let mut run: Vec<String> = pages
        .filter(|path| !commands(&std::fs::read_to_string(path).unwrap()).is_empty())
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    run.sort();
    assert_eq!(run, PAGES);
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root, Requirement::KernelVxlan][..], &tools].concat()) {
        return;
    }
    let said = run(PAGES[1]);
    says(
        &said,
        &[
            "24 of 24 pairs have ping and TCP",
            "nothing comes back",
            "c and d are away",
            "passed: 18 steps",
            "2 of 2 pairs have ping and TCP",
            "nothing stays",
        ],
    );
    // What the black hole leaves of 1500 is found, and shown.
    assert!(said.lines().any(|line| line.contains("10.199.0.2") && line.contains("1350")), "{said}");
}

#[test]
fn the_quick_start_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root][..], &tools].concat()) {
        return;
    }
    let said = run(PAGES[0]);
    says(&said, &["3 packets transmitted, 3 received", "delivered", "forwarding", "learned", "nothing stays"]);
}
