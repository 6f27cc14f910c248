use weft_bridge::{DropReason, Flood, FloodCause, PortId, Seconds};

use crate::budget::Budget;

/// The devices of one worker, by the places of their ids.
pub(crate) struct Ports<P> {
    devices: Vec<Option<Served<P>>>,
}

struct Served<P> {
    id: PortId,
    device: P,
    budgets: PortBudgets,
}

/// What one port may still cause in this second.
pub(crate) struct PortBudgets {
    /// Answers to packets that are too long.
    pub(crate) answers: Budget,
    /// Floods towards a target that nobody knows.
    pub(crate) unknown: Budget,
    /// Floods towards a group or all.
    pub(crate) group: Budget,
}

impl<P> Ports<P> {
    pub(crate) fn new() -> Self {
        Self { devices: Vec::new() }
    }

    pub(crate) fn insert(&mut self, id: PortId, device: P) {
        if self.devices.len() <= id.index() {
            self.devices.resize_with(id.index() + 1, || None);
        }
        let budgets = PortBudgets { answers: Budget::new(), unknown: Budget::new(), group: Budget::new() };
        self.devices[id.index()] = Some(Served { id, device, budgets });
    }

    pub(crate) fn remove(&mut self, id: PortId) -> Option<P> {
        let place = self.devices.get_mut(id.index())?;
        place.take_if(|served| served.id == id).map(|served| served.device)
    }

    pub(crate) fn get_mut(&mut self, id: PortId) -> Option<&mut P> {
        self.get_mut_with_budgets(id).map(|(device, _)| device)
    }

    pub(crate) fn get_mut_with_budgets(&mut self, id: PortId) -> Option<(&mut P, &mut PortBudgets)> {
        let served = self.devices.get_mut(id.index())?.as_mut().filter(|served| served.id == id)?;
        Some((&mut served.device, &mut served.budgets))
    }

    /// Counts one more flooded frame of a port.
    ///
    /// # Errors
    /// The reason to drop it, where there were too many in this second.
    pub(crate) fn may_flood(&mut self, id: PortId, flood: &Flood<'_>, now: Seconds) -> Result<(), DropReason> {
        let Some((_, budgets)) = self.get_mut_with_budgets(id) else { return Ok(()) };
        let budget = match flood.cause() {
            FloodCause::Unknown => &mut budgets.unknown,
            FloodCause::Group => &mut budgets.group,
        };
        let (limit, reason) = flood.cause().limit(flood.domain().flood_limits());
        if budget.take(limit, now) { Ok(()) } else { Err(reason) }
    }

    /// The device, and a number for it that is valid until it is removed.
    pub(crate) fn key(&self, id: PortId) -> Option<(u32, &P)> {
        let served = self.devices.get(id.index())?.as_ref().filter(|served| served.id == id)?;
        Some((u32::try_from(id.index()).ok()?, &served.device))
    }

    pub(crate) fn by_key(&mut self, key: u32) -> Option<(PortId, &mut P)> {
        self.devices.get_mut(key as usize)?.as_mut().map(|served| (served.id, &mut served.device))
    }
}
