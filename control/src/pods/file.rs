//! The ledger's file in the run directory.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ledger::{Change, LEDGER_VERSION, Ledger};

/// Its name.
const FILE: &str = "pods.json";
/// Changes after which the file is written anew, if there are not more pods than that.
const CHANGES: usize = 256;

/// Why the pods that were attached are not known.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("{}: {source}: the agent keeps there which pods are attached; its directory has to be writable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is of a newer agent.
    #[error(
        "{} is of version {seen}, and this agent knows {LEDGER_VERSION}: install the agent that wrote it, or end all pods of this node and remove the file",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version.
        seen: u32,
    },
    /// It is no ledger.
    #[error("{}: {reason}: end all pods of this node and remove the file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What every version says.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
    boot: Option<String>,
}

/// The ledger's file: the ledger as it once was, on a line, and each change since on another. So what a change costs does
/// not depend on how many pods there are.
pub(super) struct LedgerFile {
    path: PathBuf,
    /// This run of the machine.
    boot: String,
    /// The file as this process left it; none if it has to be written as a whole.
    left: Option<Left>,
}

/// What tells whether somebody else wrote to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    inode: u64,
    bytes: u64,
    changes: usize,
}

impl LedgerFile {
    /// The file of a run directory, and what was kept there in this run of the machine; nothing of another run is there
    /// any longer. It is left as it is.
    pub(super) fn open(run_dir: &Path, boot: &str) -> Result<(Self, Ledger), LedgerError> {
        let mut file = Self { path: run_dir.join(FILE), boot: boot.to_owned(), left: None };
        let bytes = match std::fs::read(&file.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, Ledger::default())),
            bytes => bytes.map_err(|source| file.failed(source))?,
        };
        let unreadable =
            |error: serde_json::Error| LedgerError::Unreadable { path: file.path.clone(), reason: error.to_string() };
        // Who died while writing a line has not acted by it.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(bytes.as_slice(), |end| &bytes[..end]);
        let mut lines = whole.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let Versioned { version, boot: written_in } = serde_json::from_slice(first).map_err(unreadable)?;
        if written_in.is_some_and(|run| run != boot) {
            return Ok((file, Ledger::default()));
        }
        if version > LEDGER_VERSION {
            return Err(LedgerError::Version { path: file.path, seen: version });
        }
        let mut ledger = Ledger::read(serde_json::from_slice(first).map_err(unreadable)?);
        let mut changes = 0;
        for line in lines {
            ledger.apply(serde_json::from_slice(line).map_err(unreadable)?);
            changes += 1;
        }
        if whole.len() + 1 == bytes.len() {
            let inode = std::fs::metadata(&file.path).map_err(|source| file.failed(source))?.ino();
            file.left = Some(Left { inode, bytes: bytes.len() as u64, changes });
        }
        Ok((file, ledger))
    }

    /// Writes down a change of what the ledger is now, so that it outlives this process. It need not outlive this run of
    /// the machine, so nothing waits for a disk.
    pub(super) fn append(&mut self, change: &Change, ledger: &Ledger) -> Result<(), LedgerError> {
        let line = self.line(change)?;
        let appended = match self.left {
            Some(left) => self.write_line(left, &line).map_err(|source| self.failed(source))?,
            None => None,
        };
        self.left = appended;
        if self.left.is_none() {
            self.left = Some(self.replace(ledger, &line)?);
        }
        Ok(())
    }

    /// None if somebody else wrote to the file, or took it away. A line that cannot be written is taken back.
    fn write_line(&mut self, left: Left, line: &[u8]) -> io::Result<Option<Left>> {
        let mut file = match OpenOptions::new().append(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let seen = file.metadata()?;
        if (seen.ino(), seen.len()) != (left.inode, left.bytes) {
            return Ok(None);
        }
        if let Err(error) = file.write_all(line) {
            // A part of it may be there.
            self.left = file.set_len(left.bytes).ok().and(Some(left));
            return Err(error);
        }
        Ok(Some(Left { bytes: left.bytes + line.len() as u64, changes: left.changes + 1, ..left }))
    }

    /// Writes it as a whole where it has grown long. Who dies meanwhile leaves the old one.
    pub(super) fn shorten(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let most = CHANGES.max(ledger.pods().count());
        if self.left.is_some_and(|left| left.changes > most) {
            self.left = Some(self.replace(ledger, b"")?);
        }
        Ok(())
    }

    /// It is on the disk before it has the file's name: the next run of the machine has to read of which run it is.
    fn replace(&self, ledger: &Ledger, more: &[u8]) -> Result<Left, LedgerError> {
        let new = self.path.with_extension("json.new");
        let mut text = self.line(&ledger.written(&self.boot))?;
        text.extend_from_slice(more);
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            file.metadata()
        };
        let written = write().map_err(|source| {
            // What is left of it would take the room that the next attempt needs.
            let _ = std::fs::remove_file(&new);
            self.failed(source)
        })?;
        Ok(Left { inode: written.ino(), bytes: text.len() as u64, changes: usize::from(!more.is_empty()) })
    }

    fn line(&self, what: &impl Serialize) -> Result<Vec<u8>, LedgerError> {
        let mut line = serde_json::to_vec(what).map_err(|error| self.failed(error.into()))?;
        line.push(b'\n');
        Ok(line)
    }

    fn failed(&self, source: io::Error) -> LedgerError {
        LedgerError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use weft_api::PodInterface;
    use weft_encap::{MacAddr, Vni};

    use super::*;
    use crate::pods::ledger::{Address, Identity, Pod};

    fn pod(number: u8) -> Pod {
        Pod {
            id: PodInterface { network: "net".into(), container: format!("c{number}"), interface: "eth0".into() },
            namespace: Identity { path: "/run/netns/a".into(), visible: true, cookie: Some(1), inode: 1 },
            port: format!("c{number}.eth0"),
            vni: Vni::new(7).unwrap(),
            mac: MacAddr::from_u64(number.into()),
            mtu: None,
            addresses: vec![Address { address: format!("10.0.0.{number}/24").parse().unwrap(), gateway: None }],
            delegated: false,
            ended: false,
            routes: Vec::new(),
        }
    }

    /// Does both, as the agent does.
    fn change(file: &mut LedgerFile, ledger: &mut Ledger, change: Change) {
        file.append(&change, ledger).unwrap();
        ledger.apply(change);
    }

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weft-ledger-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn kept(&self) -> Ledger {
            LedgerFile::open(&self.0, "this").unwrap().1
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_ledger_is_of_its_run_of_the_machine_and_of_no_newer_agent() {
        let directory = Directory::new("run");
        let (mut file, mut ledger) = LedgerFile::open(&directory.0, "this").unwrap();
        assert_eq!(ledger, Ledger::default());
        change(&mut file, &mut ledger, Change::Attached(pod(7)));
        assert_eq!(directory.kept(), ledger);
        assert_eq!(LedgerFile::open(&directory.0, "another").unwrap().1, Ledger::default());
        let path = directory.0.join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Who dies while writing leaves what was there.
        std::fs::write(directory.0.join("pods.json.new"), "{").unwrap();
        assert_eq!(directory.kept(), ledger);
        for (text, words) in [
            (r#"{"version": 99, "new": true}"#, ["version 99", "install the agent that wrote it"]),
            (r#"{"version": 99, "boot": "this"}"#, ["version 99", "install the agent that wrote it"]),
            ("{", ["pods.json", "remove the file"]),
            (r#"{"version": 1}"#, ["missing field", "end all pods"]),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = LedgerFile::open(&directory.0, "this").err().unwrap().to_string();
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
        }
        // What another run of the machine had is gone, whoever wrote it down.
        std::fs::write(&path, r#"{"version": 99, "boot": "another", "new": true}"#).unwrap();
        assert_eq!(directory.kept(), Ledger::default());
    }

    #[test]
    fn a_change_costs_one_line_and_a_long_file_is_written_anew() {
        let directory = Directory::new("line");
        let (mut file, mut ledger) = LedgerFile::open(&directory.0, "this").unwrap();
        let lines = || std::fs::read_to_string(directory.0.join(FILE)).unwrap().lines().count();
        for number in 0..200 {
            change(&mut file, &mut ledger, Change::Attached(pod(number)));
            assert_eq!(lines(), usize::from(number) + 2);
        }
        for round in 0..CHANGES {
            change(&mut file, &mut ledger, Change::Detached(pod(7).id));
            change(&mut file, &mut ledger, Change::Attached(pod(7)));
            file.shorten(&ledger).unwrap();
            assert!(lines() <= CHANGES + 2, "{round}");
        }
        assert_eq!(directory.kept(), ledger);
    }

    #[test]
    fn a_line_that_was_not_finished_does_not_count_and_is_not_written_to() {
        let directory = Directory::new("torn");
        let (mut file, mut ledger) = LedgerFile::open(&directory.0, "this").unwrap();
        change(&mut file, &mut ledger, Change::Attached(pod(7)));
        let path = directory.0.join(FILE);
        let whole = std::fs::read(&path).unwrap();
        change(&mut file, &mut ledger, Change::Attached(pod(8)));
        let longer = std::fs::read(&path).unwrap();
        for end in whole.len()..longer.len() {
            std::fs::write(&path, &longer[..end]).unwrap();
            let (mut file, mut ledger) = LedgerFile::open(&directory.0, "this").unwrap();
            assert_eq!(ledger.pods().count(), 1);
            change(&mut file, &mut ledger, Change::Attached(pod(9)));
            assert_eq!(directory.kept(), ledger);
        }
    }

    /// Does so in a process of its own, in which a file that would grow longer than allowed is an error and not the end.
    fn where_files_are_bounded(name: &str, inside: impl FnOnce()) {
        const INSIDE: &str = "WEFT_TEST_FILES_ARE_BOUNDED";
        if std::env::var_os(INSIDE).is_some() {
            return inside();
        }
        let mut again = std::process::Command::new("sh");
        again.args(["-c", r#"trap '' XFSZ; exec "$@""#, "sh"]).arg(std::env::current_exe().unwrap());
        let output = again.args(["--exact", name]).env(INSIDE, "yes").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }

    #[test]
    fn a_line_that_the_disk_has_no_room_for_is_taken_back() {
        where_files_are_bounded("pods::file::tests::a_line_that_the_disk_has_no_room_for_is_taken_back", || {
            let directory = Directory::new("room");
            let (mut file, mut ledger) = LedgerFile::open(&directory.0, "this").unwrap();
            change(&mut file, &mut ledger, Change::Attached(pod(7)));
            let path = directory.0.join(FILE);
            let (whole, inode) = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().ino());
            let unbounded = getrlimit(Resource::Fsize);
            let bytes = Some(whole.len() as u64 + 10);
            setrlimit(Resource::Fsize, Rlimit { current: bytes, ..unbounded }).unwrap();
            for _ in 0..2 {
                let refused = file.append(&Change::Attached(pod(8)), &ledger).unwrap_err().to_string();
                assert!(refused.contains("File too large"), "{refused}");
                assert_eq!(std::fs::read(&path).unwrap(), whole);
            }
            setrlimit(Resource::Fsize, unbounded).unwrap();
            change(&mut file, &mut ledger, Change::Attached(pod(9)));
            assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode, "written as a whole");
            assert_eq!(directory.kept(), ledger);
        });
    }

    #[test]
    fn nothing_is_left_of_a_file_that_could_not_be_put_in_place() {
        let directory = Directory::new("place");
        let (mut file, ledger) = LedgerFile::open(&directory.0, "this").unwrap();
        std::fs::create_dir(directory.0.join(FILE)).unwrap();
        file.append(&Change::Attached(pod(7)), &ledger).unwrap_err();
        let names = std::fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [FILE]);
    }

    #[test]
    fn what_another_agent_wrote_meanwhile_is_replaced() {
        let directory = Directory::new("other");
        let (mut file, mut ledger) = LedgerFile::open(&directory.0, "this").unwrap();
        change(&mut file, &mut ledger, Change::Attached(pod(7)));
        let (mut others, mut theirs) = LedgerFile::open(&directory.0, "this").unwrap();
        change(&mut others, &mut theirs, Change::Detached(pod(7).id));
        change(&mut file, &mut ledger, Change::Attached(pod(8)));
        assert_eq!(directory.kept(), ledger);
        std::fs::remove_file(directory.0.join(FILE)).unwrap();
        change(&mut file, &mut ledger, Change::Attached(pod(9)));
        assert_eq!(directory.kept().pods().count(), 3);
    }
}
