//! The fields of a file of cases, one line of meaning each.

use checkrein_core::code::Code;

use crate::config::fields::{block, field};
use crate::config::shape::{Block, Field, Presence, Shape, Text};

use Presence::{Optional, Required};

/// The most times that one step is taken.
pub(super) const MAX_TIMES: u64 = 10_000;

const ACTOR: Shape = Shape::Text(Text::Any);
const TENANT: Field = field("tenant", Optional, ACTOR, "The tenant of the action.");
const USER: Field = field("user", Optional, ACTOR, "The user it acts for.");
const AGENT: Field = field("agent", Optional, ACTOR, "The agent that acts.");
const RUN: Field = field("run", Optional, ACTOR, "The run it belongs to.");
const SESSION: Field = field("session", Optional, ACTOR, "The session it belongs to.");
const PRINCIPAL: Field = field("principal", Optional, ACTOR, "Who is identified by a door.");
const NAMESPACE: Field = field("namespace", Optional, ACTOR, "The namespace of the tool.");

const REASONS: Shape = Shape::List(&Shape::Either(&[Shape::Word(Code::WORDS), Shape::Table(&REASON)]), 16);

/// The whole file.
pub(in crate::config) static CASES: Block = block(
    "a file of cases",
    &[
        field("version", Required, Shape::Whole(1, 1), "The version of this format."),
        field(
            "defaults",
            Optional,
            Shape::Table(&WHO),
            "Who acts, where neither a case nor its step says so.",
        ),
        field(
            "cases",
            Required,
            Shape::List(&Shape::Table(&CASE), 1_000),
            "The cases. Each begins with a store in which nothing has happened.",
        ),
    ],
);

static WHO: Block = block("who acts", &[TENANT, USER, AGENT, RUN, SESSION, PRINCIPAL, NAMESPACE]);

static CASE: Block = block(
    "a case",
    &[
        field(
            "name",
            Required,
            Shape::Text(Text::Any),
            "What it shows, in words; no other case has the same.",
        ),
        field(
            "start",
            Optional,
            Shape::Text(Text::Moment),
            "When it begins, in UTC; 2026-01-01 without it. Calendar windows and `now` go by it.",
        ),
        TENANT,
        USER,
        AGENT,
        RUN,
        SESSION,
        PRINCIPAL,
        NAMESPACE,
        field(
            "steps",
            Required,
            Shape::List(&Shape::Table(&STEP), 1_000),
            "The actions, one after the other.",
        ),
    ],
);

static STEP: Block = block(
    "a step",
    &[
        field("tool", Required, Shape::Text(Text::Any), "The tool that is called."),
        field("args", Optional, Shape::Members, "Its arguments; none without it."),
        field(
            "expect",
            Required,
            Shape::Word(&["allow", "deny", "replay"]),
            "What the policy has to say: `replay` is the stored result of an earlier call with the same once key.",
        ),
        field(
            "reasons",
            Optional,
            REASONS,
            "Why it is denied: every reason that is given has to be one of these, and each of these has to be given.",
        ),
        field(
            "observed",
            Optional,
            REASONS,
            "What gates in observe mode have to say, in the same way; `[]` means nothing.",
        ),
        field(
            "at",
            Optional,
            Shape::Text(Text::Duration),
            "When, since the case began; at the time of the step before without it. Time does not run by itself.",
        ),
        field(
            "times",
            Optional,
            Shape::Whole(1, MAX_TIMES),
            "How often the same is done and expected; once without it.",
        ),
        field(
            "outcome",
            Optional,
            Shape::Word(&["done", "failed", "in_doubt", "running"]),
            "What becomes of an action that is allowed; `done` without it. `failed` had no effect, `in_doubt` may have \
             had one, `running` goes on until the case ends. All but `done` and `running` are failures to a breaker.",
        ),
        field(
            "result",
            Optional,
            Shape::Json,
            "What the tool returns, from which facts are proved; of a replay, what is returned again.",
        ),
        TENANT,
        USER,
        AGENT,
        RUN,
        SESSION,
        PRINCIPAL,
        NAMESPACE,
    ],
);

static REASON: Block = block(
    "a reason",
    &[
        field("code", Required, Shape::Word(Code::WORDS), "The reason's code."),
        field(
            "gate",
            Optional,
            Shape::Text(Text::Any),
            "The name of the gate, as `policy explain` shows it.",
        ),
    ],
);
