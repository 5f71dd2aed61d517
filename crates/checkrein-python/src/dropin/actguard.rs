//! Native half of `checkrein.actguard`'s guards of tools: one admission over an idempotency key, attempts, a rate and a
//! breaker, on the user's own clocks.

mod call;
mod clock;
mod gate;
mod memory;
mod once;
mod windows;

use pyo3::prelude::*;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    clock::remember(module.py())?;
    module.add("ActGuardMemory", module.py().get_type::<memory::Memory>())?;
    module.add("ActGuardGate", module.py().get_type::<gate::Gate>())?;
    module.add("ActGuardCall", module.py().get_type::<call::Call>())?;
    module.add("ActGuardStored", module.py().get_type::<call::Stored>())?;
    module.add("ActGuardKeys", module.py().get_type::<once::Keys>())
}
