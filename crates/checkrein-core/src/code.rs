//! The one list of reason codes that every door shares.

use std::fmt;

/// Why an action was not admitted, as a stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The window's calls are used up.
    RateLimited,
    /// Too soon after the last call.
    Cooldown,
    /// The amount does not fit what is left.
    BudgetExceeded,
    /// A rule says no.
    RuleViolated,
    /// A rule could not be evaluated, or did not answer yes or no.
    RuleError,
    /// The action needs a value that no read has shown in this run.
    MissingFact,
    /// The dependency has failed too often.
    CircuitOpen,
    /// All attempts are used up.
    AttemptsExceeded,
    /// The same operation is running now.
    InProgress,
    /// The once key was used for another request.
    KeyReused,
    /// The outcome of an earlier run of the operation is unknown.
    InDoubt,
    /// The operation is done, but its result is no longer kept.
    ResultPruned,
    /// The operation is done, and a repetition is refused instead of answered.
    AlreadyDone,
    /// A person has to approve.
    ApprovalRequired,
    /// A person said no.
    ApprovalDenied,
    /// The approval is for another action.
    ApprovalMismatch,
    /// The approval's time is over.
    ApprovalExpired,
    /// The model's price is not known.
    UnknownPrice,
    /// No policy covers the tool.
    UnknownTool,
    /// The tool's definition is not the one that was pinned.
    ToolChanged,
    /// The same call again and again.
    LoopDetected,
    /// The time allowed is over.
    Timeout,
    /// A credential cannot be had.
    SecretUnavailable,
    /// The policy cannot be used.
    PolicyError,
    /// The caller is not known.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// Something is larger than its limit.
    TooLarge,
    /// A kill switch is set.
    Frozen,
    /// The store cannot answer.
    StoreError,
    /// The ledger cannot be written.
    LedgerError,
    /// The action itself is malformed.
    InvalidAction,
    /// No room for another principal.
    Capacity,
    /// A meter's own books do not balance; it is closed.
    InvariantBroken,
}

struct Entry {
    code: Code,
    word: &'static str,
    status: u16,
    exception: &'static str,
    message: &'static str,
    model: &'static str,
    hint: &'static str,
}

macro_rules! table {
    ($($code:ident $word:literal $status:literal $exception:literal $message:literal $model:literal $hint:literal;)*) => {
        const TABLE: &[Entry] = &[$(Entry { code: Code::$code, word: $word, status: $status, exception: $exception,
            message: $message, model: $model, hint: $hint }),*];
    };
}

table! {
    RateLimited "rate_limited" 429 "RateLimited" "the calls of this window are used up"
        "This tool has been called too often. Do not call it again before the time given."
        "wait for `retry_after`, or raise the limit's `max_calls`";
    Cooldown "cooldown" 429 "RateLimited" "too soon after the last call"
        "This tool was called a moment ago. Wait before calling it again."
        "wait for `retry_after`, or shorten the cooldown";
    BudgetExceeded "budget_exceeded" 402 "BudgetExceeded" "the cost does not fit what is left of the budget"
        "The budget does not allow this call. Finish without it or ask the user."
        "raise the budget, or wait until spending leaves its window";
    RuleViolated "rule_violated" 403 "RuleViolated" "a rule refuses these arguments"
        "A rule refuses these arguments. Change them or do something else; the same call will be refused again."
        "look at the named rule and at the arguments";
    RuleError "rule_error" 403 "RuleViolated" "a rule could not be evaluated"
        "The call could not be checked and was refused. Do not retry it unchanged."
        "a rule must return True or False and must not raise; see the reason's detail";
    MissingFact "missing_fact" 403 "MissingFact" "a required value has not been read in this run"
        "Look the value up with the reading tool first, then call this tool with exactly that value."
        "call the tool that proves the fact before this one";
    CircuitOpen "circuit_open" 503 "CircuitOpen" "the dependency has failed too often"
        "The service behind this tool is failing. Try something else, or wait for the time given."
        "wait for `retry_after`; the breaker then lets a probe through";
    AttemptsExceeded "attempts_exceeded" 429 "AttemptsExceeded" "all attempts are used up"
        "All attempts for this call are used up. Do not try again; report the problem."
        "raise `attempts`, or reset the counter when the cause is mended";
    InProgress "in_progress" 409 "InProgress" "the same operation is running now"
        "This operation is already running. Wait for its result; do not start it again."
        "wait for the first call to end";
    KeyReused "key_reused" 422 "KeyReused" "the once key was used for another request"
        "This operation key belongs to a different request. Use the original arguments or a new key."
        "one key names one request: use a new key for other arguments";
    InDoubt "in_doubt" 409 "InDoubt" "the outcome of an earlier run is unknown"
        "It is unknown whether this operation already happened. Do not retry it; tell the user."
        "find out what happened, then resolve the operation as done or failed";
    ResultPruned "result_pruned" 410 "ResultPruned" "the operation is done, but its result is no longer kept"
        "This operation was already done. Do not repeat it."
        "the effect happened once; look its result up where it took place";
    AlreadyDone "already_done" 409 "AlreadyDone" "the operation is done, and a repetition is not answered"
        "This operation was already done. Do not repeat it."
        "use a new key for a new operation";
    ApprovalRequired "approval_required" 403 "ApprovalRequired" "a person has to approve this action"
        "A person has to approve this. Stop and wait for the approval." "ask an approver";
    ApprovalDenied "approval_denied" 403 "ApprovalRequired" "a person refused this action"
        "A person refused this. Do not ask for it again." "see the approver's comment";
    ApprovalMismatch "approval_mismatch" 403 "ApprovalRequired" "the approval is for another action"
        "The approval covers different arguments. Call with exactly the approved ones."
        "ask for approval of this exact action";
    ApprovalExpired "approval_expired" 403 "ApprovalRequired" "the approval's time is over"
        "The approval has expired. Ask again." "ask for a new approval";
    UnknownPrice "unknown_price" 402 "BudgetExceeded" "the price of the model is not known"
        "This model cannot be used under the current budget. Use another one." "add a price to the policy";
    UnknownTool "unknown_tool" 403 "UnknownTool" "no policy covers this tool"
        "This tool may not be used." "add a section for the tool to the policy";
    ToolChanged "tool_changed" 403 "ToolChanged" "the tool's definition has changed since it was pinned"
        "This tool has changed and is blocked until it is reviewed." "review the change and pin it again";
    LoopDetected "loop_detected" 429 "LoopDetected" "the same call with the same arguments, again and again"
        "You have made this exact call before. Use the result you have or do something else."
        "raise the loop guard's `same_call` if the repetition is meant";
    Timeout "timeout" 504 "TimedOut" "the time allowed is over"
        "The call took too long and its outcome is unknown. Do not repeat it blindly." "raise `timeout`, or find out why it hangs";
    SecretUnavailable "secret_unavailable" 503 "SecretUnavailable" "a credential cannot be had"
        "This tool cannot be used now. Tell the user." "check the secret's reference";
    PolicyError "policy_error" 500 "PolicyError" "the policy cannot be used"
        "This tool cannot be used now. Tell the user." "mend the policy";
    Unauthenticated "unauthenticated" 401 "Denied" "the caller is not known"
        "This call is not authorised." "send a valid key";
    Forbidden "forbidden" 403 "Denied" "the caller may not do this"
        "This call is not authorised." "ask for the permission";
    TooLarge "too_large" 413 "InvalidAction" "something is larger than its limit"
        "The arguments are too large. Shorten them." "see the limit in the reason's detail";
    Frozen "frozen" 403 "Frozen" "a kill switch is set"
        "All actions are stopped. Do not continue." "lift the freeze when the cause is mended";
    StoreError "store_error" 503 "StoreError" "the store cannot answer"
        "The call could not be checked and was refused. Try later." "see the store's own error";
    LedgerError "ledger_error" 503 "LedgerError" "the ledger cannot be written"
        "The call could not be recorded and was refused. Try later." "see the ledger's own error";
    InvalidAction "invalid_action" 400 "InvalidAction" "the action is malformed"
        "The call is malformed. Correct the arguments." "see the reason's detail";
    Capacity "capacity" 503 "CapacityExceeded" "no room for another key"
        "The call could not be checked and was refused. Try later."
        "raise `max_keys`, or look for keys that never repeat";
    InvariantBroken "invariant_broken" 500 "StoreError" "a meter's books do not balance; it is closed"
        "This tool cannot be used now. Tell the user." "report this, then reset the meter";
}

/// The words of the table, for descriptions that are constants themselves.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at build time, where an index out of bounds is an error"
)]
const fn words() -> [&'static str; TABLE.len()] {
    let mut words = [""; TABLE.len()];
    let mut place = 0;
    while place < TABLE.len() {
        words[place] = TABLE[place].word;
        place += 1;
    }
    words
}

impl Code {
    /// Every word, in the order of [`all`](Self::all).
    pub const WORDS: &'static [&'static str] = &words();

    /// Every code, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.code)
    }

    fn entry(self) -> &'static Entry {
        // The table lists every code: a test goes through all of them.
        TABLE.iter().find(|entry| entry.code == self).unwrap_or(&FALLBACK)
    }

    /// The stable word, as in `rate_limited`.
    pub fn word(self) -> &'static str {
        self.entry().word
    }

    /// The code of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        TABLE.iter().find(|entry| entry.word == word).map(|entry| entry.code)
    }

    /// What it means, for people: lower case, no full stop.
    pub fn message(self) -> &'static str {
        self.entry().message
    }

    /// What to tell the model.
    pub fn model_message(self) -> &'static str {
        self.entry().model
    }

    /// What to do about it, for people.
    pub fn hint(self) -> &'static str {
        self.entry().hint
    }

    /// The HTTP status that doors over HTTP answer with.
    pub fn http_status(self) -> u16 {
        self.entry().status
    }

    /// The name of the Python exception, in the module `checkrein`.
    pub fn exception(self) -> &'static str {
        self.entry().exception
    }
}

const FALLBACK: Entry = Entry {
    code: Code::PolicyError,
    word: "policy_error",
    status: 500,
    exception: "PolicyError",
    message: "the policy cannot be used",
    model: "This tool cannot be used now. Tell the user.",
    hint: "mend the policy",
};

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_code_once() {
        // A match without a wildcard: a new code that is missing from the table does not compile here unnoticed.
        let last = Code::InvariantBroken as usize;
        assert_eq!(TABLE.len(), last + 1);
        for entry in TABLE {
            assert_eq!(Code::from_word(entry.word), Some(entry.code));
            assert_eq!(entry.code.entry().word, entry.word, "{} stands twice", entry.word);
            assert!(entry.message.starts_with(char::is_lowercase) && !entry.message.ends_with('.'));
            assert!(entry.model.ends_with('.'));
            assert!((400..600).contains(&entry.status));
        }
    }
}
