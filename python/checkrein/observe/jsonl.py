"""`JsonlSink`: every event as one line of JSON in a file, written behind the callers' backs and lost to nobody."""

from __future__ import annotations

import atexit
import json
import logging
import os
import stat
import sys
import threading
import time
import weakref
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from checkrein.errors import ConfigError
from checkrein.events import Event

if TYPE_CHECKING:
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")

AT_ONCE: Final = 512
"""The most events that are written by one call of the system."""
PATIENCE_S: Final = 10.0
"""How long the end of the program waits for the file."""
TEXTS: Final = frozenset({"message", "hint"})
"""What a reason says in words, which may contain what a rule was raised with."""


class JsonlSink:
    """A listener that appends every event to a file, as one line of JSON: `engine.on_event(JsonlSink("events.jsonl"))`.

    path: the file. It is made for its owner alone (0600), and appended to, so that processes may share it.
    capacity: how many events may wait to be written; what comes then is lost, counted in `lost`, warned of, and
        reported by an event `events.lost`, here and to every other listener of the engine.
    texts: write the words of a reason as well, where a rule may have put arguments of the call. Without it a reason
        is its codes and figures.

    A caller hands its event over and goes on: one thread writes. What was handed over is written when the program
    ends, be it by an exception or by `sys.exit`; `os._exit` and signals that kill lose what `flush` did not write.
    """

    def __init__(self, path: str | os.PathLike[str], *, capacity: int = 10_000, texts: bool = False) -> None:
        if type(capacity) is not int or capacity < 1:
            raise ConfigError("the capacity of a sink is no number of events", "capacity", "leave it out")
        self.path = os.path.abspath(path)
        self.capacity = capacity
        self.texts = texts
        self.written = 0
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._file = _open(self.path)
        self._closed = False
        self._reborn()
        _sinks.add(self)

    def _reborn(self) -> None:
        """Begin without a thread and with nothing to write, as in a forked child."""
        # Putting is reentrant: an event may come from a finalizer that interrupts another one.
        self._queue: SimpleQueue[Event | threading.Event | None] = SimpleQueue()
        self._starting = threading.RLock()
        self._writing = threading.RLock()
        self._thread: threading.Thread | None = None
        self._lost = 0
        self._told = 0
        self._direct = False
        self._failing = False
        self._torn = False

    @property
    def lost(self) -> int:
        """How many events were lost since the start."""
        return self._lost

    def __call__(self, event: Event) -> None:
        """Take an event; waits for nothing."""
        if self._closed:
            return
        if self._direct:
            self._write([event])
        elif self._queue.qsize() >= self.capacity:
            self._lose(1)
        else:
            self._queue.put(event)
            if self._thread is None:
                self._start()

    def flush(self, timeout: float = PATIENCE_S) -> bool:
        """Wait until everything handed over so far is written; returns whether it is."""
        if self._thread is None or not self._thread.is_alive():
            self._drain()
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout)

    def close(self) -> None:
        """Write everything, and stop; later events are ignored."""
        if self._closed:
            return
        self._finish()
        _sinks.discard(self)
        if self._closed:
            return
        with self._writing:
            self._closed = True
            os.close(self._file)

    def __enter__(self) -> JsonlSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<checkrein.observe.JsonlSink `{self.path}`: {self.written} written, {self._lost} lost>"

    def _attached(self, engine: Engine) -> None:
        self._engines.add(engine)

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            if self._direct:
                self._drain()
                return
            thread = threading.Thread(target=self._work, name="checkrein-jsonl", daemon=True)
            try:
                # In a context of its own: it outlives the run in which the first event happened to come.
                Context().run(thread.start)
            except RuntimeError:
                # The interpreter is on its way out, or there are no threads left: the callers write themselves.
                self._direct = True
                self._drain()
                return
            self._thread = thread
        _end_with_multiprocessing()

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if not self._handle(first):
                return

    def _handle(self, first: Event | threading.Event | None) -> bool:
        """Write this and what waits behind it; returns whether to go on."""
        events: list[Event] = []
        marks: list[threading.Event] = []
        item: Event | threading.Event | None = first
        goes_on = True
        while True:
            if item is None:
                goes_on = False
            elif isinstance(item, Event):
                events.append(item)
            else:
                marks.append(item)
            if not goes_on or len(events) >= AT_ONCE:
                break
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
        self._write(events)
        for mark in marks:
            mark.set()
        return goes_on

    def _drain(self) -> None:
        """Write what waits, in the caller's thread."""
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            self._handle(item)
        self._write([])

    def _finish(self) -> None:
        """Let the thread end, and write what it leaves; from now on the callers write."""
        with self._starting:
            thread, self._thread, self._direct = self._thread, None, True
        if thread is not None and thread.is_alive():
            self._queue.put(None)
            thread.join(PATIENCE_S)
            if thread.is_alive():
                # It is stuck in a write: whoever waited for it would be stuck as well.
                self._closed = True
                _log.warning("%s hangs: at least %d events are not written", self.path, self._queue.qsize())
                return
        self._drain()

    def _write(self, events: list[Event]) -> None:
        """Write events, and what was lost before them; one that cannot be written does not keep the others."""
        with self._writing:
            lines = []
            for event in events:
                try:
                    lines.append(_line(self._plain(event)))
                except Exception:
                    _log.exception("a %s of `%s` could not be written", event.name, event.tool)
                    self._lose(1)
            report = self._report()
            if report is not None:
                lines.append(_line(report.to_dict()))
            if not lines or self._closed:
                return
            written = self._append(lines)
            self.written += written
            if written < len(lines):
                told = report is not None
                self._lose(len(lines) - told - written)
                if report is not None:
                    self._told -= report.detail["lost"]
                return
        if report is not None:
            self._tell(report)

    def _append(self, lines: list[bytes]) -> int:
        """Append lines and return how many arrived whole."""
        # What a full disk cut off must not swallow the line after it.
        data = b"\n" * self._torn + b"".join(lines)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            if not self._failing:
                _log.warning("events are not written to %s: %s", self.path, error)
            self._failing = True
            arrived = data[: len(data) - len(rest)]
            if arrived:
                whole = arrived.count(b"\n") - self._torn
                self._torn = not arrived.endswith(b"\n")
                return max(whole, 0)
            return 0
        self._failing = self._torn = False
        return len(lines)

    def _plain(self, event: Event) -> dict[str, Any]:
        fields = event.to_dict()
        decision = fields["decision"]
        if decision is not None and not self.texts:
            for part in ("reasons", "observed"):
                decision[part] = [_without_words(reason) for reason in decision.get(part) or ()]
        return fields

    def _lose(self, count: int) -> None:
        with self._starting:
            is_first = self._lost == self._told
            self._lost += count
        if is_first:
            _log.warning("events for %s are lost: it does not keep up, or cannot be written", self.path)

    def _report(self) -> Event | None:
        with self._starting:
            lost = self._lost - self._told
            if lost == 0:
                return None
            self._told = self._lost
            total = self._lost
        engine = next(iter(self._engines), None)
        name, at = ("", time.time()) if engine is None else (engine.name, engine.now())
        detail = {"lost": lost, "total": total, "sink": self.path}
        return Event("loss", "", name="events.lost", at=at, engine=name, detail=detail)

    def _tell(self, report: Event) -> None:
        """Tell the others who listen: this one has it in its file."""
        for engine in list(self._engines):
            engine._tell(report, without=self)


def _without_words(reason: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in reason.items() if name not in TEXTS}
    detail = kept.get("detail")
    if isinstance(detail, dict):
        kept["detail"] = {name: value for name, value in detail.items() if name != "text"}
    return kept


def _line(fields: dict[str, Any]) -> bytes:
    # ASCII: what else ends a line for some readers, or steers a terminal, is escaped.
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _open(path: str) -> int:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        hint = "name a file in a directory that exists"
        raise ConfigError(f"events cannot be written to `{path}`: {error.strerror}", "path", hint) from error
    about = os.fstat(file)
    is_own = hasattr(os, "geteuid") and about.st_uid == os.geteuid()
    if is_own and stat.S_ISREG(about.st_mode) and stat.S_IMODE(about.st_mode) & 0o077:
        os.fchmod(file, 0o600)
    return file


_sinks: weakref.WeakSet[JsonlSink] = weakref.WeakSet()


def _finish_all() -> None:
    for sink in list(_sinks):
        try:
            sink._finish()
        except Exception:
            _log.exception("what waited for %s was not written", sink.path)


def _forget_in_child() -> None:
    """What waits is the parent's to write, and its thread is not here."""
    for sink in list(_sinks):
        sink._reborn()


def _end_with_multiprocessing() -> None:
    """Have a child of `multiprocessing` write at its end too: it leaves without asking `atexit`."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.modules["multiprocessing"].parent_process() is not None:
        util.Finalize(None, _finish_all, exitpriority=100)


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
