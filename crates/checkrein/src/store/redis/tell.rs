//! What the steps of a key set tell the ledger of their host: drafts in the commit, or entries that the host writes itself.

use std::sync::Arc;

use checkrein_core::admission::{self, Admission, Inputs, Verdict};
use checkrein_core::decision::MeterStatus;
use checkrein_core::key::KeyRef;
use checkrein_core::ledger::entry::ShortId;

use super::stage::Stage;
use crate::engine::CompiledPolicy;
use crate::store::durable::{Decided, Told};
use crate::store::{OwnedInputs, PermitId};

impl Stage<'_> {
    /// A decision: an allowed action is committed with its entry; what changes nothing, the host writes down by itself.
    pub(super) fn note_admission(
        &mut self,
        policy: &Arc<CompiledPolicy>,
        owned: &OwnedInputs,
        inputs: &Inputs<'_>,
        places: &[usize],
        admission: &Admission,
        permit: Option<PermitId>,
    ) {
        let Some(drafts) = self.setting.drafts else { return };
        let plan = admission::plan(policy.policy(), inputs);
        let (tag, now) = (self.setting.tag.id(), self.setting.now);
        let meters = admission::status(&plan, now, &mut self.places(places));
        if admission.verdict == Verdict::Allow {
            let permit = permit.map(PermitId::number);
            self.told.push(drafts.intent(now.latest, tag, policy, inputs, admission, &meters, permit));
        } else {
            self.note_decided(policy, owned, admission, meters);
        }
    }

    /// A decision that changes nothing here.
    pub(super) fn note_decided(
        &mut self,
        policy: &Arc<CompiledPolicy>,
        inputs: &OwnedInputs,
        admission: &Admission,
        meters: Vec<MeterStatus>,
    ) {
        if self.setting.drafts.is_some() {
            let (policy, inputs, admission) = (Arc::clone(policy), inputs.clone(), admission.clone());
            self.decided.push(Decided { policy, inputs, admission, meters });
        }
    }

    /// How an action ended. `host` has its intent.
    pub(super) fn note_outcome(&mut self, permit: u64, host: Option<ShortId>, told: Told<'_>) {
        if let Some(drafts) = self.setting.drafts {
            let (tag, time) = (self.setting.tag.id(), self.setting.now.latest);
            self.told.push(drafts.outcome(time, tag, host, &told.outcome(permit, None)));
        }
    }

    /// What somebody did to a record.
    pub(super) fn note_event(&mut self, record: usize, key: KeyRef<'_>, name: &str, more: &[(&str, &str)]) {
        let key_text = key.key.escape_ascii().to_string();
        let mut fields = vec![("key", &*key_text)];
        fields.extend_from_slice(more);
        self.note(record, "gate", key, name, &fields);
    }

    /// That a value was proved. It may be private: the ledger says of which kind it is.
    pub(super) fn note_proved(&mut self, record: usize, key: KeyRef<'_>) {
        self.note(record, "fact", key, "proved", &[]);
    }

    fn note(&mut self, record: usize, gate: &str, key: KeyRef<'_>, name: &str, more: &[(&str, &str)]) {
        let Some(drafts) = self.setting.drafts else { return };
        let family = self.records.get(record).map_or(0, |record| record.name.family);
        let known = self.setting.families.by_digest(family);
        let family = known.map_or("", |(_, definition)| &*definition.key.name);
        let tenant = key.tenant.escape_ascii().to_string();
        let mut fields = vec![(gate, family), ("tenant", &*tenant)];
        fields.extend_from_slice(more);
        self.told.push(drafts.event(self.setting.now.latest, self.setting.tag.id(), name, &fields));
    }
}
