//! What a provider counts: every unit that a usage report may name, and which unit is a part of which.

/// Declares the units, in the order in which usages are shown.
macro_rules! units {
    ($($unit:ident $name:literal $price:literal $per:literal [$($dimension:ident)*],)*) => {
        /// A unit of usage: input tokens, searches, seconds of audio.
        ///
        /// A unit with more dimensions is a part of one with fewer: cache reads are part of the input.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum UsageUnit {
            $(
                #[doc = concat!("`", $name, "`")]
                $unit,
            )*
        }

        impl UsageUnit {
            /// Every unit.
            pub const ALL: &'static [Self] = &[$(Self::$unit),*];

            /// The word of usages: `input_tokens`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$unit => $name,)* }
            }

            /// The word of prices: `input_mtok`.
            pub const fn price_name(self) -> &'static str {
                match self { $(Self::$unit => $price,)* }
            }

            /// How many of it a price is for: a million tokens, 3,600 seconds.
            pub const fn per(self) -> u64 {
                match self { $(Self::$unit => $per,)* }
            }

            /// The unit of a word of usages.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$unit),)* _ => None }
            }

            /// The unit of a word of prices.
            pub fn from_price_name(name: &str) -> Option<Self> {
                match name { $($price => Some(Self::$unit),)* _ => None }
            }

            const fn dimensions(self) -> Dimensions {
                match self { $(Self::$unit => units!(@dimensions $($dimension)*),)* }
            }
        }
    };
    (@dimensions $family:ident $direction:ident $modality:ident $kind:ident $life:ident) => {
        Dimensions {
            family: Family::$family,
            direction: Direction::$direction,
            modality: Modality::$modality,
            kind: Kind::$kind,
            life: Life::$life,
        }
    };
}

units! {
    InputTokens "input_tokens" "input_mtok" 1_000_000 [Tokens Input Any Any Any],
    OutputTokens "output_tokens" "output_mtok" 1_000_000 [Tokens Output Any Any Any],
    CacheReadTokens "cache_read_tokens" "cache_read_mtok" 1_000_000 [Tokens Input Any CacheRead Any],
    CacheWriteTokens "cache_write_tokens" "cache_write_mtok" 1_000_000 [Tokens Input Any CacheWrite Any],
    CacheWrite5mTokens "cache_write_5m_tokens" "cache_write_5m_mtok" 1_000_000 [Tokens Input Any CacheWrite FiveMinutes],
    CacheWrite1hTokens "cache_write_1h_tokens" "cache_write_1h_mtok" 1_000_000 [Tokens Input Any CacheWrite OneHour],
    InputTextTokens "input_text_tokens" "input_text_mtok" 1_000_000 [Tokens Input Text Any Any],
    OutputTextTokens "output_text_tokens" "output_text_mtok" 1_000_000 [Tokens Output Text Any Any],
    CacheTextReadTokens "cache_text_read_tokens" "cache_text_read_mtok" 1_000_000 [Tokens Input Text CacheRead Any],
    CacheTextWriteTokens "cache_text_write_tokens" "cache_text_write_mtok" 1_000_000 [Tokens Input Text CacheWrite Any],
    CacheTextWrite5mTokens "cache_text_write_5m_tokens" "cache_text_write_5m_mtok" 1_000_000 [Tokens Input Text CacheWrite FiveMinutes],
    CacheTextWrite1hTokens "cache_text_write_1h_tokens" "cache_text_write_1h_mtok" 1_000_000 [Tokens Input Text CacheWrite OneHour],
    InputAudioTokens "input_audio_tokens" "input_audio_mtok" 1_000_000 [Tokens Input Audio Any Any],
    OutputAudioTokens "output_audio_tokens" "output_audio_mtok" 1_000_000 [Tokens Output Audio Any Any],
    CacheAudioReadTokens "cache_audio_read_tokens" "cache_audio_read_mtok" 1_000_000 [Tokens Input Audio CacheRead Any],
    CacheAudioWriteTokens "cache_audio_write_tokens" "cache_audio_write_mtok" 1_000_000 [Tokens Input Audio CacheWrite Any],
    CacheAudioWrite5mTokens "cache_audio_write_5m_tokens" "cache_audio_write_5m_mtok" 1_000_000 [Tokens Input Audio CacheWrite FiveMinutes],
    CacheAudioWrite1hTokens "cache_audio_write_1h_tokens" "cache_audio_write_1h_mtok" 1_000_000 [Tokens Input Audio CacheWrite OneHour],
    InputImageTokens "input_image_tokens" "input_image_mtok" 1_000_000 [Tokens Input Image Any Any],
    OutputImageTokens "output_image_tokens" "output_image_mtok" 1_000_000 [Tokens Output Image Any Any],
    CacheImageReadTokens "cache_image_read_tokens" "cache_image_read_mtok" 1_000_000 [Tokens Input Image CacheRead Any],
    CacheImageWriteTokens "cache_image_write_tokens" "cache_image_write_mtok" 1_000_000 [Tokens Input Image CacheWrite Any],
    CacheImageWrite5mTokens "cache_image_write_5m_tokens" "cache_image_write_5m_mtok" 1_000_000 [Tokens Input Image CacheWrite FiveMinutes],
    CacheImageWrite1hTokens "cache_image_write_1h_tokens" "cache_image_write_1h_mtok" 1_000_000 [Tokens Input Image CacheWrite OneHour],
    InputVideoTokens "input_video_tokens" "input_video_mtok" 1_000_000 [Tokens Input Video Any Any],
    OutputVideoTokens "output_video_tokens" "output_video_mtok" 1_000_000 [Tokens Output Video Any Any],
    CacheVideoReadTokens "cache_video_read_tokens" "cache_video_read_mtok" 1_000_000 [Tokens Input Video CacheRead Any],
    CacheVideoWriteTokens "cache_video_write_tokens" "cache_video_write_mtok" 1_000_000 [Tokens Input Video CacheWrite Any],
    CacheVideoWrite5mTokens "cache_video_write_5m_tokens" "cache_video_write_5m_mtok" 1_000_000 [Tokens Input Video CacheWrite FiveMinutes],
    CacheVideoWrite1hTokens "cache_video_write_1h_tokens" "cache_video_write_1h_mtok" 1_000_000 [Tokens Input Video CacheWrite OneHour],
    InputToolTokens "input_tool_tokens" "input_tool_mtok" 1_000_000 [Tokens Input Any Tool Any],
    InputTextToolTokens "input_text_tool_tokens" "input_text_tool_mtok" 1_000_000 [Tokens Input Text Tool Any],
    InputAudioToolTokens "input_audio_tool_tokens" "input_audio_tool_mtok" 1_000_000 [Tokens Input Audio Tool Any],
    InputImageToolTokens "input_image_tool_tokens" "input_image_tool_mtok" 1_000_000 [Tokens Input Image Tool Any],
    InputVideoToolTokens "input_video_tool_tokens" "input_video_tool_mtok" 1_000_000 [Tokens Input Video Tool Any],
    OutputReasoningTokens "output_reasoning_tokens" "output_reasoning_mtok" 1_000_000 [Tokens Output Any Reasoning Any],
    OutputTextReasoningTokens "output_text_reasoning_tokens" "output_text_reasoning_mtok" 1_000_000 [Tokens Output Text Reasoning Any],
    OutputAudioReasoningTokens "output_audio_reasoning_tokens" "output_audio_reasoning_mtok" 1_000_000 [Tokens Output Audio Reasoning Any],
    OutputImageReasoningTokens "output_image_reasoning_tokens" "output_image_reasoning_mtok" 1_000_000 [Tokens Output Image Reasoning Any],
    OutputVideoReasoningTokens "output_video_reasoning_tokens" "output_video_reasoning_mtok" 1_000_000 [Tokens Output Video Reasoning Any],
    OutputCitationTokens "output_citation_tokens" "output_citation_mtok" 1_000_000 [Tokens Output Any Citation Any],
    OutputTextCitationTokens "output_text_citation_tokens" "output_text_citation_mtok" 1_000_000 [Tokens Output Text Citation Any],
    OutputAudioCitationTokens "output_audio_citation_tokens" "output_audio_citation_mtok" 1_000_000 [Tokens Output Audio Citation Any],
    OutputImageCitationTokens "output_image_citation_tokens" "output_image_citation_mtok" 1_000_000 [Tokens Output Image Citation Any],
    OutputVideoCitationTokens "output_video_citation_tokens" "output_video_citation_mtok" 1_000_000 [Tokens Output Video Citation Any],
    InputCharacters "input_characters" "input_mchars" 1_000_000 [Characters Input Any Any Any],
    InputTextMessages "input_text_messages" "input_text_messages_kcount" 1_000 [Messages Input Text Any Any],
    AudioSeconds "audio_seconds" "audio_hours" 3_600 [Durations Any Audio Any Any],
    InputAudioSeconds "input_audio_seconds" "input_audio_hours" 3_600 [Durations Input Audio Any Any],
    OutputAudioSeconds "output_audio_seconds" "output_audio_hours" 3_600 [Durations Output Audio Any Any],
    InputPixels "input_pixels" "input_gpixels" 1_000_000_000 [Pixels Input Any Any Any],
    InputDocumentPages "input_document_pages" "input_document_kpages" 1_000 [DocumentPages Input Any Any Any],
    InputAnnotatedDocumentPages "input_annotated_document_pages" "input_annotated_document_kpages" 1_000 [DocumentPages Input Any Annotated Any],
    RerankSearches "rerank_searches" "rerank_searches_kcount" 1_000 [Rerank Any Any Any Any],
    WebSearches "web_searches" "web_searches_kcount" 1_000 [ToolCalls Any Any WebSearch Any],
    SocialSearches "social_searches" "social_searches_kcount" 1_000 [ToolCalls Any Any SocialSearch Any],
    StorageSearches "storage_searches" "storage_searches_kcount" 1_000 [ToolCalls Any Any StorageSearch Any],
    CodeExecutions "code_executions" "code_executions_kcount" 1_000 [ToolCalls Any Any CodeExecution Any],
    Requests "requests" "requests_kcount" 1_000 [Requests Any Any Any Any],
}

/// What is counted at all. Units of different families never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Tokens of a model.
    Tokens,
    /// Characters of text.
    Characters,
    /// Messages, whatever their length.
    Messages,
    /// Seconds.
    Durations,
    /// Pixels of images.
    Pixels,
    /// Pages of documents.
    DocumentPages,
    /// Searches of a reranking model.
    Rerank,
    /// Calls of tools that the provider runs.
    ToolCalls,
    /// Requests: one per call.
    Requests,
}

/// Where it flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not told apart.
    Any,
    /// To the model.
    Input,
    /// From the model.
    Output,
}

/// What it is a representation of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// Not told apart.
    Any,
    /// Text.
    Text,
    /// Audio.
    Audio,
    /// Image.
    Image,
    /// Video.
    Video,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    CacheRead,
    CacheWrite,
    Tool,
    Reasoning,
    Citation,
    Annotated,
    WebSearch,
    SocialSearch,
    StorageSearch,
    CodeExecution,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Any,
    FiveMinutes,
    OneHour,
}

struct Dimensions {
    family: Family,
    direction: Direction,
    modality: Modality,
    kind: Kind,
    life: Life,
}

impl Dimensions {
    const COUNT: usize = 5;

    /// The dimensions as numbers; `Any` is zero.
    const fn numbers(&self) -> [u8; Self::COUNT] {
        [self.family as u8 + 1, self.direction as u8, self.modality as u8, self.kind as u8, self.life as u8]
    }
}

impl UsageUnit {
    /// What is counted.
    pub const fn family(self) -> Family {
        self.dimensions().family
    }

    /// Where it flows.
    pub const fn direction(self) -> Direction {
        self.dimensions().direction
    }

    /// What it represents.
    pub const fn modality(self) -> Modality {
        self.dimensions().modality
    }

    /// How many dimensions it states: a part states more than its whole.
    pub const fn detail(self) -> u32 {
        self.row().detail
    }

    /// The units it is a part of, itself not among them.
    pub const fn wholes(self) -> UnitSet {
        UnitSet(self.row().wholes)
    }

    /// The units that are parts of it, itself not among them.
    pub const fn parts(self) -> UnitSet {
        UnitSet(self.row().parts)
    }

    #[expect(clippy::indexing_slicing, reason = "the table has a row for every unit")]
    const fn row(self) -> Row {
        TABLE[self as usize]
    }

    /// Whether it is exactly what two of its wholes have in common.
    pub fn is_overlap_of(self, left: Self, right: Self) -> bool {
        let (left, right) = (left.dimensions().numbers(), right.dimensions().numbers());
        let merged = left.iter().zip(right).map(|(left, right)| (*left).max(right));
        let compatible =
            left.iter().zip(right).all(|(left, right)| *left == right || *left == 0 || right == 0);
        compatible && merged.eq(self.dimensions().numbers())
    }
}

/// A set of units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitSet(u64);

impl UnitSet {
    /// No unit.
    pub const EMPTY: Self = Self(0);

    /// The set with one more.
    #[must_use]
    pub const fn with(self, unit: UsageUnit) -> Self {
        Self(self.0 | 1 << unit as u32)
    }

    /// The set without one.
    #[must_use]
    pub const fn without(self, unit: UsageUnit) -> Self {
        Self(self.0 & !(1 << unit as u32))
    }

    /// Whether the unit is in it.
    pub const fn has(self, unit: UsageUnit) -> bool {
        self.0 & 1 << unit as u32 != 0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its units, in the order of [`UsageUnit::ALL`].
    pub fn iter(self) -> impl Iterator<Item = UsageUnit> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let unit = UsageUnit::ALL.get(left.trailing_zeros() as usize).copied();
            left &= left.wrapping_sub(1);
            unit
        })
    }
}

#[derive(Clone, Copy)]
struct Row {
    detail: u32,
    wholes: u64,
    parts: u64,
}

/// Which unit is a part of which, worked out by the compiler.
#[expect(clippy::indexing_slicing, reason = "a constant; an index that is out of bounds does not compile")]
static TABLE: [Row; UsageUnit::ALL.len()] = {
    let mut table = [Row { detail: 0, wholes: 0, parts: 0 }; UsageUnit::ALL.len()];
    let mut one = 0;
    while one < table.len() {
        let ours = UsageUnit::ALL[one].dimensions().numbers();
        let mut other = 0;
        while other < table.len() {
            let theirs = UsageUnit::ALL[other].dimensions().numbers();
            let (mut ours_is_whole, mut at) = (one != other, 0);
            while at < Dimensions::COUNT {
                ours_is_whole = ours_is_whole && (ours[at] == 0 || ours[at] == theirs[at]);
                at += 1;
            }
            if ours_is_whole {
                table[one].parts |= 1 << other;
                table[other].wholes |= 1 << one;
            }
            other += 1;
        }
        let mut at = 0;
        while at < Dimensions::COUNT {
            table[one].detail += (ours[at] != 0) as u32;
            at += 1;
        }
        one += 1;
    }
    table
};
