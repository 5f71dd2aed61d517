//! Changes of a budget's limit at run time: the meter that admissions read keeps them, and the ledger says who made them.

use checkrein_core::admission::{self, Adjusted, Adjustment, Change};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::key::KeyRef;
use checkrein_core::ledger::moment;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Timestamp, Window};

use super::cache::table_of;
use super::records::{Place, StepRecords};
use super::row::write_key;
use super::{Durable, Table, Tables};
use crate::store::{StepResult, StoreError};
use crate::testing::planted::{Bug, is_planted};

impl Durable {
    pub(super) fn adjust(
        &mut self,
        tables: &mut impl Tables,
        key: KeyRef<'_>,
        adjustment: &Adjustment,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        let known = self.families.get(key.family);
        let (window, unit) = known.map_or((Window::Lifetime, None), |known| (known.window(), known.key.unit));
        let calendar = known.and_then(|known| known.calendar.clone());
        let period_end = calendar.map_or(Timestamp::MIN, |calendar| calendar.period_end(now));
        let places = [self.place(tables, key)?];
        let max_keys = self.options.max_keys as u64;
        let mut records = StepRecords { cache: &mut self.cache, places: &places, max_keys };
        let adjusted = match admission::adjust(adjustment, window, period_end, now, &mut records) {
            Ok(adjusted) => adjusted,
            Err(error) => return Ok(StepResult::NotAdjusted(error)),
        };
        if !is_planted(Bug::ForgetChange) {
            records.mark();
        }
        let (gate, name) = (self.gate_of(key), key.key.escape_ascii().to_string());
        let tenant = key.tenant.escape_ascii().to_string();
        let told = adjusted_fields(adjustment, &adjusted, unit);
        let mut fields = vec![("gate", &*gate), ("key", &*name), ("tenant", &*tenant)];
        fields.extend(told.iter().map(|(name, value)| (*name, value.as_str())));
        self.note_event(tables, now, "adjusted", &fields)?;
        Ok(StepResult::Adjusted(adjusted))
    }

    /// The place of a meter that is made if there is none.
    fn place(&mut self, tables: &mut impl Tables, key: KeyRef<'_>) -> Result<Place, StoreError> {
        let mut name = Vec::new();
        write_key(key, &mut name);
        let record = self.cache.load(tables, table_of(RecordKind::Meter), &name)?;
        let usage = if self.cache.value(record).is_none() {
            name.clear();
            write_key(KeyRef { key: b"", ..key }, &mut name);
            Some(self.cache.load(tables, Table::Usage, &name)?)
        } else {
            None
        };
        Ok(Place { record, usage })
    }
}

/// What the ledger says of a change besides whose record it is.
pub(in crate::store) fn adjusted_fields(
    adjustment: &Adjustment,
    adjusted: &Adjusted,
    unit: Option<Unit>,
) -> Vec<(&'static str, String)> {
    let (change, amount) = match adjustment.change() {
        Change::Set(amount) => ("set", Some(amount)),
        Change::TopUp(amount, _) => ("top_up", Some(amount)),
        Change::Clear => ("clear", None),
    };
    let mut fields = vec![("change", change.to_owned())];
    let mut amount_of = |name, amount: Option<Amount>| {
        fields.extend(amount.map(|amount| (name, amount.to_string())));
    };
    amount_of("amount", amount);
    amount_of("before", adjusted.before);
    amount_of("after", adjusted.after);
    fields.push(("unit", unit.map_or("", Unit::name).to_owned()));
    fields.extend(adjusted.until.map(|until| ("until", moment::to_text(until))));
    fields.push(("by", adjustment.by().to_owned()));
    if !adjustment.note().is_empty() {
        fields.push(("note", adjustment.note().to_owned()));
    }
    fields
}
