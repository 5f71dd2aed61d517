"""Replies that come another way than their call: each is charged once, by whoever sees its usage first."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from checkrein.engine import Engine
    from checkrein.integrations.metered import Attempt

MAX_EXPECTED: Final = 10_000
"""Replies that are waited for; beyond it the oldest keeps its hold, and is charged in full when its lease ends."""
MAX_CHARGED: Final = 10_000
"""Ids that are remembered as charged."""
LEASE_S: Final = 3_600.0
"""So long a call in doubt can be settled; nobody has to remember it any longer."""


class Responses:
    """The replies of one engine: those that are still to come, and those that were charged."""

    def __init__(self) -> None:
        # A stream that the collector finds is settled by whatever thread it runs in, here too.
        self._lock = threading.RLock()
        self._expected: OrderedDict[str, tuple[float, Attempt]] = OrderedDict()
        # With the tokens that it used, where they are known.
        self._charged: OrderedDict[str, int | None] = OrderedDict()

    def expect(self, response_id: str, attempt: Attempt) -> None:
        """Keep an attempt whose reply comes later, as that of a response in the background does."""
        now = monotonic()
        with self._lock:
            self._expected.pop(response_id, None)
            self._expected[response_id] = (now, attempt)
            while self._expected:
                since, _ = next(iter(self._expected.values()))
                if len(self._expected) <= MAX_EXPECTED and now - since < LEASE_S:
                    break
                self._expected.popitem(last=False)

    def expects(self, response_id: str) -> bool:
        """Whether a reply is waited for."""
        with self._lock:
            return response_id in self._expected

    def take(self, response_id: str) -> Attempt | None:
        """Return the attempt that a reply settles, once; nothing for a reply that nobody waits for."""
        with self._lock:
            found = self._expected.pop(response_id, None)
        return None if found is None else found[1]

    def charge(self, response_id: str) -> bool:
        """Remember that a reply was charged; returns whether this is the first time."""
        with self._lock:
            first = response_id not in self._charged
            self._charged[response_id] = None
            self._charged.move_to_end(response_id)
            while len(self._charged) > MAX_CHARGED:
                self._charged.popitem(last=False)
        return first

    def count(self, response_id: str, tokens: int | None) -> None:
        """Remember how many tokens a reply that was charged used, input and output."""
        with self._lock:
            if response_id in self._charged:
                self._charged[response_id] = tokens

    def tokens(self, response_id: str) -> int | None:
        """Return how many tokens a reply used, as far as that is remembered."""
        with self._lock:
            return self._charged.get(response_id)

    def forget(self, response_id: str) -> None:
        """Take back that a reply was charged: it was not, after all."""
        with self._lock:
            self._charged.pop(response_id, None)

    def __len__(self) -> int:
        return len(self._expected) + len(self._charged)


_all: dict[int, weakref.ref[Responses]] = {}
"""Those of all engines. A dict can be listed while the collector adds to it, a weak set cannot."""
_lock = threading.RLock()


def of(engine: Engine) -> Responses:
    """Return the replies of an engine."""
    with _lock:
        # Kept by the engine itself: what is waited for holds the engine, and both have to go together.
        found: Responses | None = engine.__dict__.get("_responses")
        if found is None:
            found = engine.__dict__["_responses"] = Responses()
            number = id(found)
            _all[number] = weakref.ref(found, lambda _: _all.pop(number, None))
    return found


def _places() -> list[Responses]:
    return [found for reference in list(_all.values()) if (found := reference()) is not None]


def is_expected(response_id: str) -> bool:
    """Whether any engine waits for a reply: who asks for it later may be outside of the scope that began it."""
    return any(place.expects(response_id) for place in _places())


def take(response_id: str) -> Attempt | None:
    """Return the attempt that a reply settles, of whatever engine, once."""
    for place in _places():
        attempt = place.take(response_id)
        if attempt is not None:
            return attempt
    return None


def tokens_of(response_id: str) -> int | None:
    """Return how many tokens a reply used, of whatever engine: what continues it has no more before it than that."""
    return next((tokens for place in _places() if (tokens := place.tokens(response_id)) is not None), None)


def id_of(reply: object) -> str | None:
    """Return the id that a provider gave a reply: a whole one, an event with it, as values or an SDK's object."""
    for at in (reply, _member(reply, "response"), _member(reply, "message")):
        for name in ("id", "responseId", "response_id"):
            found = _member(at, name)
            if isinstance(found, str) and found:
                return found
    return None


def _member(of: object, name: str) -> object:
    return of.get(name) if isinstance(of, Mapping) else getattr(of, name, None)


class Lookup:
    """What a request stands for that only asks about a reply: it costs nothing, and settles the call of that reply.

    It has the ends of an attempt; those that come without a reply say nothing about the call.
    """

    max_output: None = None

    def __init__(self, response_id: str) -> None:
        self.response_id = response_id
        self.waits = True
        self.ended = False

    def settle(self, reply: object) -> None:
        """Charge the call that the reply belongs to, if nobody did."""
        self.ended = True
        attempt = take(self.response_id)
        if attempt is not None:
            attempt.settle(reply)

    async def asettle(self, reply: object) -> None:
        """Do the same on an event loop."""
        self.ended = True
        attempt = take(self.response_id)
        if attempt is not None:
            await attempt.asettle(reply)

    def fail(self, error: BaseException) -> None:
        """Nothing was learned."""

    async def afail(self, error: BaseException) -> None:
        """Nothing was learned."""

    def refuse(self, status: int) -> None:
        """Nothing was learned."""

    async def arefuse(self, status: int) -> None:
        """Nothing was learned."""

    def settle_in_full(self) -> None:
        """Nothing was learned."""

    async def asettle_in_full(self) -> None:
        """Nothing was learned."""


class LookupCall:
    """A request that asks about a reply, in the place of a metered call: every attempt is a lookup."""

    def __init__(self, response_id: str, door: object, sender: object) -> None:
        self.response_id = response_id
        self.door = door
        self.sender = sender

    def attempt(self) -> Lookup:
        """Return what the request stands for."""
        return Lookup(self.response_id)

    async def aattempt(self) -> Lookup:
        """Return what the request stands for."""
        return Lookup(self.response_id)
