use weft_bridge::PortId;

/// The devices of one worker, by the places of their ids.
pub(crate) struct Ports<P> {
    devices: Vec<Option<(PortId, P)>>,
}

impl<P> Ports<P> {
    pub(crate) fn new() -> Self {
        Self { devices: Vec::new() }
    }

    pub(crate) fn insert(&mut self, id: PortId, device: P) {
        if self.devices.len() <= id.index() {
            self.devices.resize_with(id.index() + 1, || None);
        }
        self.devices[id.index()] = Some((id, device));
    }

    pub(crate) fn remove(&mut self, id: PortId) -> Option<P> {
        let place = self.devices.get_mut(id.index())?;
        place.take_if(|(own, _)| *own == id).map(|(_, device)| device)
    }

    pub(crate) fn get(&self, id: PortId) -> Option<&P> {
        self.devices.get(id.index())?.as_ref().filter(|(own, _)| *own == id).map(|(_, device)| device)
    }

    pub(crate) fn get_mut(&mut self, id: PortId) -> Option<&mut P> {
        self.devices.get_mut(id.index())?.as_mut().filter(|(own, _)| *own == id).map(|(_, device)| device)
    }

    /// A number for the device, valid until it is removed.
    pub(crate) fn key(&self, id: PortId) -> Option<u32> {
        self.get(id)?;
        u32::try_from(id.index()).ok()
    }

    pub(crate) fn by_key(&mut self, key: u32) -> Option<(PortId, &mut P)> {
        self.devices.get_mut(key as usize)?.as_mut().map(|(id, device)| (*id, device))
    }
}
