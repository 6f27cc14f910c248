//! Processes that are watched and ended by descriptor, never by a bare number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

/// A process for good: numbers are used again, a number with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// In clock ticks since boot.
    start_time: u64,
}

/// A process that cannot be mistaken for another.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    fd: OwnedFd,
}

impl ProcessId {
    /// The process with this number now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, start_time: start_time(pid)? })
    }

    /// The process, if it still runs.
    pub(crate) fn open(self) -> Option<Process> {
        // The descriptor first: what is compared after is the process that it stands for.
        let process = Process::open(self.pid)?;
        (start_time(self.pid) == Some(self.start_time)).then_some(process)
    }

    pub(crate) fn is_running(self) -> bool {
        self.open().is_some_and(|process| !process.ended_within(Duration::ZERO).unwrap_or(true))
    }
}

impl Process {
    pub(crate) fn open(pid: i32) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end.
    pub(crate) fn ended_within(&self, bound: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll_until(&mut fds, Instant::now() + bound)
    }

    /// Removes what the kernel keeps of a child that ended, if it is a child of ours.
    pub(crate) fn reap(&self) {
        // Fails for processes that are not our children, as it should.
        let _ = waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }

    /// How errors name it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }

    /// What is polled readable once it ended.
    pub(crate) const fn as_pollable(&self) -> &OwnedFd {
        &self.fd
    }
}

/// Waits until one of `fds` has something, at most until `deadline`. Whether one has.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets time pass.
pub(crate) fn wait_until(moment: Instant) {
    // With nothing to wait for, poll waits for the time; it cannot fail on no descriptors.
    let _ = poll_until(&mut [], moment);
}

/// The processes in network namespaces with these inodes, ourselves left out.
pub(crate) fn in_namespaces(inodes: &[u64]) -> io::Result<Vec<Process>> {
    let ourselves = std::process::id().cast_signed();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if pid == ourselves || !is_inside(pid, inodes) {
            continue;
        }
        let Some(process) = Process::open(pid) else { continue };
        if is_inside(pid, inodes) {
            found.push(process);
        }
    }
    Ok(found)
}

fn is_inside(pid: i32, inodes: &[u64]) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|file| inodes.contains(&file.ino()))
}

/// Field 22 of `/proc/PID/stat`, counted behind the command, which may contain anything.
fn start_time(pid: i32) -> Option<u64> {
    /// Fields between the command and the start time.
    const FIELDS_BETWEEN: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(FIELDS_BETWEEN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_used_again_is_another_process() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_running());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own }.is_running());
    }
}
