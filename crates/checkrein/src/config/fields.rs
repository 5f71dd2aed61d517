//! The fields of a policy file, one line of meaning each.

use super::model_fields::{MODEL, PRICES};
use super::shape::{Block, Field, Presence, Shape, Text};

use Presence::{Later, Optional, Required};

pub(super) const fn field(
    name: &'static str,
    presence: Presence,
    shape: Shape,
    about: &'static str,
) -> Field {
    Field { name, shape, presence, about }
}

pub(super) const fn block(what: &'static str, fields: &'static [Field]) -> Block {
    Block { what, fields, rivals: &[], needs: &[], some_of: &[] }
}

pub(super) const MANY: u64 = u32::MAX as u64;

pub(super) const MODES: Shape = Shape::Word(&["enforce", "observe"]);
const ABOUT_MODE: &str = "`enforce`: refusals hold. `observe`: they are recorded and the action passes. \
    Without it the mode of the section, then that of `[defaults]`, counts.";
const ABOUT_KEY: &str = "For whom it counts: CEL that gives text. Without it, one record for everybody.";
const ABOUT_WINDOW: &str = "The last stretch of this length.";
const ABOUT_CALENDAR: &str = "The current day, week (from Monday) or month instead of a rolling window.";
const ABOUT_TZ: &str = "The time zone in which the period begins; UTC without it.";
const PERIODS: Shape = Shape::Word(&["day", "week", "month"]);
const KEY: Field = field("key", Optional, Shape::Text(Text::Key), ABOUT_KEY);
const MODE: Field = field("mode", Optional, MODES, ABOUT_MODE);
const WINDOW: Field = field("window", Optional, Shape::Text(Text::Duration), ABOUT_WINDOW);
const CALENDAR: Field = field("calendar", Optional, PERIODS, ABOUT_CALENDAR);
const TZ: Field = field("tz", Optional, Shape::Text(Text::Zone), ABOUT_TZ);
const MAX_FAILS: Field =
    field("max_fails", Optional, Shape::Whole(1, MANY), "Failures in a row that open it; 5 without it.");
const RESET: Field =
    field("reset", Optional, Shape::Text(Text::Duration), "How long it stays open; 60 s without it.");
const PROBES: Field =
    field("probes", Optional, Shape::Whole(1, 1_000), "Calls let through to try; 1 without it.");
const PROBE_LEASE: Field = field(
    "probe_lease",
    Optional,
    Shape::Text(Text::Duration),
    "How long such a call may take; 60 s without it.",
);
const WINDOW_RIVALS: &[(&str, &str)] = &[("window", "calendar")];
const WINDOW_NEEDS: &[(&str, &[&str])] = &[("tz", &["calendar"])];
const LIMIT_NEEDS: &[(&str, &[&str])] = &[
    ("tz", &["calendar"]),
    ("max_calls", &["window", "calendar"]),
    ("window", &["max_calls"]),
    ("calendar", &["max_calls"]),
];

/// The whole file.
pub(super) static FILE: Block = block(
    "a policy",
    &[
        field("version", Required, Shape::Whole(1, 1), "The version of this format."),
        field("defaults", Optional, Shape::Table(&DEFAULTS), "What counts where a section says nothing."),
        field(
            "budgets",
            Optional,
            Shape::Named(Text::Name, &Shape::Table(&BUDGET), 1_000),
            "Budgets by name, which tools take from.",
        ),
        field(
            "breakers",
            Optional,
            Shape::Named(Text::Name, &Shape::Table(&BREAKER), 1_000),
            "Circuit breakers by name: one for each dependency.",
        ),
        field(
            "tools",
            Optional,
            Shape::Named(Text::Pattern, &Shape::Table(&TOOL), 10_000),
            "Sections of tools, by exact name or by a pattern with `*`. The gates of all sections that match add up.",
        ),
        field(
            "models",
            Optional,
            Shape::Named(Text::Pattern, &Shape::Table(&MODEL), 10_000),
            "Sections of models, by exact name or by a pattern with `*`, as `MODEL` or `PROVIDER/MODEL`. The gates of all \
             sections that match add up.",
        ),
        field("prices", Optional, Shape::Table(&PRICES), "What differs from the price book."),
        field("freeze", Optional, Shape::Table(&FREEZE), "Who or what is stopped."),
    ],
);

static DEFAULTS: Block = block(
    "the defaults",
    &[
        field(
            "decision",
            Optional,
            Shape::Word(&["deny", "allow"]),
            "What happens to a tool that no section covers; `deny` without it.",
        ),
        field(
            "mode",
            Optional,
            MODES,
            "The mode of every gate that has none of its own; `enforce` without it.",
        ),
        field(
            "on_store_error",
            Optional,
            Shape::Word(&["closed"]),
            "When the store cannot answer, actions are refused. Single rate limits may say otherwise.",
        ),
    ],
);

static BUDGET: Block = Block {
    what: "a budget",
    fields: &[
        KEY,
        field("limit", Required, Shape::Text(Text::Quantity), "The most that may be spent and held."),
        WINDOW,
        CALENDAR,
        TZ,
        field("hard", Optional, Shape::Truth, "Refuses costs that are only estimated."),
        field(
            "parent",
            Optional,
            Shape::Text(Text::Name),
            "A budget of the same unit that everything taken from this one is taken from too, in the same step.",
        ),
        MODE,
        field(
            "thresholds",
            Optional,
            Shape::List(&Shape::Whole(1, 100), 8),
            "The percentages of the limit at which the budget is announced, once they are spent and held.",
        ),
    ],
    rivals: WINDOW_RIVALS,
    needs: WINDOW_NEEDS,
    some_of: &[],
};

static BREAKER: Block = block("a breaker", &[KEY, MAX_FAILS, RESET, PROBES, PROBE_LEASE, MODE]);

pub(super) static OWN_BREAKER: Block = block(
    "a breaker",
    &[
        field(
            "name",
            Required,
            Shape::Text(Text::Name),
            "The dependency: breakers of one name are one breaker.",
        ),
        KEY,
        MAX_FAILS,
        RESET,
        PROBES,
        PROBE_LEASE,
        MODE,
    ],
);

static TOOL: Block = block(
    "a tool",
    &[
        field(
            "rules",
            Optional,
            Shape::List(&Shape::Either(&[Shape::Text(Text::Condition), Shape::Table(&RULE)]), 32),
            "Conditions that must hold.",
        ),
        field("limits", Optional, Shape::List(&Shape::Table(&LIMIT), 32), "Rate limits and cooldowns."),
        field(
            "budgets",
            Optional,
            Shape::List(&Shape::Either(&[Shape::Text(Text::Name), Shape::Table(&TAKE)]), 32),
            "What a call costs, and which budgets it is taken from.",
        ),
        field(
            "attempts",
            Optional,
            Shape::Either(&[Shape::Whole(1, MANY), Shape::Table(&ATTEMPTS)]),
            "The most calls ever, until the counter is reset.",
        ),
        field("once", Optional, Shape::Table(&ONCE), "At most one run per key."),
        field(
            "breaker",
            Optional,
            Shape::Either(&[Shape::Text(Text::Name), Shape::Table(&OWN_BREAKER)]),
            "The circuit breaker of the dependency, by name or in full.",
        ),
        field(
            "facts",
            Optional,
            Shape::List(&Shape::Table(&FACT), 16),
            "Arguments that a read must have shown.",
        ),
        field(
            "proves",
            Optional,
            Shape::List(&Shape::Table(&PROOF), 16),
            "What the results of this tool show.",
        ),
        field("loop", Optional, Shape::Table(&LOOP), "Stops an agent that repeats itself."),
        field("timeout", Optional, Shape::Text(Text::Duration), "How long a caller waits for the tool."),
        field("mode", Optional, MODES, "The mode of the gates of this section that have none of their own."),
        field(
            "on_store_error",
            Optional,
            Shape::Word(&["closed", "open"]),
            "`open` lets calls pass when the store cannot answer: only for a tool whose one gate is a rate limit.",
        ),
        field("approval", Later, Shape::Table(&APPROVAL), "Who has to approve a call."),
        field(
            "secrets",
            Later,
            Shape::Named(Text::Name, &Shape::Text(Text::Any), 32),
            "References to credentials that the call is given.",
        ),
    ],
);

pub(super) static RULE: Block = block(
    "a rule",
    &[
        field("check", Required, Shape::Text(Text::Condition), "What must hold."),
        field(
            "when",
            Optional,
            Shape::Text(Text::Condition),
            "Asked first: if it does not hold, the rule passes.",
        ),
        field("name", Optional, Shape::Text(Text::Any), "Its name in reasons; its text without it."),
        field("message", Optional, Shape::Text(Text::Any), "What a refusal says."),
        field(
            "lookalikes",
            Optional,
            Shape::Truth,
            "Whether texts are compared as they look too: the rule then has to hold for the texts as they are, and for all texts without case, invisible characters and letters that imitate others.",
        ),
        MODE,
    ],
);

pub(super) static LIMIT: Block = Block {
    what: "a limit",
    fields: &[
        KEY,
        field("max_calls", Optional, Shape::Whole(0, MANY), "The most calls in the window."),
        WINDOW,
        CALENDAR,
        TZ,
        field("cooldown", Optional, Shape::Text(Text::Duration), "What must pass between two calls."),
        field(
            "name",
            Optional,
            Shape::Text(Text::Name),
            "Limits of one name, key and window count together.",
        ),
        MODE,
    ],
    rivals: WINDOW_RIVALS,
    needs: LIMIT_NEEDS,
    some_of: &["max_calls", "cooldown"],
};

static TAKE: Block = block(
    "a cost",
    &[
        field("name", Required, Shape::Text(Text::Name), "The budget it is taken from."),
        field(
            "cost",
            Optional,
            Shape::Either(&[Shape::Text(Text::Quantity), Shape::Table(&COMPUTED)]),
            "An amount in the unit of the budget, or an expression; one call in a budget of calls.",
        ),
        MODE,
    ],
);

static COMPUTED: Block = block(
    "a computed cost",
    &[field(
        "cel",
        Required,
        Shape::Text(Text::Cost),
        "CEL that gives a whole number: of nano-dollars for a budget in dollars, else of the budget's unit.",
    )],
);

static ATTEMPTS: Block =
    block("attempts", &[field("max", Required, Shape::Whole(1, MANY), "The most calls."), KEY, MODE]);

static ONCE: Block = block(
    "once",
    &[
        field("key", Required, Shape::Text(Text::Key), "What may happen once: CEL that gives text."),
        field(
            "on_unknown",
            Optional,
            Shape::Word(&["hold"]),
            "An unknown outcome is held until it is resolved, never retried blindly.",
        ),
        field(
            "keep_result",
            Optional,
            Shape::Text(Text::Duration),
            "How long a result is kept; 24 h without it.",
        ),
        field(
            "keep_key",
            Optional,
            Shape::Text(Text::Duration),
            "How long the key is remembered; 400 d without it.",
        ),
    ],
);

static FACT: Block = block(
    "a fact",
    &[
        field("arg", Required, Shape::Text(Text::Pointer), "Where the value stands in the arguments."),
        field("kind", Required, Shape::Text(Text::Name), "The kind of fact that has to be proved."),
        MODE,
    ],
);

static PROOF: Block = block(
    "a proof",
    &[
        field("kind", Required, Shape::Text(Text::Name), "The kind of fact."),
        field("pointer", Required, Shape::Text(Text::Pointer), "Where the value stands in the result."),
        field(
            "echo",
            Optional,
            Shape::Truth,
            "Whether a value that the call itself named counts too: only for a tool that fails where there is no such thing.",
        ),
    ],
);

static LOOP: Block = block(
    "the loop guard",
    &[
        field(
            "same_call",
            Required,
            Shape::Whole(2, 10_000),
            "The call of this number with the same tool and arguments in a run is refused.",
        ),
        MODE,
    ],
);

static APPROVAL: Block = block(
    "an approval",
    &[
        field(
            "when",
            Optional,
            Shape::Text(Text::Condition),
            "Which calls have to be approved; all without it.",
        ),
        field("quorum", Optional, Shape::Whole(1, 100), "How many people have to approve."),
        field("approvers", Optional, Shape::List(&Shape::Text(Text::Name), 100), "Who may approve."),
        field("ttl", Optional, Shape::Text(Text::Duration), "How long an approval holds."),
    ],
);

static FREEZE: Block = block(
    "a freeze",
    &[
        field("tools", Optional, Shape::List(&Shape::Text(Text::Pattern), 1_000), "Tools that are stopped."),
        field("users", Optional, Shape::List(&Shape::Text(Text::Any), 1_000), "Users who are stopped."),
        field("tenants", Optional, Shape::List(&Shape::Text(Text::Any), 1_000), "Tenants that are stopped."),
        field("agents", Optional, Shape::List(&Shape::Text(Text::Any), 1_000), "Agents that are stopped."),
        field("runs", Optional, Shape::List(&Shape::Text(Text::Any), 1_000), "Runs that are stopped."),
    ],
);
