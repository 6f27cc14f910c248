//! What systemd is told, where it started the agent: readiness, a line about its state, and that the control loop turns.

use std::cell::RefCell;

use rustix::process::Pid;
use sd_notify::NotifyState;

/// Where systemd listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Whether anybody listens.
pub(crate) fn listens() -> bool {
    std::env::var_os(SOCKET).is_some()
}

/// Says that another process is the service from now on. To be said before this one ends: systemd goes by the order of
/// messages and ends.
pub(crate) fn succeeded_by(process: Pid) {
    let process = process.as_raw_nonzero().get().unsigned_abs();
    if let Err(error) = sd_notify::notify(&[NotifyState::MainPid(process)]) {
        tracing::warn!(%error, process, "the service ends for systemd, which cannot be told of its new process");
    }
}

/// Whoever started this process and wants to know how it is; nobody, as a rule.
#[derive(Default)]
pub(crate) struct Supervisor {
    told: RefCell<String>,
}

impl Supervisor {
    pub(crate) fn ready(&self) {
        say(&[NotifyState::Ready]);
    }

    pub(crate) fn stopping(&self) {
        say(&[NotifyState::Stopping]);
    }

    /// Called at every turn of housekeeping: says the state where it is another, and feeds the watchdog.
    pub(crate) fn tell(&self, state: &str) {
        if self.told.borrow().as_str() != state {
            say(&[NotifyState::Status(state)]);
            state.clone_into(&mut self.told.borrow_mut());
        }
        // systemd tells of its watchdog only to the process that it started as the service.
        say(&[NotifyState::Watchdog]);
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
