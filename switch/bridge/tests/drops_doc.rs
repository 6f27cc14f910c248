//! docs/drops.md is written from the reasons themselves: `UPDATE_DOCS=1 cargo test -p weft-bridge --test drops_doc`.

use std::fmt::Write;
use std::path::Path;

use weft_bridge::{DropReason, Stage};

const HEAD: &str = "# Why frames are dropped

Every frame gets a verdict, and every drop has one of these names. `weft show drops` counts them.

A drop of stage *verdict* is a frame that went nowhere. A drop of stage *egress* is one copy of a frame that was
forwarded: the other copies of a flood may have arrived. So two sums always hold:

* frames in = unicast + flood + answered + drops of stage verdict
* copies made = copies sent + drops of stage egress

This page is written from the code: `UPDATE_DOCS=1 cargo test -p weft-bridge --test drops_doc`.

| name | stage | meaning | what to do |
|---|---|---|---|
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for reason in DropReason::ALL {
        let stage = match reason.stage() {
            Stage::Verdict => "verdict",
            Stage::Egress => "egress",
        };
        let _ = writeln!(page, "| `{reason}` | {stage} | {} | {} |", reason.meaning(), sentence(reason.hint()));
    }
    page
}

fn sentence(hint: &str) -> String {
    let mut letters = hint.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

#[test]
fn the_page_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/drops.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/drops.md is behind the code: UPDATE_DOCS=1 cargo test -p weft-bridge --test drops_doc"
    );
}

#[test]
fn every_reason_says_what_it_means_and_what_to_do() {
    for reason in DropReason::ALL {
        assert!(reason.meaning().ends_with('.') && !reason.meaning().contains('|'), "{reason}");
        assert!(!reason.hint().is_empty() && !reason.hint().ends_with('.') && !reason.hint().contains('|'), "{reason}");
    }
}
