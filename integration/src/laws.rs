//! The two laws of counting: every frame gets one verdict, and every copy leaves or is dropped by name.

use crate::agent::AgentNode;
use crate::wait;

/// Stages at which [`weft_api::DropRow`]s happen.
const VERDICT: &str = "verdict";
const EGRESS: &str = "egress";

#[track_caller]
pub(crate) fn check(agent: &AgentNode) {
    wait::eventually("the counting laws hold", || {
        // Counters on both sides of all else: equal ones were taken at rest.
        let before = agent.counters();
        let (drops, ports, vteps) = (agent.drops(), agent.ports(), agent.vteps());
        let after = agent.counters();
        if before != after {
            return Err("the agent is not at rest".to_owned());
        }
        let count = |name: &str| before.forwarding[name];
        let dropped = |stage: &str| drops.iter().filter(|row| row.stage == stage).map(|row| row.count).sum::<u64>();
        let verdicts = count("unicast") + count("flood") + count("answered") + dropped(VERDICT);
        if count("frames_in") != verdicts {
            return Err(format!("{} frames in, {verdicts} verdicts: {before:?} {drops:?}", count("frames_in")));
        }
        let fates = count("sent") + dropped(EGRESS);
        if count("copies") != fates {
            return Err(format!("{} copies made, {fates} sent or dropped: {before:?} {drops:?}", count("copies")));
        }
        if count("copies") < count("unicast") {
            return Err(format!("fewer copies than unicast frames: {before:?}"));
        }
        // What was sent is what ports and VTEPs sent, and what came in is what they and the doorkeeper took in.
        let links = || ports.iter().map(|row| &row.link).chain(vteps.iter().map(|row| &row.link));
        let (sent, came) =
            (links().map(|link| link.tx_frames).sum::<u64>(), links().map(|link| link.rx_frames).sum::<u64>());
        if count("sent") != sent || came > count("frames_in") {
            return Err(format!("{sent} sent and {came} received by ports and VTEPs: {before:?} {ports:?} {vteps:?}"));
        }
        Ok(())
    });
}
