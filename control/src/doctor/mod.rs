//! `weft doctor`: what is wrong on a node, why, and the command that fixes it.
//!
//! [`gather`](gather::gather) is the one place that looks: at the agent, the kernel, the firewall, sockets, devices and
//! namespaces. The checks are functions of the [`Facts`] it brings, and do nothing but judge.

mod checks;
pub mod facts;
pub mod firewall;
pub mod gather;
pub mod proc;

use serde::Serialize;

pub use crate::recent::SETTLED;
pub use facts::Facts;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Frames are lost, or will be.
    Error,
    /// Something is worse than it could be, or will break.
    Warning,
    /// Good to know; nothing to do.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of what was found, for programs: it stays.
    pub name: &'static str,
    /// What was seen.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The command, or the change, that fixes it.
    pub fix: String,
    /// The command alone, where there is one that can be run on the node as it stands.
    pub command: Option<String>,
}

impl Finding {
    /// What fixes it is a command, as it stands.
    fn by_command(mut self) -> Self {
        self.command = Some(self.fix.clone());
        self
    }

    /// Something else fixes it as well.
    fn or(mut self, other: &str) -> Self {
        self.fix = format!("{}, or {other}", self.fix);
        self
    }
}

/// A part of the node that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// Which part.
    pub part: &'static str,
    /// Why not.
    pub reason: String,
}

/// What came of it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the node, where that is known.
    pub node: Option<String>,
    /// Whether an agent answered.
    pub agent_answers: bool,
    /// What was found, worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

impl Report {
    /// Findings that ask for something to be done.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity < Severity::Note)
    }
}

/// Judges what was gathered.
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    let mut findings: Vec<Finding> = checks::ALL.iter().flat_map(|check| check(facts)).collect();
    findings.sort();
    Report {
        node: facts.node().map(str::to_owned),
        agent_answers: facts.agent.is_some(),
        findings,
        unseen: facts.unseen.clone(),
    }
}
