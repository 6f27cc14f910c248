//! Which group of a flow is open.

use super::candidate::Key;

/// No group.
pub(super) const NONE: u32 = u32::MAX;

/// A hash table with room for twice as many flows as there can be frames, so that none is ever displaced.
#[derive(Debug)]
pub(super) struct Flows {
    slots: Vec<Slot>,
    /// Slots of another epoch are empty: clearing costs nothing.
    epoch: u32,
    /// How many flows have an open group.
    open: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    epoch: u32,
    flow: u32,
    hosts: u32,
    group: u32,
}

const EMPTY: Slot = Slot { epoch: 0, flow: 0, hosts: 0, group: NONE };

impl Flows {
    pub(super) fn for_frames(frames: usize) -> Self {
        Self { slots: vec![EMPTY; (frames * 2).next_power_of_two()], epoch: 1, open: 0 }
    }

    #[inline]
    pub(super) fn find(&mut self, Key { flow, .. }: Key) -> u32 {
        let epoch = self.epoch;
        self.slot(flow).filter(|slot| slot.epoch == epoch).map_or(NONE, |slot| slot.group)
    }

    #[inline]
    pub(super) fn set(&mut self, key: Key, group: u32) {
        let Key { flow, hosts } = key;
        let (epoch, was) = (self.epoch, self.find(key));
        self.open += usize::from(group != NONE);
        self.open -= usize::from(was != NONE);
        if let Some(slot) = self.slot(flow) {
            *slot = Slot { epoch, flow, hosts, group };
        }
    }

    pub(super) fn close(&mut self, key: Key) {
        let (epoch, was) = (self.epoch, self.find(key));
        if let Some(slot) = self.slot(key.flow).filter(|slot| slot.epoch == epoch) {
            slot.group = NONE;
            self.open -= usize::from(was != NONE);
        }
    }

    /// Closes the groups of all flows of one protocol between two addresses.
    pub(super) fn close_hosts(&mut self, hosts: u32) {
        if self.open == 0 {
            return;
        }
        let epoch = self.epoch;
        for slot in self.slots.iter_mut().filter(|slot| slot.epoch == epoch && slot.hosts == hosts) {
            self.open -= usize::from(slot.group != NONE);
            slot.group = NONE;
        }
    }

    pub(super) fn clear(&mut self) {
        self.open = 0;
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.slots.fill(EMPTY);
            self.epoch = 1;
        }
    }

    /// The flow's slot, or the empty one that would be its own.
    #[inline]
    fn slot(&mut self, flow: u32) -> Option<&mut Slot> {
        let mask = self.slots.len() - 1;
        let epoch = self.epoch;
        let index = (0..=mask)
            .map(|step| (flow as usize).wrapping_add(step) & mask)
            .find(|&index| self.slots.get(index).is_some_and(|slot| slot.epoch != epoch || slot.flow == flow))?;
        self.slots.get_mut(index)
    }
}
