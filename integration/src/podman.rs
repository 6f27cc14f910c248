use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Output;
use crate::host::Host;

/// `podman` in a machine's network, everything of it in one directory. Containers outlive the program that started them:
/// dropping it removes them.
#[derive(Debug)]
pub struct Podman {
    node: Host,
    directory: PathBuf,
}

impl Podman {
    /// Writes its configuration, with more in it if there is more to say.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn new(node: &Host, directory: &Path, more: &str) -> Self {
        let config = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=4096:4096\"]\n{more}"
        );
        fs::write(directory.join("containers.conf"), config).unwrap();
        fs::write(directory.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        Self { node: node.clone(), directory: directory.to_owned() }
    }

    /// The path of something in its directory.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Runs it with these words, whatever comes of it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn try_run(&self, words: &[&str]) -> Output {
        let (root, run, temporary) = (self.place("root"), self.place("runroot"), self.place("tmp"));
        let own = ["podman", "--root", &root, "--runroot", &run, "--tmpdir", &temporary, "--storage-driver", "vfs"];
        let mut command = self.node.command(&[&own[..], words].concat());
        command.env("CONTAINERS_CONF", self.place("containers.conf"));
        command.output().unwrap().into()
    }

    /// Runs it with these words and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(output.status.success(), "{words:?}: {}\n{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Loads an image from an archive.
    ///
    /// # Panics
    /// If it cannot be loaded.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        self.run(&["load", "--signature-policy", &self.place("policy.json"), "-i", archive.to_str().unwrap()]);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.try_run(&["rm", "-f", "-t", "0", "-a"]);
    }
}
