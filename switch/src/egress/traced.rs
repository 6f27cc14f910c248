//! Copies whose fate is told: see [`crate::trace`].

use weft_bridge::{Attachment, DropReason, Tables};

use super::{Copy, Egress, Left};
use crate::port::Port;
use crate::trace::Way;
use crate::underlay::{LANES, Underlay};

impl<P: Port, U: Underlay> Egress<P, U> {
    /// What [`Self::queue_copy`] does, told.
    pub(super) fn queue_traced(
        &mut self,
        tables: &Tables,
        egress: Attachment,
        copy: &mut Copy,
        arena: &mut [u8],
    ) -> Result<Left, DropReason> {
        let way = match (egress, copy.ingress) {
            (Attachment::Vtep(_), _) => Way::Lane(copy.flow.index(LANES)),
            (Attachment::Port(id), Attachment::Vtep(_)) => Way::Merger(copy.range.clone(), id),
            (Attachment::Port(_), Attachment::Port(_)) => Way::Port,
        };
        if let Some(tracer) = &mut self.tracer {
            tracer.begins(tables, egress, &way);
        }
        let outcome = self.queue_copy(tables, egress, copy, arena);
        if let Some(tracer) = &mut self.tracer {
            tracer.queued(way, outcome.map(|left| left == Left::Waiting));
        }
        outcome
    }
}
