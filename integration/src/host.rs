use std::fs;
use std::process::Command;
use std::sync::Arc;

use weft_encap::MacAddr;
use weft_netns::{Link, Netns, enter_in_child};

use crate::child::Output;

/// A network namespace that stands for a machine or a pod.
#[derive(Clone, Debug)]
pub struct Host {
    name: Arc<str>,
    netns: Arc<Netns>,
}

impl Host {
    pub(crate) fn new(name: &str, netns: Netns) -> Self {
        Self { name: name.into(), netns: Arc::new(netns) }
    }

    /// Its name within the test.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace, which has a name in `/run/netns`.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A program that will run inside.
    ///
    /// # Panics
    /// If the namespace is gone.
    #[must_use]
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]);
        enter_in_child(&mut command, Netns::open(self.netns.label()).unwrap());
        command
    }

    /// Runs a program inside and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> String {
        let output = self.try_run(argv);
        assert!(output.status.success(), "{argv:?} on {}: {}\n{}", self.name, output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a program inside, whatever comes of it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn try_run(&self, argv: &[&str]) -> Output {
        self.command(argv).output().unwrap_or_else(|error| panic!("{argv:?}: {error}")).into()
    }

    /// Runs `ip` with these words, parted by blanks.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.words("ip", words)
    }

    /// Runs `tc` with these words, parted by blanks.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn tc(&self, words: &str) -> String {
        self.words("tc", words)
    }

    /// Runs `bridge` with these words, parted by blanks.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn bridge(&self, words: &str) -> String {
        self.words("bridge", words)
    }

    /// Runs `ethtool` with these words, parted by blanks.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ethtool(&self, words: &str) -> String {
        self.words("ethtool", words)
    }

    #[track_caller]
    fn words(&self, program: &str, words: &str) -> String {
        let argv: Vec<_> = [program].into_iter().chain(words.split_ascii_whitespace()).collect();
        self.run(&argv)
    }

    /// What is known of one of its interfaces.
    ///
    /// # Panics
    /// If there is no such interface.
    #[track_caller]
    #[must_use]
    pub fn link(&self, interface: &str) -> Link {
        let link = self.netns.links(|links| links.get(interface)).unwrap();
        link.unwrap_or_else(|| panic!("{} has no {interface}", self.name))
    }

    /// The MAC of one of its interfaces.
    ///
    /// # Panics
    /// If there is no such interface, or it has none.
    #[track_caller]
    #[must_use]
    pub fn mac(&self, interface: &str) -> MacAddr {
        self.link(interface).mac.unwrap()
    }

    /// Keeps it from sending anything that a test did not ask for.
    ///
    /// # Panics
    /// If its settings cannot be written.
    pub fn silence(&self) {
        // What is open at /proc/sys/net depends on the thread's namespace.
        self.set("ipv6/conf/all/disable_ipv6", "1");
        self.set("ipv6/conf/default/disable_ipv6", "1");
    }

    /// Writes one of its settings below /proc/sys/net.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.netns.run(|| fs::write(&path, value)).unwrap().unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

impl AsRef<Host> for Host {
    fn as_ref(&self) -> &Host {
        self
    }
}
