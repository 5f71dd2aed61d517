//! At most one run per key: the state machine of an operation.
//!
//! `reserved → started → done | failed clean | in doubt`; in doubt ends when a late result arrives or a person says
//! what happened. A key is never run again while its outcome is unknown.

use std::sync::Arc;

use crate::code::Code;
use crate::codec::{Damaged, Reader, Write};
use crate::decision::Retry;
use crate::fingerprint::RequestDigest;
use crate::policy::Once;
use crate::time::{Span, Timestamp};

/// Where an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Admitted, not started.
    Reserved,
    /// Started: the effect may have happened.
    Started,
    /// Done, with the result for replay, or without when it could not be stored or is no longer kept.
    Done(Option<Arc<[u8]>>),
    /// Failed before it could have any effect: it may run again.
    FailedClean,
    /// Nobody knows whether it happened.
    InDoubt,
}

impl OperationState {
    /// The word used in lists and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Started => "started",
            Self::Done(_) => "done",
            Self::FailedClean => "failed_clean",
            Self::InDoubt => "in_doubt",
        }
    }
}

/// How long a finished operation is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    result: Span,
    key: Span,
}

impl From<&Once> for Keep {
    fn from(once: &Once) -> Self {
        Self { result: once.keep_result, key: once.keep_key }
    }
}

/// Which run of an operation a permit belongs to: the late outcome of an earlier one says nothing about this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    admitted: Timestamp,
    number: u32,
}

/// The record behind a once key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    digest: RequestDigest,
    run: Run,
    state: OperationState,
    since: Timestamp,
    keep: Keep,
}

/// What a once key says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnceVerdict {
    /// Nothing is known of it, or it failed clean: it may run.
    Run,
    /// It is done: here is its result.
    Replay(Arc<[u8]>),
    /// It may not run.
    Refuse(Code, Retry),
}

impl Run {
    /// A run that was named earlier.
    pub const fn new(admitted: Timestamp, number: u32) -> Self {
        Self { admitted, number }
    }

    /// When it was admitted.
    pub const fn admitted(self) -> Timestamp {
        self.admitted
    }

    /// How many runs of the same key it follows.
    pub const fn number(self) -> u32 {
        self.number
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.stamp(self.admitted);
        out.number(self.number.into());
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self { admitted: bytes.stamp()?, number: bytes.small()? })
    }
}

const VERSION: u8 = 1;

impl Operation {
    /// Appends the record's bytes. A stored result is not among them, only that there is one: it is kept for a shorter
    /// time, in a place of its own.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(self.digest.as_bytes());
        self.run.encode(out);
        out.push(match &self.state {
            OperationState::Reserved => 0,
            OperationState::Started => 1,
            OperationState::Done(None) => 2,
            OperationState::Done(Some(_)) => 3,
            OperationState::FailedClean => 4,
            OperationState::InDoubt => 5,
        });
        out.stamp(self.since);
        out.span(self.keep.result);
        out.span(self.keep.key);
    }

    /// Reads what [`encode`](Self::encode) wrote; `result` is asked for the stored result if there is one.
    ///
    /// # Errors
    /// Bytes that it does not write, or a result that is not there.
    pub fn decode(bytes: &[u8], result: impl FnOnce() -> Option<Arc<[u8]>>) -> Result<Self, Damaged> {
        let mut bytes = Reader::new(bytes, VERSION)?;
        let digest = bytes.take(32)?.try_into().map_err(|_| Damaged::Short)?;
        let run = Run::decode(&mut bytes)?;
        let state = match bytes.small::<u8>()? {
            0 => OperationState::Reserved,
            1 => OperationState::Started,
            2 => OperationState::Done(None),
            3 => OperationState::Done(Some(result().ok_or(Damaged::Value("its result is missing"))?)),
            4 => OperationState::FailedClean,
            5 => OperationState::InDoubt,
            _ => return Err(Damaged::Value("no such state of an operation")),
        };
        let since = bytes.stamp()?;
        let keep = Keep { result: bytes.span()?, key: bytes.span()? };
        bytes.end()?;
        Ok(Self { digest: RequestDigest::from_bytes(digest), run, state, since, keep })
    }

    /// The stored result, if there is one.
    pub fn result(&self) -> Option<&Arc<[u8]>> {
        match &self.state {
            OperationState::Done(result) => result.as_ref(),
            _ => None,
        }
    }

    /// An operation that is admitted now, after `earlier` if the key is known.
    pub fn admitted(
        digest: RequestDigest,
        started: bool,
        now: Timestamp,
        keep: Keep,
        earlier: Option<&Self>,
    ) -> Self {
        let state = if started { OperationState::Started } else { OperationState::Reserved };
        let number = earlier.map_or(0, |earlier| earlier.run.number.wrapping_add(1));
        Self { digest, run: Run { admitted: now, number }, state, since: now, keep }
    }

    /// Which run it stands for.
    pub fn run(&self) -> Run {
        self.run
    }

    /// Where it stands.
    pub fn state(&self) -> &OperationState {
        &self.state
    }

    /// The request it stands for.
    pub fn digest(&self) -> RequestDigest {
        self.digest
    }

    /// When it came to stand there.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// What the record says to a request.
    pub fn verdict(&self, digest: RequestDigest, now: Timestamp) -> OnceVerdict {
        if now >= self.expires() {
            return OnceVerdict::Run;
        }
        if self.digest != digest {
            return OnceVerdict::Refuse(Code::KeyReused, Retry::Never);
        }
        match &self.state {
            OperationState::FailedClean => OnceVerdict::Run,
            OperationState::Reserved | OperationState::Started => {
                OnceVerdict::Refuse(Code::InProgress, Retry::Unknown)
            }
            OperationState::InDoubt => OnceVerdict::Refuse(Code::InDoubt, Retry::Unknown),
            OperationState::Done(Some(result)) if now < self.since.after(self.keep.result) => {
                OnceVerdict::Replay(Arc::clone(result))
            }
            OperationState::Done(_) => OnceVerdict::Refuse(Code::ResultPruned, Retry::Never),
        }
    }

    /// Moves on; `false` (and nothing changed) where the state machine has no such step.
    pub fn enter(&mut self, state: OperationState, now: Timestamp) -> bool {
        use OperationState::{Done, FailedClean, InDoubt, Reserved, Started};
        let allowed = matches!(
            (&self.state, &state),
            (Reserved, Started | FailedClean)
                | (Started, Done(_) | FailedClean | InDoubt)
                | (InDoubt, Done(_) | FailedClean)
        );
        if allowed {
            self.state = state;
            self.since = now;
        }
        allowed
    }

    /// Ends an operation in doubt; `false` (and nothing changed) when it is not, or when `run` names another run: what
    /// somebody found out about one run says nothing about the next.
    pub fn resolve(&mut self, run: Option<Run>, state: OperationState, now: Timestamp) -> bool {
        let asked = self.state == OperationState::InDoubt && run.is_none_or(|run| run == self.run);
        asked && self.enter(state, now)
    }

    /// Whether there is a result whose time is over.
    pub fn is_prunable(&self, now: Timestamp) -> bool {
        matches!(self.state, OperationState::Done(Some(_))) && now >= self.since.after(self.keep.result)
    }

    /// Drops the result once its time is over; the key stays known.
    pub fn prune(&mut self, now: Timestamp) {
        let due = now >= self.since.after(self.keep.result);
        if let OperationState::Done(result) = &mut self.state
            && due
        {
            *result = None;
        }
    }

    /// When the record may be forgotten: never while the outcome is open or unknown.
    pub fn expires(&self) -> Timestamp {
        match self.state {
            OperationState::Done(_) | OperationState::FailedClean => self.since.after(self.keep.key),
            OperationState::Reserved | OperationState::Started | OperationState::InDoubt => Timestamp::MAX,
        }
    }
}
