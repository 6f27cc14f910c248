use weft_bridge::PortId;

use crate::answers::AnswerBudget;

/// The devices of one worker, by the places of their ids.
pub(crate) struct Ports<P> {
    devices: Vec<Option<Served<P>>>,
}

struct Served<P> {
    id: PortId,
    device: P,
    budget: AnswerBudget,
}

impl<P> Ports<P> {
    pub(crate) fn new() -> Self {
        Self { devices: Vec::new() }
    }

    pub(crate) fn insert(&mut self, id: PortId, device: P) {
        if self.devices.len() <= id.index() {
            self.devices.resize_with(id.index() + 1, || None);
        }
        self.devices[id.index()] = Some(Served { id, device, budget: AnswerBudget::new() });
    }

    pub(crate) fn remove(&mut self, id: PortId) -> Option<P> {
        let place = self.devices.get_mut(id.index())?;
        place.take_if(|served| served.id == id).map(|served| served.device)
    }

    pub(crate) fn get_mut(&mut self, id: PortId) -> Option<&mut P> {
        self.get_mut_with_budget(id).map(|(device, _)| device)
    }

    pub(crate) fn get_mut_with_budget(&mut self, id: PortId) -> Option<(&mut P, &mut AnswerBudget)> {
        let served = self.devices.get_mut(id.index())?.as_mut().filter(|served| served.id == id)?;
        Some((&mut served.device, &mut served.budget))
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
