//! The cap on live keys per tenant and gate: at the cap new principals are refused, live ones never forgotten.

use checkrein_core::key::{Family, Key, KeyRef};
use parking_lot::Mutex;
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Capacity {
    cap: usize,
    /// Families of the tenant-less case by number; tenants by name. Touched only when a key comes or goes.
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    families: Vec<usize>,
    tenants: BTreeMap<Key, usize>,
}

impl Capacity {
    pub(super) fn new(cap: usize) -> Self {
        Self { cap, live: Mutex::default() }
    }

    /// Takes room for one more key; `false` at the cap.
    pub(super) fn take(&self, key: KeyRef<'_>) -> bool {
        let mut live = self.live.lock();
        let count = live.count(key);
        if *count >= self.cap {
            return false;
        }
        *count += 1;
        true
    }

    pub(super) fn give_back(&self, key: KeyRef<'_>) {
        let mut live = self.live.lock();
        let count = live.count(key);
        *count = count.saturating_sub(1);
        if *count == 0 && !key.tenant.is_empty() {
            live.tenants.remove(&tenant_of(key));
        }
    }
}

fn tenant_of(key: KeyRef<'_>) -> Key {
    Key::new(KeyRef { key: b"", ..key })
}

impl Live {
    fn count(&mut self, key: KeyRef<'_>) -> &mut usize {
        if !key.tenant.is_empty() {
            return self.tenants.entry(tenant_of(key)).or_default();
        }
        let Family(number) = key.family;
        let number = number as usize;
        if self.families.len() <= number {
            self.families.resize(number + 1, 0);
        }
        // The line above made the place; the fallback only keeps the function total.
        match self.families.get_mut(number) {
            Some(count) => count,
            None => self.tenants.entry(tenant_of(key)).or_default(),
        }
    }
}
