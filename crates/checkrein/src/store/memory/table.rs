//! A table of records of one kind: a dense slab of entries and an index of slots into it.
//!
//! Entries keep their slot for life, so a permit can point at one; chunks that are empty are given back.

use checkrein_core::key::{Family, Key, KeyRef};
use hashbrown::HashTable;

const CHUNK: usize = 64;

/// Where an entry lies, and which one it was: a slot that was given to another record does not match any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What an entry holds while it is free.
pub(super) trait Vacant {
    fn vacant() -> Self;
}

#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry<T> {
    key: Key,
    /// Odd while the entry is in use; it grows at each coming and going.
    generation: u32,
    pub(super) record: T,
}

impl<T> Entry<T> {
    pub(super) fn key(&self) -> KeyRef<'_> {
        self.key.borrow()
    }

    fn is_live(&self) -> bool {
        self.generation % 2 == 1
    }
}

#[derive(Debug)]
pub(super) struct Table<T> {
    index: HashTable<u32>,
    /// Each of up to `CHUNK` entries, allocated at once; one without memory holds none.
    chunks: Vec<Vec<Entry<T>>>,
    free: Vec<u32>,
    live: usize,
    /// Where generations of new entries begin, so that those of freed chunks do not come again.
    generation: u32,
    hand: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            live: 0,
            generation: 0,
            hand: 0,
        }
    }
}

#[inline]
fn locate(index: u32) -> (usize, usize) {
    (index as usize / CHUNK, index as usize % CHUNK)
}

#[inline]
fn entry_at<T>(chunks: &[Vec<Entry<T>>], index: u32) -> Option<&Entry<T>> {
    let (chunk, offset) = locate(index);
    chunks.get(chunk)?.get(offset)
}

#[inline]
fn entry_at_mut<T>(chunks: &mut [Vec<Entry<T>>], index: u32) -> Option<&mut Entry<T>> {
    let (chunk, offset) = locate(index);
    chunks.get_mut(chunk)?.get_mut(offset)
}

impl<T: Vacant> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, key: KeyRef<'_>) -> Option<Slot> {
        let is = |&index: &u32| entry_at(&self.chunks, index).is_some_and(|entry| entry.key.is(key));
        let index = *self.index.find(hash, is)?;
        let generation = entry_at(&self.chunks, index)?.generation;
        Some(Slot { index, generation })
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let entry = entry_at_mut(&mut self.chunks, slot.index)?;
        (entry.generation == slot.generation).then_some(&mut entry.record)
    }

    /// The record of a key, in one look.
    #[inline]
    pub(super) fn find_mut(&mut self, hash: u64, key: KeyRef<'_>) -> Option<&mut T> {
        let is = |&index: &u32| entry_at(&self.chunks, index).is_some_and(|entry| entry.key.is(key));
        let index = *self.index.find(hash, is)?;
        entry_at_mut(&mut self.chunks, index).map(|entry| &mut entry.record)
    }

    /// Puts a record in; its key must not be there.
    pub(super) fn insert(&mut self, key: KeyRef<'_>, record: T, hash_of: impl Fn(KeyRef<'_>) -> u64) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let mut slot = Slot { index, generation: 0 };
        if let Some(entry) = entry_at_mut(&mut self.chunks, index) {
            entry.generation = entry.generation.wrapping_add(1);
            slot.generation = entry.generation;
            (entry.key, entry.record) = (Key::new(key), record);
            self.live += 1;
        }
        let chunks = &self.chunks;
        let rehash = |&index: &u32| entry_at(chunks, index).map_or(0, |entry| hash_of(entry.key()));
        self.index.insert_unique(hash_of(key), index, rehash);
        slot
    }

    /// Makes a chunk of free entries and returns one of them.
    fn grow(&mut self) -> u32 {
        let number = self.chunks.iter().rposition(Vec::is_empty).unwrap_or_else(|| {
            self.chunks.push(Vec::new());
            self.chunks.len() - 1
        });
        let (key, generation) = (KeyRef { family: Family(0), tenant: b"", key: b"" }, self.generation);
        if let Some(chunk) = self.chunks.get_mut(number) {
            chunk.reserve_exact(CHUNK);
            chunk.extend((0..CHUNK).map(|_| Entry { key: Key::new(key), generation, record: T::vacant() }));
        }
        // 2^32 records of one shard would not fit any machine's memory.
        let first = (number * CHUNK) as u32;
        self.free.extend((first + 1..first + CHUNK as u32).rev());
        first
    }

    /// Removes an entry; `false` when it is not there any more.
    pub(super) fn remove(&mut self, slot: Slot, hash_of: impl Fn(KeyRef<'_>) -> u64) -> bool {
        let Some(entry) = entry_at_mut(&mut self.chunks, slot.index) else { return false };
        if entry.generation != slot.generation || !entry.is_live() {
            return false;
        }
        entry.generation = entry.generation.wrapping_add(1);
        entry.record = T::vacant();
        let hash = hash_of(entry.key());
        if let Ok(found) = self.index.find_entry(hash, |&index| index == slot.index) {
            found.remove();
        }
        self.free.push(slot.index);
        self.live -= 1;
        true
    }

    /// Looks at the next `count` slots and removes what `idle` says may go; calls `gone` with each key.
    pub(super) fn sweep(
        &mut self,
        count: usize,
        mut idle: impl FnMut(KeyRef<'_>, &mut T) -> bool,
        mut gone: impl FnMut(KeyRef<'_>),
        hash_of: impl Fn(KeyRef<'_>) -> u64 + Copy,
    ) -> usize {
        let slots = self.chunks.len() * CHUNK;
        let mut removed = 0;
        for _ in 0..count.min(slots) {
            self.hand = if self.hand + 1 >= slots { 0 } else { self.hand + 1 };
            let index = self.hand as u32;
            let Some(entry) = entry_at_mut(&mut self.chunks, index).filter(|entry| entry.is_live()) else {
                continue;
            };
            if idle(entry.key.borrow(), &mut entry.record) {
                gone(entry.key.borrow());
                let slot = Slot { index, generation: entry.generation };
                removed += usize::from(self.remove(slot, hash_of));
            }
        }
        removed
    }

    /// Gives back the memory of chunks without entries.
    pub(super) fn shrink(&mut self, hash_of: impl Fn(KeyRef<'_>) -> u64) {
        for chunk in &mut self.chunks {
            if chunk.iter().all(|entry| !entry.is_live()) {
                let latest = chunk.iter().map(|entry| entry.generation).max();
                // Even, as the generation of a free entry is.
                self.generation = self.generation.max(latest.unwrap_or(0));
                *chunk = Vec::new();
            }
        }
        while self.chunks.last().is_some_and(Vec::is_empty) {
            self.chunks.pop();
        }
        let chunks = &self.chunks;
        self.free.retain(|&index| chunks.get(locate(index).0).is_some_and(|chunk| !chunk.is_empty()));
        self.free.shrink_to_fit();
        self.chunks.shrink_to_fit();
        let chunks = &self.chunks;
        let rehash = |&index: &u32| entry_at(chunks, index).map_or(0, |entry| hash_of(entry.key()));
        self.index.shrink_to(self.live, rehash);
        self.hand = 0;
    }

    /// All entries with their slots, in the order of the slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Entry<T>)> {
        let chunks = self.chunks.iter().zip(0_u32..);
        let numbered = chunks.flat_map(|(chunk, number)| chunk.iter().zip(number * CHUNK as u32..));
        numbered.filter(|(entry, _)| entry.is_live()).map(|(entry, index)| {
            let generation = entry.generation;
            (Slot { index, generation }, entry)
        })
    }

    /// All entries, in the order of their slots.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry<T>> {
        self.slots().map(|(_, entry)| entry)
    }

    /// The slots of all entries of a family.
    pub(super) fn slots_of(&self, family: Family) -> Vec<Slot> {
        self.slots().filter(|(_, entry)| entry.key().family == family).map(|(slot, _)| slot).collect()
    }

    /// Bytes this table takes, without what its records keep on the heap themselves.
    pub(super) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<Entry<T>>()).sum();
        let keys: usize = self.entries().map(|entry| entry.key.heap_bytes()).sum();
        let index = self.index.capacity() * 8 / 7 * (size_of::<u32>() + 1);
        chunks + keys + index + self.free.capacity() * 4 + self.chunks.capacity() * size_of::<Vec<Entry<T>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Vacant for usize {
        fn vacant() -> Self {
            0
        }
    }

    fn key(number: &[u8]) -> KeyRef<'_> {
        KeyRef { family: Family(0), tenant: b"", key: number }
    }

    fn hash(key: KeyRef<'_>) -> u64 {
        key.key.iter().fold(17, |hash, byte| hash * 31 + u64::from(*byte))
    }

    #[test]
    fn slots_are_reused_under_a_new_generation_and_memory_comes_back() {
        let mut table = Table::default();
        let names: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
        let slots: Vec<Slot> =
            names.iter().enumerate().map(|(n, name)| table.insert(key(name.as_bytes()), n, hash)).collect();
        assert_eq!((table.len(), table.entries().count()), (1_000, 1_000));
        for (number, name) in names.iter().enumerate() {
            let slot = table.find(hash(key(name.as_bytes())), key(name.as_bytes())).unwrap();
            assert_eq!((slot, table.get_mut(slot).copied()), (slots[number], Some(number)));
        }
        let removed = table.sweep(usize::MAX, |_, record| *record != 500, |_| {}, hash);
        assert_eq!((removed, table.len()), (999, 1));
        let again = table.insert(key(b"again"), 7, hash);
        assert!(table.get_mut(Slot { generation: again.generation - 2, ..again }).is_none());
        table.remove(again, hash);
        table.remove(slots[500], hash);
        table.shrink(hash);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }
}
