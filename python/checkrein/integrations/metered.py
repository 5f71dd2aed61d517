"""One call of a provider through an SDK: a hold for each attempt, which ends exactly once."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import checkrein
from checkrein.errors import Denied, NotExecuted, PermitError
from checkrein.events import attempted
from checkrein.integrations import responses

if TYPE_CHECKING:
    from checkrein._native import ModelSettlement
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")

# Errors of HTTP clients that are raised before anything of a request was sent, by the top module and name of a class
# anywhere in their ancestry. A connection that fails later says nothing about what the provider did.
_NEVER_SENT: Final = frozenset(
    {
        *((module, name) for module in ("httpx", "httpx2") for name in ("ConnectError", "ConnectTimeout")),
        *((module, name) for module in ("httpx", "httpx2") for name in ("PoolTimeout", "ProxyError")),
        *((module, name) for module in ("httpx", "httpx2") for name in ("UnsupportedProtocol", "InvalidURL")),
        ("requests", "ConnectTimeout"),
        ("requests", "InvalidURL"),
        ("urllib3", "ConnectTimeoutError"),
        ("urllib3", "NewConnectionError"),
        ("aiohttp", "ClientConnectorError"),
    }
)
_MAYBE_TAKEN: Final = frozenset({408, 499})
"""Refusals that come after a provider may have begun: it, or what stands before it, gave up waiting."""
_TOO_BUSY: Final = 529
"""Anthropic's own status for being too busy to begin, as 429 is for asking too often."""


class Carrier(BaseException):
    """Brings an exception of ours out through the retry loop of an SDK.

    SDKs catch what is an `Exception` around each attempt, retry it, and raise one of their own at the end. It never
    leaves the integration: whoever put the call around the SDK catches it and raises `error`.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__("a decision of checkrein on its way to the caller")
        self.error = error


@dataclass(frozen=True, slots=True)
class Asked:
    """What an integration knows of a call before it is made: what `engine.model_call` is asked with."""

    body: Mapping[str, Any] | str | bytes
    """The request as it is sent."""
    model: str | None = None
    provider: str | None = None
    max_output: int | None = None
    unseen_tokens: int | None = None
    at_most: Mapping[str, int] | None = None
    context: Mapping[str, str] | None = None


def engine_for(given: Engine | None) -> Engine:
    """Return the engine that decides here: that of the current scope, else the one given, else the default one."""
    current = getattr(checkrein, "current_scope", None)
    scope = None if current is None else current()
    engine = getattr(scope, "engine", None) or given
    return checkrein.default_engine if engine is None else engine


def was_never_sent(error: BaseException) -> bool:
    """Whether an error proves that nothing of a request reached the provider."""
    if isinstance(
        error, NotExecuted | ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError
    ):
        return True
    return any((cls.__module__.partition(".")[0], cls.__name__) in _NEVER_SENT for cls in type(error).__mro__)


def was_not_taken(status: int) -> bool:
    """Whether an HTTP status says that the provider did not take the request, so that it costs nothing.

    That is a redirection nobody followed and a refusal of the request, a rate limit too. What fails inside the
    provider may have been computed, and is charged.
    """
    return status == _TOO_BUSY or (300 <= status < 500 and status not in _MAYBE_TAKEN)


class Attempt:
    """One attempt of a call: admitted before it is sent, and ended exactly once by whoever sees its end first.

    Every end has a twin for event loops, which waits elsewhere where the store does. An end after the first does
    nothing, in any thread.
    """

    def __init__(self, engine: Engine, asked: Asked, call_id: str, number: int) -> None:
        self.call_id = call_id
        self.number = number
        self.engine = engine
        self.settlement: ModelSettlement | None = None
        self.failure: str | None = None
        """What went wrong, without anything that an SDK says: the kind of an error, or a status."""
        self._call = engine.model_call(
            asked.model,
            provider=asked.provider,
            request=asked.body,
            max_output=asked.max_output,
            unseen_tokens=asked.unseen_tokens,
            at_most=asked.at_most,
            context=asked.context,
        )
        # Taken by whoever ends it, without waiting: the collector may ask in the middle of anything.
        self._end_of_it = threading.Lock()

    @property
    def max_output(self) -> int | None:
        """The maximum of output tokens that has to be sent; `None` where nothing needs one."""
        return self._call.max_output

    @property
    def timeout(self) -> float | None:
        """How long to wait for the model, in seconds; `None` where nobody says."""
        return self._call.timeout

    @property
    def held(self) -> Any:
        """What is held, as `ModelCall.held`."""
        return self._call.held

    @property
    def ended(self) -> bool:
        """Whether somebody has said how it ended."""
        return self._end_of_it.locked()

    @property
    def waits(self) -> bool:
        """Whether the store may block whoever tells it something."""
        return bool(self.engine._waits)

    def admit(self) -> None:
        """Hold the most it can cost; raises what guards raise when it is refused."""
        token = attempted.set(self.call_id)
        try:
            self._call.__enter__()
        finally:
            attempted.reset(token)

    async def aadmit(self) -> None:
        """Do the same on an event loop."""
        token = attempted.set(self.call_id)
        try:
            await self._call.__aenter__()
        finally:
            attempted.reset(token)

    def settle(self, reply: object) -> None:
        """Charge what a reply says was used; nothing or nonsense is charged in full."""
        if self._claim():
            response_id = self._remember(reply)
            try:
                self.settlement = self._call.settle(reply)
            except PermitError as error:
                self._too_late(error)
            self._count(response_id)

    async def asettle(self, reply: object) -> None:
        """Do the same on an event loop."""
        if self._claim():
            response_id = self._remember(reply)
            try:
                self.settlement = await self._call.asettle(reply)
            except PermitError as error:
                self._too_late(error)
            self._count(response_id)

    def settle_in_full(self) -> None:
        """Charge the whole hold: the call was made, and nobody said what it used."""
        self._end(None)

    async def asettle_in_full(self) -> None:
        """Do the same on an event loop."""
        await self._aend(None)

    def release(self) -> None:
        """Give the hold back: the provider provably did not take the request."""
        self._end(NotExecuted("the request was not taken"))

    async def arelease(self) -> None:
        """Do the same on an event loop."""
        await self._aend(NotExecuted("the request was not taken"))

    def fail(self, error: BaseException) -> None:
        """End it by the error that sending it raised: give back what was never sent, doubt what may have been."""
        self.failure = type(error).__name__
        self._end(_clean(error))

    async def afail(self, error: BaseException) -> None:
        """Do the same on an event loop."""
        self.failure = type(error).__name__
        await self._aend(_clean(error))

    def refuse(self, status: int) -> None:
        """End it by the HTTP status of an error."""
        self.failure = f"HTTP {status}"
        self._end(_by_status(status))

    async def arefuse(self, status: int) -> None:
        """Do the same on an event loop."""
        self.failure = f"HTTP {status}"
        await self._aend(_by_status(status))

    def leave(self) -> bool:
        """Leave it in doubt, for a reply that comes another way: until the lease ends it can still be settled.

        Returns whether it was open.
        """
        if not self._claim():
            return False
        self._leave(TimeoutError("the reply comes later"))
        # Whoever sees the reply settles it: that is the one end that counts.
        self._end_of_it.release()
        return True

    async def aleave(self) -> bool:
        """Do the same on an event loop."""
        if not self._claim():
            return False
        try:
            await self._aleave(TimeoutError("the reply comes later"))
        finally:
            self._end_of_it.release()
        return True

    def _remember(self, reply: object) -> str | None:
        """Who records this reply by hand charges it no second time."""
        response_id = responses.id_of(reply)
        if response_id is not None:
            responses.of(self.engine).charge(response_id)
        return response_id

    def _count(self, response_id: str | None) -> None:
        """Who continues this reply is charged for what stands before it, and can say how much that is."""
        if response_id is not None and self.settlement is not None and self.settlement.exact:
            responses.of(self.engine).count(response_id, self.settlement.tokens)

    def _claim(self) -> bool:
        return self._end_of_it.acquire(blocking=False)

    def _end(self, error: BaseException | None) -> None:
        if self._claim():
            self._leave(error)

    async def _aend(self, error: BaseException | None) -> None:
        if self._claim():
            await self._aleave(error)

    async def _aleave(self, error: BaseException | None) -> None:
        try:
            await self._call.__aexit__(None if error is None else type(error), error, None)
        except PermitError as late:
            self._too_late(late)

    def _leave(self, error: BaseException | None) -> None:
        try:
            self._call.__exit__(None if error is None else type(error), error, None)
        except PermitError as late:
            self._too_late(late)

    def _too_late(self, error: PermitError) -> None:
        # The lease ended meanwhile, and the whole hold was charged with it.
        _log.warning("attempt %d of call %s: %s", self.number, self.call_id, error)

    def __repr__(self) -> str:
        return f"<checkrein attempt {self.number} of call {self.call_id}{', ended' if self.ended else ''}>"


def _clean(error: BaseException) -> BaseException:
    """Make what ends a hold of an error: nothing of what an SDK says goes any further."""
    return NotExecuted("nothing was sent") if was_never_sent(error) else error


def _by_status(status: int) -> Exception:
    if was_not_taken(status):
        return NotExecuted("the request was not taken")
    return ConnectionError(f"the provider answered {status}")


class MeteredCall:
    """A call as its user made it: the SDK may send it several times, and each attempt has a hold of its own.

    The first is admitted before the SDK is asked, so that a refusal is raised before anything else happens.
    """

    def __init__(self, engine: Engine, asked: Asked, door: Any = None, sender: Any = None) -> None:
        self.id = uuid.uuid4().hex
        self.engine = engine
        self.asked = asked
        self.door = door
        """What the integration keeps with it."""
        self.sender = sender
        """The HTTP client that sends it: what another one sends meanwhile is another request."""
        self.attempts = 0
        self._waiting: Attempt | None = None
        self._last: Attempt | None = None
        self._before: Attempt | None = None

    def begin(self) -> Attempt:
        """Admit the first attempt; raises what guards raise."""
        self._waiting = attempt = self._new()
        attempt.admit()
        return attempt

    async def abegin(self) -> Attempt:
        """Do the same on an event loop."""
        attempt = self._new()
        await attempt.aadmit()
        self._waiting = attempt
        return attempt

    def attempt(self) -> Attempt:
        """Return the attempt that is sent now, admitted; a refusal leaves as a `Carrier`."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            return waiting
        attempt = self._new()
        try:
            attempt.admit()
        except Exception as error:
            raise Carrier(self._noted(error)) from None
        return attempt

    async def aattempt(self) -> Attempt:
        """Do the same on an event loop."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            return waiting
        attempt = self._new()
        try:
            await attempt.aadmit()
        except Exception as error:
            raise Carrier(self._noted(error)) from None
        return attempt

    def end(self, error: BaseException | None) -> None:
        """Say that the SDK is done: an attempt that it never sent is given back.

        One that returned without asking for its attempt was sent where nobody saw it, and is charged in full.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.ended:
            return
        if error is None:
            _log.warning("call %s was sent past its meter, and is charged at its full hold", self.id)
            waiting.settle_in_full()
        else:
            waiting.release()

    async def aend(self, error: BaseException | None) -> None:
        """Do the same on an event loop."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.ended:
            return
        if error is None:
            _log.warning("call %s was sent past its meter, and is charged at its full hold", self.id)
            await waiting.asettle_in_full()
        else:
            await waiting.arelease()

    def _new(self) -> Attempt:
        self.attempts += 1
        made = Attempt(self.engine, self.asked, self.id, self.attempts)
        self._before, self._last = self._last, made
        return made

    def _noted(self, error: Exception) -> Exception:
        """Say of a refusal in the middle of retries what made the SDK try again: nobody hears of it else."""
        why = None if self._before is None else self._before.failure
        if why is not None:
            error.add_note(f"attempt {self.attempts} of the call, after {why}")
        return error


current_call: ContextVar[MeteredCall | None] = ContextVar("checkrein_metered_call", default=None)
"""The call that an SDK is making in this context."""


def refusal_of_stream(attempt: Attempt, streamed: int, most: int) -> Denied:
    """Make the exception that ends a stream which has brought more than was held for it."""
    from checkrein._native import Decision, Reason

    about = {"streamed": streamed, "held": most}
    attempt.engine._emit("stream.cut", attempt._call._name(), about)
    held = attempt.held
    gate = str(held[0]["budget"]) if held else "stream"
    text = f"the stream brought at least {streamed} tokens, and {most} were held for it"
    reason = Reason._restore(("budget_exceeded", "budget", gate, ("never", 0), ("text", [], text)))
    decision = Decision._restore(attempt._call._name(), "block", (reason,), (), "D0")
    return checkrein.BudgetExceeded(decision)
