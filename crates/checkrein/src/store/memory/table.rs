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

#[derive(Debug)]
pub(super) struct Entry<T> {
    key: Key,
    generation: u32,
    pub(super) record: T,
}

impl<T> Entry<T> {
    pub(super) fn key(&self) -> KeyRef<'_> {
        self.key.borrow()
    }
}

type Chunk<T> = Box<[Option<Entry<T>>]>;

#[derive(Debug)]
pub(super) struct Table<T> {
    index: HashTable<u32>,
    chunks: Vec<Option<Chunk<T>>>,
    free: Vec<u32>,
    live: usize,
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

fn locate(index: u32) -> (usize, usize) {
    (index as usize / CHUNK, index as usize % CHUNK)
}

fn entry_at<T>(chunks: &[Option<Chunk<T>>], index: u32) -> Option<&Entry<T>> {
    let (chunk, offset) = locate(index);
    chunks.get(chunk)?.as_ref()?.get(offset)?.as_ref()
}

impl<T> Table<T> {
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
        let (chunk, offset) = locate(slot.index);
        let entry = self.chunks.get_mut(chunk)?.as_mut()?.get_mut(offset)?.as_mut()?;
        (entry.generation == slot.generation).then_some(&mut entry.record)
    }

    /// The record of a key, in one look.
    #[inline]
    pub(super) fn find_mut(&mut self, hash: u64, key: KeyRef<'_>) -> Option<&mut T> {
        let is = |&index: &u32| entry_at(&self.chunks, index).is_some_and(|entry| entry.key.is(key));
        let (chunk, offset) = locate(*self.index.find(hash, is)?);
        self.chunks.get_mut(chunk)?.as_mut()?.get_mut(offset)?.as_mut().map(|entry| &mut entry.record)
    }

    /// Puts a record in; its key must not be there.
    pub(super) fn insert(&mut self, key: KeyRef<'_>, record: T, hash_of: impl Fn(KeyRef<'_>) -> u64) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        self.generation = self.generation.wrapping_add(1);
        let (chunk, offset) = locate(index);
        let slots = self.chunks.get_mut(chunk);
        let slots = slots.map(|chunk| chunk.get_or_insert_with(empty_chunk));
        if let Some(slot) = slots.and_then(|chunk| chunk.get_mut(offset)) {
            *slot = Some(Entry { key: Key::new(key), generation: self.generation, record });
            self.live += 1;
        }
        let chunks = &self.chunks;
        let rehash = |&index: &u32| entry_at(chunks, index).map_or(0, |entry| hash_of(entry.key()));
        self.index.insert_unique(hash_of(key), index, rehash);
        Slot { index, generation: self.generation }
    }

    fn grow(&mut self) -> u32 {
        let chunk = self.chunks.iter().rposition(Option::is_none).unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() - 1
        });
        // 2^32 records of one shard would not fit any machine's memory.
        let first = (chunk * CHUNK) as u32;
        self.free.extend((first + 1..first + CHUNK as u32).rev());
        first
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, slot: Slot, hash_of: impl Fn(KeyRef<'_>) -> u64) -> Option<Entry<T>> {
        self.get_mut(slot)?;
        let (chunk, offset) = locate(slot.index);
        let entry = self.chunks.get_mut(chunk)?.as_mut()?.get_mut(offset)?.take()?;
        if let Ok(found) = self.index.find_entry(hash_of(entry.key()), |&index| index == slot.index) {
            found.remove();
        }
        self.free.push(slot.index);
        self.live -= 1;
        Some(entry)
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
            let (chunk, offset) = (self.hand / CHUNK, self.hand % CHUNK);
            let entry = self.chunks.get_mut(chunk).and_then(Option::as_mut).and_then(|c| c.get_mut(offset));
            let Some(Some(entry)) = entry else { continue };
            if idle(entry.key.borrow(), &mut entry.record) {
                gone(entry.key.borrow());
                let slot = Slot { index: self.hand as u32, generation: entry.generation };
                self.remove(slot, hash_of);
                removed += 1;
            }
        }
        removed
    }

    /// Gives back the memory of chunks without entries.
    pub(super) fn shrink(&mut self, hash_of: impl Fn(KeyRef<'_>) -> u64) {
        for chunk in &mut self.chunks {
            if chunk.as_ref().is_some_and(|slots| slots.iter().all(Option::is_none)) {
                *chunk = None;
            }
        }
        while self.chunks.last().is_some_and(Option::is_none) {
            self.chunks.pop();
        }
        let chunks = &self.chunks;
        self.free.retain(|&index| chunks.get(locate(index).0).is_some_and(Option::is_some));
        self.free.shrink_to_fit();
        self.chunks.shrink_to_fit();
        let chunks = &self.chunks;
        let rehash = |&index: &u32| entry_at(chunks, index).map_or(0, |entry| hash_of(entry.key()));
        self.index.shrink_to(self.live, rehash);
        self.hand = 0;
    }

    /// All entries with their slots, in the order of the slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Entry<T>)> {
        let chunks = self.chunks.iter().enumerate();
        let numbered = chunks.flat_map(|(number, chunk)| {
            let slots = chunk.iter().flat_map(|slots| slots.iter());
            slots.enumerate().map(move |(offset, slot)| ((number * CHUNK + offset) as u32, slot))
        });
        numbered.filter_map(|(index, slot)| {
            let entry = slot.as_ref()?;
            Some((Slot { index, generation: entry.generation }, entry))
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
        let chunks = self.chunks.iter().flatten().count() * CHUNK * size_of::<Option<Entry<T>>>();
        let keys: usize = self.entries().map(|entry| entry.key.heap_bytes()).sum();
        let index = self.index.capacity() * 8 / 7 * (size_of::<u32>() + 1);
        chunks + keys + index + self.free.capacity() * 4 + self.chunks.capacity() * 16
    }
}

fn empty_chunk<T>() -> Chunk<T> {
    (0..CHUNK).map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(table.get_mut(Slot { generation: again.generation - 1, ..again }).is_none());
        table.remove(again, hash);
        table.remove(slots[500], hash);
        table.shrink(hash);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }
}
