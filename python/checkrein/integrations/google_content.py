"""What the Gemini API is asked and what it answers, as the meter reads it: on Google's own API and on Vertex AI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from checkrein.integrations import limits
from checkrein.integrations.metered import Asked, Attempt

if TYPE_CHECKING:
    from checkrein.engine import Engine

_VERB: Final = re.compile(r"/(?P<model>[^/:]+):(?P<verb>[A-Za-z]+)$")
_GENERATE: Final = frozenset({"generateContent", "streamGenerateContent"})
_ONE: Final = frozenset({"embedContent", "batchEmbedContents", "predict", "predictLongRunning"})
# What costs, and nobody can say how much before it is done.
_UNBOUNDED: Final = {
    "asyncBatchEmbedContent": "a batch of embeddings",
    "tuningJobs": "tuning a model",
    "batchPredictionJobs": "a batch whose requests are in a file",
    "auth_tokens": "what a token for live sessions allows",
}
_FREE: Final = frozenset({"countTokens", "computeTokens", "cancel", "fetchPredictOperation", "register"})
_LONG: Final = 100
_READ: Final = ("usageMetadata", "modelVersion", "responseId")


class Endpoint:
    """A request that makes content or embeddings, or a batch of such requests."""

    def __init__(self, verb: str, asked: list[Asked]) -> None:
        self.verb = verb
        self.all_asked = asked

    @property
    def is_batch(self) -> bool:
        """Whether its answers come later."""
        return self.verb == "batchGenerateContent"

    def bounded(self, body: Mapping[str, Any], attempts: Sequence[Attempt]) -> Mapping[str, Any]:
        """Return the body with the maximum that was held for wherever the caller set none."""
        if self.verb in _GENERATE:
            return _with_maximum(body, attempts[0].max_output)
        return _batch_bounded(body, attempts) if self.is_batch else body

    def reading(self, attempt: Attempt) -> ContentReading:
        """Begin to read the reply of an attempt."""
        config = self.all_asked[0].body
        settings = config.get("generationConfig") if isinstance(config, Mapping) else None
        answers = settings.get("candidateCount") if isinstance(settings, Mapping) else None
        most = attempt.max_output
        if most is not None and isinstance(answers, int):
            most *= max(answers, 1)
        return ContentReading(self.verb, most)


def endpoint_of(method: str, url: str, body: object, engine: Engine) -> Endpoint | None:
    """Read a request; nothing for one that costs nothing: whatever only reads, counts, cancels or deletes.

    Raises BudgetExceeded for what cannot be bounded, where a limit counts in the engine.
    """
    if method.lower() != "post" or not isinstance(body, Mapping):
        return None
    path = url.partition("?")[0].rstrip("/")
    found = _VERB.search(path)
    verb = found["verb"] if found else path.rpartition("/")[2]
    if verb in _UNBOUNDED:
        limits.refuse_unmetered(engine, _UNBOUNDED[verb])
        return None
    if verb == "cachedContents":
        return Endpoint(verb, [_cache(body)])
    if found is None:
        return None
    model = found["model"]
    if verb in _GENERATE or verb in _ONE:
        return Endpoint(verb, [Asked(_without(body, "model"), model=model, provider="google")])
    if verb == "batchGenerateContent":
        return _batch(model, body, engine)
    if verb not in _FREE:
        # Files are indexed for searches with embeddings; what the next version does may cost as well.
        limits.refuse_unmetered(engine, f"`{verb[:_LONG]}`")
    return None


def _cache(body: Mapping[str, Any]) -> Asked:
    """What is put into a cache is charged as input. How long it stays there is charged too, and not seen here."""
    model = str(body.get("model") or "").rpartition("/")[2]
    return Asked(_without(body, "model"), model=model, provider="google", max_output=0)


def _batch(model: str, body: Mapping[str, Any], engine: Engine) -> Endpoint | None:
    source = _at(body, "batch", "inputConfig", "requests", "requests")
    if not isinstance(source, list | tuple) or not source:
        limits.refuse_unmetered(engine, "a batch whose requests are in a file")
        return None
    context = {"processing": "batch"}
    bodies = [one.get("request") if isinstance(one, Mapping) else None for one in source]
    asked = [
        Asked(_without(one or {}, "model"), model=model, provider="google", context=context) for one in bodies
    ]
    return Endpoint("batchGenerateContent", asked)


def _with_maximum(body: Mapping[str, Any], most: int | None) -> Mapping[str, Any]:
    config = body.get("generationConfig") or {}
    if most is None or config.get("maxOutputTokens") is not None:
        return body
    return {**body, "generationConfig": {**config, "maxOutputTokens": most}}


def _batch_bounded(body: Mapping[str, Any], attempts: Sequence[Attempt]) -> dict[str, Any]:
    batch = dict(body["batch"])
    config = batch["inputConfig"]
    requests = [
        {**one, "request": _with_maximum(one["request"], attempt.max_output)}
        for one, attempt in zip(config["requests"]["requests"], attempts, strict=True)
    ]
    batch["inputConfig"] = {**config, "requests": {**config["requests"], "requests": requests}}
    return {**body, "batch": batch}


def _without(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def _at(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


class ContentReading:
    """A reply as it comes: whole, or in chunks that tell the usage so far and end with all of it."""

    response_id: str | None = None
    finished = False

    def __init__(self, verb: str, most: int | None) -> None:
        self.reply: object | None = None
        self.most = most
        self._verb = verb
        self._said: dict[str, Any] = {}
        self._searches: list[Any] = []
        self._unfinished: dict[int, bool] = {}
        self._is_blocked = False
        self._parts = 0

    def chunk(self, said: object) -> None:
        """Take a chunk, or a whole reply."""
        if not isinstance(said, Mapping):
            return
        self._said.update({name: said[name] for name in _READ if said.get(name) is not None})
        for candidate in _mappings(said.get("candidates")):
            index = candidate.get("index")
            self._unfinished[index if isinstance(index, int) else 0] = candidate.get("finishReason") is None
            parts = _mappings(_at(candidate, "content", "parts"))
            texts = sum(bool(part.get("text")) and not part.get("thought") for part in parts)
            self._parts += texts
            if texts and said.get("usageMetadata") is None:
                # What was told was so before this.
                self._said.pop("usageMetadata", None)
            queries = _at(candidate, "groundingMetadata", "webSearchQueries")
            self._searches += (
                [query for query in queries if query not in self._searches]
                if isinstance(queries, list)
                else []
            )
        # Usage is told with every chunk: only the end of all answers makes it all, or that none was given.
        self._is_blocked |= _at(said, "promptFeedback", "blockReason") is not None
        is_over = not any(self._unfinished.values()) if self._unfinished else self._is_blocked
        self.reply = self._whole() if is_over else None

    def whole(self, said: object) -> None:
        """Take a reply that is there."""
        self.chunk(said)
        if isinstance(said, Mapping):
            # All of it, so that an error that says nobody could be told carries it.
            self._said, self._searches = dict(said), []
            counted = _embedded(self._verb, said)
            if counted is not None:
                self._said["usageMetadata"] = counted
        self.reply = self._whole()

    def streamed(self) -> int:
        """Return how many output tokens have come, at the least."""
        usage = self._said.get("usageMetadata")
        told = [_at(usage, name) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
        return max(self._parts, sum(count for count in told if type(count) is int and count > 0))

    def _whole(self) -> object | None:
        if not isinstance(self._said.get("usageMetadata"), Mapping):
            return None
        grounding = {"groundingMetadata": {"webSearchQueries": self._searches}}
        return {**self._said, **({"candidates": [grounding]} if self._searches else {})}

    # What the meter of bodies asks for: chunks are no bytes, and are not made well-formed by any.

    def feed(self, data: bytes) -> list[bytes]:
        """Take a whole reply as bytes."""
        self.whole(_json(data))
        return [data]

    def rest(self) -> bytes:
        """Say that nothing is left."""
        return b""

    def ending(self) -> bytes:
        """Say that nothing has to follow."""
        return b""


def _embedded(verb: str, said: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find what an embedding or a cache used: it counts its input alone, each in its own words."""
    if verb == "predict":
        counts = [
            _at(one, "embeddings", "statistics", "token_count") for one in _mappings(said.get("predictions"))
        ]
    elif verb == "cachedContents":
        counts = [_at(said, "usageMetadata", "totalTokenCount")]
    elif verb in ("embedContent", "batchEmbedContents"):
        counts = [_at(said, "usageMetadata", "promptTokenCount")]
    else:
        return None
    whole = [count for count in counts if type(count) is int]
    if not whole or len(whole) < len(counts):
        return None
    return {"promptTokenCount": sum(whole), "totalTokenCount": sum(whole)}


def _mappings(values: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(values, Sequence) and not isinstance(values, str):
        yield from (value for value in values if isinstance(value, Mapping))


def _json(data: bytes) -> object:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None
