"""Counts calls of the `google-genai` package in budgets."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from checkrein.actguard.integrations import calls
from checkrein.actguard.integrations.accounting import Request
from checkrein.actguard.integrations.patching import is_marked, marked
from checkrein.actguard.integrations.sizes import body_bytes, is_whole
from checkrein.actguard.integrations.streams import said
from checkrein.actguard.integrations.usage import UsageInfo, field, first_int

PROVIDER: Final = "google"
_MIN_GOOGLE_GENAI_VERSION: Final = (0, 8)
_GENERATES: Final = (":generateContent", ":streamGenerateContent")
_EMBEDS: Final = (":embedContent", ":batchEmbedContents")
_MODEL: Final = re.compile(r"(?:^|/)([^/:]+):[A-Za-z]+$")

_patched = False


@dataclass
class _Endpoint:
    request: Request
    is_stream: bool
    holds: bool = True
    reads: bool = False

    def usage(self, reply: Any) -> UsageInfo | None:
        """Return what a whole reply says was used."""
        return _info(_payload(reply), self.request.model)

    def reading(self) -> _Reading:
        """Return what reads a streamed reply."""
        return _Reading(self.request)


class _Reading:
    """Usage in the pieces of an answer: each one counts everything so far, the last one is right."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.final = False
        self.last: Any = None
        self._info: UsageInfo | None = None
        self._pieces = 0
        self._bytes = 0

    def feed(self, piece: Any) -> bool:
        """Take a piece; all of them are for the reader."""
        payload = _payload(piece)
        text = said(field(payload, "candidates"))
        if text:
            self._pieces += 1
            self._bytes += text
        info = _info(payload, self.request.model)
        if info is not None:
            self._info, self.last = info, payload
        return True

    def info(self) -> UsageInfo | None:
        """Return what was reported so far, and at least what has come."""
        return self._info

    def estimate(self) -> UsageInfo:
        """Return what the request holds and what has come, where nothing was reported."""
        output = max(self._pieces, -(-self._bytes // 4))
        model, size = self.request.model, self.request.input_bytes
        return UsageInfo(PROVIDER, model, -(-size // 4), 0, output)


def _payload(reply: Any) -> Any:
    """Return the JSON of a reply: its body where it has one."""
    body = field(reply, "body")
    if body is None:
        return reply if isinstance(reply, dict) else None
    if not isinstance(body, str | bytes):
        return body
    try:
        return json.loads(body)
    except ValueError:
        return None


def _info(payload: Any, model: str) -> UsageInfo | None:
    usage = field(payload, "usageMetadata") or field(payload, "usage_metadata")
    if usage is None:
        return None
    prompt = first_int(usage, ("promptTokenCount", "prompt_token_count"))
    answer = first_int(usage, ("candidatesTokenCount", "candidates_token_count"))
    if prompt is None and answer is None:
        return None
    # Thoughts are output, and what tools brought in is input: both are paid for.
    thoughts = first_int(usage, ("thoughtsTokenCount", "thoughts_token_count")) or 0
    tools = first_int(usage, ("toolUsePromptTokenCount", "tool_use_prompt_token_count")) or 0
    cached = first_int(usage, ("cachedContentTokenCount", "cached_content_token_count")) or 0
    return UsageInfo(PROVIDER, model, (prompt or 0) + tools, cached, (answer or 0) + thoughts)


def _model_from_path(path: str) -> str:
    found = _MODEL.search(path.partition("?")[0])
    return "" if found is None else found[1]


def _parse_major_minor(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return None if found is None else (int(found[1]), int(found[2]))


def _reads(client: Any, args: tuple[Any, ...], named: dict[str, Any], stream: bool) -> _Endpoint | None:
    """Read a request; `None` for one that neither generates nor embeds."""
    path = named.get("path", args[1] if len(args) > 1 else "")
    data = named.get("request_dict", args[2] if len(args) > 2 else None)
    plain = str(path).partition("?")[0]
    if not plain.endswith(_GENERATES + _EMBEDS):
        return None
    given = named.get("http_options", args[3] if len(args) > 3 else None)
    data = _merged(data, field(getattr(client, "_http_options", None), "extra_body"))
    data = _merged(data, field(given, "extra_body"))
    size, seen = body_bytes(data)
    most: int | None = 0
    if plain.endswith(_GENERATES):
        config = field(data, "generationConfig") or field(data, "generation_config")
        most = first_int(config, ("maxOutputTokens", "max_output_tokens"))
        choices = field(config, "candidateCount")
        most = most * choices if most is not None and is_whole(choices) else most
    asked = Request(PROVIDER, _model_from_path(plain), data, size, most if seen else None)
    return _Endpoint(asked, is_stream=stream)


def _merged(body: Any, more: Any) -> Any:
    """Return a body as it is sent: what options of the HTTP client add to it counts as well."""
    if not isinstance(body, dict) or not isinstance(more, dict):
        return body if more is None else more
    return {**body, **{name: _merged(body.get(name), value) for name, value in more.items()}}


def _put(original: Callable[..., Any], *, stream: bool) -> Any:
    @functools.wraps(original, assigned=("__doc__",), updated=())
    def request(self: Any, *args: Any, **named: Any) -> Any:
        context = calls.active()
        endpoint = None if context is None else _reads(self, args, named, stream)
        if context is None or endpoint is None:
            return original(self, *args, **named)
        return calls.call(context, endpoint, lambda: original(self, *args, **named))

    return marked(request)


def _aput(original: Callable[..., Any], *, stream: bool) -> Any:
    @functools.wraps(original, assigned=("__doc__",), updated=())
    async def request(self: Any, *args: Any, **named: Any) -> Any:
        context = calls.active()
        endpoint = None if context is None else _reads(self, args, named, stream)
        if context is None or endpoint is None:
            return await original(self, *args, **named)
        return await calls.acall(context, endpoint, lambda: original(self, *args, **named))

    return marked(request)


def patch_google() -> None:
    """Let the package's clients count in budgets, from now on in the whole process. Idempotent."""
    global _patched
    loaded = sys.modules.get("google.genai._api_client")
    if _patched and loaded is not None and is_marked(loaded.BaseApiClient.request):
        return
    if not _is_installed():
        return
    package = importlib.import_module("google.genai")
    version = _parse_major_minor(str(getattr(package, "__version__", "")))
    if version is not None and version < _MIN_GOOGLE_GENAI_VERSION:
        warnings.warn("actguard counts calls of google-genai 0.8 and later.", UserWarning, stacklevel=3)
    client = importlib.import_module("google.genai._api_client").BaseApiClient
    for name, put, stream in (
        ("request", _put, False),
        ("request_streamed", _put, True),
        ("async_request", _aput, False),
        ("async_request_streamed", _aput, True),
    ):
        method = getattr(client, name, None)
        if method is not None and not is_marked(method):
            setattr(client, name, put(method, stream=stream))
    _patched = True


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("google.genai") is not None
    except ModuleNotFoundError:
        return False
