//! Dependencies point one way: encap <- bridge <- switch <- control <- weft. A new crate or arrow is a
//! decision: it is made here, in the open, and not by a line in a manifest.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

#[expect(dead_code, reason = "the other tests read more of it")]
mod workspace;

use workspace::{Package, packages};

/// What may be depended on by whom, tests included.
const ARROWS: [(&str, Arrows); 14] = [
    ("weft-encap", Arrows::To(&[])),
    ("weft-bridge", Arrows::To(&["weft-encap"])),
    ("weft-switch", Arrows::To(&["weft-bridge", "weft-encap"])),
    ("weft-netns", Arrows::To(&["weft-encap"])),
    ("weft-api", Arrows::To(&[])),
    ("weft-store", Arrows::To(&[])),
    ("weft-control", Arrows::To(&["weft-api", "weft-bridge", "weft-encap", "weft-netns", "weft-store", "weft-switch"])),
    ("weft-cni", Arrows::To(&["weft-api"])),
    ("weft-channel", Arrows::To(&["weft-encap"])),
    ("weft-memory-lab", Arrows::To(&["weft-bridge", "weft-channel", "weft-encap", "weft-switch"])),
    (
        "weft-testbed",
        Arrows::To(&["weft-api", "weft-channel", "weft-control", "weft-encap", "weft-netns", "weft-switch"]),
    ),
    ("weft", Arrows::Anywhere),
    // Planes are made of namespaces, agents and a TAP; the command runs the comparison.
    (
        "weft-benches",
        Arrows::To(&["weft-api", "weft-bridge", "weft-control", "weft-encap", "weft-netns", "weft-switch"]),
    ),
    ("weft-integration", Arrows::Anywhere),
];

/// Where every arrow ends.
const NEVER_DEPENDED_ON: [&str; 3] = ["weft", "weft-cni", "weft-integration"];

/// What the tests of any crate may use besides, though it stands on that crate.
const FOR_TESTS: &str = "weft-memory-lab";

/// What crates that know no I/O, no clock and no async may use of others, outside their tests.
const OUTSIDERS: [(&str, &[&str]); 5] = [
    ("weft-encap", &["serde"]),
    ("weft-bridge", &["foldhash", "loom"]),
    ("weft-channel", &["rand_xoshiro", "serde", "thiserror"]),
    // A pod's namespace goes to the agent as a descriptor, which std cannot send.
    ("weft-api", &["rustix", "serde", "serde_json", "thiserror"]),
    ("weft-cni", &["serde", "serde_json"]),
];

enum Arrows {
    To(&'static [&'static str]),
    Anywhere,
}

fn allows(package: &Package, target: &str) -> bool {
    let listed = ARROWS.iter().find(|(name, _)| *name == package.name);
    let (_, arrows) = listed.unwrap_or_else(|| panic!("{}: a new crate; add it to ARROWS", package.name));
    let end = NEVER_DEPENDED_ON.contains(&target);
    match arrows {
        Arrows::To(allowed) => allowed.contains(&target),
        Arrows::Anywhere => !end,
    }
}

#[test]
fn arrows_point_one_way() {
    let packages = packages();
    for package in &packages {
        for dependency in package.dependencies.iter().filter(|dependency| dependency.ours) {
            let (from, to) = (&package.name, &dependency.name);
            let for_tests = dependency.dev && to == FOR_TESTS;
            assert!(
                for_tests || allows(package, to),
                "{from} must not depend on {to}: if it has to, change ARROWS and say why"
            );
        }
    }
    for (name, _) in ARROWS {
        assert!(packages.iter().any(|package| package.name == name), "{name} is gone: take it out of ARROWS");
    }
}

#[test]
fn every_crate_is_listed() {
    for package in packages() {
        let listed = ARROWS.iter().any(|(name, _)| *name == package.name);
        assert!(listed, "{}: a new crate; add it to ARROWS with what it may depend on", package.name);
    }
}

#[test]
fn pure_and_small_crates_stay_so() {
    for package in packages() {
        let Some((_, allowed)) = OUTSIDERS.iter().find(|(name, _)| *name == package.name) else { continue };
        for dependency in package.dependencies.iter().filter(|dependency| !dependency.ours && !dependency.dev) {
            let (from, to) = (&package.name, &dependency.name);
            assert!(allowed.contains(&to.as_str()), "{from} must not depend on {to}: see OUTSIDERS");
        }
    }
}
