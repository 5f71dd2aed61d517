"""Sends events to the gateway in the background: in order, in batches, and what is left when the program ends."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from checkrein.actguard._monitoring import _is_ssl_cert_error, warn_monitoring_issue
from checkrein.actguard.transport._urllib import Route, start_debug_trace, urlopen
from checkrein.actguard.transport.budget_api import backoff_s

if TYPE_CHECKING:
    from checkrein.actguard._config import ActGuardConfig
    from checkrein.actguard.events.envelope import Envelope

PATH: Final = "/api/v1/events"
IDLE_S: Final = 5.0
"""After how long without an event the thread ends; the next event starts another one."""
_REFUSED: Final = frozenset({400, 401, 403})
_TOO_MUCH: Final = frozenset({400, 413})

_clients: weakref.WeakSet[EventClient] = weakref.WeakSet()


class EventsLost(Exception):
    """The queue of events is full, or an event has no form that can be sent."""


class EventClient:
    """A bounded queue, and one daemon thread that empties it."""

    def __init__(self, config: ActGuardConfig) -> None:
        self._config = config
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._queue: deque[Envelope] = deque()
        self._held_back: deque[tuple[dict[str, Any], int]] = deque()
        self._sending = False
        self._flushing = False
        self._started = False
        self.lost = 0
        self._route = Route(config.gateway_url)
        self._thread = self._new_thread()
        _clients.add(self)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._worker, name="actguard-events", daemon=True)

    def enqueue(self, envelope: Envelope) -> bool:
        """Take an event to be sent; returns False, and warns, where there is no room for it."""
        with self._changed:
            full = len(self._queue) >= self._config.max_queue_events
            if not full and not self._stop.is_set():
                self._queue.append(envelope)
                if not self._started:
                    self._started = True
                    self._thread.start()
                self._changed.notify_all()
                return True
            self.lost += 1
            lost = self.lost
        why = "the queue of events is full" if full else "the event client is closed"
        self._warn("enqueue", EventsLost(f"{why}; {lost} lost so far"))
        return False

    def flush(self, timeout: float = 5.0) -> None:
        """Send what is waiting now, and wait for it, at most `timeout` seconds."""
        deadline = monotonic() + timeout
        with self._changed:
            while self._queue or self._held_back or self._sending:
                left = deadline - monotonic()
                if left <= 0:
                    return
                self._flushing = True
                self._changed.notify_all()
                self._changed.wait(left)

    def close(self, wait: bool = True) -> None:
        """Send what is waiting, each batch once, and take nothing more; with `wait`, wait until it is sent."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        if wait:
            # A thread that never began has nothing to send.
            with contextlib.suppress(RuntimeError):
                self._thread.join(self._config.event_timeout_s + 1)

    def _worker(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            try:
                if batch:
                    self._ship_with_retry(batch)
            except Exception as error:
                # Whatever one batch does, the next one is sent.
                self._warn("ship", error)
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()

    def _next_batch(self) -> list[dict[str, Any]] | None:
        """Wait for events and return a batch of them; `None` ends the thread."""
        with self._changed:
            if not self._queue and not self._held_back:
                self._flushing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._queue) or self._stop.is_set(), IDLE_S)
                if not self._queue:
                    self._started = False
                    if not self._stop.is_set():
                        self._thread = self._new_thread()
                    return None
            until = monotonic() + self._config.flush_interval_ms / 1000
            while not (
                self._stop.is_set() or self._flushing or len(self._queue) >= self._config.max_batch_events
            ):
                left = until - monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._sending = True
            most = max(1, self._config.max_batch_events)
            while self._queue and len(self._held_back) < most:
                self._held_back.extend(self._encoded(self._queue.popleft()))
            return self._cut(most)

    def _cut(self, most: int) -> list[dict[str, Any]]:
        """Take from the front as many events as fit one batch, at least one."""
        batch: list[dict[str, Any]] = []
        size = 0
        while self._held_back and len(batch) < most:
            event, length = self._held_back[0]
            if batch and size + length > self._config.max_batch_bytes:
                break
            self._held_back.popleft()
            batch.append(event)
            size += length
        return batch

    def _encoded(self, envelope: Envelope) -> list[tuple[dict[str, Any], int]]:
        """Return the event as it is sent, and its length; what JSON does not know is sent as text."""
        try:
            text = json.dumps(_plain(envelope.to_dict(), 0), allow_nan=False)
            return [(json.loads(text), len(text))]
        except Exception as error:
            self.lost += 1
            self._warn("encode", EventsLost(f"an event has no form that can be sent: {type(error).__name__}"))
            return []

    def _ship_with_retry(self, batch: list[dict[str, Any]]) -> None:
        """Send one batch; what the gateway refuses is halved until the bad event is alone."""
        try:
            request = self._request(batch)
        except Exception as error:
            self._warn("ship", error)
            return
        # A program that ends waits for one attempt, not for all of them.
        attempts = 1 if self._stop.is_set() else max(0, int(self._config.event_max_retries)) + 1
        for attempt in range(attempts):
            try:
                self._send(request, attempt + 1, attempts)
                return
            except Exception as error:
                code = error.code if isinstance(error, urllib.error.HTTPError) else None
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if code in _TOO_MUCH and len(batch) > 1:
                    middle = len(batch) // 2
                    self._ship_with_retry(batch[:middle])
                    self._ship_with_retry(batch[middle:])
                    return
                if code in _REFUSED or _is_ssl_cert_error(error) or attempt + 1 == attempts:
                    self._warn("ship", error)
                    return
            self._pause(backoff_s(self._config, attempt))
            if self._stop.is_set() and attempt + 2 < attempts:
                attempts = attempt + 2
        return

    def _request(self, batch: list[dict[str, Any]]) -> urllib.request.Request:
        config = self._config
        request = urllib.request.Request(
            f"{(config.gateway_url or '').rstrip('/')}{PATH}",
            data=json.dumps({"events": batch}).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {config.api_key}"},
            method="POST",
        )
        if request.type not in ("http", "https"):
            raise ValueError(f"the gateway_url is neither http nor https: {request.type!r}")
        return request

    def _send(self, request: urllib.request.Request, attempt: int, attempts: int) -> None:
        timeout = self._config.event_timeout_s
        trace = start_debug_trace(
            request=request,
            timeout=timeout,
            debug=self._config.debug,
            attempt=attempt,
            max_attempts=attempts,
        )
        try:
            route = self._route if self._is_worker() else None
            with urlopen(request, timeout=timeout, route=route) as response:
                if trace is not None:
                    trace.log_success(response=response, body=None)
        except Exception as error:
            if trace is not None:
                trace.log_failure(exc=error)
            raise

    def _is_worker(self) -> bool:
        return threading.current_thread() is getattr(self, "_thread", None)

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; a program that ends is not kept waiting."""
        if self._is_worker():
            self._stop.wait(seconds)
        else:
            time.sleep(seconds)

    def _warn(self, operation: str, error: BaseException) -> None:
        # A filter that makes warnings errors must not end the thread.
        with contextlib.suppress(Exception):
            warn_monitoring_issue(subsystem="events", operation=operation, exc=error, path=PATH, stacklevel=3)

    def _after_fork(self) -> None:
        """Begin anew in a forked child: what the parent has queued is the parent's to send."""
        self._changed = threading.Condition()
        self._queue.clear()
        self._held_back.clear()
        self._sending = self._flushing = self._started = False
        self._thread = self._new_thread()


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON has it: anything else as its text, never deeper than a few levels."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if depth > 32:
        return "..."
    if isinstance(value, dict):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def shutdown() -> None:
    """Send what all event clients have waiting, at the same time; runs by itself when the program ends."""
    clients = list(_clients)
    for client in clients:
        client.close(wait=False)
    deadline = monotonic() + max((client._config.event_timeout_s for client in clients), default=0) + 1
    for client in clients:
        with contextlib.suppress(RuntimeError):
            client._thread.join(max(0.0, deadline - monotonic()))


def _forked() -> None:
    for client in list(_clients):
        client._after_fork()


atexit.register(shutdown)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
