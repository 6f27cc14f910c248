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
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: not within {} s; {seen}", BOUND.as_secs()),
        }
        std::thread::sleep(PAUSE);
    }
}
