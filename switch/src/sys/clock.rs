//! What the kernel says of its clock of the day (adjtimex(2)).

use std::io;

/// The clock is not disciplined by anybody (include/uapi/linux/timex.h).
const STA_UNSYNC: libc::c_int = 0x0040;
/// Offsets are in nanoseconds, and not in microseconds (include/uapi/linux/timex.h).
const STA_NANO: libc::c_int = 0x2000;

/// How it stands with the clock of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// Whether a time service keeps it.
    pub synchronised: bool,
    /// By how much it is to be moved yet, in microseconds: half a second at most (`MAXPHASE`, include/linux/timex.h).
    pub offset_us: i64,
}

/// Asks the kernel, which needs no rights.
///
/// # Errors
/// The kernel's: EPERM where a filter forbids the call.
pub fn clock_state() -> io::Result<ClockState> {
    // SAFETY: all bytes zero is a valid timex, and one that asks for no change.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one timex to where the pointer says, which lives as long as the call.
    let result = unsafe { libc::adjtimex(&raw mut timex) };
    super::check(result.into())?;
    let offset_us = if timex.status & STA_NANO == 0 { timex.offset } else { timex.offset / 1000 };
    Ok(ClockState { synchronised: timex.status & STA_UNSYNC == 0, offset_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let state = clock_state().unwrap();
        assert!(state.offset_us.abs() <= 500_000, "{state:?}");
    }
}
