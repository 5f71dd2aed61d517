"""Counts calls of the `anthropic` package in budgets."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any, Final

from checkrein.actguard.integrations.accounting import Request
from checkrein.actguard.integrations.patching import is_patched, patch_clients, sent_body
from checkrein.actguard.integrations.sizes import body_bytes
from checkrein.actguard.integrations.streams import AsyncStream, SyncStream, compatible, said
from checkrein.actguard.integrations.usage import UsageInfo, field, first_int

PROVIDER: Final = "anthropic"
_CACHES: Final = ("cache_creation_input_tokens",), ("cache_read_input_tokens",)

_patched = False


@dataclass
class _Endpoint:
    request: Request
    holds: bool
    is_stream: bool
    reads: bool = False

    def usage(self, reply: Any) -> UsageInfo | None:
        """Return what a whole reply says was used."""
        usage = field(reply, "usage")
        if usage is None:
            return None
        told = _Tokens()
        told.take(usage)
        model = field(reply, "model")
        return told.info(model if isinstance(model, str) and model else self.request.model)

    def reading(self) -> _Reading:
        """Return what reads a streamed reply."""
        return _Reading(self.request)


class _Tokens:
    """The counts of a message, the latest of each kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def take(self, usage: Any) -> None:
        for name in ("input_tokens", "output_tokens", *_CACHES[0], *_CACHES[1]):
            found = first_int(usage, (name,))
            if found is not None:
                self.counts[name] = found

    def info(self, model: str) -> UsageInfo | None:
        """Return everything that went in, with what was read from a cache as its cached part."""
        if not self.counts:
            return None
        cached = self.counts.get("cache_read_input_tokens", 0)
        written = self.counts.get("cache_creation_input_tokens", 0)
        return UsageInfo(
            PROVIDER,
            model,
            self.counts.get("input_tokens", 0) + cached + written,
            cached,
            self.counts.get("output_tokens", 0),
        )


class _Reading:
    """The input in the first event of a message, the output in its deltas."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.final = False
        self.last: Any = None
        self._tokens = _Tokens()
        self._model = request.model
        self._pieces = 0
        self._bytes = 0
        self._ended = False

    def feed(self, piece: Any) -> bool:
        """Take an event; all of them are for the reader."""
        message = field(piece, "message")
        if message is not None:
            model = field(message, "model")
            self._model = model if isinstance(model, str) and model else self._model
            self._tokens.take(field(message, "usage"))
        kind = field(piece, "type")
        if kind == "message_delta":
            self._tokens.take(field(piece, "usage"))
            self._ended = True
        elif kind == "content_block_delta":
            self._pieces += 1
            self._bytes += said(field(piece, "delta"))
        elif kind == "message_stop":
            self.final = True
        return True

    def info(self) -> UsageInfo | None:
        """Return what was reported, as far as the last word on the output has come."""
        return self._tokens.info(self._model) if self._ended else None

    def estimate(self) -> UsageInfo:
        """Return the input that was reported and the output that has come."""
        told = self._tokens.info(self._model)
        output = max(self._pieces, -(-self._bytes // 4))
        if told is None:
            return UsageInfo(PROVIDER, self._model, -(-self.request.input_bytes // 4), 0, output)
        return UsageInfo(
            PROVIDER,
            self._model,
            told.input_tokens,
            told.cached_input_tokens,
            max(output, told.output_tokens),
        )


class _WrappedSyncStream(SyncStream):
    """A stream that counts in one scope, made by hand."""

    def __new__(cls, inner: Any, model: str, state: Any) -> Any:
        return compatible(SyncStream, inner, state, _Reading(Request(PROVIDER, model)))


class _WrappedAsyncStream(AsyncStream):
    """An asynchronous stream that counts in one scope, made by hand."""

    def __new__(cls, inner: Any, model: str, state: Any) -> Any:
        return compatible(AsyncStream, inner, state, _Reading(Request(PROVIDER, model)))


def _get_model_from_options(options: Any) -> str:
    model = field(sent_body(options), "model")
    return model if isinstance(model, str) else ""


def _is_messages_endpoint(options: Any) -> bool:
    return str(getattr(options, "url", "")).partition("?")[0].rstrip("/").endswith("/v1/messages")


def _reads(client: Any, options: Any, stream: bool) -> _Endpoint | None:
    """Read a request; `None` for anything else than a message: counting tokens and looking at models is free."""
    if not _is_messages_endpoint(options) or str(getattr(options, "method", "post")).lower() != "post":
        return None
    data = sent_body(options)
    size, seen = body_bytes(data)
    most = first_int(data, ("max_tokens",)) if seen else None
    asked = Request(PROVIDER, _get_model_from_options(options), data, size, most)
    return _Endpoint(asked, holds=True, is_stream=stream)


def patch_anthropic() -> None:
    """Let the package's clients count in budgets, from now on in the whole process. Idempotent."""
    global _patched
    if _patched and is_patched(sys.modules.get("anthropic._base_client")):
        return
    if importlib.util.find_spec("anthropic") is None:
        return
    patch_clients(importlib.import_module("anthropic._base_client"), _reads)
    _patched = True
