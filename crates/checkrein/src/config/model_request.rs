//! What is known of a request to a model before it is sent: its size, its maximum, and what it only refers to.

use checkrein_core::canonical_json;
use checkrein_core::json::{Object, Value};
use checkrein_core::usage::{Usage, UsageUnit};

/// What providers add for tools at most, in tokens.
const TOOLS_ADD: u64 = 1_000;
/// What they add around a single prompt at most.
const PROMPT_ADDS: u64 = 32;
/// The members under which requests say the most output tokens of an answer.
const MAXIMA: [&str; 6] = [
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "max_tokens_to_sample",
    "max_new_tokens",
];
/// The members under which they say how many answers they ask for.
const ANSWERS: [&str; 4] = ["n", "best_of", "candidateCount", "candidate_count"];
/// The members that hold what is said to the model.
const SAID: [&str; 8] = [
    "messages",
    "input",
    "system",
    "contents",
    "instructions",
    "prompt",
    "systemInstruction",
    "system_instruction",
];
/// Members that name what the provider keeps or does beside the request.
const REFERRING: [&str; 10] = [
    "previous_response_id",
    "conversation",
    "cachedContent",
    "cached_content",
    "container",
    "mcp_servers",
    "web_search_options",
    "plugins",
    "models",
    "multi_agent",
];
/// Parts of messages whose bytes are at least their tokens.
const TEXT_PARTS: [&str; 17] = [
    "text",
    "input_text",
    "output_text",
    "summary_text",
    "refusal",
    "message",
    "reasoning",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "tool_call",
    "function",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
];
/// Members of a part that are a file, or the name of one.
const FILES: [&str; 7] =
    ["inlineData", "inline_data", "fileData", "file_data", "file_id", "image_url", "audio"];
/// Members of a part that are text, whatever they look like: arguments and results of tools, and notes on the part.
const OPAQUE: [&str; 8] = [
    "arguments",
    "args",
    "response",
    "functionCall",
    "functionResponse",
    "cache_control",
    "annotations",
    "citations",
];

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRequest {
    /// Bytes of the whole request as it is sent.
    pub bytes: u64,
    /// The most output tokens of one answer that the caller asks for.
    pub max_output: Option<u64>,
    /// How many answers it asks for.
    pub answers: u64,
    /// Tokens that the provider adds itself, at most.
    pub added_tokens: u64,
    /// Whether it refers to what it does not contain: images, files, earlier responses, tools of the provider.
    pub refers: bool,
    /// Somebody's estimate of the tokens of what it refers to.
    pub unseen_tokens: Option<u64>,
    /// Whether input or output can be anything but text.
    pub is_multimodal: bool,
    /// The most of everything that is not tokens: searches, pages, seconds.
    pub other: Usage,
    /// What kind of call it is (`service_tier`, `processing`); nothing where any kind may be charged.
    pub context: Option<Vec<(String, String)>>,
}

impl Default for ModelRequest {
    fn default() -> Self {
        Self::of_text(0)
    }
}

/// A request that cannot be bounded as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{member}` of the request {problem}")]
pub struct ModelRequestError {
    /// The member.
    pub member: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ModelRequest {
    /// A prompt of text alone, of so many bytes: without the JSON around it, which is longer than what a provider writes
    /// in its place.
    pub fn of_prompt(bytes: u64) -> Self {
        Self { added_tokens: PROMPT_ADDS, ..Self::of_text(bytes) }
    }

    /// A request of text alone, of so many bytes as it is sent.
    pub fn of_text(bytes: u64) -> Self {
        Self {
            bytes,
            max_output: None,
            answers: 1,
            added_tokens: 0,
            refers: false,
            unseen_tokens: None,
            is_multimodal: false,
            other: Usage::default(),
            context: None,
        }
    }

    /// Reads the JSON of a request to OpenAI, Anthropic or Gemini, and of those who speak like them. What is not known
    /// to be text counts as something the request only refers to.
    ///
    /// # Errors
    /// A maximum or a number of answers that is none.
    pub fn of_json(request: &Value) -> Result<Self, ModelRequestError> {
        let mut read = Self::of_text(length(request));
        let settings = ["generationConfig", "generation_config"].map(|name| request.get(name));
        for of in [Some(request)].into_iter().chain(settings).flatten() {
            read.max_output = read.max_output.max(largest(of, &MAXIMA)?);
            read.answers = read.answers.max(largest(of, &ANSWERS)?.unwrap_or_default());
            let shapes = ["modalities", "responseModalities", "response_modalities"];
            let shapes = shapes.iter().filter_map(|name| of.get(name)?.as_array()).flatten();
            let is_text =
                |shape: &Value| shape.as_str().is_some_and(|word| word.eq_ignore_ascii_case("text"));
            read.is_multimodal |= !shapes.into_iter().all(is_text);
        }
        let is_there = |name: &&str| request.get(name).is_some_and(|value| !matches!(value, Value::Null));
        read.refers = REFERRING.iter().any(is_there);
        // Several prompts are answered one by one, each with as many answers and as much output as one.
        let prompts = request.get("prompt").and_then(Value::as_array).into_iter().flatten();
        let prompts = prompts.filter(|prompt| prompt.as_str().is_some() || prompt.as_array().is_some());
        read.answers = read.answers.saturating_mul(u64::try_from(prompts.count()).unwrap_or(u64::MAX).max(1));
        // A stored prompt is named by its id.
        read.refers |= request.get("prompt").is_some_and(|prompt| prompt.as_object().is_some());
        let said = SAID.iter().filter_map(|name| request.get(name));
        if !said.clone().all(is_text) {
            read.refers = true;
            read.is_multimodal = true;
        }
        for tool in request.get("tools").and_then(Value::as_array).into_iter().flatten() {
            read.added_tokens = TOOLS_ADD;
            read.tool(tool);
        }
        Ok(read)
    }

    /// Tools of the caller are text; what the provider runs itself brings in what nobody has seen.
    fn tool(&mut self, tool: &Value) {
        let kind = tool.get("type").and_then(Value::as_str);
        let is_schema = |name: &str| matches!(name, "functionDeclarations" | "function_declarations");
        let declares = || {
            tool.as_object().is_some_and(|of| !of.is_empty() && of.iter().all(|(name, _)| is_schema(name)))
        };
        let is_own = match kind {
            Some("function" | "custom") => true,
            Some(_) => false,
            None => tool.get("input_schema").is_some() || declares(),
        };
        self.refers |= !is_own;
        let most = tool.get("max_uses").and_then(whole).filter(|_| !is_own);
        if let (Some(kind), Some(most)) = (kind, most)
            && kind.starts_with("web_search")
        {
            // More than any call can use is refused by the bound as well.
            let _ = self.other.add(UsageUnit::WebSearches, most);
        }
    }

    /// What is known of the request, as the arguments of its action: rules read it, a ledger keeps it, and the call can
    /// be priced from it again.
    pub(super) fn arguments(&self, provider: Option<&str>, model: &str, max_output: Option<u64>) -> Value {
        let text = |text: &str| Value::String(text.to_owned());
        let mut members = Vec::with_capacity(12);
        let mut put = |name: &str, value: Value| members.push((name.to_owned(), value));
        put("answers", Value::from_u64(self.answers));
        put("input_bytes", Value::from_u64(self.bytes));
        put("model", text(model));
        if let Some(provider) = provider {
            put("provider", text(provider));
        }
        if let Some(most) = max_output {
            put("max_output", Value::from_u64(most));
        }
        if self.added_tokens > 0 {
            put("added_tokens", Value::from_u64(self.added_tokens));
        }
        if let Some(unseen) = self.unseen_tokens {
            put("unseen_tokens", Value::from_u64(unseen));
        }
        for (name, holds) in [("refers", self.refers), ("multimodal", self.is_multimodal)] {
            if holds {
                put(name, Value::Bool(true));
            }
        }
        let most: Vec<_> =
            self.other.iter().map(|(unit, count)| (unit.name().to_owned(), Value::from_u64(count))).collect();
        if !most.is_empty() {
            put("at_most", object(most));
        }
        if let Some(context) = &self.context {
            put("context", object(context.iter().map(|(key, said)| (key.clone(), text(said))).collect()));
        }
        object(members)
    }

    /// The request that such arguments tell of, with its provider and model.
    pub fn of_arguments(arguments: &Value) -> Option<(Self, Option<&str>, &str)> {
        let number = |name: &str| arguments.get(name).and_then(whole);
        let holds = |name: &str| matches!(arguments.get(name), Some(Value::Bool(true)));
        let mut other = Usage::default();
        for (name, count) in
            arguments.get("at_most").and_then(Value::as_object).into_iter().flat_map(Object::iter)
        {
            other.set(UsageUnit::from_name(name)?, whole(count)?).ok()?;
        }
        let context = match arguments.get("context") {
            None => None,
            Some(of) => {
                let pairs = of.as_object()?.iter();
                Some(
                    pairs
                        .map(|(key, said)| Some((key.to_owned(), said.as_str()?.to_owned())))
                        .collect::<Option<_>>()?,
                )
            }
        };
        let request = Self {
            bytes: number("input_bytes")?,
            max_output: number("max_output"),
            answers: number("answers")?,
            added_tokens: number("added_tokens").unwrap_or_default(),
            refers: holds("refers"),
            unseen_tokens: number("unseen_tokens"),
            is_multimodal: holds("multimodal"),
            other,
            context,
        };
        Some((request, arguments.get("provider").and_then(Value::as_str), arguments.get("model")?.as_str()?))
    }
}

fn object(members: Vec<(String, Value)>) -> Value {
    // Every name is there once, so that there is always an object.
    Object::from_members(members).map_or(Value::Null, Value::Object)
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Uint(number) => Some(*number),
        _ => None,
    }
}

/// The largest of what some members say: two of them that contradict each other are bounded both.
fn largest(of: &Value, names: &[&str]) -> Result<Option<u64>, ModelRequestError> {
    let mut most = None;
    for name in names {
        match of.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let problem = "is not a whole number, zero or more";
                let number =
                    whole(value).ok_or_else(|| ModelRequestError { member: (*name).to_owned(), problem })?;
                most = most.max(Some(number));
            }
        }
    }
    Ok(most)
}

/// Whether all that is said is text, without recursion.
fn is_text(said: &Value) -> bool {
    let mut left = vec![said];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(part) => {
                let kind = part.get("type").and_then(Value::as_str);
                if kind.is_some_and(|kind| !TEXT_PARTS.contains(&kind)) {
                    return false;
                }
                // Nothing but an id: something that was said before.
                if part.get("id").is_some() && part.len() == 1 {
                    return false;
                }
                if FILES.iter().any(|name| part.get(name).is_some_and(|file| !matches!(file, Value::Null))) {
                    return false;
                }
                let is_call = kind == Some("tool_use");
                let inner =
                    part.iter().filter(|(name, _)| !(OPAQUE.contains(name) || is_call && *name == "input"));
                left.extend(inner.map(|(_, value)| value));
            }
            _ => {}
        }
    }
    true
}

/// The bytes of the canonical form: no other way of writing a value is shorter, and a token has one byte at least.
fn length(value: &Value) -> u64 {
    struct Count(u64);
    impl canonical_json::Sink for Count {
        fn put(&mut self, bytes: &[u8]) {
            self.0 = self.0.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
    }
    let mut count = Count(0);
    canonical_json::write(value, &mut count);
    count.0
}
