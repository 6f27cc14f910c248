//! What documents tell readers to type, command by command, on a machine's view of its own.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weft_integration::{Requirement, test_name, unmet, weft};

/// Pages that are run from top to bottom on an empty machine, and leave nothing there: each has its test here.
const PAGES: [&str; 3] = ["README.md", "docs/quick-start.md", "docs/testbed.md"];
/// Ends of fences whose commands are run where something is there already, page after page.
const DEMO: &str = " demo";
const NODE: &str = " node";
/// Ends of fences that are not run here: other machines, Kubernetes or systemd; and what takes minutes.
const ELSEWHERE: [&str; 2] = [" cluster", " minutes"];
/// Blocks that are not run at most. A new one is a decision: docs/contributing.md has the reasons.
const MOST_ELSEWHERE: usize = 15;
/// What a remark says of a command that goes on until the reader has seen enough.
const ENDLESS: &str = "Ctrl-C";
/// What a remark says of one that does not exit with 0.
const EXITS: &str = "exits with ";

/// Presses Ctrl-C once there is something to see; exits as the command does, or with 0 where that was killed by it.
const UNTIL_CTRL_C: &str = r#"
until_ctrl_c() {
    rm -f seen
    { for _ in {1..200}; do [ -s seen ] && break; sleep 0.1; done; printf '\003'; } |
        SHELL=/bin/sh timeout 40 script -qec "stty rows 24 cols 80; $1" /dev/null > seen || [ $? = 130 ]
    cat seen
    [ -s seen ]
}
"#;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All pages, in order.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = [root().join("docs"), root().join("docs/adr"), root()]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    pages.sort();
    pages
}

/// The blocks of a page whose fence ends so, each with its lines.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let fence = format!("```console{kind}\n");
    let typed = |line: &str| format!("{}\n", line.strip_prefix("$ ").unwrap_or(line));
    let blocks = text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| block.lines().map(typed).collect()).collect()
}

/// A block as a script of its own, with what its remarks say of its commands.
fn checked(block: &str) -> String {
    let block = block.replace("\\\n", " ");
    let lines = block.lines().map(|line| {
        let (command, remark) = line.split_once(" # ").unwrap_or((line, ""));
        if remark.contains(ENDLESS) {
            return format!("until_ctrl_c {}\n", quoted(command.trim()));
        }
        match remark.split_once(EXITS) {
            Some((_, code)) => format!("code=0; {command} || code=$?; [ $code = {} ]\n", &code[..1]),
            None => format!("{line}\n"),
        }
    });
    let own = "set -ex; trap 'jobs -p | xargs -r kill' EXIT";
    format!("( {own}\n{})\n", lines.collect::<String>())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs a script in a shell with processes, mounts and networks of its own, which go with it whatever happens. Returns what
/// it printed.
fn run(name: &str, script: &str) -> String {
    // What it writes goes away with the test.
    let directory = std::env::temp_dir().join(format!("weft-it-{name}-{}", std::process::id()));
    let script = script.replace("/tmp/", &format!("{}/", directory.display()));
    println!("{name}: {} lines are run", script.lines().count());
    let script = format!("PS4='+ $SECONDS '\n{script}");
    let own = "mount -t tmpfs tmpfs /run && exec bash -ex /dev/stdin";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", own]);
    let weft = weft().canonicalize().unwrap();
    let path = format!("{}:{}", weft.parent().unwrap().display(), std::env::var("PATH").unwrap());
    // A shell that a page opens has nobody who types.
    shell.env("PATH", path).env("SHELL", "/bin/true").env("TERM", "xterm").current_dir(&directory);
    std::fs::create_dir(&directory).unwrap();
    // Each command with the second at which it began.
    let trace = std::fs::File::create(directory.join("shell.log")).unwrap();
    let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(trace);
    std::os::unix::fs::symlink(root().join("examples"), directory.join("examples")).unwrap();
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let logs = || {
        let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", logs());
    std::fs::remove_dir_all(&directory).unwrap();
    said.into_owned()
}

/// Runs a page from top to bottom.
fn run_page(page: &str) -> String {
    let name = page.trim_start_matches("docs/").trim_end_matches(".md");
    let last = "weft testbed list; ls /run/netns; ls /run/weft || echo nothing stays\n";
    run(name, &[&blocks(page, "").concat(), last].concat())
}

/// Runs the blocks of all pages that want the same to be there.
fn run_blocks(kind: &str, before: &str, after: &str) -> String {
    let blocks = pages().into_iter().flat_map(|page| {
        let blocks = blocks(&page, kind).into_iter();
        blocks.map(move |block| format!("echo '== {page}'\nall_is_well\n{}", checked(&block)))
    });
    let last = "echo all was run\n";
    run(kind.trim(), &[UNTIL_CTRL_C, before, &blocks.collect::<String>(), after, last].concat())
}

fn says(said: &str, expected: &[&str]) {
    for expected in expected {
        assert!(said.contains(expected), "`{expected}` is missing:\n{said}");
    }
}

#[test]
fn every_block_has_its_place() {
    let run: Vec<String> = pages().into_iter().filter(|page| !blocks(page, "").is_empty()).collect();
    assert_eq!(run, PAGES);
    let elsewhere: Vec<(String, usize)> = pages()
        .into_iter()
        .map(|page| (page.clone(), ELSEWHERE.iter().map(|kind| blocks(&page, kind).len()).sum()))
        .filter(|(_, blocks)| *blocks > 0)
        .collect();
    let justified = std::fs::read_to_string(root().join("docs/contributing.md")).unwrap();
    let table: BTreeSet<&str> =
        justified.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("`")).map(|(page, _)| page).collect();
    for (page, _) in &elsewhere {
        assert!(
            table.contains(page.as_str()),
            "docs/contributing.md does not say why {page} has blocks that are not run"
        );
    }
    let count: usize = elsewhere.iter().map(|(_, blocks)| blocks).sum();
    assert!(count <= MOST_ELSEWHERE, "{elsewhere:?}");
}

#[test]
fn what_goes_on_and_what_fails_is_marked_by_its_remark() {
    let runs = |block: &str| {
        let mut shell = Command::new("bash");
        let shell = shell.args(["-c", &checked(block)]).stdout(Stdio::null()).stderr(Stdio::null());
        shell.status().unwrap().success()
    };
    assert!(runs("false # exits with 1: why\necho 'it is' \\\n    fine # and no more\n"));
    for bad in ["false", "true # exits with 1", "sh -c 'exit 2' # exits with 1"] {
        assert!(!runs(&format!("{bad}\ntrue\n")), "{bad}");
    }
    let endless = checked("weft top --every '2 s'    # Ctrl-C ends it\n");
    assert!(endless.contains(r"until_ctrl_c 'weft top --every '\''2 s'\'''"), "{endless}");
}

#[test]
fn the_readme_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root][..], &tools].concat()) {
        return;
    }
    says(&run_page(PAGES[0]), &["3 packets transmitted, 3 received", "delivered", "nothing stays"]);
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root, Requirement::KernelVxlan][..], &tools].concat()) {
        return;
    }
    let said = run_page(PAGES[2]);
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
    let said = run_page(PAGES[1]);
    says(&said, &["3 packets transmitted, 3 received", "delivered", "forwarding", "learned", "nothing stays"]);
}

#[test]
fn what_wants_the_lab_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount", "script", "etcdctl"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root][..], &tools].concat()) {
        return;
    }
    let said = run_blocks(DEMO, include_str!("demo.sh"), "weft testbed down demo\n");
    says(&said, &["delivered", "nothing is wrong", "ICMP echo request", "/weft", "all was run"]);
}

#[test]
fn what_wants_a_node_works_as_it_is_written() {
    let tools = ["ip", "ping", "unshare", "mount", "script", "etcdctl", "jq", "curl"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root][..], &tools].concat()) {
        return;
    }
    let said = run_blocks(NODE, include_str!("node.sh"), "");
    says(&said, &["delivered", "nothing is wrong", "present", "weft_", "all was run"]);
}
