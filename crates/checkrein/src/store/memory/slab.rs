//! Things that are found by the slot they were put in, and only by it: open permits.

use super::table::Slot;

#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts something in; its slot is never given to anything else.
    pub(super) fn insert(&mut self, value: T) -> Slot {
        if let Some(index) = self.free.pop()
            && let Some((generation, slot)) = self.slots.get_mut(index as usize)
        {
            *slot = Some(value);
            return Slot { index, generation: *generation };
        }
        // 2^32 open permits of one shard would not fit any machine's memory.
        let index = self.slots.len() as u32;
        self.slots.push((0, Some(value)));
        Slot { index, generation: 0 }
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(slot.index as usize)?;
        value.as_mut().filter(|_| *generation == slot.generation)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let (generation, value) = self.slots.get_mut(slot.index as usize)?;
        if *generation != slot.generation {
            return None;
        }
        let value = value.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot.index);
        Some(value)
    }

    /// Everything in it, in the order of the slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        let slots = self.slots.iter().zip(0..);
        slots.filter_map(|((generation, value), index)| {
            Some((Slot { index, generation: *generation }, value.as_ref()?))
        })
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<(u32, Option<T>)>() + self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_means_one_thing_for_ever() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!((slab.remove(a), slab.remove(a), slab.len()), (Some("a"), None, 1));
        let c = slab.insert("c");
        assert_eq!((c.index, slab.get_mut(a).copied()), (a.index, None));
        assert_eq!(slab.get_mut(c).copied(), Some("c"));
        assert_eq!(slab.iter().map(|(slot, value)| (slot, *value)).collect::<Vec<_>>(), [(c, "c"), (b, "b")]);
    }
}
