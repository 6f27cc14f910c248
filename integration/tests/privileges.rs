//! What agents give up by themselves, as the kernel tells it of each of their threads.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use weft_control::config::file::{Switch, unspanned};
use weft_integration::{AgentConfig, AgentNode, Family, Overlay, UnderlayKind, eventually, ping_all, site};

/// Numbers of capabilities (include/uapi/linux/capability.h).
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_NICE: u64 = 1 << 23;
const BPF: u64 = 1 << 39;
/// What docs/operations.md says that an agent keeps.
const KEPT: u64 = DAC_READ_SEARCH | NET_ADMIN | SYS_PTRACE | SYS_ADMIN | SYS_NICE;

/// What the kernel says of a process or a thread.
#[derive(Debug, PartialEq, Eq)]
struct Privileges {
    name: String,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    bounding: u64,
    ambient: u64,
    no_new: bool,
    filtered: bool,
}

fn privileges(directory: &Path) -> Privileges {
    read(&fs::read_to_string(directory.join("status")).unwrap())
}

fn read(text: &str) -> Privileges {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(":\t")).collect();
    let set = |name: &str| u64::from_str_radix(fields[name], 16).unwrap();
    Privileges {
        name: fields["Name"].to_owned(),
        effective: set("CapEff"),
        permitted: set("CapPrm"),
        inheritable: set("CapInh"),
        bounding: set("CapBnd"),
        ambient: set("CapAmb"),
        no_new: fields["NoNewPrivs"] == "1",
        // SECCOMP_MODE_FILTER.
        filtered: fields["Seccomp"] == "2",
    }
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The threads of an agent.
fn threads(agent: &AgentNode) -> Vec<Privileges> {
    let tasks = fs::read_dir(process(agent.pid()).join("task")).unwrap();
    let status = tasks.filter_map(|task| match fs::read_to_string(task.unwrap().path().join("status")) {
        // It has ended since.
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            None
        }
        text => Some(text.unwrap()),
    });
    status.map(|text| read(&text)).collect()
}

/// The keeper that an agent started, once it runs.
fn keeper(agent: &AgentNode) -> Privileges {
    eventually("the agent has one child, which has given up its capabilities", || {
        let pid = agent.pid();
        let children = fs::read_to_string(process(pid).join(format!("task/{pid}/children"))).unwrap();
        let pids: Vec<u32> = children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
        let children: Vec<_> = pids.into_iter().map(|pid| privileges(&process(pid))).collect();
        match <[Privileges; 1]>::try_from(children) {
            Ok([keeper]) if keeper.effective == 0 => Ok(keeper),
            Ok(children) => Err(format!("{children:?}")),
            Err(children) => Err(format!("{children:?}")),
        }
    })
}

#[track_caller]
fn assert_confined(agent: &AgentNode, kept: u64, workers: usize) {
    let threads = threads(agent);
    // What closes the self-test's devices may not have ended yet.
    let (without, others): (Vec<_>, Vec<_>) =
        threads.iter().partition(|thread| thread.name.starts_with("worker-") || thread.name == "scratch");
    assert_eq!(without.iter().filter(|thread| thread.name != "scratch").count(), workers, "{threads:?}");
    for thread in without {
        let sets = [thread.effective, thread.permitted, thread.inheritable, thread.ambient];
        assert_eq!((sets, thread.no_new), ([0; 4], true), "{thread:?}");
    }
    assert!(!others.is_empty());
    for other in others {
        let sets = [other.effective, other.permitted, other.bounding, other.inheritable, other.ambient];
        assert_eq!((sets, other.no_new, other.filtered), ([kept, kept, kept, 0, 0], true, true), "{other:?}");
    }
}

#[test]
fn an_agent_keeps_what_is_written_down_and_its_workers_nothing() {
    for (workers, kept) in [(1, KEPT), (2, KEPT | BPF)] {
        let site = site!("ping");
        let [node, _] = site.pair();
        let pods = ["a", "b"].map(|name| site.host(name));
        let config = || {
            let mut config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(Overlay::VNI).with_keeper();
            config.file.workers.count = unspanned(workers);
            let config = config.underlay(UnderlayKind::Auto);
            config.port(&pods[0], Overlay::VNI, &["10.7.0.1/24"]).port(&pods[1], Overlay::VNI, &["10.7.0.2/24"])
        };
        let agent = config().start();
        assert_confined(&agent, kept, workers.into());
        let keeper = keeper(&agent);
        let sets = [keeper.effective, keeper.permitted, keeper.inheritable, keeper.ambient];
        assert_eq!((sets, keeper.no_new, keeper.filtered), ([0; 4], true, true), "{keeper:?}");
        ping_all(&pods[0], "10.7.0.2");
        let next = config().take_over().unwrap_or_else(|refused| panic!("{}\n{}", refused.message, agent.log()));
        agent.handed_over();
        assert_confined(&next, kept, workers.into());
        ping_all(&pods[0], "10.7.0.2");
        // What it does later, it may still do: a device that is removed is made again.
        pods[0].ip("link delete eth0");
        eventually("the device is made again", || {
            if next.log().contains("port attached again") { Ok(()) } else { Err(format!("{:?}", next.port("a"))) }
        });
        ping_all(&pods[0], "10.7.0.2");
    }
}

#[test]
fn an_agent_that_is_not_to_be_confined_keeps_what_it_was_started_with() {
    let site = site!();
    let [node, _] = site.pair();
    let mut config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(Overlay::VNI);
    config.file.confinement = Switch::Off;
    let agent = config.start();
    let (test, agent) = (privileges(Path::new("/proc/thread-self")), privileges(&process(agent.pid())));
    assert_eq!(agent, Privileges { name: agent.name.clone(), ..test });
}
