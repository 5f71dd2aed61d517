"""`JsonlSink`: a line per event, whatever else fails, and whatever way the program ends."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein.events import Event
from checkrein.observe import JsonlSink
from checkrein.testing import FakeClock


@pytest.fixture
def engine() -> checkrein.Engine:
    return checkrein.Engine(clock=FakeClock())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def event(number: int, **more: Any) -> Event:
    return Event("decision", f"tool {number}", name="decision.allow", **more)


def test_every_event_is_a_line_of_a_file_for_its_owner_alone(
    engine: checkrein.Engine, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    engine.on_event(sink)
    act = engine.guard(name="act", rate="2/h")(lambda a: a)
    with checkrein.acting(user="änn"):
        act(1)
        act(2)
        with pytest.raises(checkrein.RateLimited):
            act(3)
    assert sink.flush()
    found = lines(path)
    assert [row["name"] for row in found] == ["decision.allow", "decision.allow", "decision.block"]
    assert {(row["tool"], row["user"]) for row in found} == {("act", "änn")}
    (reason,) = found[2]["decision"]["reasons"]
    assert (reason["code"], reason["detail"]["limit"]) == ("rate_limited", 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (sink.written, sink.lost) == (3, 0)
    sink.close()
    sink.close()
    act = engine.guard(name="other", rate="2/h")(lambda: 1)
    act()
    assert len(lines(path)) == 3


def test_a_file_of_others_is_made_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{}\n")
    path.chmod(0o644)
    with JsonlSink(path) as sink:
        sink(event(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(lines(path)) == 2


def test_what_steers_a_terminal_or_ends_a_line_is_escaped(tmp_path: Path) -> None:
    hostile = "a\x1b[31m\u2028\u202e\x85\ud800\nb"
    with JsonlSink(tmp_path / "events.jsonl") as sink:
        sink(event(1, user=hostile))
    text = (tmp_path / "events.jsonl").read_bytes().decode("ascii")
    assert text.isprintable() is False
    assert text.rstrip("\n").isprintable()
    assert json.loads(text)["user"] == hostile


class Refusal:
    """A decision that says in words what a rule was raised with."""

    def to_dict(self) -> dict[str, Any]:
        reason = {"code": "rule_error", "message": "raised: sk-secret", "hint": "sk-secret", "final": True}
        detail = {"text": "sk-secret", "limit": 2}
        return {"verdict": "block", "reasons": [{**reason, "detail": detail}], "observed": [reason]}


def test_words_of_reasons_stay_out_unless_they_are_wanted(tmp_path: Path) -> None:
    decision: Any = Refusal()
    with JsonlSink(tmp_path / "tight") as tight, JsonlSink(tmp_path / "loose", texts=True) as loose:
        tight(event(1, decision=decision))
        loose(event(1, decision=decision))
    (row,) = lines(tmp_path / "tight")
    assert row["decision"]["reasons"] == [{"code": "rule_error", "final": True, "detail": {"limit": 2}}]
    assert "sk-secret" not in (tmp_path / "tight").read_text()
    assert (tmp_path / "loose").read_text().count("sk-secret") == 5


def test_an_event_that_cannot_be_written_is_counted_and_reported(
    engine: checkrein.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []
    sink = JsonlSink(tmp_path / "events.jsonl")
    engine.on_event(sink)
    engine.on_event(heard.append)
    recursive: dict[str, Any] = {}
    recursive["x"] = recursive
    for bad in ({"x": object()}, {"x": float("nan")}, recursive):
        engine._tell(event(1, detail=bad))
    engine._tell(event(2))
    sink.close()
    found = lines(tmp_path / "events.jsonl")
    assert [row["tool"] for row in found if row["name"] == "decision.allow"] == ["tool 2"]
    reports = [row["detail"] for row in found if row["name"] == "events.lost"]
    assert sum(report["lost"] for report in reports) == reports[-1]["total"] == sink.lost == 3
    told = [event.detail["lost"] for event in heard if event.name == "events.lost"]
    assert sum(told) == 3
    assert "are lost" in caplog.text


def test_a_queue_that_is_full_loses_and_says_how_many(
    engine: checkrein.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []
    sink = JsonlSink(tmp_path / "events.jsonl", capacity=4)
    engine.on_event(sink)
    engine.on_event(heard.append)
    with caplog.at_level(logging.WARNING, logger="checkrein"), sink._writing:
        # The writer has the first one in its hands and waits; four more fit.
        engine._tell(event(0))
        while sink._queue.qsize():
            threading.Event().wait(0.001)
        for number in range(1, 11):
            engine._tell(event(number))
        assert sink.lost == 6
    assert sink.flush()
    found = lines(tmp_path / "events.jsonl")
    assert [row["tool"] for row in found if row["tool"]] == [f"tool {number}" for number in range(5)]
    (report,) = [row for row in found if row["name"] == "events.lost"]
    assert report["detail"] == {"lost": 6, "total": 6, "sink": sink.path}
    assert [event.detail["total"] for event in heard if event.kind == "loss"] == [6]
    assert caplog.text.count("are lost") == 1
    sink.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")
def test_a_full_disk_is_warned_of_once_and_stops_nobody(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    sink = JsonlSink("/dev/full")
    engine.on_event(sink)
    act = engine.guard(rate="9/h")(lambda: "ran")
    assert [act(), act(), act()] == ["ran"] * 3
    assert sink.flush()
    sink.close()
    assert (sink.written, sink.lost) == (0, 3)
    assert caplog.text.count("are not written") == 1


def test_a_torn_line_does_not_take_the_next_one_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonlSink(tmp_path / "events.jsonl")
    write, left = os.write, [10]

    def short(file: int, data: Any) -> int:
        if file != sink._file:
            return write(file, data)
        if not left:
            raise OSError(28, "no space")
        return write(file, bytes(data)[: left.pop()])

    monkeypatch.setattr(os, "write", short)
    sink._write([event(1), event(2)])
    assert (sink.written, sink.lost) == (0, 2)
    monkeypatch.setattr(os, "write", write)
    sink._write([event(3)])
    sink.close()
    torn, *whole = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(torn) == 10
    assert [json.loads(line)["name"] for line in whole] == ["decision.allow", "events.lost"]


def test_threads_lose_nothing_and_mix_no_lines(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "events.jsonl", capacity=100_000)

    def work(number: int) -> None:
        for turn in range(500):
            sink(event(number * 1_000 + turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    found = [int(row["tool"].split()[1]) for row in lines(tmp_path / "events.jsonl")]
    assert sorted(found) == sorted(number * 1_000 + turn for number in range(8) for turn in range(500))
    for number in range(8):
        own = [one for one in found if one // 1_000 == number]
        assert own == sorted(own)


ENDS = {
    "return": "",
    "exit": "sys.exit(3)",
    "raise": "raise RuntimeError('boom')",
    "in a thread": "threading.Thread(target=lambda: [act() for _ in range(50)]).start(); later = 50",
    "later handler": "",
}


@pytest.mark.parametrize("end", ENDS)
def test_everything_is_written_however_the_program_ends(end: str, tmp_path: Path) -> None:
    program = f"""
        import atexit, sys, threading
        import checkrein
        engine = checkrein.Engine()
        act = engine.guard(name="act", rate="100000/h")(lambda: None)
        if {end == "later handler"}:
            # Handlers run last in, first out: this one after the sink's own.
            atexit.register(lambda: [act() for _ in range(50)])
        from checkrein.observe import JsonlSink
        engine.on_event(JsonlSink("events.jsonl"))
        for _ in range(2_000):
            act()
        {ENDS[end]}
    """
    done = run(program, tmp_path)
    assert done.returncode == {"exit": 3, "raise": 1}.get(end, 0), done.stderr
    expected = 2_050 if end in ("in a thread", "later handler") else 2_000
    assert len(lines(tmp_path / "events.jsonl")) == expected


def test_a_file_that_hangs_does_not_keep_the_program_alive(tmp_path: Path) -> None:
    program = """
        import os, threading
        import checkrein
        from checkrein.observe import JsonlSink, jsonl
        jsonl.PATIENCE_S = 0.2
        sink, write = JsonlSink("events.jsonl"), os.write
        stuck = threading.Event()

        def hang(file, data):
            if file != sink._file:
                return write(file, data)
            stuck.set()
            threading.Event().wait()

        os.write = hang
        engine = checkrein.Engine()
        engine.on_event(sink)
        act = engine.guard(rate="9/h")(lambda: None)
        act()
        stuck.wait()
        act()
        assert not sink.flush(0.01)
    """
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hangs" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_a_forked_child_writes_its_own_events_and_none_of_its_parents(way: str, tmp_path: Path) -> None:
    program = f"""
        import multiprocessing, os, sys
        import checkrein
        from checkrein.events import Event
        from checkrein.observe import JsonlSink
        sink = JsonlSink("events.jsonl")

        def tell(who, count):
            for number in range(count):
                sink(Event("decision", f"{{who}} {{number}}", name="decision.allow"))

        def child():
            tell("child", 300)

        tell("parent", 700)
        if "{way}" == "os.fork":
            number = os.fork()
            if number == 0:
                child()
                sys.exit(0)
            assert os.waitpid(number, 0)[1] == 0
        else:
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
        tell("after", 100)
    """
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    told = [row["tool"] for row in lines(tmp_path / "events.jsonl")]
    assert sorted(told) == sorted(
        f"{who} {number}"
        for who, count in (("parent", 700), ("child", 300), ("after", 100))
        for number in range(count)
    )


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_cannot_be_a_sink_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(checkrein.ConfigError, match="hint"):
        JsonlSink(tmp_path / "no" / "events.jsonl")
    with pytest.raises(checkrein.ConfigError, match="capacity"):
        JsonlSink(tmp_path / "events.jsonl", capacity=0)


def test_importing_checkrein_imports_no_sink_and_starts_no_thread(tmp_path: Path) -> None:
    program = """
        import sys, threading
        import checkrein
        assert not any(name.startswith(("checkrein.observe", "opentelemetry")) for name in sys.modules)
        from checkrein.observe import JsonlSink
        sink = JsonlSink("events.jsonl")
        assert threading.active_count() == 1
        assert not any(name.startswith("opentelemetry") for name in sys.modules)
    """
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
