"""Counts calls of the `openai` package in budgets."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import warnings
from dataclasses import dataclass
from typing import Any, Final

from checkrein.actguard.integrations.accounting import Request
from checkrein.actguard.integrations.patching import is_patched, patch_clients, sent_body
from checkrein.actguard.integrations.sizes import body_bytes, is_whole
from checkrein.actguard.integrations.streams import AsyncStream, SyncStream, compatible, said
from checkrein.actguard.integrations.usage import UsageInfo, field, first_int, usage_tokens

PROVIDER: Final = "openai"
_MIN_OPENAI_VERSION: Final = (1, 76)
_HELD: Final = ("/chat/completions", "/completions", "/responses", "/embeddings", "/responses/compact")
_FREE: Final = ("/cancel", "/responses/input_tokens", "/files", "/uploads", "/parts", "/complete")
_LOOKUP: Final = re.compile(r"/responses/[^/]+/?$")
_ENDED: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)

_patched = False


@dataclass
class _Endpoint:
    request: Request
    holds: bool
    is_stream: bool
    reads: bool = False
    hides_usage: bool = False

    def usage(self, reply: Any) -> UsageInfo | None:
        """Return what a whole reply says was used."""
        return _info(reply, self.request.model)

    def reading(self) -> _Reading:
        """Return what reads a streamed reply."""
        return _Reading(self.request, hides_usage=self.hides_usage)


def _info(reply: Any, model: str) -> UsageInfo | None:
    usage = field(reply, "usage")
    tokens = None if usage is None else usage_tokens(usage)
    if tokens is None:
        return None
    named = field(reply, "model")
    return UsageInfo(PROVIDER, named if isinstance(named, str) and named else model, *tokens)


class _Reading:
    """Usage in the pieces of a chat completion, or in the last event of a response."""

    def __init__(self, request: Request, *, hides_usage: bool = False) -> None:
        self.request = request
        self.final = False
        self.last: Any = None
        self._hides_usage = hides_usage
        self._info: UsageInfo | None = None
        self._pieces = 0
        self._bytes = 0
        self._model = request.model

    def feed(self, piece: Any) -> bool:
        """Take a piece; the one that is there for the usage alone is for whoever asked for it."""
        response = field(piece, "response")
        if response is not None:
            if field(piece, "type") in _ENDED:
                self._told(response, final=True)
            return True
        choices = field(piece, "choices")
        text = said(choices) or said(field(piece, "delta"))
        if text:
            self._pieces += 1
            self._bytes += text
        model = field(piece, "model")
        self._model = model if isinstance(model, str) and model else self._model
        if field(piece, "usage") is None:
            return True
        self._told(piece, final=not _goes_on(choices))
        return bool(choices) or not self._hides_usage

    def _told(self, piece: Any, *, final: bool) -> None:
        info = _info(piece, self.request.model)
        if info is not None:
            self._info, self.last, self.final = info, piece, final

    def info(self) -> UsageInfo | None:
        """Return what was reported so far."""
        return self._info

    def estimate(self) -> UsageInfo:
        """Return what the request holds and what has come, where nothing was reported."""
        output = max(self._pieces, -(-self._bytes // 4))
        return UsageInfo(PROVIDER, self._model, -(-self.request.input_bytes // 4), 0, output)


def _goes_on(choices: Any) -> bool:
    """Whether a piece with usage says itself that more follows: some servers count in every piece."""
    if not isinstance(choices, list) or not choices:
        return False
    missing = object()
    return any(getattr(choice, "finish_reason", missing) is None for choice in choices)


class _WrappedSyncStream(SyncStream):
    """A stream that counts in one scope, made by hand."""

    def __new__(cls, inner: Any, model: str, state: Any) -> Any:
        return compatible(SyncStream, inner, state, _Reading(Request(PROVIDER, model)))


class _WrappedAsyncStream(AsyncStream):
    """An asynchronous stream that counts in one scope, made by hand."""

    def __new__(cls, inner: Any, model: str, state: Any) -> Any:
        return compatible(AsyncStream, inner, state, _Reading(Request(PROVIDER, model)))


def _parse_major_minor(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return None if found is None else (int(found[1]), int(found[2]))


def _get_model_from_options(options: Any) -> str:
    model = field(sent_body(options), "model")
    return model if isinstance(model, str) else ""


def _inject_stream_options(options: Any) -> bool:
    """Ask for the usage of a streamed chat completion; returns whether its reader did not."""
    data, more = getattr(options, "json_data", None), getattr(options, "extra_json", None)
    if not isinstance(data, dict) or "chat/completions" not in str(getattr(options, "url", "")):
        return False
    asked = field(sent_body(options), "stream_options")
    asked = asked if isinstance(asked, dict) else {}
    if asked.get("include_usage"):
        return False
    with_usage = {"stream_options": {**asked, "include_usage": True}}
    options.json_data = {**data, **with_usage}
    if isinstance(more, dict) and "stream_options" in more:
        options.extra_json = {**more, **with_usage}
    return True


def _endpoint(options: Any, stream: bool) -> _Endpoint | None:
    """Read a request; `None` for one that uses nothing: reads, cancellations, deletions, files."""
    url = str(getattr(options, "url", "")).partition("?")[0]
    method = str(getattr(options, "method", "post") or "post").lower()
    data = sent_body(options)
    request = Request(PROVIDER, _get_model_from_options(options), data)
    if method == "get" and _LOOKUP.search(url):
        return None if stream else _Endpoint(request, holds=False, is_stream=False, reads=True)
    if method != "post" or any(part in url for part in _FREE):
        return None
    if not url.endswith(_HELD):
        return _Endpoint(request, holds=False, is_stream=False)
    size, seen = body_bytes(data)
    output = _max_output(url, data) if seen else None
    asked = Request(PROVIDER, request.model, data, size, output)
    return _Endpoint(asked, holds=True, is_stream=stream)


def _reads(client: Any, options: Any, stream: bool) -> _Endpoint | None:
    endpoint = _endpoint(options, stream)
    if endpoint is not None and stream:
        endpoint.hides_usage = _inject_stream_options(options)
    return endpoint


def _max_output(url: str, data: Any) -> int | None:
    """Return the most tokens that may come back, or `None`."""
    if url.endswith("/embeddings"):
        return 0
    said = [first_int(data, (name,)) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")]
    most = max((one for one in said if one is not None), default=None)
    if most is None:
        return None
    choices = max(one if is_whole(one := field(data, name)) else 1 for name in ("n", "best_of"))
    prompts = field(data, "prompt")
    if isinstance(prompts, list | tuple) and prompts and not isinstance(prompts[0], int):
        # Completions of the older kind answer each prompt of a list.
        choices *= len(prompts)
    return most * choices


def patch_openai() -> None:
    """Let the package's clients count in budgets, from now on in the whole process. Idempotent."""
    global _patched
    if _patched and is_patched(sys.modules.get("openai._base_client")):
        return
    if importlib.util.find_spec("openai") is None:
        return
    base = importlib.import_module("openai._base_client")
    version = _parse_major_minor(str(getattr(importlib.import_module("openai"), "__version__", "")))
    if version is not None and version < _MIN_OPENAI_VERSION:
        warnings.warn("actguard counts calls of openai 1.76 and later.", UserWarning, stacklevel=3)
    patch_clients(base, _reads)
    _patched = True
