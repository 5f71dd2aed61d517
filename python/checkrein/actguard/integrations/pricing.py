"""What calls of models cost in US dollars, by the price book."""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from checkrein.engine import Engine
from checkrein.errors import CheckreinError

if TYPE_CHECKING:
    from checkrein.actguard.integrations.accounting import Request
    from checkrein.actguard.integrations.usage import UsageInfo

RESERVE_OUTPUT: Final = 4096
"""How many tokens of output are held where the request sets no maximum."""

# Nobody is limited by it: it is there because a call is priced where a budget asks for it.
_BOOK: Final = """\
version = 1
[budgets.book]
key = "action.tenant"
limit = "1000000000 usd"
[models."*"]
budgets = ["book"]
"""
_log: Final = logging.getLogger("actguard.prices")
_warned: set[tuple[str, str]] = set()
# Re-entrant, as every lock that a stream may need that is collected while its own thread holds it.
_making: Final = threading.RLock()
_engine: Engine | None = None


class UnknownPrice(Exception):
    """The price book does not have the model."""


def _after_fork() -> None:
    global _engine
    _engine = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _book() -> Engine:
    global _engine
    if _engine is None:
        with _making:
            if _engine is None:
                with tempfile.TemporaryDirectory() as directory:
                    path = os.path.join(directory, "book.toml")
                    with open(path, "w", encoding="utf-8") as opened:
                        opened.write(_BOOK)
                    _engine = Engine.from_policy(path, tenant="actguard")
    return _engine


def bounds(request: Request, output: int) -> tuple[Decimal, Decimal]:
    """Return what a call costs at most, and what it is likely to; raises UnknownPrice."""
    call = _book().model_call(
        request.model, provider=request.provider, request=b"x" * request.input_bytes, max_output=output
    )
    try:
        with call:
            most = sum((Decimal(held["amount"]) for held in call.held), Decimal(0))
            call.release()
    except CheckreinError as error:
        raise UnknownPrice(
            f"the price book does not have `{request.model}` of `{request.provider}`"
        ) from error
    likely = of_tokens(request.provider, request.model, -(-request.input_bytes // 4), 0, output)
    return most, min(most, likely or most)


def cost(info: UsageInfo, response: Any = None) -> Decimal:
    """Return what a call cost: by the response, in the tier it names, where it can be read; by its tokens otherwise."""
    exact = None if response is None else _settled(info.provider, info.model, response)
    return of_tokens(*_counts(info)) or Decimal(0) if exact is None else exact


def known_cost(info: UsageInfo, response: Any = None) -> Decimal | None:
    """Return the same; `None`, and no warning, for a model that the book does not have."""
    exact = None if response is None else _settled(info.provider, info.model, response)
    return _by_tokens(*_counts(info)) if exact is None else exact


def _counts(info: UsageInfo) -> tuple[str, str, int, int, int]:
    return info.provider, info.model, info.input_tokens, info.cached_input_tokens, info.output_tokens


def of_tokens(
    provider: str, model: str, input_tokens: int, cached_tokens: int, output_tokens: int
) -> Decimal | None:
    """Return what so many tokens cost; `None`, and once a warning, for a model that the book does not have."""
    found = _by_tokens(provider, model, input_tokens, cached_tokens, output_tokens)
    if found is None and (provider, model) not in _warned:
        _warned.add((provider, model))
        _log.warning("the price book does not have `%s` of `%s`: its calls count as $0", model, provider)
    return found


@functools.lru_cache(maxsize=4096)
def _by_tokens(
    provider: str, model: str, input_tokens: int, cached_tokens: int, output_tokens: int
) -> Decimal | None:
    if not (input_tokens or output_tokens):
        return Decimal(0)
    return _settled(provider, model, _usage(provider, input_tokens, cached_tokens, output_tokens))


def _settled(provider: str, model: str, response: Any) -> Decimal | None:
    call = _book().model_call(model, provider=provider, request=b"", max_output=0)
    try:
        with call:
            # The native half says by itself when a report cannot be believed; here it is not a charge.
            assert call._permit is not None
            settled = call._permit.settle(_readable(response), response)
            call.ended = True
    except (CheckreinError, ValueError, TypeError):
        return None
    return Decimal(settled.usd) if settled.exact and settled.usd is not None else None


def _readable(response: Any) -> Any:
    dump = getattr(response, "model_dump", None)
    if callable(dump):
        response = dump(mode="json", by_alias=True, exclude_none=True)
    if not isinstance(response, dict):
        raise TypeError("not a response of a provider")
    names = (
        "usage",
        "usageMetadata",
        "model",
        "modelVersion",
        "object",
        "type",
        "service_tier",
        "response",
        "output",
    )
    return json.loads(json.dumps({name: response[name] for name in names if name in response}))


def _usage(provider: str, input_tokens: int, cached: int, output: int) -> dict[str, Any]:
    cached = min(cached, input_tokens)
    if provider == "anthropic":
        usage = {
            "input_tokens": input_tokens - cached,
            "output_tokens": output,
            "cache_read_input_tokens": cached,
        }
        return {"type": "message", "usage": usage}
    if provider == "google":
        return {
            "usageMetadata": {
                "promptTokenCount": input_tokens,
                "cachedContentTokenCount": cached,
                "candidatesTokenCount": output,
                "totalTokenCount": input_tokens + output,
            }
        }
    return {
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output,
            "total_tokens": input_tokens + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    }
