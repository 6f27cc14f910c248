//! The one way to skip a test; tests of other crates take this file in by its path.

use std::fs::OpenOptions;
use std::io::Write;

/// Names the file to which every skipped test adds a line.
const SKIPPED_FILE: &str = "WEFT_SKIPPED";

/// Reports that a test does not run here, and why.
///
/// # Panics
/// Under CI, where nothing may be skipped.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{test} would be skipped under CI: {reason}");
    // Not println: the test harness would keep that to itself.
    std::io::stdout().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).unwrap();
    if let Some(path) = std::env::var_os(SKIPPED_FILE) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        // One write, so that the lines of tests that run at once do not mix.
        file.write_all(format!("{test}: {reason}\n").as_bytes()).unwrap();
    }
}
