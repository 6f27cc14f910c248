//! Frames that are dropped of late, and what is full.

use weft_bridge::DropReason;

use super::{error, of_agent, warning};
use crate::doctor::Finding;
use crate::doctor::facts::Facts;
use crate::recent::SETTLED;

/// From how many on drops of late are told of: single ones come with every change.
const MANY: u64 = 10;
/// What belongs to forwarding, or is told of by what causes it.
const TOLD_ELSEWHERE: [DropReason; 8] = [
    DropReason::OwnSource,
    DropReason::IngressGone,
    DropReason::ReservedMulticast,
    DropReason::NoFloodTarget,
    DropReason::ExceedsPortMtu,
    DropReason::ExceedsPathMtu,
    DropReason::PortDown,
    DropReason::UnderlayBusy,
];

/// Each has the name of its reason.
pub(super) fn recent(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        // A start brings drops: frames of nodes that are not known yet.
        if agent.status.uptime_seconds < SETTLED.as_secs() {
            return Vec::new();
        }
        let reasons = DropReason::ALL.iter().filter(|reason| !TOLD_ELSEWHERE.contains(reason));
        let found = reasons.filter_map(|reason| {
            let row = agent.drops.iter().find(|row| row.reason == reason.name() && row.recent >= MANY)?;
            let what = if row.stage == "verdict" { "frames" } else { "copies of frames" };
            Some(warning(
                reason.name(),
                [
                    format!("{} {what} were dropped as {} within the last 10 s", row.recent, row.reason),
                    row.meaning.clone(),
                    format!("{}; which ones: weft trace --live --drops", row.hint),
                ],
            ))
        });
        found.collect()
    })
}

pub(super) fn reflected(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let own = agent.drops.iter().find(|row| row.reason == DropReason::OwnSource.name() && row.recent > 0);
        let found = own.map(|row| {
            error(
                "own_address_elsewhere",
                [
                    format!(
                        "{} tunnel packets came from this node's own VTEP address within the last 10 s",
                        row.recent
                    ),
                    "another machine has the address too, or the underlay reflects packets".to_owned(),
                    format!("arping -D {} on the underlay finds who", agent.status.underlay.addresses.join(" ")),
                ],
            )
        });
        found.into_iter().collect()
    })
}

pub(super) fn full(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let (entries, capacity) = (agent.status.fdb_entries, agent.status.fdb_capacity);
        let is_full = u64::from(entries) * 10 >= u64::from(capacity) * 9 && capacity > 0;
        let table = is_full.then(|| {
            warning(
                "fdb_full",
                [
                    format!("{entries} of {capacity} MACs are learned"),
                    "what is for MACs that find no room is flooded".to_owned(),
                    "weft show fdb tells behind what they are; `fdb.capacity` says how many there may be".to_owned(),
                ],
            )
        });
        let ports = agent.ports.iter().filter(|row| row.learn_limit.is_some_and(|limit| row.learned >= limit));
        let ports = ports.map(|row| {
            warning(
                "learn_limit",
                [
                    format!("{} MACs are learned behind port `{}`, which are all that may be", row.learned, row.name),
                    "what is for further ones is flooded".to_owned(),
                    "find out who sends from so many, or raise the port's `learn_limit`".to_owned(),
                ],
            )
        });
        table.into_iter().chain(ports).collect()
    })
}
