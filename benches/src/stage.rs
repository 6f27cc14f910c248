//! Where planes are tried: two nodes with a cable between them, two pods on the first and one on the second.

use std::fmt;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use weft_netns::{Netns, enter_in_child};

use crate::error::file;
use crate::{BenchError, Pinning};

/// What every name made here begins with; the number of the process that made it follows.
const PREFIX: &str = "weft-bench.";
/// The nodes' ends of the cable, and the pods' devices.
pub(crate) const INTERFACE: &str = "eth0";
/// Words for `ethtool` that make an end of a veth pair behave like a NIC without tunnel offloads: what crosses it are
/// packets of the cable's MTU.
const WIRE: &str = "tso off gso off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off \
                    tx-udp-segmentation off tx-checksum-ip-generic off gro on rx-udp-gro-forwarding on";
/// Settings of a namespace, each with its value: no neighbour discovery beside the load; no firewall hooks in
/// bridges, where the kernel has that setting.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"),
];
/// What lines of logs say when something is wrong, and how much of such a line an error shows, in characters.
const COMPLAINTS: [&str; 4] = ["WARN", "ERR", "weft: ", "ERROR"];
const LOG_LINE: usize = 300;

/// The cable between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cable {
    /// What it does with superframes.
    pub kind: CableKind,
    /// In bytes.
    pub mtu: u16,
}

/// What a cable does with superframes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CableKind {
    /// A veth pair as it comes: superframes cross it whole, without checksums.
    Offloaded,
    /// A veth pair that cuts everything to its MTU and fills in checksums, as a NIC without tunnel offloads does.
    Wire,
}

impl fmt::Display for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            CableKind::Offloaded => "offloaded",
            CableKind::Wire => "wire",
        };
        write!(f, "{kind}, MTU {}", self.mtu)
    }
}

/// Everything that was made for a comparison, so that it can be removed at any moment.
#[derive(Clone, Debug, Default)]
pub struct Stages(Arc<Mutex<Made>>);

#[derive(Debug, Default)]
struct Made {
    /// Nothing may be made any more.
    closed: bool,
    counter: u32,
    stages: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u32,
    name: String,
    namespaces: Vec<String>,
    children: Vec<Child>,
}

/// Two nodes and three pods. Dropping it removes them.
#[derive(Debug)]
pub struct Stage {
    number: u32,
    nodes: [Netns; 2],
    pods: [Pod; 3],
    directory: PathBuf,
    cable: Cable,
    pinning: Pinning,
    stages: Stages,
}

/// A pod, whose device the plane makes.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub address: Ipv4Net,
    /// The node that it is on, 0 or 1.
    pub node: usize,
}

impl Stages {
    /// None yet. What comparisons left that were killed is removed.
    #[must_use]
    pub fn new() -> Self {
        remove_abandoned();
        Self::default()
    }

    /// Ends every process, removes every namespace, and makes nothing any more.
    pub fn close(&self) {
        let mut made = self.made();
        made.closed = true;
        made.stages.drain(..).for_each(Entry::remove);
    }

    /// Whether something may still be made.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        self.open().map(|_| ())
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        // Nothing in there is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Made>, BenchError> {
        let made = self.made();
        if made.closed { Err(BenchError::Interrupted) } else { Ok(made) }
    }
}

impl Entry {
    fn remove(mut self) {
        for child in &mut self.children {
            // It has ended already where this fails.
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        remove_traces(&self.name, &self.namespaces);
    }
}

impl Stage {
    /// Makes nodes and pods, and plugs in the cable.
    ///
    /// # Errors
    /// What the kernel refuses, and a missing `ethtool` for a wire.
    pub fn new(stages: &Stages, cable: Cable, pinning: Pinning) -> Result<Self, BenchError> {
        let (number, name, namespaces) = {
            let mut made = stages.open()?;
            made.counter += 1;
            let number = made.counter;
            let name = format!("{PREFIX}{}.{number}", id());
            let namespaces = ["n1", "n2", "a", "b", "c"].map(|member| format!("{name}.{member}"));
            let entry = Entry { number, name: name.clone(), namespaces: namespaces.to_vec(), children: Vec::new() };
            made.stages.push(entry);
            (number, name, namespaces)
        };
        let made = Self::make(stages, number, &name, &namespaces, cable, pinning);
        if made.is_err() {
            stages.remove(number);
        }
        let stage = made?;
        stage.plug_in()?;
        Ok(stage)
    }

    fn make(
        stages: &Stages,
        number: u32,
        name: &str,
        namespaces: &[String; 5],
        cable: Cable,
        pinning: Pinning,
    ) -> Result<Self, BenchError> {
        // While it is held nothing can be made that `close` would not see.
        let _open = stages.open()?;
        let [n1, n2, a, b, c] = namespaces.each_ref().map(|name| Netns::create(name));
        let pod = |netns, node, host| {
            let address = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, host), 24);
            Ok::<_, BenchError>(Pod { netns: netns?, address, node })
        };
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).map_err(file("make", &directory))?;
        Ok(Self {
            number,
            nodes: [n1?, n2?],
            pods: [pod(a, 0, 1)?, pod(b, 0, 2)?, pod(c, 1, 3)?],
            directory,
            cable,
            pinning,
            stages: stages.clone(),
        })
    }

    fn plug_in(&self) -> Result<(), BenchError> {
        for netns in self.nodes.iter().chain(self.pods.iter().map(|pod| &pod.netns)) {
            for (path, value) in SETTINGS.into_iter().filter(|(path, _)| Path::new(path).exists()) {
                netns.run(|| fs::write(path, value))?.map_err(file("write", path))?;
            }
        }
        let [n1, n2] = &self.nodes;
        n1.links(|links| links.add_veth(INTERFACE, INTERFACE, n2))?;
        for (index, node) in self.nodes.iter().enumerate() {
            let address = IpNet::from(Ipv4Net::new_assert(self.vtep(index), 24));
            node.links(|links| {
                links.set_mtu(INTERFACE, self.cable.mtu.into())?;
                links.set_up(INTERFACE)?;
                links.add_address(INTERFACE, address)
            })?;
            if self.cable.kind == CableKind::Wire {
                self.run_in(node, &format!("ethtool -K {INTERFACE} {WIRE}"))?;
            }
        }
        Ok(())
    }

    /// The namespace of a node, 0 or 1.
    #[must_use]
    pub fn node(&self, index: usize) -> &Netns {
        &self.nodes[index]
    }

    /// A node's address on the cable.
    #[must_use]
    pub fn vtep(&self, index: usize) -> Ipv4Addr {
        [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)][index]
    }

    /// Two pods of the first node and one of the second.
    #[must_use]
    pub const fn pods(&self) -> &[Pod; 3] {
        &self.pods
    }

    /// The pods of a node, 0 or 1.
    pub fn pods_of(&self, node: usize) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.node == node)
    }

    /// The cable.
    #[must_use]
    pub const fn cable(&self) -> Cable {
        self.cable
    }

    /// How its programs are pinned.
    #[must_use]
    pub const fn pinning(&self) -> Pinning {
        self.pinning
    }

    /// Where files of the plane go.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a program on a node that runs as long as the stage. Its output goes to a file of the directory.
    ///
    /// # Errors
    /// [`BenchError::Program`].
    pub fn start(&self, node: usize, mut command: Command) -> Result<(), BenchError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let name = program.rsplit('/').next().unwrap_or_default();
        let log = self.directory.join(format!("{name}.n{}.log", node + 1));
        let output = File::create(&log).map_err(file("make", &log))?;
        let errors = output.try_clone().map_err(file("make", &log))?;
        enter_in_child(&mut command, Netns::open(self.nodes[node].label())?);
        command.stdin(Stdio::piped()).stdout(output).stderr(errors);
        let mut made = self.stages.open()?;
        let spawned = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.pinning.keep_to(node);
                command.spawn()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let child = spawned.map_err(|source| BenchError::Program { program, source })?;
        let entry = made.stages.iter_mut().find(|entry| entry.number == self.number);
        entry.ok_or(BenchError::Interrupted)?.children.push(child);
        Ok(())
    }

    /// Process ids of what was started so far.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let made = self.stages.made();
        let entry = made.stages.iter().find(|entry| entry.number == self.number);
        entry.map_or_else(Vec::new, |entry| entry.children.iter().map(Child::id).collect())
    }

    /// Runs a program in a namespace and waits for it; words are parted by blanks.
    ///
    /// # Errors
    /// [`BenchError::Program`], [`BenchError::Failed`].
    pub fn run_in(&self, netns: &Netns, words: &str) -> Result<(), BenchError> {
        let mut words = words.split_ascii_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        enter_in_child(&mut command, Netns::open(netns.label())?);
        run(&mut command)
    }

    /// The last complaint in the logs, else their last line; empty without any.
    #[must_use]
    pub fn logged(&self) -> String {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let texts: String = logs.filter_map(|log| fs::read_to_string(log).ok()).collect();
        let complains = |line: &&str| COMPLAINTS.iter().any(|word| line.contains(word));
        let line = texts.lines().rfind(complains).or(texts.lines().next_back()).unwrap_or_default();
        line.chars().take(LOG_LINE).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stages.remove(self.number);
    }
}

impl Stages {
    fn remove(&self, number: u32) {
        let mut made = self.made();
        if let Some(at) = made.stages.iter().position(|entry| entry.number == number) {
            made.stages.swap_remove(at).remove();
        }
    }
}

/// Runs a program and waits for it.
pub(crate) fn run(command: &mut Command) -> Result<(), BenchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| BenchError::Program { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let arguments = command.get_args().map(|word| word.to_string_lossy());
    let command = [program.into()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ");
    Err(BenchError::Failed { command, said: String::from_utf8_lossy(&output.stderr).trim_end().to_owned() })
}

/// Namespaces and directory of a stage. What is gone already is as it should be.
fn remove_traces(name: &str, namespaces: &[String]) {
    for namespace in namespaces {
        let _ = Netns::delete(namespace);
    }
    let _ = fs::remove_dir_all(std::env::temp_dir().join(name));
}

/// Removes what processes left that are no more, and ends the programs in there.
fn remove_abandoned() {
    let abandoned = |name: &String| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('.').next());
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let namespaces: Vec<String> = Netns::list().unwrap_or_default().into_iter().filter(abandoned).collect();
    let inodes: Vec<u64> = namespaces.iter().filter_map(|name| Some(Netns::open(name).ok()?.inode())).collect();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let inside = fs::metadata(entry.path().join("ns/net")).is_ok_and(|netns| inodes.contains(&netns.ino()));
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let (true, Some(pid)) = (inside, pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let directories = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let directories = directories.filter_map(|entry| entry.file_name().into_string().ok()).filter(abandoned);
    directories.for_each(|name| remove_traces(&name, &[]));
    namespaces.iter().for_each(|name| remove_traces(name, std::slice::from_ref(name)));
}
