"""Calls of models: held at the most they can cost, settled at what they used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from checkrein import _native, events
from checkrein.acting import actor
from checkrein.errors import BudgetExceeded, ConfigError, NotExecuted, PermitError
from checkrein.outcomes import classify
from checkrein.scopes import Patience, check_limits, current_scope, spending_scopes

if TYPE_CHECKING:
    from checkrein.engine import Engine

_READ: Final = frozenset(
    {
        "usage",
        "usageMetadata",
        "model",
        "modelVersion",
        "object",
        "type",
        "service_tier",
        "response",
        "output",
    }
)
"""The members of a reply that say what it used: the rest may be long, and is nobody's business here."""


_NAMES: Final = frozenset({"model", "modelVersion", "service_tier", "speed", "inference_geo"})
_LONGEST_NAME: Final = 200


class ModelCall:
    """One call of a model, as a context manager for `with` and `async with`.

    Entering decides, and holds the most that the call can cost in every budget of the model; it raises what guards
    raise. `max_output` then has to be sent with the call, for what is held is only a bound if the provider is told.
    Inside, `settle(response)` charges what the reply says was used. A block that ends without it is charged in full;
    one that ends by an exception is in doubt: its hold stays for an hour and is charged then, unless `settle` comes
    before. `NotExecuted` and the `safe_errors` mean that nothing was sent, and give the hold back, as `release` does.
    """

    def __init__(
        self,
        engine: Engine,
        model: str | None,
        provider: str | None,
        request: Mapping[str, Any] | str | bytes,
        *,
        max_output: int | None,
        unseen_tokens: int | None,
        at_most: Mapping[str, int] | None,
        context: Mapping[str, str] | None,
        tenant: str | None,
        safe_errors: type[Exception] | Sequence[type[Exception]],
    ) -> None:
        for name, text in (("model", model), ("provider", provider), ("tenant", tenant)):
            if text is not None and not isinstance(text, str):
                raise ConfigError(f"`{name}` is no text", name, "give a name")
        if not isinstance(request, str | bytes | bytearray | Mapping):
            raise ConfigError(
                "the request is no dict and no text", "request", "give what is sent to the provider"
            )
        self._engine = engine
        self._given = (model, provider, request)
        self._said = {
            "max_output": _count("max_output", max_output),
            "unseen_tokens": _count("unseen_tokens", unseen_tokens),
            "at_most": [(name, _count("at_most", most)) for name, most in (at_most or {}).items()],
            "context": None if context is None else list(context.items()),
            "tenant": tenant,
        }
        self._safe = (safe_errors,) if isinstance(safe_errors, type) else tuple(safe_errors)
        self._permit: _native.ModelPermit | None = None
        self.ended = False
        """Whether somebody has said how the call ended."""

    @property
    def max_output(self) -> int | None:
        """The maximum of output tokens to send with the call; `None` where nobody sets one, and no budget needs it."""
        return self._entered().max_output

    @property
    def timeout(self) -> float | None:
        """How long to wait for the model, in seconds; `None` where the policy file says nothing."""
        return self._entered().timeout

    @property
    def held(self) -> Sequence[Mapping[str, str]]:
        """What is held, for each budget: `budget`, `amount`, `unit`, and whether the `bound` is proven or estimated."""
        return self._entered().held

    def settle(self, response: object) -> _native.ModelSettlement:
        """Charge what a reply of the provider says was used, in the tier it names, and give the rest back.

        response: the whole reply, the last event of a stream with usage, or its usage alone, as a dict, as JSON, or as
            an object of a provider's SDK (anything with `model_dump`).

        Usage that is missing or cannot be believed is charged at the full hold or more; `exact` and `shortfalls` of
        what is returned say so, and a warning is logged. Raises PermitError when the call was settled before,
        OutcomeNotRecorded (with the response) when the store cannot be told.
        """
        permit = self._entered()
        settled = permit.settle(_reply(response), response)
        self.ended = True
        return self._told(settled)

    def settle_in_full(self) -> _native.ModelSettlement:
        """Charge all that is held: the call was made, and nobody says what it used."""
        settled = self._entered().settle_in_full()
        self.ended = True
        return self._told(settled)

    def release(self) -> None:
        """Give everything back: the call was provably not made, or the provider did not take it."""
        self._entered().release("neutral")
        self.ended = True

    def doubt(self) -> None:
        """Nobody knows whether it was made: it stays held for an hour, and is charged then unless it is settled."""
        self._entered().doubt("neutral")
        self.ended = True

    def abandon(self) -> bool:
        """Charge all that is held without waiting for the store; `False` when somebody said before how it ended."""
        if self._permit is None:
            return False
        self.ended = True
        return self._permit.abandon()

    async def asettle(self, response: object) -> _native.ModelSettlement:
        """Do the same as `settle` without blocking the event loop where the store waits for a disk or a server."""
        settled: _native.ModelSettlement = await self._later(self.settle, response)
        return settled

    async def asettle_in_full(self) -> _native.ModelSettlement:
        """Do the same as `settle_in_full` without blocking the event loop."""
        settled: _native.ModelSettlement = await self._later(self.settle_in_full)
        return settled

    async def arelease(self) -> None:
        """Do the same as `release` without blocking the event loop."""
        await self._later(self.release)

    async def adoubt(self) -> None:
        """Do the same as `doubt` without blocking the event loop."""
        await self._later(self.doubt)

    async def _later(self, end: Callable[..., Any], *args: Any) -> Any:
        if not self._engine._waits:
            return end(*args)
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        # How a call ended is told even when its caller is cancelled meanwhile.
        return await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(end, *args)))

    def _name(self) -> str:
        model, _, request = self._given
        if model is None and isinstance(request, Mapping):
            model = request.get("model")
        return str(model or "a model")

    def _entered(self) -> _native.ModelPermit:
        if self._permit is None:
            raise PermitError("the call is not admitted (hint: use it in a `with` block)")
        return self._permit

    def _told(self, settled: _native.ModelSettlement) -> _native.ModelSettlement:
        if not settled.exact:
            why = "; ".join(sentence for _, sentence in settled.shortfalls)
            self._engine._warn(self._name(), f"charged at the full hold or more: {why}")
        return settled

    def _admit(self) -> _native.ModelPermit:
        model, provider, request = self._given
        plain = request if isinstance(request, str | bytes | bytearray | dict) else dict(request)
        tenant = self._said["tenant"]
        scopes = spending_scopes(self._engine, tenant if isinstance(tenant, str) else None, self._name())
        said = {**self._said, "actor": actor(), "scopes": scopes}
        if self._engine._listening:
            return events.admit(self._engine, self._name(), model, provider, plain, said)
        return _native.ModelPermit._admit(self._engine, model, provider, plain, said)

    def admit(self) -> ModelCall:
        """Decide and hold, as `with` does on entry; for those who end the call themselves."""
        return self.__enter__()

    async def aadmit(self) -> ModelCall:
        """Do the same without blocking the event loop."""
        return await self.__aenter__()

    def _check_new(self) -> None:
        if self._permit is not None:
            raise PermitError("the call was admitted before (hint: call engine.model_call(...) again)")

    def __enter__(self) -> ModelCall:
        self._check_new()
        until = self._patience()
        while self._permit is None:
            try:
                self._permit = self._admit()
            except BudgetExceeded as error:
                time.sleep(until.pause(error))
        return self

    def _patience(self) -> Patience:
        scope = current_scope()
        return Patience(scope if scope is not None and scope.engine is self._engine else None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended or self._permit is None:
            return
        self.ended = True
        if error is None:
            self._told(self._permit.settle_in_full())
            return
        word = classify(error)
        health = "failure" if word in ("failure", "unreachable", "timed_out") else "neutral"
        if isinstance(error, (NotExecuted, *self._safe)):
            self._permit.release(health)
        else:
            self._permit.doubt(health)

    async def __aenter__(self) -> ModelCall:
        until = self._patience()
        if not self._engine._waits and until.until is None:
            return self.__enter__()
        self._check_new()
        import asyncio

        while self._permit is None:
            try:
                self._permit = await self._aadmit() if self._engine._waits else self._admit()
            except BudgetExceeded as error:
                await asyncio.sleep(until.pause(error))
        return self

    async def _aadmit(self) -> _native.ModelPermit:
        import asyncio

        admission = asyncio.ensure_future(asyncio.to_thread(self._admit))
        try:
            return await asyncio.shield(admission)
        except asyncio.CancelledError:
            # The thread goes on: what it still admits was never made.
            admission.add_done_callback(_give_back)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._engine._waits or self.ended:
            self.__exit__(kind, error, trace)
            return
        import asyncio

        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.__exit__, kind, error, trace)))

    def __repr__(self) -> str:
        state = "new" if self._permit is None else "ended" if self.ended else "held"
        return f"<checkrein call of `{self._name()}`, {state}>"


def record_usage(
    engine: Engine, response: object, model: str | None, provider: str | None, *, check: bool
) -> _native.ModelSettlement | None:
    """Record what a call used that nobody asked about; see `Engine.record_usage`."""
    # Where replies are remembered is of the integrations, which are not needed to import this.
    from checkrein.integrations import responses

    response_id = responses.id_of(response)
    if response_id is None:
        return _record(engine, response, model, provider, check=check)
    attempt = responses.take(response_id)
    if attempt is not None:
        # A wrapped client began it and waits for it: what was held for it is settled.
        attempt.settle(response)
        return attempt.settlement
    charged = responses.of(engine)
    if not charged.charge(response_id):
        return None
    try:
        return _record(engine, response, model, provider, check=check)
    except ConfigError:
        charged.forget(response_id)
        raise


def _record(
    engine: Engine, response: object, model: str | None, provider: str | None, *, check: bool
) -> _native.ModelSettlement:
    reply = _reply(response)
    if model is None and isinstance(reply, Mapping):
        inner = reply.get("response")
        named = [reply.get("model"), reply.get("modelVersion")]
        named += [inner.get("model")] if isinstance(inner, Mapping) else []
        model = next((name for name in named if isinstance(name, str) and name), None)
    if model is None:
        raise ConfigError("nobody says of which model the usage is", "model", 'say so: model="gpt-5.4"')
    scopes = spending_scopes(engine, None, model)
    said: dict[str, Any] = {
        "max_output": None,
        "unseen_tokens": None,
        "at_most": [],
        "context": None,
        "tenant": None,
        "actor": actor(),
        "scopes": scopes,
    }
    settled = _native.ModelPermit._record(engine, model, provider, reply, said)
    if not settled.exact:
        why = "; ".join(sentence for _, sentence in settled.shortfalls)
        engine._warn(model, f"recorded as far as it is known: {why}")
    amounts = {"usd": settled.usd, "tokens": settled.tokens}
    engine._emit(
        "cost.recorded", model, {"amounts": events.sums(amounts), "name": model}, who={"model": model}
    )
    if check:
        check_limits(scopes, model)
    return settled


def _give_back(admission: Any) -> None:
    if not admission.cancelled() and admission.exception() is None:
        import threading

        threading.Thread(target=admission.result().release, args=("neutral",), daemon=True).start()


def _count(name: str, count: int | None) -> int | None:
    if count is not None and (type(count) is not int or not 0 <= count < 2**63):
        raise ConfigError(
            f"`{name}` is no whole number, zero or more", name, "give a number of tokens or units"
        )
    return count


def _reply(response: object) -> object:
    """Find what of a reply says what was used, as plain values or JSON."""
    dump = getattr(response, "model_dump", None)
    if callable(dump):
        try:
            response = dump(mode="json", by_alias=True, exclude_none=True)
        except TypeError:
            response = dump()
    if not isinstance(response, Mapping):
        return response
    if not any(name in response for name in ("usage", "usageMetadata", "response")):
        return _short(dict(response))
    said = _short({name: _plain(response[name]) for name in response if name in _READ})
    if isinstance(response.get("candidates"), list):
        said["candidates"] = [_searched(_plain(candidate)) for candidate in response["candidates"]]
    return said


def _short(said: dict[str, object]) -> dict[str, object]:
    """Cut the names that a provider gives: they go into logs, events and labels of metrics, and it writes them."""
    for name, value in said.items():
        if name in _NAMES and isinstance(value, str):
            said[name] = value[:_LONGEST_NAME]
        elif name in ("response", "usage") and isinstance(value, Mapping):
            said[name] = _short(dict(value))
    return said


def _searched(candidate: object) -> dict[str, object]:
    """Keep of an answer of Gemini that it searched: its text is nobody's business, a search has a price."""
    grounding = candidate.get("groundingMetadata") if isinstance(candidate, Mapping) else None
    queries = grounding.get("webSearchQueries") if isinstance(grounding, Mapping) else None
    return {"groundingMetadata": {"webSearchQueries": queries}} if isinstance(queries, list) else {}


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json", by_alias=True, exclude_none=True) if callable(dump) else value
