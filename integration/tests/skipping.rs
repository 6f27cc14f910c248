//! A test that cannot run here says so, and under CI it fails.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use weft_integration::{Requirement, test_name, unmet};

/// Set for the run inside of the tests below.
const INSIDE: &str = "WEFT_IT_INSIDE";

/// Not a test by itself: what the ones below run.
#[test]
fn wants_what_nobody_has() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    if unmet(test_name!(), &[Requirement::Tool("sh"), Requirement::Tool("no-such-program")]) {
        return;
    }
    panic!("it went on");
}

fn run_inside(skipped: &Path, ci: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "wants_what_nobody_has", "--nocapture"]);
    command.env(INSIDE, "yes").env("WEFT_SKIPPED", skipped).env_remove("CI");
    ci.into_iter().for_each(|ci| {
        command.env("CI", ci);
    });
    command.output().unwrap()
}

fn file(purpose: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weft-it.{}.{purpose}", std::process::id()))
}

#[test]
fn what_is_skipped_is_reported_by_name_and_reason() {
    let file = file("skipped");
    for (ci, lines) in [(None, 1), (Some(""), 2)] {
        let output = run_inside(&file, ci);
        assert!(output.status.success(), "{output:?}");
        let line = "wants_what_nobody_has: needs the program `no-such-program`";
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("SKIPPED {line}\n")), "{output:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{line}\n").repeat(lines));
    }
    fs::remove_file(&file).unwrap();
}

#[test]
fn nothing_is_skipped_under_ci() {
    let file = file("ci");
    let output = run_inside(&file, Some("true"));
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("would be skipped under CI: needs the program `no-such-program`"), "{said}");
    assert!(!file.exists());
}
