//! What is kept of a lab on disk: one directory, locked while the lab is made or removed, with a journal in
//! it that was there before anything else of the lab.
//!
//! The journal holds the whole specification, so the names of everything that may exist are known from it,
//! however far the making got. Processes are noted as they start; one that started a moment before its maker
//! was killed is found by the namespace it lives in.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fstat};
use serde::{Deserialize, Serialize};

use crate::error::io_error;
use crate::link::LinkSettings;
use crate::process::ProcessId;
use crate::{LabError, LabName, LabSpec};

/// Where labs are kept.
pub const LABS_DIR: &str = "/run/weft/labs";

/// Version of the journal's format.
const VERSION: u32 = 3;
/// Name of the journal in a lab's directory.
const JOURNAL: &str = "lab.json";
/// Attempts to make a lab's directory while other labs come and go.
const CLAIM_ATTEMPTS: usize = 16;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    version: u32,
    pub(crate) spec: LabSpec,
    /// The store, or what leads to it, if there is one.
    pub(crate) store: Option<ProcessId>,
    pub(crate) agents: Vec<AgentEntry>,
    /// The links that are not as they were made.
    pub(crate) links: Vec<LinkEntry>,
    /// Whether the making came to its end.
    pub(crate) complete: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AgentEntry {
    pub(crate) node: String,
    pub(crate) process: ProcessId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LinkEntry {
    pub(crate) link: String,
    pub(crate) settings: LinkSettings,
    /// What carries its frames, if they are impaired.
    pub(crate) relay: Option<ProcessId>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Journal {
    pub(crate) const fn new(spec: LabSpec) -> Self {
        Self { version: VERSION, spec, store: None, agents: Vec::new(), links: Vec::new(), complete: false }
    }

    /// Reads the journal of a lab; none where there is the lab's directory only.
    pub(crate) fn read(name: &LabName) -> Result<Option<Self>, LabError> {
        let path = directory(name).join(JOURNAL);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", path)(error)),
        };
        let useless = |error: serde_json::Error| LabError::Journal { name: name.clone(), reason: error.to_string() };
        let VersionOnly { version } = serde_json::from_str(&text).map_err(useless)?;
        if version != VERSION {
            return Err(LabError::JournalVersion { name: name.clone(), seen: version, known: VERSION });
        }
        serde_json::from_str(&text).map_err(useless).map(Some)
    }

    /// Writes the journal, whole or not at all.
    pub(crate) fn write(&self, name: &LabName) -> Result<(), LabError> {
        let path = directory(name).join(JOURNAL);
        let draft = path.with_extension("draft");
        let written = (|| {
            let mut file = File::create(&draft)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            fs::rename(&draft, &path)
        })();
        written.map_err(io_error("write", path))
    }
}

/// Where a lab is kept.
pub(crate) fn directory(name: &LabName) -> PathBuf {
    Path::new(LABS_DIR).join(name.as_str())
}

/// The lab's directory, locked until dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
}

impl Claim {
    /// Makes the directory of a new lab.
    pub(crate) fn make(name: &LabName) -> Result<Self, LabError> {
        let path = directory(name);
        make_directory(&path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => LabError::NameTaken { name: name.clone() },
            _ => io_error("make", &path)(error),
        })?;
        let claim = Self::take(name)?;
        // Between the two steps the lab may have been taken down, and even been made again by somebody else.
        let still_ours = |_: &Self| !directory(name).join(JOURNAL).exists();
        claim.filter(still_ours).ok_or_else(|| LabError::TakenDown { name: name.clone() })
    }

    /// Takes the directory of an existing lab, once nobody else has it.
    pub(crate) fn wait(name: &LabName) -> Result<Self, LabError> {
        Self::take(name)?.map_or_else(|| Err(no_such_lab(name)), Ok)
    }

    fn take(name: &LabName) -> Result<Option<Self>, LabError> {
        let path = directory(name);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", path)(error)),
        };
        flock(&lock, FlockOperation::LockExclusive).map_err(io_error("lock", &path))?;
        let removed_meanwhile = fstat(&lock).map_err(io_error("inspect", &path))?.st_nlink == 0;
        Ok((!removed_meanwhile).then_some(Self { _lock: lock }))
    }

    /// Removes the directory with all that is in it, and its parents if this was the last lab.
    pub(crate) fn remove(self, name: &LabName) -> Result<(), LabError> {
        let path = directory(name);
        fs::remove_dir_all(&path).map_err(io_error("remove", path))?;
        for parent in Path::new(LABS_DIR).ancestors().take_while(|parent| *parent != Path::new("/run")) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }
}

pub(crate) fn no_such_lab(name: &LabName) -> LabError {
    let known = names().unwrap_or_default().into_iter().map(String::from).collect();
    LabError::NoSuchLab { name: name.clone(), known }
}

/// The labs there are, half-made ones included, sorted.
pub(crate) fn names() -> Result<Vec<LabName>, LabError> {
    let entries = match fs::read_dir(LABS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", LABS_DIR)(error)),
    };
    let mut names: Vec<LabName> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    Ok(names)
}

/// Makes the directory itself, failing if it is there, below parents which may go away at any moment.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..CLAIM_ATTEMPTS {
        DirBuilder::new().recursive(true).mode(0o755).create(LABS_DIR)?;
        outcome = DirBuilder::new().mode(0o755).create(path);
        if !matches!(&outcome, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    outcome
}
