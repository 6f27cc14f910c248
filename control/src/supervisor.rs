//! What systemd is told, where it started the agent: readiness, a line about its state, and that the control loop turns.

use std::cell::RefCell;

use sd_notify::NotifyState;

/// Whoever started this process and wants to know how it is; nobody, as a rule.
pub(crate) struct Supervisor {
    wants_watchdog: bool,
    told: RefCell<String>,
}

impl Supervisor {
    pub(crate) fn new() -> Self {
        Self { wants_watchdog: sd_notify::watchdog_enabled().is_some(), told: RefCell::default() }
    }

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
        if self.wants_watchdog {
            say(&[NotifyState::Watchdog]);
        }
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
