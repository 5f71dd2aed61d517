"""Events reach the gateway: in order, whatever one of them is, and without anybody closing anything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from actguard_kit import KEY, Gateway, Reply, Request, gateway

import checkrein
from checkrein import actguard
from checkrein.actguard.events.envelope import Envelope

__all__ = ["gateway"]


def emitting(gateway: Gateway, **more: Any) -> actguard.Client:
    return gateway.client(**{"event_mode": "verbose", "flush_interval_ms": 5, **more})


def emit(number: int, **more: Any) -> None:
    actguard.emit_event("tool", "invoke", {"number": number, **more})


def numbers(gateway: Gateway) -> list[int]:
    return [event["payload"]["number"] for event in gateway.sent() if event["name"] == "invoke"]


def test_a_run_sends_its_start_its_end_and_what_is_between(gateway: Gateway) -> None:
    client = emitting(gateway)
    with client.run(user_id="alice", run_id="r1"), client.budget_guard(name="root", plan_key="pro"):
        emit(1)
    client.close()
    start, invoke, end = gateway.sent()
    assert (start["category"], start["name"], end["name"], end["outcome"]) == (
        "run",
        "start",
        "end",
        "success",
    )
    assert start["payload"] == {"run_id": "r1", "user_id": "alice"}
    assert (invoke["run_id"], invoke["user_id"], invoke["scope_name"]) == ("r1", "alice", "root")
    assert (invoke["scope_kind"], invoke["plan_key"], invoke["version"]) == ("root", "pro", 1)
    assert invoke["ts"].endswith("Z")
    assert invoke["payload"]["parent_scope_id"] is None
    assert "parent_scope_id" not in invoke
    request = next(request for request in gateway.requests if request.path == "/api/v1/events")
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_what_json_does_not_know_is_sent_as_text_and_harms_nobody(gateway: Gateway) -> None:
    client = emitting(gateway)

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    loop: dict[str, Any] = {}
    loop["again"] = loop
    with client.run():
        emit(1, raw=object(), odd=Odd(), nan=float("nan"), keys={1: {2, 3}}, loop=loop)
        emit(2)
    client.close()
    assert numbers(gateway) == [1, 2]


def test_one_bad_event_does_not_take_its_batch_along(gateway: Gateway) -> None:
    def answer(request: Request) -> Reply:
        bad = any(event["payload"].get("number") == 3 for event in request.body["events"])
        return Reply({"error": "bad event"}, status=400 if bad else 202)

    gateway.events = answer
    client = emitting(gateway, flush_interval_ms=60_000)
    taken: list[int] = []
    with client.run():
        for number in range(8):
            emit(number)
    with pytest.warns(RuntimeWarning, match=r"events\.ship"):
        client.close()
    for body in gateway.bodies("events"):
        had = [event["payload"].get("number") for event in body["events"] if event["name"] == "invoke"]
        if 3 not in had:
            taken += had
    assert taken == [0, 1, 2, 4, 5, 6, 7]


def test_batches_keep_the_order_whatever_their_limits(gateway: Gateway) -> None:
    client = emitting(gateway, max_batch_bytes=2_000, max_batch_events=7)
    with client.run():
        for number in range(60):
            emit(number, filling="x" * (number * 40 % 900))
    client.close()
    assert numbers(gateway) == list(range(60))
    assert all(len(body["events"]) <= 7 for body in gateway.bodies("events"))


def test_flush_waits_no_longer_than_it_says_and_no_shorter_than_needed(gateway: Gateway) -> None:
    client = emitting(gateway, flush_interval_ms=60_000)
    events = client.event_client
    assert events is not None
    with client.run():
        emit(1)
        events.flush(30)
        assert numbers(gateway) == [1]
        gateway.events = lambda request: Reply(hangs=True)
        emit(2)
        # The gateway never answers: what would hang is seen by the test's own timeout.
        events.flush(0.05)
    gateway.closed.set()


def test_events_that_the_gateway_loses_are_sent_again(gateway: Gateway) -> None:
    answers = [Reply({}, status=503), Reply({}, status=429)]
    gateway.events = lambda request: answers.pop() if answers else Reply({}, status=202)
    client = emitting(gateway, flush_interval_ms=0)
    with client.run():
        emit(1)
        assert client.event_client is not None
        client.event_client.flush(30)
    client.close()
    # The first batch has at least the start of the run.
    ids = [event["id"] for event in gateway.sent() if event["name"] == "start"]
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_a_full_queue_refuses_counts_and_says_so(gateway: Gateway) -> None:
    asked = threading.Event()

    def answer(request: Request) -> Reply:
        asked.set()
        return Reply(hangs=True)

    gateway.events = answer
    client = emitting(gateway, max_queue_events=3, flush_interval_ms=0)
    events = client.event_client
    assert events is not None
    assert events.enqueue(Envelope())
    asked.wait(30)
    assert [events.enqueue(Envelope()) for _ in range(3)] == [True] * 3
    with pytest.warns(RuntimeWarning, match="the queue of events is full; 1 lost so far"):
        assert not events.enqueue(Envelope())
    assert events.lost == 1
    gateway.closed.set()


@pytest.mark.parametrize("url", ["no-scheme", "ftp://x"])
def test_a_url_that_leads_nowhere_does_not_end_the_thread(url: str) -> None:
    client = actguard.Client(api_key=KEY, gateway_url=url, flush_interval_ms=0)
    events = client.event_client
    assert events is not None
    for _ in range(2):
        assert events.enqueue(Envelope())
        with pytest.warns(RuntimeWarning, match=r"events\.ship"):
            events.flush(30)
    client.close()


def test_an_idle_thread_ends_and_the_next_event_starts_another(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkrein.actguard.events.client.IDLE_S", 0.01)
    client = emitting(gateway, flush_interval_ms=0)
    events = client.event_client
    assert events is not None
    with client.run():
        first = events._thread
        first.join(30)
        assert not first.is_alive()
        emit(1)
        events.flush(30)
    client.close()
    assert numbers(gateway) == [1]


PROGRAM = """
import sys
from checkrein import actguard
client = actguard.Client(api_key="k", gateway_url=sys.argv[1])
with client.run(run_id="r"):
    for number in range(250):
        actguard.emit_event("tool", "invoke", {"number": number})
"""


def test_a_program_that_ends_without_closing_loses_nothing(gateway: Gateway) -> None:
    ours = Path(checkrein.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, gateway.url],
        env={**os.environ, "PYTHONPATH": str(ours)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(gateway) == list(range(250))
    assert [event["name"] for event in gateway.sent()][-1] == "end"


FORK = """
import os, sys
from checkrein import actguard
client = actguard.Client(api_key="k", gateway_url=sys.argv[1], flush_interval_ms=60_000)
with client.run(run_id="r"):
    actguard.emit_event("tool", "invoke", {"number": 1})
    child = os.fork()
    actguard.emit_event("tool", "invoke", {"number": 3 if child else 2})
    client.event_client.flush(30)
    if child:
        os.waitpid(child, 0)
    else:
        os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_sends_its_own_events_and_not_its_parents(gateway: Gateway) -> None:
    ours = Path(checkrein.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, gateway.url],
        env={**os.environ, "PYTHONPATH": str(ours)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(numbers(gateway)) == [1, 2, 3]
