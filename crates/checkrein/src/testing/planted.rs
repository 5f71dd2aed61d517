//! Bugs on purpose: each breaks one promise of a durable store, and the simulator has to find every one of them.
//!
//! They are compiled with the feature `planted-bugs` only. Without it nothing is ever planted and the hooks vanish.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A commit is not synced.
    SkipSync,
    /// A failed sync is said to have kept nothing.
    UnknownIsNotCommitted,
    /// Meters are written outside the transaction of their step.
    MeterOutsideStep,
    /// Results are told although the commit failed.
    AnswerBeforeCommit,
    /// What was remembered stays after a failed commit.
    KeepAfterFailedCommit,
    /// What other processes have committed is not looked at.
    IgnoreOthers,
    /// The ledger's next sequence is not taken back with the transaction.
    SequenceNotTakenBack,
    /// Refusals that were counted are not written.
    LoseCountedRefusals,
    /// Recovery says nothing to the ledger.
    SilentRecovery,
    /// An outcome is recorded for a permit that nobody holds.
    OutcomeWithoutIntent,
    /// A finished permit stays open.
    SettleTwice,
    /// A permit's number is given out again.
    ReusePermit,
    /// A started action of a dead process is taken for one that never ran.
    ReleaseStarted,
    /// A dead process's permit goes, and what it holds stays held.
    ForgetHold,
    /// A living process is taken for a dead one.
    RecoverTheLiving,
    /// A call in doubt runs again.
    RunInDoubt,
    /// A key is forgotten together with its result.
    PruneKeys,
    /// Tenants share their once keys.
    ShareTenants,
    /// The store's clock follows the machine's backwards.
    ClockRunsBack,
    /// A probe of a breaker is not written down.
    ForgetProbe,
    /// A reset forgets what is held.
    ResetHolds,
    /// A changed limit is not written down.
    ForgetChange,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 22] = [
        Self::SkipSync,
        Self::UnknownIsNotCommitted,
        Self::MeterOutsideStep,
        Self::AnswerBeforeCommit,
        Self::KeepAfterFailedCommit,
        Self::IgnoreOthers,
        Self::SequenceNotTakenBack,
        Self::LoseCountedRefusals,
        Self::SilentRecovery,
        Self::OutcomeWithoutIntent,
        Self::SettleTwice,
        Self::ReusePermit,
        Self::ReleaseStarted,
        Self::ForgetHold,
        Self::RecoverTheLiving,
        Self::RunInDoubt,
        Self::PruneKeys,
        Self::ShareTenants,
        Self::ClockRunsBack,
        Self::ForgetProbe,
        Self::ResetHolds,
        Self::ForgetChange,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in everything that this thread runs from now on, or takes it out.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
#[cfg(feature = "planted-bugs")]
#[inline]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// The point named by `CHECKREIN_DIE=POINT:COUNT`, and how often it is still passed before the process ends there.
#[cfg(feature = "planted-bugs")]
static DIE: std::sync::LazyLock<Option<(String, std::sync::atomic::AtomicI64)>> =
    std::sync::LazyLock::new(|| {
        let text = std::env::var("CHECKREIN_DIE").ok()?;
        let (point, count) = text.rsplit_once(':')?;
        Some((point.to_owned(), std::sync::atomic::AtomicI64::new(count.parse().ok()?)))
    });

/// Passes a point at which a test may want the process to end, as if it had been killed.
#[cfg(feature = "planted-bugs")]
pub fn pass(point: &str) {
    if let Some((wanted, left)) = &*DIE
        && wanted == point
        && left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 0
    {
        std::process::abort();
    }
}

/// Passes a point at which a test may want the process to end: without the feature, nothing happens.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn pass(_point: &str) {}

/// Whether a bug is planted: never.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}
