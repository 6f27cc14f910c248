//! Interfaces that were to be detached while no agent ran: a directory of files that the agent settles when it starts.
//!
//! A file is written whole under another name and renamed, so that nobody reads half of one. Writing the same one twice
//! is as good as once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::PodInterface;

/// Name of the directory in the agent's run directory.
pub const SPOOL_DIR: &str = "spool";
/// How the names of finished files end.
const FINISHED: &str = ".json";
/// Bytes of one file at most: names of interfaces, containers and networks are shorter than that.
const MAX_BYTES: u64 = 64 * 1024;

/// Notes that an interface is to be detached, and waits until the disk has it.
///
/// # Errors
/// The kernel's.
pub fn put(run_dir: &Path, pod: &PodInterface) -> io::Result<PathBuf> {
    let directory = run_dir.join(SPOOL_DIR);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let name = format!("{:016x}", hash(pod));
    let (new, place) = (directory.join(format!("{name}.{}.new", std::process::id())), directory.join(name + FINISHED));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(pod)?)?;
    file.sync_all()?;
    fs::rename(&new, &place)?;
    File::open(&directory)?.sync_all()?;
    Ok(place)
}

/// What is noted, with the file of each; files that cannot be read as such come with the reason.
///
/// # Errors
/// The kernel's; a directory that is not there has nothing in it.
pub fn list(run_dir: &Path) -> io::Result<Vec<(PathBuf, io::Result<PodInterface>)>> {
    let entries = match fs::read_dir(run_dir.join(SPOOL_DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == &FINISHED[1..]) {
            let pod = read(&path);
            found.push((path, pod));
        }
    }
    Ok(found)
}

/// Forgets one; one that is gone is fine.
///
/// # Errors
/// The kernel's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<PodInterface> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other(format!("it is longer than {MAX_BYTES} bytes")));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// FNV-1a over the three names, each closed by a zero, which no name has.
fn hash(pod: &PodInterface) -> u64 {
    let names = [&pod.network, &pod.container, &pod.interface];
    let bytes = names.into_iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_listed_once_and_what_is_half_written_is_not() {
        let directory = std::env::temp_dir().join(format!("weft-spool-{}", std::process::id()));
        let pod = |container: &str| PodInterface {
            network: "weft".to_owned(),
            container: container.to_owned(),
            interface: "eth0".to_owned(),
        };
        assert!(list(&directory).unwrap().is_empty());
        let first = put(&directory, &pod("a")).unwrap();
        assert_eq!(put(&directory, &pod("a")).unwrap(), first);
        put(&directory, &pod("b")).unwrap();
        fs::write(directory.join(SPOOL_DIR).join("x.1.new"), "{").unwrap();
        fs::write(directory.join(SPOOL_DIR).join("y.json"), "{").unwrap();
        let mut found = list(&directory).unwrap();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut pods: Vec<_> = found.iter().filter_map(|(_, pod)| pod.as_ref().ok()).cloned().collect();
        pods.sort();
        assert_eq!(pods, [pod("a"), pod("b")]);
        assert_eq!(found.len(), 3, "what cannot be read is told");
        remove(&first).unwrap();
        remove(&first).unwrap();
        assert_eq!(list(&directory).unwrap().len(), 2);
        fs::remove_dir_all(directory).unwrap();
    }
}
