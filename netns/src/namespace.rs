use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::named::{self, RUN_DIR};
use crate::{LinkError, Links, NetnsError};

/// File system type of namespace files, from `linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    label: String,
    inode: u64,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::Kernel`] where `/proc` is missing.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open_file("current".to_owned(), PathBuf::from("/proc/thread-self/ns/net"))
    }

    /// Opens a namespace by its name in [`RUN_DIR`], or by an absolute path such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError`] where it is missing, is not a namespace or may not be opened.
    pub fn open(name_or_path: &str) -> Result<Self, NetnsError> {
        let path = if name_or_path.starts_with('/') {
            PathBuf::from(name_or_path)
        } else {
            named::check_name(name_or_path)?;
            Path::new(RUN_DIR).join(name_or_path)
        };
        Self::open_file(name_or_path.to_owned(), path)
    }

    /// A namespace that somebody handed over as an open file; `label` is what errors call it.
    ///
    /// # Errors
    /// [`NetnsError::NotANamespace`] for any other file.
    pub fn from_descriptor(fd: OwnedFd, label: &str) -> Result<Self, NetnsError> {
        Self::of_file(fd.into(), label.to_owned(), PathBuf::from(label))
    }

    /// Makes a namespace as `ip netns add` does, with its loopback interface up.
    ///
    /// # Errors
    /// [`NetnsError::NameTaken`], or what the kernel refused; nothing is left behind then.
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        named::create(name)?;
        let made = Self::open(name).and_then(|netns| {
            netns.links(|links| links.set_up("lo"))?;
            Ok(netns)
        });
        if made.is_err() {
            // The first error is the one to tell.
            let _ = named::delete(name);
        }
        made
    }

    /// Makes a namespace without a name, everything in it down. It goes with the last descriptor of it and of what
    /// was opened inside.
    ///
    /// # Errors
    /// [`NetnsError::Kernel`], for want of CAP_SYS_ADMIN as a rule.
    pub fn unnamed() -> Result<Self, NetnsError> {
        let label = "unnamed";
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let opened = named::in_fresh_namespace(|| Ok(Self::open_file(label.to_owned(), path)));
        opened.map_err(|source| NetnsError::Kernel { operation: "create", name: label.to_owned(), source })?
    }

    /// Removes the name of a namespace; the namespace goes with its last process and descriptor.
    ///
    /// Half-made ones go too, and an absent one is fine.
    ///
    /// # Errors
    /// [`NetnsError`] for a name that cannot be one, and for what the kernel refused.
    pub fn delete(name: &str) -> Result<(), NetnsError> {
        named::delete(name)
    }

    /// The names in [`RUN_DIR`], half-made ones included, sorted.
    ///
    /// # Errors
    /// [`NetnsError::Kernel`] where the directory cannot be read; a missing one holds no names.
    pub fn list() -> Result<Vec<String>, NetnsError> {
        named::list()
    }

    /// The name or path it was opened by; `current` for [`Self::current`].
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its inode: what `/proc/PID/ns/net` of a process inside shows. Reused once the namespace is gone.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` on a thread inside the namespace and waits for it. A panic in `f` goes on in the caller.
    ///
    /// What `f` makes there stays in the namespace: sockets, and the processes it starts.
    ///
    /// # Errors
    /// [`NetnsError::Kernel`] where the thread cannot be started or may not enter.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| {
            let inside = || self.enter().map(|()| f());
            let thread = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, inside)
                .map_err(|error| self.kernel_error("start a thread for", error))?;
            let entered = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            entered.map_err(|error| self.kernel_error("enter", error))
        })
    }

    /// Runs `f` inside the namespace with a netlink connection to its links.
    ///
    /// # Errors
    /// As [`Self::run`]; the error of `f` comes back as [`NetnsError::Link`].
    pub fn links<T: Send>(&self, f: impl FnOnce(&mut Links) -> Result<T, LinkError> + Send) -> Result<T, NetnsError> {
        let outcome = self.run(|| {
            let mut links = Links::connect(&self.label)?;
            f(&mut links)
        })?;
        Ok(outcome?)
    }

    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    fn open_file(name: String, path: PathBuf) -> Result<Self, NetnsError> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NetnsError::NotFound { name, path }),
            Err(source) => return Err(NetnsError::Kernel { operation: "open", name, source }),
        };
        Self::of_file(file, name, path)
    }

    fn of_file(file: File, name: String, path: PathBuf) -> Result<Self, NetnsError> {
        match facts(&file) {
            Ok((NSFS_MAGIC, inode)) => Ok(Self { fd: file.into(), label: name, inode }),
            Ok(_) => Err(NetnsError::NotANamespace { name, path }),
            Err(source) => Err(NetnsError::Kernel { operation: "inspect", name, source }),
        }
    }

    fn kernel_error(&self, operation: &'static str, source: io::Error) -> NetnsError {
        NetnsError::Kernel { operation, name: self.label.clone(), source }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// File system type and inode.
fn facts(file: &File) -> io::Result<(i64, u64)> {
    let file_system = rustix::fs::fstatfs(file)?;
    let stat = rustix::fs::fstat(file)?;
    Ok((file_system.f_type as i64, stat.st_ino))
}
