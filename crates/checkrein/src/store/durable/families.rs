//! What is counted: the numbers under which every process of a store knows its families of records.

use checkrein_core::amount::Unit;
use checkrein_core::codec::{Damaged, Reader, Write};
use checkrein_core::key::Family;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Window};

use super::row::{self, Digest, Sum};
use super::{Table, Tables};
use crate::calendar::{Calendar, Period};
use crate::store::StoreError;

/// The definition of a family: two gates with the same one count on the same records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FamilyKey {
    /// The kind of record.
    pub kind: RecordKind,
    /// The gate's name; for a meter after the gate's kind and a colon.
    pub name: String,
    /// What a meter counts.
    pub unit: Option<Unit>,
    /// A meter's window.
    pub window: Option<Window>,
    /// The calendar period and its time zone, where the window is one.
    pub calendar: Option<(&'static str, String)>,
}

impl FamilyKey {
    /// The definition as a shared store keeps it for everybody.
    #[cfg(feature = "redis")]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(self, Span::ZERO, &mut bytes);
        bytes
    }

    /// The definition of what [`to_bytes`](Self::to_bytes) wrote.
    #[cfg(feature = "redis")]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        decode(bytes).map(|known| known.key)
    }

    fn calendar(&self) -> Option<Calendar> {
        let (period, zone) = self.calendar.as_ref()?;
        Calendar::new(Period::parse(period)?, zone).ok()
    }
}

/// A family as the store knows it.
#[derive(Clone, Debug)]
pub(super) struct KnownFamily {
    pub(super) key: FamilyKey,
    /// The longest cooldown that any policy gave it: its records are kept that long.
    pub(super) cooldown: Span,
    pub(super) calendar: Option<Calendar>,
    /// Of its row on disk.
    digest: Digest,
}

impl KnownFamily {
    pub(super) fn window(&self) -> Window {
        self.key.window.unwrap_or(Window::Lifetime)
    }
}

const VERSION: u8 = 1;
const KINDS: [RecordKind; 4] =
    [RecordKind::Meter, RecordKind::Breaker, RecordKind::Operation, RecordKind::Fact];

fn encode(key: &FamilyKey, cooldown: Span, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.push(KINDS.iter().position(|kind| *kind == key.kind).unwrap_or_default() as u8);
    out.blob(key.name.as_bytes());
    out.blob(key.unit.map_or("", Unit::name).as_bytes());
    out.flag(key.window.is_some());
    key.window.into_iter().for_each(|window| out.window(window));
    let (period, zone) = key.calendar.as_ref().map_or(("", ""), |(period, zone)| (period, zone));
    out.blob(period.as_bytes());
    out.blob(zone.as_bytes());
    out.span(cooldown);
}

fn decode(bytes: &[u8]) -> Result<KnownFamily, Damaged> {
    let mut bytes = Reader::new(bytes, VERSION)?;
    let text = |bytes: &mut Reader<'_>| {
        let text = std::str::from_utf8(bytes.blob()?);
        text.map(str::to_owned).map_err(|_| Damaged::Value("a name is not UTF-8"))
    };
    let kind = KINDS.get(bytes.small::<usize>()?).copied();
    let kind = kind.ok_or(Damaged::Value("no such kind of record"))?;
    let name = text(&mut bytes)?;
    let unit = match text(&mut bytes)?.as_str() {
        "" => None,
        word => Some(Unit::parse(word).ok_or(Damaged::Value("no such unit"))?),
    };
    let window = if bytes.flag()? { Some(bytes.window()?) } else { None };
    let (period, zone) = (text(&mut bytes)?, text(&mut bytes)?);
    let calendar = match period.as_str() {
        "" => None,
        word => Some((Period::parse(word).ok_or(Damaged::Value("no such period"))?.name(), zone)),
    };
    let cooldown = bytes.span()?;
    bytes.end()?;
    let key = FamilyKey { kind, name, unit, window, calendar };
    let calendar = key.calendar();
    if key.calendar.is_some() && calendar.is_none() {
        return Err(Damaged::Value("a calendar window is in a time zone that this machine does not know"));
    }
    Ok(KnownFamily { key, cooldown, calendar, digest: Digest::default() })
}

/// All families, by number.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<KnownFamily>);

impl Families {
    pub(super) fn get(&self, family: Family) -> Option<&KnownFamily> {
        self.0.get(family.0 as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Family, &KnownFamily)> {
        self.0.iter().zip(0..).map(|(known, number)| (Family(number), known))
    }

    /// Reads all that are on disk.
    pub(super) fn load(&mut self, tables: &mut impl Tables) -> Result<(), StoreError> {
        self.0.clear();
        for (number, (key, bytes)) in (0_u32..).zip(tables.scan(Table::Family, None, usize::MAX)?) {
            let (body, digest) = row::open(Table::Family, &key, &bytes)?;
            // Without one of them all later ones would count on the records of others.
            let gap = Damaged::Value("the definition before it is missing");
            let known = if key == number.to_be_bytes() { decode(body) } else { Err(gap) };
            let known = known.map_err(|why| row::damaged(Table::Family, &key, why))?;
            self.0.push(KnownFamily { digest, ..known });
        }
        Ok(())
    }

    /// The number of a definition, made if need be; `true` when something was written.
    pub(super) fn intern(
        &mut self,
        tables: &mut impl Tables,
        key: &FamilyKey,
        cooldown: Span,
        sum: &mut Sum,
    ) -> Result<(Family, bool), StoreError> {
        let known = self.0.iter().position(|known| known.key == *key);
        let number = known.unwrap_or(self.0.len());
        let kept = known.and_then(|number| self.0.get_mut(number));
        let longest = kept.as_ref().map_or(cooldown, |kept| kept.cooldown.max(cooldown));
        let family = Family(u32::try_from(number).unwrap_or(u32::MAX));
        if kept.as_ref().is_some_and(|kept| kept.cooldown == longest) {
            return Ok((family, false));
        }
        let (name, mut bytes) = (family.0.to_be_bytes(), Vec::new());
        encode(key, longest, &mut bytes);
        let digest = row::seal(Table::Family, &name, &mut bytes);
        tables.put(Table::Family, &name, &bytes)?;
        sum.add(&digest);
        match kept {
            Some(kept) => {
                sum.remove(&kept.digest);
                (kept.cooldown, kept.digest) = (longest, digest);
            }
            None => {
                let calendar = key.calendar();
                self.0.push(KnownFamily { key: key.clone(), cooldown, calendar, digest });
            }
        }
        Ok((family, true))
    }
}
