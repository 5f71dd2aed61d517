"""Bodies of replies that are read as they come: metered however they are read, and settled once however they end."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final, Protocol, Self

from checkrein.integrations import responses
from checkrein.integrations.metered import Attempt, refusal_of_stream

_log = logging.getLogger("checkrein")


class Reading(Protocol):
    """What an integration reads out of a body while somebody else consumes it."""

    reply: object | None
    """What says what was used, as far as it has come; `None` until then."""
    finished: bool
    """Whether the reply is complete, although bytes may follow."""
    response_id: str | None
    """The id under which the reply can be had another way, if it goes on when this body ends."""
    most: int | None
    """The output tokens that were held for."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take more of the body; returns what its reader gets."""

    def rest(self) -> bytes:
        """Take the end of the body; returns what its reader still gets."""

    def streamed(self) -> int:
        """Return how many output tokens have come, at the least."""

    def ending(self) -> bytes:
        """Return what makes a body well-formed that is cut here."""


class Decoder(Protocol):
    """Makes plain bytes of those of a compressed body."""

    def decode(self, data: bytes) -> bytes:
        """Return what more of the body says."""

    def flush(self) -> bytes:
        """Return what its end says."""


def output_of(reply: object) -> int | None:
    """Return how many output tokens a reply tells of, in the words of any provider; nothing where it does not.

    Some count thoughts in the output, some beside it, and some only in the total.
    """
    inner = reply.get("response", reply) if isinstance(reply, Mapping) else None
    usage = (inner.get("usage") or inner.get("usageMetadata")) if isinstance(inner, Mapping) else None
    if not isinstance(usage, Mapping):
        return None

    def count(*names: str) -> int:
        return sum(found for name in names if type(found := usage.get(name)) is int and found > 0)

    output = count("completion_tokens", "output_tokens", "candidatesTokenCount", "thoughtsTokenCount")
    total = count("total_tokens") - count("prompt_tokens", "input_tokens")
    return max(output, total)


class Meter:
    """The end of an attempt by the body of its reply: what was read settles it."""

    def __init__(self, attempt: Attempt, reading: Reading) -> None:
        self.attempt = attempt
        self.reading = reading

    def is_spent(self) -> bool:
        """Whether more has come than was held for."""
        most = self.reading.most
        return most is not None and self.reading.streamed() > most

    def refusal(self) -> Exception:
        """Make what the reader of a cut body gets."""
        return refusal_of_stream(self.attempt, self.reading.streamed(), self.reading.most or 0)

    def end(self) -> None:
        """Settle by what has been read; charge the whole hold where that says nothing."""
        reading, attempt = self.reading, self.attempt
        if attempt.ended:
            return
        if self._is_short():
            attempt.settle_in_full()
        elif reading.reply is not None:
            attempt.settle(reading.reply)
        elif reading.response_id is not None:
            if attempt.leave():
                responses.of(attempt.engine).expect(reading.response_id, attempt)
        else:
            attempt.settle_in_full()

    async def aend(self) -> None:
        """Do the same on an event loop."""
        reading, attempt = self.reading, self.attempt
        if not attempt.waits or attempt.ended:
            self.end()
        elif self._is_short():
            await attempt.asettle_in_full()
        elif reading.reply is not None:
            await attempt.asettle(reading.reply)
        elif reading.response_id is not None:
            if await attempt.aleave():
                responses.of(attempt.engine).expect(reading.response_id, attempt)
        else:
            await attempt.asettle_in_full()

    def _is_short(self) -> bool:
        """Whether less output is told than has come: nobody has to believe that."""
        told, come = output_of(self.reading.reply), self.reading.streamed()
        if told is None or told >= come:
            return False
        _log.warning("call %s: %d output tokens are told, and %d have come", self.attempt.call_id, told, come)
        return True

    def forget(self) -> None:
        """Settle for a body that nobody holds any more: this must not raise, and not wait for a store."""
        if self.attempt.ended:
            return
        try:
            if self.attempt.waits:
                threading.Thread(target=self.end, daemon=True).start()
            else:
                self.end()
        except Exception:
            _log.exception("a stream that was dropped could not be settled")


class _Body:
    """What both kinds of bodies share: the pieces that are ready, and whether the body was cut."""

    def __init__(self, inner: Any, meter: Meter, decode: Decoder | None) -> None:
        self._inner = inner
        self._meter = meter
        self._decode = decode
        self._ready: deque[bytes] = deque()
        self._cut = False
        self._over = False

    def _take(self, data: bytes) -> None:
        self._read(self._decode.decode(data) if self._decode else data)

    def _read(self, data: bytes) -> None:
        reading = self._meter.reading
        pieces = reading.feed(data)
        self._ready.extend(piece for piece in pieces if piece)
        if self._meter.is_spent() and not reading.finished:
            self._cut = True
            self._ready.append(reading.ending())

    def _drain(self) -> None:
        if self._decode:
            self._read(self._decode.flush())
        rest = self._meter.reading.rest()
        if rest:
            self._ready.append(rest)
        self._over = True

    def __del__(self) -> None:
        meter = getattr(self, "_meter", None)
        if meter is not None:
            meter.forget()


class SyncBody(_Body):
    """The body of a reply that a thread reads."""

    def __init__(self, inner: Any, meter: Meter, decode: Decoder | None = None) -> None:
        super().__init__(inner, meter, decode)
        self._pieces: Iterator[bytes] = iter(inner)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while not self._ready:
            if self._cut:
                self.close()
                raise self._meter.refusal()
            if self._over:
                raise StopIteration
            try:
                self._take(next(self._pieces))
            except StopIteration:
                self._drain()
                self._meter.end()
            except BaseException:
                self._meter.end()
                raise
            if self._meter.reading.finished:
                self._meter.end()
        return self._ready.popleft()

    def close(self) -> None:
        """Settle, and close the connection's side of it whatever that says."""
        try:
            self._meter.end()
        finally:
            self._inner.close()


class AsyncBody(_Body):
    """The body of a reply that a coroutine reads."""

    def __init__(self, inner: Any, meter: Meter, decode: Decoder | None = None) -> None:
        super().__init__(inner, meter, decode)
        self._pieces: AsyncIterator[bytes] = aiter(inner)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._cut:
                await self.aclose()
                raise self._meter.refusal()
            if self._over:
                raise StopAsyncIteration
            try:
                self._take(await anext(self._pieces))
            except StopAsyncIteration:
                self._drain()
                await self._meter.aend()
            except BaseException:
                await self._meter.aend()
                raise
            if self._meter.reading.finished:
                await self._meter.aend()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Settle, and close the connection's side of it whatever that says."""
        try:
            await self._meter.aend()
        finally:
            await self._inner.aclose()


_SHAPES: Final[dict[tuple[type, type], type]] = {}


def shaped(body: type[_Body], base: type) -> type:
    """Return the class of a body that an HTTP client takes for one of its own streams."""
    made = _SHAPES.get((body, base))
    if made is None:
        made = _SHAPES[body, base] = type(body.__name__, (body, base), {})
    return made
