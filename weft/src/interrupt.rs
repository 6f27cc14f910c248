use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
        let (runtime, mut interrupt, mut terminate) = signals()?;
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

/// Lets Ctrl-C (and SIGTERM) be told once instead of ending the program; a second one ends it.
pub(crate) fn on_interrupt(tell: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let (runtime, mut interrupt, mut terminate) = signals()?;
    std::thread::spawn(move || {
        let mut wait = || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
        };
        wait();
        tell();
        wait();
        exit(INTERRUPTED);
    });
    Ok(())
}

/// Catches both signals.
fn signals() -> anyhow::Result<(Runtime, Signal, Signal)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let caught = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    };
    let (interrupt, terminate) =
        caught.0.and_then(|interrupt| Ok((interrupt, caught.1?))).context("catching Ctrl-C")?;
    Ok((runtime, interrupt, terminate))
}
