//! Which incarnation of a server the records of a tag are known to be from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::node::LOOK_EVERY;
use crate::store::redis::address::Address;
use crate::store::redis::name::Tag;

/// The most tags that are kept in mind. Beyond it those that are in order are learned again when they are next used.
const MOST: usize = 65_536;

/// What the epoch key of a tag says: an incarnation, and how it came there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The first user of the tag wrote it.
    First,
    /// A person accepted it.
    Accepted,
    /// A process that knew this incarnation found the key gone: what was known of the tag is lost.
    Lost,
}

impl Mark {
    const fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Accepted => "accepted",
            Self::Lost => "lost",
        }
    }
}

/// The key's value when a person has accepted an incarnation.
pub(super) fn accepted(incarnation: &str) -> String {
    value(incarnation, Mark::Accepted)
}

/// Whether the key says that this incarnation is the one.
pub(super) fn is_accepted(incarnation: &str, found: &str) -> bool {
    found == value(incarnation, Mark::First) || found == value(incarnation, Mark::Accepted)
}

fn value(incarnation: &str, mark: Mark) -> String {
    format!("{incarnation} {}", mark.word())
}

/// What the key of the store as a whole says about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nobody has accepted it: it may have lost what it knew of any tag.
    None,
    /// It is the first one.
    First,
    /// A person has accepted it, whatever it has lost.
    Accepted,
}

impl Trust {
    pub(super) fn of(incarnation: &str, found: &str) -> Self {
        if found == accepted(incarnation) {
            Self::Accepted
        } else if is_accepted(incarnation, found) {
            Self::First
        } else {
            Self::None
        }
    }
}

/// What is known before the key of a tag is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    /// The incarnation on which this process saw the tag last.
    pub(super) remembered: Option<&'a str>,
    /// What the server says about the store, if it keeps that.
    pub(super) store: Option<Trust>,
}

impl Before<'_> {
    /// The key's value where there is none. Who remembers the tag is not its first user: the key is gone, so what was
    /// counted is gone as well, and everybody is told. On a server that nobody has accepted nobody can say what was there.
    pub(super) fn first(self, incarnation: &str) -> String {
        match (self.store, self.remembered) {
            (Some(Trust::None), remembered) => value(remembered.unwrap_or("unknown"), Mark::Lost),
            (Some(Trust::Accepted), Some(other)) if other != incarnation => accepted(incarnation),
            (_, Some(other)) => value(other, Mark::Lost),
            (_, None) => value(incarnation, Mark::First),
        }
    }

    /// The value to put in the place of one that somebody wrote who did not know what had been lost; none if it is right.
    pub(super) fn correction(self, incarnation: &str, found: &str) -> Option<String> {
        let other = self.remembered.filter(|other| *other != incarnation)?;
        let is_wrong = self.store != Some(Trust::Accepted) && found == value(incarnation, Mark::First);
        is_wrong.then(|| value(other, Mark::Lost))
    }
}

/// What a link knows of a tag.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Where it was last used.
    pub(super) incarnation: Arc<str>,
    /// What the key said, and when; none if nobody has asked.
    pub(super) standing: Option<(bool, Instant)>,
    /// The key was seen to say something else since.
    pub(super) stale: bool,
}

/// The tags that a link has used.
#[derive(Debug, Default)]
pub(super) struct Tags(HashMap<Tag, Known>);

impl Tags {
    pub(super) fn get(&self, tag: Tag) -> Option<&Known> {
        self.0.get(&tag)
    }

    pub(super) fn set(&mut self, tag: Tag, known: Known) {
        if self.0.len() >= MOST && !self.0.contains_key(&tag) {
            self.0.retain(|_, known| matches!(known.standing, Some((false, _))));
            if self.0.len() >= MOST {
                self.0.clear();
            }
        }
        self.0.insert(tag, known);
    }

    /// Whether it is time to read the key again.
    pub(super) fn is_old(&self, tag: Tag) -> bool {
        self.get(tag).and_then(|known| known.standing).is_some_and(|(_, read)| read.elapsed() >= LOOK_EVERY)
    }

    /// What the key says by now. If it no longer says that all is well, nothing runs before somebody has asked for the
    /// standing.
    pub(super) fn saw(&mut self, tag: Tag, accepted: bool) {
        if let Some(known) = self.0.get_mut(&tag) {
            known.stale |= !accepted && matches!(known.standing, Some((true, _)));
            known.standing = Some((accepted, Instant::now()));
        }
    }
}

/// The incarnations that this process has seen tags on, over all links to one store: it is the process that must not
/// forget what it knew, whichever of its connections finds the key gone.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    tags: HashMap<Tag, Arc<str>>,
    /// All incarnations that tags were seen on until there were too many to remember each. Of a tag that is not among
    /// the remembered ones nobody knows whether it was used before; on another incarnation than these it may have been.
    until_full: BTreeSet<Arc<str>>,
}

type Stores = BTreeMap<(Address, String), Weak<Memory>>;

static STORES: Mutex<Stores> = Mutex::new(BTreeMap::new());

/// How long to wait for a lock that is only ever held for a moment. In a forked child the thread that held it may not
/// exist.
const MOMENT: Duration = Duration::from_millis(20);

impl Memory {
    pub(super) fn of(address: &Address, prefix: &str) -> Arc<Self> {
        let Some(mut stores) = STORES.try_lock_for(MOMENT) else { return Arc::default() };
        let store = (address.clone(), prefix.to_owned());
        if let Some(memory) = stores.get(&store).and_then(Weak::upgrade) {
            return memory;
        }
        stores.retain(|_, memory| memory.strong_count() > 0);
        let memory = Arc::default();
        stores.insert(store, Arc::downgrade(&memory));
        memory
    }

    /// The incarnation that a tag, which is on `now`, was seen on last, or may have been.
    pub(super) fn get(&self, tag: Tag, now: &str) -> Option<Arc<str>> {
        let remembered = self.0.try_lock_for(MOMENT)?;
        let other = || {
            let known = remembered.until_full.iter().any(|incarnation| **incarnation == *now);
            if known { None } else { remembered.until_full.first() }
        };
        remembered.tags.get(&tag).or_else(other).cloned()
    }

    pub(super) fn set(&self, tag: Tag, incarnation: &Arc<str>) {
        if let Some(mut remembered) = self.0.try_lock_for(MOMENT) {
            let Remembered { tags, until_full } = &mut *remembered;
            if tags.len() < MOST || tags.contains_key(&tag) {
                tags.insert(tag, Arc::clone(incarnation));
            } else if until_full.is_empty() {
                *until_full = tags.values().cloned().collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knowing(remembered: Option<&str>, store: Option<Trust>) -> Before<'_> {
        Before { remembered, store }
    }

    #[test]
    fn who_comes_first_is_accepted_and_nobody_else() {
        for store in [None, Some(Trust::First), Some(Trust::Accepted)] {
            let first = knowing(None, store).first("a:1");
            assert!(is_accepted("a:1", &first));
            assert!(!is_accepted("b:1", &first));
        }
        assert!(is_accepted("b:1", &accepted("b:1")));
        assert!(!is_accepted("a:1", "a:1"));
        assert!(!is_accepted("a:1", ""));
    }

    #[test]
    fn a_key_that_has_gone_is_no_first_use() {
        for store in [None, Some(Trust::None), Some(Trust::First)] {
            let found = knowing(Some("a:1"), store).first("b:1");
            assert!(!is_accepted("b:1", &found) && !is_accepted("a:1", &found));
        }
        // Somebody deleted it, with everything else perhaps.
        for store in [None, Some(Trust::None), Some(Trust::First), Some(Trust::Accepted)] {
            assert!(!is_accepted("b:1", &knowing(Some("b:1"), store).first("b:1")));
        }
    }

    #[test]
    fn too_many_tags_to_remember_are_not_forgotten() {
        let (memory, one) = (Memory::default(), Arc::from("a:1"));
        for tag in 0..MOST + 100 {
            memory.set(Tag::of(&tag.to_be_bytes()), &one);
        }
        for tag in [Tag::of(&7_usize.to_be_bytes()), Tag::of(&(MOST + 7).to_be_bytes())] {
            assert_eq!(memory.get(tag, "b:1").as_deref(), Some("a:1"));
        }
        assert_eq!(memory.get(Tag::of(b"new"), "a:1"), None);
    }

    #[test]
    fn what_is_said_of_the_store_goes_for_tags_without_a_key() {
        assert!(!is_accepted("b:1", &knowing(None, Some(Trust::None)).first("b:1")));
        assert!(is_accepted("b:1", &knowing(Some("a:1"), Some(Trust::Accepted)).first("b:1")));
        assert_eq!(Trust::of("b:1", "b:1 accepted"), Trust::Accepted);
        assert_eq!(Trust::of("b:1", "b:1 first"), Trust::First);
        assert_eq!(Trust::of("b:1", "a:1 accepted"), Trust::None);
    }

    #[test]
    fn a_newcomer_is_corrected_and_a_person_is_not() {
        let knowing = knowing(Some("a:1"), None);
        assert_eq!(knowing.correction("b:1", "b:1 first").as_deref(), Some("a:1 lost"));
        assert_eq!(knowing.correction("b:1", &accepted("b:1")), None);
        assert_eq!(knowing.correction("a:1", "a:1 first"), None);
        assert_eq!(Before { store: Some(Trust::Accepted), ..knowing }.correction("b:1", "b:1 first"), None);
        assert_eq!(Before { remembered: None, ..knowing }.correction("b:1", "b:1 first"), None);
    }
}
