use std::fmt;

/// A slot's place and its generation, so that a stale id of a reused slot resolves to nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    index: u32,
    generation: u16,
}

impl Slot {
    pub(crate) const INDEX_BITS: u32 = 19;
    const MAX_GENERATION: u16 = 0xfff;

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self { index: bits & ((1 << Self::INDEX_BITS) - 1), generation: ((bits >> Self::INDEX_BITS) & 0xfff) as u16 }
    }

    /// 31 bits, never zero, because generations start at 1.
    pub(crate) fn to_bits(self) -> u32 {
        self.index | u32::from(self.generation) << Self::INDEX_BITS
    }
}

/// An id that names a slot of a [`Slab`].
pub(crate) trait Id: Copy {
    fn slot(self) -> Slot;
    fn from_slot(slot: Slot) -> Self;
}

macro_rules! id {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Slot);

        impl Id for $name {
            fn slot(self) -> Slot {
                self.0
            }
            fn from_slot(slot: Slot) -> Self {
                Self(slot)
            }
        }

        impl $name {
            /// Its index, dense from 0, for arrays of counters; reused after removal.
            #[must_use]
            pub fn index(self) -> usize {
                self.0.index as usize
            }

            /// Which user of that place it is: 1 to 4095, and from 1 again.
            #[must_use]
            pub fn generation(self) -> u16 {
                self.0.generation
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}.{})", stringify!($name), self.0.index, self.0.generation)
            }
        }
    };
}

id! {
    /// Names a port of this node.
    PortId
}
id! {
    /// Names a VTEP that this node knows.
    VtepId
}

/// Where a frame enters or leaves the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attachment {
    /// A pod's or the host's device on this node.
    Port(PortId),
    /// Another node's tunnel end.
    Vtep(VtepId),
}

impl Attachment {
    const VTEP: u32 = 1 << 31;

    /// 32 bits, never zero.
    pub(crate) fn to_bits(self) -> u32 {
        match self {
            Self::Port(id) => id.0.to_bits(),
            Self::Vtep(id) => id.0.to_bits() | Self::VTEP,
        }
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        let slot = Slot::from_bits(bits);
        if bits & Self::VTEP == 0 { Self::Port(PortId(slot)) } else { Self::Vtep(VtepId(slot)) }
    }
}

/// A dense store whose ids tell a reused slot from its predecessor.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<(u16, Option<T>)>,
    capacity: usize,
}

impl<T> Slab<T> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { slots: Vec::new(), capacity }
    }

    /// None when full.
    pub(crate) fn insert<I: Id>(&mut self, value: T) -> Option<I> {
        let free = self.slots.iter().position(|(_, value)| value.is_none());
        let index = free.unwrap_or(self.slots.len());
        if index >= self.capacity {
            return None;
        }
        if index == self.slots.len() {
            self.slots.push((0, None));
        }
        let (generation, slot) = &mut self.slots[index];
        *generation = if *generation == Slot::MAX_GENERATION { 1 } else { *generation + 1 };
        *slot = Some(value);
        let index = u32::try_from(index).ok()?;
        Some(I::from_slot(Slot { index, generation: *generation }))
    }

    pub(crate) fn remove<I: Id>(&mut self, id: I) -> Option<T> {
        let slot = id.slot();
        let (generation, value) = self.slots.get_mut(slot.index as usize)?;
        if *generation == slot.generation { value.take() } else { None }
    }

    #[inline]
    pub(crate) fn get<I: Id>(&self, id: I) -> Option<&T> {
        let slot = id.slot();
        match self.slots.get(slot.index as usize) {
            Some((generation, Some(value))) if *generation == slot.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut<I: Id>(&mut self, id: I) -> Option<&mut T> {
        let slot = id.slot();
        match self.slots.get_mut(slot.index as usize) {
            Some((generation, Some(value))) if *generation == slot.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn iter<I: Id>(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, (generation, value))| {
            let index = u32::try_from(index).ok()?;
            value.as_ref().map(|value| (I::from_slot(Slot { index, generation: *generation }), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_its_old_id() {
        let mut slab = Slab::with_capacity(1);
        let old: PortId = slab.insert("old").unwrap();
        assert_eq!(slab.insert::<PortId>("second"), None);
        assert_eq!(slab.remove(old), Some("old"));
        let new: PortId = slab.insert("new").unwrap();
        assert_eq!(new.index(), old.index());
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
    }

    #[test]
    fn attachments_survive_their_bits() {
        let mut slab = Slab::with_capacity(2);
        let port: PortId = slab.insert(()).unwrap();
        let second: VtepId = slab.insert(()).unwrap();
        for attachment in [Attachment::Port(port), Attachment::Vtep(second)] {
            assert_ne!(attachment.to_bits(), 0);
            assert_eq!(Attachment::from_bits(attachment.to_bits()), attachment);
        }
    }
}
