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

    /// Takes something out and keeps its slot for it: [`put_back`](Self::put_back) or [`free`](Self::free) follows.
    pub(super) fn lift(&mut self, slot: Slot) -> Option<T> {
        let (generation, value) = self.slots.get_mut(slot.index as usize)?;
        if *generation == slot.generation { value.take() } else { None }
    }

    pub(super) fn put_back(&mut self, slot: Slot, value: T) {
        if let Some((_, place)) = self.slots.get_mut(slot.index as usize) {
            *place = Some(value);
        }
    }

    /// Gives the slot of something lifted to others.
    pub(super) fn free(&mut self, slot: Slot) {
        if let Some((generation, _)) = self.slots.get_mut(slot.index as usize) {
            *generation = generation.wrapping_add(1);
            self.free.push(slot.index);
        }
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
        assert_eq!((slab.lift(a), slab.lift(a)), (Some("a"), None));
        slab.put_back(a, "A");
        assert_eq!(slab.lift(a), Some("A"));
        slab.free(a);
        let c = slab.insert("c");
        assert_eq!((c.index, slab.lift(a), slab.len()), (a.index, None, 2));
        assert_eq!(slab.iter().map(|(slot, value)| (slot, *value)).collect::<Vec<_>>(), [(c, "c"), (b, "b")]);
    }
}
