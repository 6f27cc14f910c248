//! What tells a node from another of the same name: a number that it makes once and keeps in its run directory.

use std::io::{self, Write};
use std::path::Path;

/// Its name in the run directory.
const FILE: &str = "instance";
/// Of the number.
const BYTES: usize = 16;

/// The node's own, made if it is not there. The run directory's lock is held.
pub(crate) fn instance(run_dir: &Path) -> io::Result<String> {
    let path = run_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.len() == 2 * BYTES => return Ok(text),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // One that was not written to its end is none.
        Ok(_) | Err(_) => {}
    }
    let mut bytes = [0; BYTES];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::File::create(&path)?.write_all(text.as_bytes())?;
    Ok(text)
}
