"""The `openai` package, 2.x on httpx and 3.x on httpx2: which of its requests cost what, and what bounds them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from checkrein.errors import ConfigError
from checkrein.integrations import openai_runner, openai_sockets, responses, stainless
from checkrein.integrations.metered import Asked, Attempt
from checkrein.integrations.openai_replies import SHAPES, BodyReading, StreamReading
from checkrein.integrations.responses import Lookup
from checkrein.integrations.streams import Reading

if TYPE_CHECKING:
    from checkrein.engine import Engine

MODULE: Final = "openai"
"""The package whose clients are meant."""

_PATHS: Final = re.compile(
    r"(?:^|/)(chat/completions|completions|responses|responses/compact|embeddings|decisions)/?$", re.ASCII
)
_OTHERS: Final = re.compile(
    r"(?:^|/)(images/(?:generations|edits|variations)|audio/(?:speech|transcriptions|translations)"
    r"|videos(?:/(?:edits|extensions|[^/]+/remix))?|batches|fine_tuning/jobs)/?$",
    re.ASCII,
)
"""What is paid for as well, although not by the text that is sent: held at an estimate where that is possible."""
_FREE: Final = re.compile(
    r"(?:^|/)(?:files|uploads(?:/.+)?|moderations|responses/input_tokens|chat/completions/[^/]+|conversations(?:/.+)?"
    r"|threads(?:/(?!runs/?$)[^/]+)?|threads/[^/]+/messages(?:/[^/]+)?|threads/[^/]+/runs/[^/]+|assistants(?:/[^/]+)?"
    r"|evals(?:/[^/]+)?|fine_tuning/alpha/graders/validate|fine_tuning/checkpoints/[^/]+/permissions"
    r"|vector_stores/[^/]+|skills(?:/.+)?|vaults(?:/.+)?|webhook_endpoints(?:/.+)?|organization/.+"
    r"|projects/[^/]+/(?:groups|roles|users)(?:/.+)?|.+/(?:cancel|pause|hangup|reject|archive))/?$",
    re.ASCII,
)
"""What is only kept, described or stopped costs nothing; whatever else is posted may, or the next version of it."""
_IN_FILES: Final = frozenset({"batches", "fine_tuning/jobs"})
"""What it costs stands in files that were sent before."""
_LONG: Final = 100
_UNNAMED: Final = "unnamed"
"""The model of a request that names none; it has no price."""
_NO_OUTPUT: Final = frozenset({"embeddings", "decisions"})
"""What only reads gives no tokens: nothing has to be reserved for them."""
_DRAWS: Final = "images/generations"
_IMAGE_TOKENS: Final = 8_192
"""Output tokens of an image at the most, as far as is known."""
_LOOKED_UP: Final = re.compile(r"(?:^|/)responses/([A-Za-z0-9_\-]+)(?:/cancel)?/?$", re.ASCII)
_MAXIMA: Final = {
    "chat/completions": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
"""How each endpoint is told the most output tokens; the first is sent where the caller names none."""
_ANSWERS: Final = ("n", "best_of")

# Who is behind a host that speaks this dialect. Any other host is not known: what it charges, the model's name says.
_PROVIDERS: Final = (
    ("api.openai.com", "openai"),
    (".openai.azure.com", "azure"),
    (".services.ai.azure.com", "azure"),
    (".cognitiveservices.azure.com", "azure"),
    ("openrouter.ai", "openrouter"),
    ("api.groq.com", "groq"),
    ("api.deepseek.com", "deepseek"),
    ("api.mistral.ai", "mistral"),
    ("api.together.xyz", "together"),
    ("api.fireworks.ai", "fireworks"),
    ("api.x.ai", "x-ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.cerebras.ai", "cerebras"),
    ("api.moonshot.ai", "moonshotai"),
    ("api.anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "google"),
)
_OWN_MODELS: Final = re.compile(
    r"(?:ft:)?(?:gpt-|chatgpt-|o\d|text-embedding-|davinci|babbage|codex|computer-use)"
)

_instrumented: stainless.Instrumented | None = None
_wraps = False
"""Whether any client was wrapped: it stays so until the process ends."""


def wrap(client: Any, engine: Engine | None) -> Any:
    """Meter one client."""
    global _wraps
    _wraps = True
    openai_runner.install()
    openai_sockets.install(_metered_by)
    sync, asynchronous = _bases()
    return stainless.wrap(client, sync, asynchronous, read, engine)


def instrument(engine: Engine | None) -> None:
    """Meter all clients of the process, those that exist too."""
    global _instrumented
    if _instrumented is None:
        _instrumented = stainless.Instrumented(read)
    openai_runner.install()
    openai_sockets.install(_metered_by)
    _instrumented.install(*_bases(), engine)


def uninstrument() -> None:
    """Stop metering clients that were not wrapped."""
    if _instrumented is not None:
        _instrumented.remove()
    if not _wraps:
        openai_runner.remove()
        openai_sockets.remove()


def is_client(value: object) -> bool:
    """Whether it is a client of this package."""
    return isinstance(value, _bases())


def _metered_by(client: Any) -> tuple[bool, Engine | None]:
    """Whether a client is metered, and by which engine."""
    own = type(client)
    if "_checkrein_wrapped" in own.__dict__:
        return True, own._checkrein_engine
    return (False, None) if _instrumented is None else _instrumented.meters()


def _bases() -> tuple[type, type]:
    from openai import _base_client

    return _base_client.SyncAPIClient, _base_client.AsyncAPIClient


def read(client: Any, options: Any) -> Endpoint | None:
    """Read a request; `None` for one that costs nothing."""
    method, path = options.method.lower(), urlsplit(str(options.url)).path
    looked_up = _LOOKED_UP.search(path)
    if looked_up is not None and (method != "post" or path.rstrip("/").endswith("/cancel")):
        # Reads, cancels and deletes are never refused; but a reply that is waited for may come with them.
        known = method in ("get", "post") and responses.is_expected(looked_up[1])
        return Endpoint("responses", None, response_id=looked_up[1]) if known else None
    if method != "post":
        return None
    found = _PATHS.search(path) or _OTHERS.search(path)
    if found is None:
        return None if _FREE.search(path) else Endpoint(path, None, unbounded=f"`POST {path[:_LONG]}`")
    body = _body_of(options)
    if _is_on(body.get("multi_agent")):
        return Endpoint(path, None, unbounded="a response of several agents")
    path, provider = found[1], _provider(client, body.get("model"))
    if path == "decisions" and provider == "openai":
        # It has prices of its own.
        provider = "openai-decisions"
    return Endpoint(path, body, provider=provider, has_files=bool(options.files) or path in _IN_FILES)


def _prompts(prompt: object) -> int:
    """Count the prompts of a legacy completion: each is answered for itself."""
    is_many = isinstance(prompt, list | tuple) and not all(isinstance(part, int) for part in prompt)
    return max(len(prompt), 1) if is_many and isinstance(prompt, list | tuple) else 1


def _parsed(content: bytes | bytearray) -> object:
    """Read a body; one that is no JSON is refused, and nothing of it is said or kept."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        pass
    raise ConfigError("the body of the request is no JSON", "request", "give what the provider reads")


def _is_on(feature: object) -> bool:
    return bool(feature.get("enabled", True) if isinstance(feature, Mapping) else feature)


def _body_of(options: Any) -> dict[str, Any]:
    """Return what is sent, from the places where the SDK keeps it."""
    body: dict[str, Any] = {}
    content = getattr(options, "content", None)
    if isinstance(content, bytes | bytearray):
        parsed = _parsed(content)
        body.update(parsed if isinstance(parsed, dict) else {})
    for part in (options.json_data, options.extra_json):
        if isinstance(part, Mapping):
            body.update(part)
    return body


def _provider(client: Any, model: object) -> str | None:
    host = str(getattr(client.base_url, "host", "") or "").lower()
    for known, provider in _PROVIDERS:
        if host == known.lstrip(".") or host.endswith(known if known[0] == "." else f".{known}"):
            return provider
    # A gateway of somebody's own: OpenAI's models are OpenAI's behind it too.
    return "openai" if isinstance(model, str) and _OWN_MODELS.match(model) else None


class Endpoint:
    """One request to the API, and how its replies are read."""

    def __init__(
        self,
        path: str,
        body: dict[str, Any] | None,
        *,
        provider: str | None = None,
        response_id: str | None = None,
        has_files: bool = False,
        unbounded: str | None = None,
    ) -> None:
        self.path = path
        self.unbounded = unbounded
        self._is_text = path in SHAPES
        self._has_files = has_files
        self.response_id = response_id
        self._hides_usage = False
        self._changes: dict[str, Any] = {}
        self._answers = self._choices = 1
        self._in_background = False
        self.asked: Asked | None = None
        if body is not None:
            self._ask(body, provider)

    def _ask(self, body: dict[str, Any], provider: str | None) -> None:
        if body.get("stream") and self.path in ("chat/completions", "completions"):
            wanted = body.get("stream_options")
            wanted = dict(wanted) if isinstance(wanted, Mapping) else {}
            self._hides_usage = wanted.get("include_usage") is not True
            if self._hides_usage:
                self._changes["stream_options"] = {**wanted, "include_usage": True}
        counts = [body.get(name) for name in _ANSWERS]
        prompts = _prompts(body.get("prompt")) if self.path == "completions" else 1
        self._answers = prompts * max([1, *(count for count in counts if isinstance(count, int))])
        choices = body.get("n")
        self._choices = prompts * (choices if isinstance(choices, int) and choices > 0 else 1)
        self._in_background = body.get("background") is True
        gate = body if self._is_text else self._unseen(body)
        self.asked = Asked(
            json.dumps({**gate, **self._changes}, ensure_ascii=False, separators=(",", ":"), default=_plain),
            model=model if isinstance(model := body.get("model"), str) else _UNNAMED,
            provider=provider,
            max_output=0 if self.path in _NO_OUTPUT else _IMAGE_TOKENS if self.path == _DRAWS else None,
            # An estimate, and said to be one: nobody can bound what is no text.
            unseen_tokens=_continued(body) if self._is_text else None if self._has_files else 0,
            at_most=_server_tools(body),
        )

    def _unseen(self, body: dict[str, Any]) -> dict[str, Any]:
        """Describe a request that is not all text: a file is what it refers to, and rates are those of its kind."""
        kind = self.path.partition("/")[0].rstrip("s")
        refers = {"input": [{"type": f"input_{kind}"}]} if self._has_files else {}
        return {**body, "modalities": [kind], **refers}

    def sent(self, options: Any, attempt: Attempt) -> Any:
        """Return the options as they are sent: with the maximum that was held for, and with usage asked for."""
        changes = dict(self._changes)
        names = _MAXIMA.get(self.path, ())
        body = _body_of(options)
        if names and attempt.max_output is not None and all(body.get(name) is None for name in names):
            changes[names[0]] = attempt.max_output
        if not changes:
            return options
        changed = copy.copy(options)
        if isinstance(getattr(options, "content", None), bytes | bytearray):
            changed.content = json.dumps({**body, **changes}, ensure_ascii=False).encode()
        else:
            changed.json_data = {**(options.json_data or {}), **changes}
            if options.extra_json:
                # What the caller adds at last would stand in its place.
                kept = {name: value for name, value in options.extra_json.items() if name not in changes}
                changed.extra_json = kept
        return changed

    def whole(self, attempt: Attempt, body: bytes) -> Reading:
        """Read a reply that is there."""
        reading = BodyReading(self._in_background, is_lookup=isinstance(attempt, Lookup))
        reading.feed(body)
        reading.rest()
        return reading

    def reading(self, attempt: Attempt, content_type: str) -> Reading:
        """Begin to read a reply that comes in pieces."""
        kind = content_type.lower()
        if not kind.startswith("text/event-stream"):
            is_lookup, is_json = isinstance(attempt, Lookup), "json" in kind or not kind
            return BodyReading(self._in_background, is_lookup=is_lookup, is_json=is_json)
        most = attempt.max_output
        return StreamReading(
            SHAPES.get(self.path, SHAPES["embeddings"]),
            most=None if most is None or self.path not in _MAXIMA else most * self._answers,
            hides_usage=self._hides_usage,
            in_background=self._in_background,
            answers=self._choices,
        )


_TEXTS: Final = frozenset(
    {"message", "input_text", "output_text", "text", "refusal", "reasoning", "summary_text", "reasoning_text"}
    | {"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)
"""Parts of an input that are all text."""


def _continued(body: Mapping[str, Any]) -> int | None:
    """Return what a request leaves to the response before it, in tokens, where that is all that it refers to.

    That is no more than the response used, with everything that stood before it.
    """
    before = body.get("previous_response_id")
    if not isinstance(before, str) or not _is_text(body.get("input")):
        return None
    tools = body.get("tools") or ()
    if any(body.get(name) is not None for name in ("conversation", "prompt", "container")):
        return None
    if not all(isinstance(tool, Mapping) and tool.get("type") in ("function", "custom") for tool in tools):
        return None
    return responses.tokens_of(before)


def _is_text(said: object) -> bool:
    if isinstance(said, list):
        return all(map(_is_text, said))
    if isinstance(said, Mapping):
        return said.get("type", "message") in _TEXTS and all(
            _is_text(said.get(name)) for name in ("content", "output", "summary")
        )
    return said is None or isinstance(said, str)


def _server_tools(body: Mapping[str, Any]) -> dict[str, int] | None:
    """Return how often the provider's own tools can run, where the request says so."""
    most = body.get("max_tool_calls")
    if type(most) is not int or most < 0:
        return None
    tools = body.get("tools")
    kinds = (
        [tool.get("type") for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    )
    searches = any(isinstance(kind, str) and kind.startswith("web_search") for kind in kinds)
    return {"web_searches": most} if searches else None


def _plain(value: object) -> object:
    """Write what an SDK can send and JSON does not know: models, and whatever can be iterated."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes | bytearray):
        return "." * len(value)
    return str(value)
