//! Whether a pod's namespace is there: what tells it from others, and who uses it.
//!
//! A device that is open keeps its namespace alive, so the kernel will not say that a pod is gone. What says so is that
//! neither the runtime's path nor any process leads to its namespace any longer.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use weft_netns::Netns;
use weft_switch::netns_cookie;

use super::ledger::Identity;

/// This run of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn boot() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// What tells a namespace from others that a runtime sees at this path, given its cookie.
pub(super) fn identity(netns: &Netns, path: &str, cookie: Option<u64>) -> Identity {
    let visible = leads_to(path, netns.inode());
    Identity { path: path.to_owned(), visible, cookie, inode: netns.inode() }
}

/// The cookie of the calling thread's namespace.
pub(super) fn cookie() -> Option<u64> {
    UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0")).and_then(netns_cookie).ok()
}

/// Whether a path leads to a namespace that is there and has this inode.
pub(super) fn leads_to(path: &str, inode: u64) -> bool {
    Path::new(path).is_absolute() && std::fs::metadata(path).is_ok_and(|seen| seen.ino() == inode)
}

/// The namespace of that identity, by its path or by a process that is in it.
pub(super) fn find(wanted: &Identity, processes: &Processes) -> Option<Netns> {
    let by_process = processes.0.get(&wanted.inode).map(|process| format!("/proc/{process}/ns/net"));
    let is_it = |netns: &Netns| identity(netns, &wanted.path, netns.run(cookie).ok().flatten()).is(wanted);
    let paths = [Some(wanted.path.clone()).filter(|path| Path::new(path).is_absolute()), by_process];
    paths.into_iter().flatten().filter_map(|path| Netns::open(&path).ok()).find(is_it)
}

/// The processes that there are, one for each namespace's inode.
pub(super) struct Processes(HashMap<u64, u32>);

impl Processes {
    pub(super) fn look() -> Self {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Self(HashMap::new()) };
        let process = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let there = entries.flatten().filter_map(process).filter_map(|process| {
            let namespace = std::fs::metadata(format!("/proc/{process}/ns/net")).ok()?;
            Some((namespace.ino(), process))
        });
        Self(there.collect())
    }

    pub(super) fn is_in(&self, inode: u64) -> bool {
        self.0.contains_key(&inode)
    }
}
