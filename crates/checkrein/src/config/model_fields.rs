//! The fields of models and prices, one line of meaning each.

use super::fields::{LIMIT, MANY, MODES, OWN_BREAKER, RULE, block, field};
use super::shape::{Block, Field, Presence, Shape, Text};

use Presence::{Optional, Required};

pub(super) static MODEL: Block = block(
    "a model",
    &[
        field(
            "budgets",
            Optional,
            Shape::List(&Shape::Text(Text::Name), 32),
            "The budgets a call is taken from: held at the most it can cost, settled at what its usage costs.",
        ),
        field(
            "reserve_output",
            Optional,
            Shape::Whole(1, MANY),
            "The maximum of output tokens of a call whose caller sets none. It has to be sent with the call.",
        ),
        field(
            "max_output",
            Optional,
            Shape::Whole(1, MANY),
            "The most output tokens a caller may ask for, and the maximum where nobody else sets one.",
        ),
        field(
            "reserve_unseen",
            Optional,
            Shape::Whole(1, MANY),
            "The input tokens held for what a request refers to and does not contain: images, files, earlier \
             responses. The bound is an estimate then.",
        ),
        field(
            "provider",
            Optional,
            Shape::Text(Text::Name),
            "The provider whose prices count where the call names none.",
        ),
        field(
            "rules",
            Optional,
            Shape::List(&Shape::Either(&[Shape::Text(Text::Condition), Shape::Table(&RULE)]), 32),
            "Conditions that must hold. `args` is what is known of the request: `provider`, `model`, `input_bytes`, \
             `max_output`, `answers`.",
        ),
        field("limits", Optional, Shape::List(&Shape::Table(&LIMIT), 32), "Rate limits and cooldowns."),
        field(
            "breaker",
            Optional,
            Shape::Either(&[Shape::Text(Text::Name), Shape::Table(&OWN_BREAKER)]),
            "The circuit breaker of the provider, by name or in full.",
        ),
        field("timeout", Optional, Shape::Text(Text::Duration), "How long a caller waits for the model."),
        field("mode", Optional, MODES, "The mode of the gates of this section that have none of their own."),
    ],
);

pub(super) static PRICES: Block = block(
    "the prices",
    &[
        field(
            "unknown_model",
            Optional,
            Shape::Word(&["deny"]),
            "A model without a price is refused where a budget in dollars is involved, unless `assume` names one.",
        ),
        field(
            "assume",
            Optional,
            Shape::Text(Text::Model),
            "The model at whose prices one without a price is charged. The bound is an estimate then.",
        ),
        field(
            "discounts",
            Optional,
            Shape::Named(Text::Name, &Shape::Text(Text::Percent), 100),
            "What a provider takes off its prices in the book. Prices of your own are not discounted.",
        ),
        field(
            "models",
            Optional,
            Shape::Named(Text::Model, &Shape::Table(&PRICE), 1_000),
            "Prices of your own, by `PROVIDER/MODEL`.",
        ),
    ],
);

const MONEY: Shape = Shape::Text(Text::Money);
const INPUT: Field = field("input", Optional, MONEY, "A million input tokens.");
const OUTPUT: Field = field("output", Optional, MONEY, "A million output tokens.");
const CACHE_READ: Field =
    field("cache_read", Optional, MONEY, "A million input tokens read from a cache; `input` without it.");
const CACHE_WRITE: Field =
    field("cache_write", Optional, MONEY, "A million input tokens written to a cache; `input` without it.");
const CACHE_WRITE_5M: Field = field(
    "cache_write_5m",
    Optional,
    MONEY,
    "A million input tokens written for 5 minutes; `cache_write` without it.",
);
const CACHE_WRITE_1H: Field = field(
    "cache_write_1h",
    Optional,
    MONEY,
    "A million input tokens written for an hour; `cache_write` without it.",
);

pub(super) static PRICE: Block = Block {
    what: "a price",
    fields: &[
        field("free", Optional, Shape::Truth, "The model costs nothing, and that is meant."),
        field(
            "amend",
            Optional,
            Shape::Truth,
            "What is not named here costs what the book says; without it the model has these prices and no others.",
        ),
        INPUT,
        OUTPUT,
        CACHE_READ,
        CACHE_WRITE,
        CACHE_WRITE_5M,
        CACHE_WRITE_1H,
        field("reasoning", Optional, MONEY, "A million output tokens of reasoning; `output` without it."),
        field("input_audio", Optional, MONEY, "A million input tokens of audio; `input` without it."),
        field("output_audio", Optional, MONEY, "A million output tokens of audio; `output` without it."),
        field("input_image", Optional, MONEY, "A million input tokens of images; `input` without it."),
        field("output_image", Optional, MONEY, "A million output tokens of images; `output` without it."),
        field("per_million_characters", Optional, MONEY, "A million input characters."),
        field("per_request", Optional, MONEY, "A request, whatever it contains."),
        field("per_web_search", Optional, MONEY, "A search of the web by the provider."),
        field("per_file_search", Optional, MONEY, "A search of stored files by the provider."),
        field("per_code_execution", Optional, MONEY, "A run of code by the provider."),
        field("per_rerank", Optional, MONEY, "A search of a reranking model."),
        field("per_page", Optional, MONEY, "A page of a document."),
        field("per_audio_hour", Optional, MONEY, "An hour of audio."),
        field(
            "steps",
            Optional,
            Shape::List(&Shape::Table(&STEP), 8),
            "Other prices for all tokens of a call with more input tokens than a step says, ascending.",
        ),
    ],
    rivals: &[("free", "amend")],
    needs: &[],
    some_of: &[],
};

static STEP: Block = block(
    "a step",
    &[
        field("above", Required, Shape::Whole(1, MANY), "The number of input tokens above which it counts."),
        INPUT,
        OUTPUT,
        CACHE_READ,
        CACHE_WRITE,
        CACHE_WRITE_5M,
        CACHE_WRITE_1H,
    ],
);
