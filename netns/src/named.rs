//! The names of `ip netns`: files in [`RUN_DIR`], each with a namespace mounted on it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::NetnsError;

/// Where named namespaces live.
pub const RUN_DIR: &str = "/run/netns";

/// Longest file name, in bytes.
const NAME_MAX: usize = 255;
/// Mounts that are taken off one name at most: each bind mount of an interrupted attempt is one.
const STACKED_MOUNTS_MAX: usize = 16;

pub(crate) fn check_name(name: &str) -> Result<(), NetnsError> {
    let bad = name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) || name == "." || name == "..";
    if bad { Err(NetnsError::Name { name: name.to_owned() }) } else { Ok(()) }
}

/// Makes a fresh namespace under `name`, everything in it down.
pub(crate) fn create(name: &str) -> Result<(), NetnsError> {
    check_name(name)?;
    let kernel = |operation| move |source| NetnsError::Kernel { operation, name: name.to_owned(), source };
    share_run_dir().map_err(kernel("prepare /run/netns for"))?;
    let path = path_of(name);
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(NetnsError::NameTaken { name: name.to_owned() });
        }
        Err(error) => return Err(kernel("create")(error)),
    }
    let mounted = in_fresh_namespace(|| Ok(mount_bind("/proc/thread-self/ns/net", &path)?));
    mounted.map_err(|error| {
        let _ = delete(name);
        kernel("create")(error)
    })
}

pub(crate) fn delete(name: &str) -> Result<(), NetnsError> {
    check_name(name)?;
    let path = path_of(name);
    let kernel = |source| NetnsError::Kernel { operation: "delete", name: name.to_owned(), source };
    for _ in 0..STACKED_MOUNTS_MAX {
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(kernel(error.into())),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(kernel(error)),
        _ => Ok(()),
    }
}

pub(crate) fn list() -> Result<Vec<String>, NetnsError> {
    let kernel = |source| NetnsError::Kernel { operation: "list the names of", name: RUN_DIR.to_owned(), source };
    let entries = match fs::read_dir(RUN_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(kernel(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 is none that can be asked for here.
        names.extend(entry.map_err(kernel)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn path_of(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name)
}

/// Makes [`RUN_DIR`] a shared mount point, so that names come and go in every mount namespace at once.
///
/// The lock is the one `ip netns` takes: without it, two at a time would stack mounts on the directory.
fn share_run_dir() -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(RUN_DIR)?;
    let directory = File::open(RUN_DIR)?;
    flock(&directory, FlockOperation::LockExclusive)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(RUN_DIR, shared) {
        Err(Errno::INVAL) => {
            mount_bind_recursive(RUN_DIR, RUN_DIR)?;
            Ok(mount_change(RUN_DIR, shared)?)
        }
        other => Ok(other?),
    }
}

/// Runs `f` on a thread of its own, in a namespace that was not there before.
pub(crate) fn in_fresh_namespace<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = || leave_namespace().and_then(|()| f());
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Puts the calling thread into a fresh network namespace.
#[expect(unsafe_code, reason = "rustix marks unshare unsafe for the sake of a flag that is not used here")]
fn leave_namespace() -> io::Result<()> {
    // SAFETY: only CLONE_FILES can pull descriptors from under other code, and NEWNET alone is given.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "a\0b", &"x".repeat(256)] {
            assert!(matches!(check_name(name), Err(NetnsError::Name { .. })), "{name:?}");
        }
        check_name("demo.n1").unwrap();
    }
}
