use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::out::complain;

/// Exit code of a program that SIGINT ended, as shells count.
const INTERRUPTED: i32 = 130;

/// While it lives, Ctrl-C (and SIGTERM) cleans up before the program ends.
pub(crate) struct Guard {
    armed: Arc<AtomicBool>,
}

impl Guard {
    /// `clean_up` runs on a thread of its own, beside whatever is going on.
    pub(crate) fn arm(clean_up: impl FnOnce() + Send + 'static) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (interrupt, terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        };
        let (mut interrupt, mut terminate) =
            interrupt.and_then(|interrupt| Ok((interrupt, terminate?))).context("catching Ctrl-C")?;
        let armed = Arc::new(AtomicBool::new(true));
        let watched = armed.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            if watched.swap(false, Ordering::SeqCst) {
                complain!("interrupted: cleaning up");
                clean_up();
            }
            exit(INTERRUPTED);
        });
        Ok(Self { armed })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed.swap(false, Ordering::SeqCst) {
            // Interrupted: the program ends when the clean-up is done, and not before.
            loop {
                std::thread::park();
            }
        }
    }
}
