//! What is counted: the families that this process knows, by their number here and their name on the server.

use std::collections::HashMap;

use checkrein_core::key::Family;
use checkrein_core::time::{Span, Window};

use super::name;
use crate::calendar::{Calendar, Period};
use crate::store::durable::FamilyKey;

/// A family as this process knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) key: FamilyKey,
    pub(super) digest: u64,
    /// The longest cooldown that any policy of this process gave it.
    pub(super) cooldown: Span,
    pub(super) calendar: Option<Calendar>,
}

impl Known {
    pub(super) fn window(&self) -> Window {
        self.key.window.unwrap_or(Window::Lifetime)
    }
}

/// All families, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Families {
    known: Vec<Known>,
    numbers: HashMap<u64, u32>,
}

impl Families {
    pub(super) fn get(&self, family: Family) -> Option<&Known> {
        self.known.get(family.0 as usize)
    }

    pub(super) fn by_digest(&self, digest: u64) -> Option<(Family, &Known)> {
        let number = *self.numbers.get(&digest)?;
        Some((Family(number), self.known.get(number as usize)?))
    }

    /// How long a record of a family is kept, if this process knows it.
    pub(super) fn keeping(&self, digest: u64) -> Option<(Window, Span)> {
        self.by_digest(digest).map(|(_, known)| (known.window(), known.cooldown))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Family, &Known)> {
        self.known.iter().zip(0..).map(|(known, number)| (Family(number), known))
    }

    /// The number of a definition, made if need be; `true` when it is new here.
    pub(super) fn intern(&mut self, key: &FamilyKey, cooldown: Span) -> (Family, bool) {
        let digest = name::family(key);
        let next = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(digest).or_insert(next);
        if let Some(known) = self.known.get_mut(number as usize) {
            known.cooldown = known.cooldown.max(cooldown);
            return (Family(number), false);
        }
        let calendar =
            key.calendar.as_ref().and_then(|(period, zone)| Calendar::new(Period::parse(period)?, zone).ok());
        self.known.push(Known { key: key.clone(), digest, cooldown, calendar });
        (Family(number), true)
    }
}
