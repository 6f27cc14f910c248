//! The checks: facts in, findings out.

mod devices;
mod drops;
mod firewall;
mod peers;
mod underlay;

use std::borrow::Cow;

use super::facts::{AgentFacts, Facts};
use super::{Finding, Severity};

/// One check.
type Check = fn(&Facts) -> Vec<Finding>;

/// All of them.
pub(super) const ALL: [Check; 21] = [
    devices::agent,
    devices::kernel,
    devices::clock,
    devices::ports,
    devices::pod_devices,
    devices::stale,
    devices::network_manager,
    underlay::addresses,
    underlay::offloads,
    underlay::mtu,
    firewall::firewall,
    underlay::forwarding,
    underlay::port_conflicts,
    peers::paths,
    peers::duplicates,
    peers::store,
    peers::families,
    peers::counters,
    drops::recent,
    drops::reflected,
    drops::full,
];

fn finding(severity: Severity, name: &'static str, [what, why, fix]: [String; 3]) -> Finding {
    Finding { severity, name, what, why, fix, command: None }
}

fn error(name: &'static str, texts: [String; 3]) -> Finding {
    finding(Severity::Error, name, texts)
}

fn warning(name: &'static str, texts: [String; 3]) -> Finding {
    finding(Severity::Warning, name, texts)
}

fn note(name: &'static str, texts: [String; 3]) -> Finding {
    finding(Severity::Note, name, texts)
}

/// A name as a shell takes it for one word: pods name their devices as they like.
fn quoted(name: &str) -> Cow<'_, str> {
    // Only a NUL cannot be quoted, which no name of the kernel's has.
    shlex::try_quote(name).unwrap_or_default()
}

/// Those of a running agent; nothing without one.
fn of_agent(facts: &Facts, check: impl FnOnce(&AgentFacts) -> Vec<Finding>) -> Vec<Finding> {
    facts.agent.as_ref().map_or_else(Vec::new, check)
}

#[cfg(test)]
mod tests;
