use std::time::{Duration, Instant};

/// How long a condition may take to come true.
pub const BOUND: Duration = Duration::from_secs(20);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `look` gives `Ok`; what it saw last is the reason of the failure.
///
/// # Panics
/// If that does not happen within [`BOUND`].
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(BOUND, look).unwrap_or_else(|seen| panic!("{what}: not within {} s; {seen}", BOUND.as_secs()))
}

/// Waits so long at most until `look` gives `Ok`.
///
/// # Errors
/// What it saw last.
pub fn within<T>(bound: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + bound;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= deadline => return Err(seen),
            Err(_) => {}
        }
        std::thread::sleep(PAUSE);
    }
}
