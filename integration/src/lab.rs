use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_netns::Netns;
use weft_testbed::Lab;
use weft_testbed::probe::{PingOptions, PingReport, ping_from};

use crate::probe::ping_all_from;
use crate::weft;

/// A lab made by the command line alone, which goes away with the test.
#[derive(Debug)]
pub struct CommandLab {
    name: String,
}

impl CommandLab {
    /// Makes the lab of a file in `examples/`.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn up(example: &str) -> Self {
        Self::up_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example))
    }

    /// Makes the lab of a file.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn up_file(file: &Path) -> Self {
        static LABS: AtomicUsize = AtomicUsize::new(0);
        let name = format!("it-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name };
        lab.run(&["testbed", "up", &file.display().to_string(), "--name", &lab.name]);
        lab
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `weft`, whatever comes of it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn try_run(arguments: &[&str]) -> Output {
        Command::new(weft()).args(arguments).output().unwrap()
    }

    /// Runs `weft` and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = Self::try_run(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "weft {arguments:?} in {}: {told}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command in a pod, or a node, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn exec(&self, member: &str, command: &[&str]) -> String {
        self.run(&[&["testbed", "exec", &self.name, member, "--"], command].concat())
    }

    /// Sends echo requests from a pod or node, as [`ping_all`](crate::ping_all) does: every one has to be answered.
    ///
    /// # Panics
    /// If one is not.
    #[track_caller]
    pub fn ping_all(&self, from: &str, to: &str) {
        ping_all_from(&self.netns(from), from, to);
    }

    /// Sends three echo requests from a pod or node, and waits for answers as long as a loaded machine takes; `ping` waits
    /// for the last only twice as long as for those before.
    ///
    /// # Panics
    /// If it cannot send.
    #[must_use]
    #[track_caller]
    pub fn ping(&self, from: &str, to: &str) -> PingReport {
        let mut options = PingOptions::default();
        options.timeout = Duration::from_secs(5);
        ping_from(&self.netns(from), to.parse().unwrap(), &options).unwrap()
    }

    #[track_caller]
    fn netns(&self, member: &str) -> Netns {
        Lab::open(&self.name.parse().unwrap()).unwrap().netns(member).unwrap()
    }

    /// Runs `weft testbed link` with these words.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn link(&self, link: &str, words: &[&str]) -> String {
        self.run(&[&["testbed", "link", &self.name, link], words].concat())
    }

    /// Everything of it that can be seen from outside: namespaces, mounts, files, processes.
    ///
    /// # Panics
    /// If `/proc` cannot be read.
    #[must_use]
    pub fn traces(&self) -> Vec<String> {
        let lab = &self.name;
        let listed = |directory: &str| -> Vec<String> {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect()
        };
        let mut traces = listed("/run/netns");
        traces.retain(|path| path.contains(&format!("/{lab}.")));
        let directory = format!("/run/weft/labs/{lab}");
        traces.extend(listed("/run/weft/labs").into_iter().filter(|path| *path == directory));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&format!("/{lab}."))).map(str::to_owned));
        traces.extend(listed("/proc").into_iter().filter_map(|process| {
            let command = std::fs::read_to_string(format!("{process}/cmdline")).ok()?;
            command.contains(&format!("{directory}/")).then(|| format!("{process}: {command}"))
        }));
        traces
    }
}

impl Drop for CommandLab {
    fn drop(&mut self) {
        // Gone already, or never there: both are as it should be.
        let _ = Self::try_run(&["testbed", "down", &self.name]);
    }
}
