//! What tests of real labs share.

#[path = "../../../integration/src/skip.rs"]
mod skip;

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use skip::skip;
use weft_netns::Netns;
use weft_testbed::{ControlSpec, LABS_DIR, Lab, LabError, LabName, LabSpec, UpOptions};

/// Whether the test may go on; says so by name if not.
pub(crate) fn root_or_skip(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip(test, "needs root");
    false
}

/// Runs a test in a network namespace of its own, so that what a lab leaves beside itself is seen.
pub(crate) fn alone(test: &str, body: impl FnOnce() + Send) {
    if !root_or_skip(test) {
        return;
    }
    let name = format!("weft-test-{}-{test}", std::process::id());
    let host = Netns::create(&name).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        host.run(|| {
            body();
            let left = Netns::current().unwrap().links(|links| links.list()).unwrap();
            assert_eq!(left.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
        })
        .unwrap();
    }));
    Netns::delete(&name).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A lab's name that no other test and no other run has. The lab goes away with it.
pub(crate) struct Name(LabName);

impl Name {
    pub(crate) fn new(purpose: &str) -> Self {
        Self(format!("t{}-{purpose}", std::process::id()).parse().unwrap())
    }

    /// Everything of the lab that can be seen from outside: namespaces, mounts, files, processes.
    pub(crate) fn traces(&self) -> Vec<String> {
        let lab = &self.0;
        let mut traces: Vec<String> = Netns::list().unwrap();
        traces.retain(|namespace| namespace.starts_with(&format!("{lab}.")));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&format!("/{lab}."))).map(str::to_owned));
        let directory = Path::new(LABS_DIR).join(lab.as_str());
        traces.extend(directory.exists().then(|| directory.display().to_string()));
        traces.extend(fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let environment = fs::read_to_string(entry.path().join("environ")).ok()?;
            let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let ours = environment.contains(&format!("WEFT_TEST_LAB={lab}\0"))
                || command.contains(&format!("{}/", directory.display()));
            ours.then(|| format!("process {}: {command}", entry.path().display()))
        }));
        traces
    }
}

impl Deref for Name {
    type Target = LabName;

    fn deref(&self) -> &LabName {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.0, &mut |_| {})
            && !matches!(error, LabError::NoSuchLab { .. })
        {
            eprintln!("lab {} is left behind: {error}", self.0);
        }
        if !std::thread::panicking() {
            assert_eq!(self.traces(), [""; 0]);
        }
    }
}

pub(crate) fn two_nodes() -> LabSpec {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-node.yaml");
    let mut spec = LabSpec::read(&example).unwrap();
    // Stand-ins for agents publish nothing.
    spec.control = ControlSpec::None;
    spec
}

/// A directory that goes away with the test, with a stand-in for `weft` in it.
pub(crate) struct FakeAgent {
    directory: PathBuf,
}

/// Says that it is ready, and stays until it is ended.
pub(crate) const READY: &str = "echo ready > /proc/self/fd/$WEFT_READY_FD; exec sleep 1000000";

impl FakeAgent {
    /// A stand-in that runs this shell script.
    pub(crate) fn new(purpose: &str, script: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("weft-test-{}-{purpose}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("weft");
        fs::write(&path, format!("#!/bin/sh\necho \"called as $*\"\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("weft")
    }

    pub(crate) fn options(&self) -> UpOptions {
        UpOptions::new(self.path())
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}
