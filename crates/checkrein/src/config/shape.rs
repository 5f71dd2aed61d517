//! What a policy file may look like, as data: the one description that the reader and the JSON Schema follow.

/// The form of one value.
#[derive(Debug)]
pub(super) enum Shape {
    /// A whole number between two bounds, both included.
    Whole(u64, u64),
    /// `true` or `false`.
    Truth,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// Text of a certain form.
    Text(Text),
    /// A list of at most so many values.
    List(&'static Shape, usize),
    /// A table with these fields and no others.
    Table(&'static Block),
    /// A table whose keys are names of a certain form, at most so many.
    Named(Text, &'static Shape, usize),
    /// Text, a number or a list in short, or a table in full: told apart by their types.
    Either(&'static [Shape]),
    /// Whatever JSON can say: a date is no such value.
    Json,
    /// A table of such values by any name.
    Members,
}

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// Anything that is not empty and fits a line of a report.
    Any,
    /// A length of time.
    Duration,
    /// An amount with its unit.
    Quantity,
    /// The name of a budget, a breaker or a kind of fact.
    Name,
    /// The name of a tool, or a pattern with `*`.
    Pattern,
    /// A time zone.
    Zone,
    /// A place in a JSON value.
    Pointer,
    /// A day, or an instant to the second, in UTC.
    Moment,
    /// An amount of money.
    Money,
    /// A part of a hundred.
    Percent,
    /// A model of a provider.
    Model,
    /// CEL that gives a boolean.
    Condition,
    /// CEL that gives text.
    Key,
    /// CEL that gives a whole number.
    Cost,
}

impl Text {
    /// What such a text has to look like, for this library and for a JSON Schema alike.
    pub(super) const fn pattern(self) -> &'static str {
        match self {
            Self::Any | Self::Condition | Self::Key | Self::Cost => r"\S",
            Self::Duration => {
                r"^[0-9]{1,9}(\.[0-9]{1,9})? ?(ms|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)$"
            }
            Self::Quantity => {
                r"^(\$[0-9]{1,26}(\.[0-9]{1,12})?|[0-9]{1,26}(\.[0-9]{1,12})? (usd|cu)|[0-9]{1,20} (tokens?|calls?))$"
            }
            Self::Name => r"^[A-Za-z0-9_.:-]{1,64}$",
            Self::Pattern => r"^[^\u0000-\u0020\u007f]{1,256}$",
            Self::Zone => r"^[A-Za-z0-9_+/-]{1,64}$",
            Self::Pointer => r"^(/([^/~]|~[01])*)+$",
            Self::Moment => r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$",
            Self::Money => r"^(\$[0-9]{1,7}(\.[0-9]{1,12})?|[0-9]{1,7}(\.[0-9]{1,12})? usd)$",
            Self::Percent => r"^[0-9]{1,2}(\.[0-9]{1,4})?%$",
            Self::Model => r"^[^/\u0000-\u0020\u007f]{1,100}/[^\u0000-\u0020\u007f*]{1,150}$",
        }
    }

    /// The longest such text, in characters.
    pub(super) const fn longest(self) -> usize {
        match self {
            Self::Condition | Self::Key | Self::Cost => 4_096,
            _ => 256,
        }
    }

    /// What it is, for messages.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Any => "text",
            Self::Duration => "a duration",
            Self::Quantity => "an amount with its unit",
            Self::Name => "a name",
            Self::Pattern => "the name of a tool",
            Self::Zone => "a time zone",
            Self::Pointer => "a JSON pointer",
            Self::Moment => "an instant",
            Self::Money => "an amount of money",
            Self::Percent => "a percentage",
            Self::Model => "a model of a provider",
            Self::Condition => "a condition in CEL",
            Self::Key => "a key in CEL",
            Self::Cost => "a cost in CEL",
        }
    }

    /// How to write it.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::Any => "write at most 256 characters, between quotes",
            Self::Duration => "write a number and a unit: `250ms`, `20s`, `10m`, `1h`, `7d`",
            Self::Quantity => {
                "write text with a unit: `\"0.30 usd\"`, `\"200000 tokens\"`, `\"12 calls\"`, `\"3 cu\"`"
            }
            Self::Name => "use letters, digits and `_ . : -`, at most 64 of them",
            Self::Pattern => "use at most 256 characters without spaces; `*` stands for any of them",
            Self::Zone => "use an IANA name such as `Europe/Berlin`",
            Self::Moment => "write a day or an instant in UTC: `2026-11-21`, `2026-11-21T12:30:00Z`",
            Self::Pointer => "write the way from the root: `/payment_id`, `/items/0/id`",
            Self::Money => "write text with its unit: `\"3.00 usd\"`",
            Self::Percent => "write text with its sign: `\"15%\"`, at most four decimals, below 100",
            Self::Model => "write the provider and the model: `openai/gpt-5`",
            Self::Condition => "write an expression such as `args.amount > 0`",
            Self::Key => "write an expression that gives text, such as `action.user`",
            Self::Cost => "write an expression that gives a whole number of nano-dollars",
        }
    }
}

/// A table with known fields.
#[derive(Debug)]
pub(super) struct Block {
    /// What it describes, for messages.
    pub(super) what: &'static str,
    pub(super) fields: &'static [Field],
    /// Pairs of fields that contradict each other.
    pub(super) rivals: &'static [(&'static str, &'static str)],
    /// Fields that make sense only beside one of others.
    pub(super) needs: &'static [(&'static str, &'static [&'static str])],
    /// Fields of which at least one has to be there.
    pub(super) some_of: &'static [&'static str],
}

/// One field of a table.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) presence: Presence,
    /// What it does, in one sentence.
    pub(super) about: &'static str,
}

/// Whether a field has to be there, or may not be there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Optional,
    Required,
    /// It is read like any other, and then refused: this version would not act on it.
    Later,
}

impl Block {
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}
