//! The ledger's file in the run directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ledger::{LEDGER_VERSION, Ledger, Written};

/// Its name.
const FILE: &str = "pods.json";

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

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What was kept in this run of the machine; nothing of another run is there any longer.
pub(super) fn load(run_dir: &Path, boot: &str) -> Result<Ledger, LedgerError> {
    let path = run_dir.join(FILE);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        text => text.map_err(|source| LedgerError::Io { path: path.clone(), source })?,
    };
    let unreadable =
        |error: serde_json::Error| LedgerError::Unreadable { path: path.clone(), reason: error.to_string() };
    let Versioned { version } = serde_json::from_slice(&text).map_err(unreadable)?;
    if version > LEDGER_VERSION {
        return Err(LedgerError::Version { path, seen: version });
    }
    let written: Written = serde_json::from_slice(&text).map_err(unreadable)?;
    if written.boot == boot { Ok(Ledger::read(written)) } else { Ok(Ledger::default()) }
}

/// Replaces the file as a whole, and returns when the disk has it: who dies meanwhile leaves the old one.
pub(super) fn save(run_dir: &Path, boot: &str, ledger: &Ledger) -> Result<(), LedgerError> {
    let (new, path) = (run_dir.join(format!("{FILE}.new")), run_dir.join(FILE));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&ledger.written(boot))?)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(run_dir)?.sync_all()
    };
    write().map_err(|source| LedgerError::Io { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_ledger_is_of_its_run_of_the_machine_and_of_no_newer_agent() {
        let directory = std::env::temp_dir().join(format!("weft-ledger-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        assert_eq!(load(&directory, "this").unwrap(), Ledger::default());
        let mut ledger = Ledger::default();
        ledger.given_last.push("10.0.0.7".parse().unwrap());
        save(&directory, "this", &ledger).unwrap();
        assert_eq!(load(&directory, "this").unwrap(), ledger);
        assert_eq!(load(&directory, "another").unwrap(), Ledger::default());
        let path = directory.join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Who dies while writing leaves the one that was there.
        std::fs::write(directory.join("pods.json.new"), "{").unwrap();
        assert_eq!(load(&directory, "this").unwrap(), ledger);
        for (text, words) in [
            (r#"{"version": 99, "new": true}"#, ["version 99", "install the agent that wrote it"]),
            ("{", ["pods.json", "remove the file"]),
            (r#"{"version": 1}"#, ["missing field", "end all pods"]),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = load(&directory, "this").unwrap_err().to_string();
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
