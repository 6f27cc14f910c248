//! What the kernel says of this process' threads.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// How a thread spent its time since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// On a processor.
    pub(crate) ran: Duration,
    /// Ready to run while others had the processor.
    pub(crate) waited: Duration,
}

/// Of every thread that has a name of its own, by that; a kernel without CONFIG_SCHED_INFO names none.
pub(crate) fn times() -> HashMap<String, Times> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    threads.filter_map(|thread| of(&thread.path())).collect()
}

fn of(thread: &Path) -> Option<(String, Times)> {
    let name = std::fs::read_to_string(thread.join("comm")).ok()?;
    let times = parse(&std::fs::read_to_string(thread.join("schedstat")).ok()?)?;
    Some((name.trim_end().to_owned(), times))
}

/// Nanoseconds on a processor, nanoseconds of waiting, and turns (Documentation/scheduler/sched-stats.rst).
fn parse(schedstat: &str) -> Option<Times> {
    let mut words = schedstat.split_ascii_whitespace().map(|word| word.parse().map(Duration::from_nanos));
    let (ran, waited) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(Times { ran, waited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let times = Times { ran: Duration::from_nanos(1_500_000_000), waited: Duration::from_nanos(7) };
        assert_eq!(parse("1500000000 7 3\n"), Some(times));
        assert_eq!(parse("0\n"), None);
        assert_eq!(parse("some words here"), None);
    }

    #[test]
    fn a_thread_that_works_is_seen_working() {
        let ran = std::thread::Builder::new().name("works".to_owned()).spawn(|| {
            let mine = || times().get("works").map(|times| times.ran);
            let Some(before) = mine() else { return true };
            // The kernel counts when the thread leaves its processor, once a tick at the latest.
            (0..1_000_000).any(|_| mine() > Some(before))
        });
        assert!(ran.unwrap().join().unwrap());
    }
}
