//! The drill: faults planted from outside, one after the other, and whether doctor or trace names each. The doctor's own
//! command is the repair where it tells one that can be run as it stands.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod fault;
mod ground;
mod outside;
mod pods;
mod store;
mod tunnel;
mod underlay;
mod uplink;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use fault::{Ask, Fault};
use ground::Ground;
use weft_integration::{Requirement, test_name, unmet};

/// How many faults the drill has at least.
const FAULTS: usize = 40;

/// How the end of docs/troubleshooting.md begins.
const HEAD: &str = "\
## Faults that are planted in tests, and who names them

`integration/tests/drill/` breaks labs in each of these ways, and asks. `doctor` is the name of a finding, `trace` the reason
of a drop, or another word for why nothing arrives, of a packet that nobody sent, and `live` the reason of one that passes.
This part is written from the drill: `UPDATE_DOCS=1 cargo test -p weft-integration --test drill the_page`.
";

const TOOLS: [Requirement; 7] = [
    Requirement::Root,
    Requirement::Tool("ip"),
    Requirement::Tool("nft"),
    Requirement::Tool("iptables"),
    Requirement::Tool("etcdctl"),
    Requirement::Tool("ping"),
    Requirement::KernelVxlan,
];

/// The faults by what is seen of them, with the lab in which they are planted and who sends to whom there all the time.
const KINDS: [Kind; 6] = [
    Kind { seen: "A pod sends or gets nothing, or not everything", lab: pods::LAB, traffic: &[], faults: pods::FAULTS },
    Kind {
        seen: "Nothing gets to another node, or nothing back",
        lab: underlay::LAB,
        traffic: underlay::TRAFFIC,
        faults: underlay::FAULTS,
    },
    Kind {
        seen: "A new pod is not reached, or another one is in its stead",
        lab: store::LAB,
        traffic: store::TRAFFIC,
        faults: store::FAULTS,
    },
    Kind { seen: "What a peer sends does not reach the pods", lab: tunnel::LAB, traffic: &[], faults: tunnel::FAULTS },
    Kind { seen: "Pods do not reach the outside", lab: outside::LAB, traffic: &[], faults: outside::FAULTS },
    Kind {
        seen: "Tunnel packets are lost where there is an uplink",
        lab: uplink::LAB,
        traffic: &[],
        faults: uplink::FAULTS,
    },
];

/// Faults of one kind.
struct Kind {
    seen: &'static str,
    lab: &'static str,
    traffic: &'static [(&'static str, &'static str)],
    faults: &'static [Fault],
}

impl Kind {
    fn drill(&self) {
        Ground::new(self.lab, self.traffic).drill(self.seen, self.faults);
    }
}

#[test]
fn pods() {
    if !unmet(test_name!(), &TOOLS) {
        KINDS[0].drill();
    }
}

#[test]
fn underlay() {
    if !unmet(test_name!(), &TOOLS) {
        KINDS[1].drill();
    }
}

#[test]
fn store() {
    if !unmet(test_name!(), &TOOLS) {
        KINDS[2].drill();
    }
}

#[test]
fn tunnel() {
    if !unmet(test_name!(), &TOOLS) {
        KINDS[3].drill();
    }
}

#[test]
fn outside() {
    if !unmet(test_name!(), &TOOLS) {
        KINDS[4].drill();
    }
}

#[test]
fn uplink() {
    if !unmet(test_name!(), &[&TOOLS[..], &[Requirement::Linux(6, 17)]].concat()) {
        KINDS[5].drill();
    }
}

#[test]
fn there_are_enough_faults() {
    let all: Vec<&Fault> = KINDS.iter().flat_map(|kind| kind.faults).collect();
    let names: BTreeSet<&str> = all.iter().map(|fault| fault.name).collect();
    assert_eq!(names.len(), all.len(), "two faults have one name");
    assert!(all.iter().all(|fault| !fault.asks.is_empty()), "a fault for which nobody is asked is missed by none");
    assert!(all.len() >= FAULTS, "{} faults", all.len());
    println!("{} faults", all.len());
}

#[test]
fn the_page_has_every_fault() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let (before, _) = written.split_once(HEAD).expect("docs/troubleshooting.md ends with the faults");
    let mut page = format!("{before}{HEAD}");
    for kind in &KINDS {
        writeln!(page, "\n### {}\n\n| what is wrong | named by |\n|---|---|", kind.seen).unwrap();
        for fault in kind.faults {
            let asks: BTreeSet<String> = fault.asks.iter().map(Ask::in_words).collect();
            writeln!(page, "| {} | {} |", fault.name, Vec::from_iter(asks).join(", ")).unwrap();
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let update = "UPDATE_DOCS=1 cargo test -p weft-integration --test drill the_page";
    assert!(std::fs::read_to_string(&path).unwrap() == page, "docs/troubleshooting.md is behind the drill: {update}");
}
