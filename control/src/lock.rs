use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why a run directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent{pid} runs in {}: stop it first, or give this one another `run_dir`", dir.display())]
    Taken {
        /// The run directory.
        dir: PathBuf,
        /// ` (process N)`, where it said so.
        pid: String,
    },
    /// It cannot be made or written.
    #[error("{}: {source}: the agent needs a run directory that it may write (`run_dir`)", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Held as long as the agent lives; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub(crate) struct RunDirLock {
    file: File,
}

impl RunDirLock {
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("agent.lock");
        let failed = |source: io::Error| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(failed)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // The number is a courtesy: the lock itself is the fact.
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim().parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
            return Err(LockError::Taken { dir: dir.to_owned(), pid });
        }
        let mut lock = Self { file };
        lock.sign().map_err(failed)?;
        Ok(lock)
    }

    /// One that another process took and hands on: it is held until both have let go.
    pub(crate) fn inherit(lock: OwnedFd) -> Self {
        Self { file: lock.into() }
    }

    /// Says whose it is.
    pub(crate) fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

impl AsFd for RunDirLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
