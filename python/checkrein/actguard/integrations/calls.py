"""One call of a provider, from its hold to its count, whichever SDK makes it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol

from checkrein.actguard.core.budget_context import BudgetExecutionContext, get_budget_context
from checkrein.actguard.core.run_context import get_run_state
from checkrein.actguard.integrations.accounting import (
    CallHold,
    Request,
    ahold,
    check_limits,
    hold,
    record_info,
)
from checkrein.actguard.integrations.streams import AsyncStream, Reading, SyncStream
from checkrein.actguard.integrations.usage import UsageInfo
from checkrein.actguard.observability.events import event_client_of

_inside: ContextVar[bool] = ContextVar("_inside", default=False)


class Endpoint(Protocol):
    """What a dialect knows of one request."""

    holds: bool
    """Whether the call uses tokens, so that it is held for; otherwise only the limits are checked."""
    reads: bool
    """Whether the call only looks a reply up that an earlier one has begun."""
    request: Request
    is_stream: bool

    def usage(self, reply: Any) -> UsageInfo | None:
        """Return what a whole reply says was used."""

    def reading(self) -> Reading:
        """Return what reads a streamed reply."""


def active() -> BudgetExecutionContext | None:
    """Return the budgets that a call counts in; nothing inside a call that is counted already.

    In a run without one that sends events, it is a context without scopes.
    """
    if _inside.get():
        return None
    context = get_budget_context()
    if context is not None:
        return context
    run = get_run_state()
    return None if event_client_of(run) is None else BudgetExecutionContext(None, (), run=run)


def call(context: BudgetExecutionContext, endpoint: Endpoint, send: Callable[[], Any]) -> Any:
    """Hold, call, count."""
    if endpoint.reads:
        return _looked_up(context, endpoint, send())
    if not endpoint.holds:
        check_limits(context)
    held = hold(context, endpoint.request) if endpoint.holds else None
    token = _inside.set(True)
    try:
        reply = send()
    except BaseException as error:
        if held is not None:
            _failed(held, error)
        raise
    finally:
        _inside.reset(token)
    return _counted(context, held, endpoint, reply, SyncStream)


async def acall(
    context: BudgetExecutionContext, endpoint: Endpoint, send: Callable[[], Awaitable[Any]]
) -> Any:
    """Do the same on an event loop."""
    if endpoint.reads:
        return _looked_up(context, endpoint, await send())
    if not endpoint.holds:
        check_limits(context)
    held = await ahold(context, endpoint.request) if endpoint.holds else None
    token = _inside.set(True)
    try:
        reply = await send()
    except BaseException as error:
        if held is not None:
            _failed(held, error)
        raise
    finally:
        _inside.reset(token)
    counted = _counted(context, held, endpoint, reply, AsyncStream)
    if isinstance(counted, _Later):
        await counted.finish()
        return reply
    return counted


def _failed(held: CallHold, error: BaseException) -> None:
    """Give back what provably cost nothing; a call whose end nobody knows counts what was held for it."""
    # Imported here: it brings the engine along, which a guard without calls does not need.
    from checkrein.errors import Denied
    from checkrein.integrations.metered import was_never_sent, was_not_taken

    status = next(
        (code for name in ("status_code", "code") if type(code := getattr(error, name, None)) is int), None
    )
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__
    not_sent = any(isinstance(one, Denied) or was_never_sent(one) for one in causes)
    if not_sent or (status is not None and was_not_taken(status)):
        held.release()
    else:
        held.settle_in_full()


class _Later:
    """A reply whose parsed form has to be awaited."""

    def __init__(self, parsing: Awaitable[Any], then: Callable[[Any], None]) -> None:
        self._parsing = parsing
        self._then = then

    async def finish(self) -> None:
        parsed = None
        try:
            parsed = await self._parsing
        finally:
            self._then(parsed)


def _counted(
    context: BudgetExecutionContext,
    held: CallHold | None,
    endpoint: Endpoint,
    reply: Any,
    stream: type[SyncStream] | type[AsyncStream],
) -> Any:
    if held is None:
        info = endpoint.usage(reply)
        if info is not None:
            record_info(context, info, reply)
        return reply
    parse = getattr(reply, "parse", None)
    if endpoint.is_stream:
        if callable(parse):
            return _raw_stream(reply, parse, held, endpoint, stream)
        return stream(reply, held, endpoint.reading())
    info = endpoint.usage(reply)
    if info is None and callable(parse):
        return _raw(reply, parse, held, endpoint)
    _settle(held, endpoint, reply, info)
    return reply


def _settle(held: CallHold, endpoint: Endpoint, reply: Any, info: UsageInfo | None) -> None:
    reply_id = getattr(reply, "id", None)
    root = held.context.shared_root
    if info is not None and (info.tokens or not held.holds or getattr(reply, "status", None) == "failed"):
        held.settle(info, reply)
    elif isinstance(reply_id, str) and root is not None and _is_pending(reply):
        # It goes on in the background; whoever looks it up sees what it used. Until then it holds what it held.
        held.stay()
        root.expect(reply_id, held)
    else:
        # A limit that a provider without reports, or that says nothing was used, would never reach is none.
        held.settle_in_full()


def _is_pending(reply: Any) -> bool:
    return getattr(reply, "status", None) in ("queued", "in_progress")


def _looked_up(context: BudgetExecutionContext, endpoint: Endpoint, reply: Any) -> Any:
    reply_id = getattr(reply, "id", None)
    info = endpoint.usage(reply)
    root = context.shared_root
    if root is None or not isinstance(reply_id, str) or (info is None and _is_pending(reply)):
        return reply
    held = root.looked_up(reply_id)
    if held is not None and info is not None:
        root.first_sight(reply_id)
        held.settle(info, reply)
    elif held is not None:
        held.settle_in_full()
    return reply


def _raw(reply: Any, parse: Callable[..., Any], held: CallHold, endpoint: Endpoint) -> Any:
    """Count a reply that its caller parses: now, or where its body is not read yet, when it is."""

    def then(parsed: Any) -> None:
        _settle(held, endpoint, parsed, None if parsed is None else endpoint.usage(parsed))

    if _is_unread(reply):
        return _on_parse(reply, parse, held, then)
    try:
        parsed = parse()
    except BaseException:
        # It came, and it is paid for.
        held.settle_in_full()
        raise
    if inspect.isawaitable(parsed):
        return _Later(parsed, then)
    then(parsed)
    return reply


def _is_unread(reply: Any) -> bool:
    http = getattr(reply, "http_response", None)
    return http is not None and getattr(http, "is_stream_consumed", True) is False


def _on_parse(reply: Any, parse: Callable[..., Any], held: CallHold, then: Callable[[Any], None]) -> Any:
    def parsed(*args: Any, **named: Any) -> Any:
        found = parse(*args, **named)
        if inspect.isawaitable(found):

            async def awaited() -> Any:
                value = await found
                then(value)
                return value

            return awaited()
        then(found)
        return found

    reply.parse = parsed
    _on_close(reply, held)
    return reply


def _raw_stream(
    reply: Any,
    parse: Callable[..., Any],
    held: CallHold,
    endpoint: Endpoint,
    stream: type[SyncStream] | type[AsyncStream],
) -> Any:
    made: list[Any] = []

    def wrapped(found: Any) -> Any:
        if not made:
            made.append(stream(found, held, endpoint.reading()))
        return made[0]

    def parsed(*args: Any, **named: Any) -> Any:
        found = parse(*args, **named)
        if inspect.isawaitable(found):

            async def awaited() -> Any:
                return wrapped(await found)

            return awaited()
        return wrapped(found)

    reply.parse = parsed
    _on_close(reply, held)
    return reply


def _on_close(reply: Any, held: CallHold) -> None:
    """Count at the end what nobody has parsed: what is left unread may have been used."""
    close = getattr(reply, "close", None)
    if not callable(close):
        return

    def closed() -> Any:
        found = close()
        if inspect.isawaitable(found):

            async def awaited() -> Any:
                value = await found
                held.settle_unread(_read_bytes(reply))
                return value

            return awaited()
        held.settle_unread(_read_bytes(reply))
        return found

    reply.close = closed


def _read_bytes(reply: Any) -> int:
    read = getattr(getattr(reply, "http_response", None), "num_bytes_downloaded", 0)
    return read if isinstance(read, int) else 0
