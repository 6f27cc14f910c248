//! Whether a node takes part in the cluster while another has its name.

use std::time::{Duration, Instant};

/// For how long a node that had its name goes on as it was when another has it. That may be its own predecessor, which a
/// backup of the store brought back: then it has the name as long as one lease of 10 s, and a little until that is noticed.
pub const NAME_GRACE: Duration = Duration::from_secs(15);

/// How a node stands to its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    has_joined: bool,
    refused_since: Option<Instant>,
}

impl Part {
    /// Of a node that has published all that it has, or not.
    #[must_use]
    pub fn new(has_joined: bool) -> Self {
        Self { has_joined, refused_since: None }
    }

    /// It has published all that it has.
    pub fn join(&mut self) {
        *self = Self::new(true);
    }

    /// Its name is free, or its own.
    pub fn claim(&mut self) {
        self.refused_since = None;
    }

    /// Another has its name.
    pub fn refuse(&mut self, now: Instant) {
        self.refused_since.get_or_insert(now);
    }

    /// Whether it is nobody to the others: another has its name, and it never had it, or not for [`NAME_GRACE`].
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        let is_young = |since| self.has_joined && now.saturating_duration_since(since) < NAME_GRACE;
        self.refused_since.is_some_and(|since| !is_young(since))
    }
}
