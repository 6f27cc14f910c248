//! Keeps processors awake.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, available_parallelism};

use crate::BenchError;

/// A process at idle priority (SCHED_IDLE, sched(7)) that uses what nobody else wants of every processor, so that
/// none goes to sleep and has to be woken.
#[derive(Debug)]
pub(crate) struct Spinner(Child);

impl Spinner {
    /// `weft` is the program that spins.
    pub(crate) fn start(weft: &Path) -> Result<Self, BenchError> {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(weft).args(["bench", "spin"]).stdin(Stdio::piped());
        let child = command.spawn();
        child.map(Self).map_err(|source| BenchError::Program { program: "chrt".to_owned(), source })
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // It has ended already where this fails; without its standard input it would end by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Uses every processor until standard input ends.
pub fn spin() {
    for _ in 0..available_parallelism().map_or(1, usize::from) {
        thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    // Whoever started this holds the other end.
    let _ = std::io::stdin().read(&mut [0; 1]);
}
