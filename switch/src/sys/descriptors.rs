//! What this process hands to those that it starts (close_range(2)).

use std::io;

use super::check;

/// The first descriptor after standard input, output and error.
const FIRST: libc::c_uint = 3;

/// Keeps every descriptor that is open now from the processes that this one starts, but for standard input, output and
/// error.
///
/// # Errors
/// The kernel's: ENOSYS or EINVAL before Linux 5.11.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    let flags = libc::c_long::from(libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: with this flag the call closes nothing; it marks descriptors, whoever owns them.
    check(unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) })?;
    Ok(())
}
