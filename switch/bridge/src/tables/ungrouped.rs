//! VTEPs to which no groups of tunnel packets get.

use super::Tables;
use crate::VtepId;

impl Tables {
    /// From now on each tunnel packet to a VTEP leaves by itself: no groups, no superframes.
    pub fn set_ungrouped(&mut self, id: VtepId) {
        if self.vtep(id).is_some() && !self.is_ungrouped(id) {
            self.ungrouped.push(id);
        }
    }

    /// Whether each tunnel packet to a VTEP has to leave by itself.
    #[must_use]
    #[inline]
    pub fn is_ungrouped(&self, id: VtepId) -> bool {
        self.ungrouped.contains(&id)
    }
}
