//! Scripts: what happens to a lab, one step after the other, and what is expected meanwhile.

mod parse;
mod run;

use std::path::Path;
use std::time::Duration;

pub use run::{ScriptReport, StepReport};

use crate::link::LinkChange;
use crate::{LabFileError, LabSpec, NodeEvent};

/// Steps of a script at most.
pub const STEPS_MAX: usize = 1000;
/// The longest time that a step may name.
pub const TIME_MAX: Duration = Duration::from_secs(600);

/// A script, checked against the lab it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Script {
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// Its line in the script, from 1.
    pub line: usize,
    /// As it is written.
    pub text: String,
    /// Not before this time since the beginning.
    pub at: Option<Duration>,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Changes links.
    Link {
        /// Their names.
        links: Vec<String>,
        /// How.
        change: LinkChange,
    },
    /// Lets something happen to a node.
    Node {
        /// The node.
        node: String,
        /// What.
        event: NodeEvent,
    },
    /// Lets time pass.
    Wait(Duration),
    /// Expects something between two pods or nodes.
    Expect {
        /// Who sends.
        from: String,
        /// Who answers.
        to: String,
        /// What.
        expectation: Expectation,
    },
}

/// What is expected. What holds *during* a time is looked at beside the steps that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expectation {
    /// A ping is answered at last.
    PingWithin(Duration),
    /// No ping is answered.
    NoPingDuring(Duration),
    /// Every ping is answered.
    NoLossDuring(Duration),
    /// A TCP connection carries every byte, at last.
    TcpWithin(Duration),
}

impl Script {
    /// Reads a script for a lab.
    ///
    /// # Errors
    /// [`LabFileError`] with every problem found and where it stands.
    pub fn read(path: &Path, spec: &LabSpec) -> Result<Self, LabFileError> {
        let text = crate::problem::read(path)?;
        Self::parse(&text, &path.display().to_string(), spec)
    }

    /// Parses the text of a script; `file` is its name in error messages.
    ///
    /// # Errors
    /// [`LabFileError`] with every problem found and where it stands.
    pub fn parse(text: &str, file: &str, spec: &LabSpec) -> Result<Self, LabFileError> {
        parse::parse(text, file, spec)
    }
}

impl Action {
    /// Whether the steps that follow go on meanwhile.
    #[must_use]
    pub const fn is_beside(&self) -> bool {
        matches!(self, Self::Expect { expectation: Expectation::NoPingDuring(_) | Expectation::NoLossDuring(_), .. })
    }
}
