"""What a second process does with a store on a server: `python redis_worker.py VERB URL PREFIX ...`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import checkrein


def open_engine(url: str, prefix: str) -> checkrein.Engine:
    """Open the store, on a machine that may be busy."""
    return checkrein.Engine(store=url, prefix=prefix, deadline="20s")


def spend(url: str, prefix: str, calls: str, effects: str) -> object:
    """Make calls as fast as possible on one key; returns how many were let through, and who made each payment."""
    engine = open_engine(url, prefix)

    @engine.guard(
        name="send", key="user", rate="100/h", budget="50 usd", cost="1 usd", actual=lambda result: "1"
    )
    def send(user: str) -> None: ...

    @engine.guard(name="pay", once="key")
    def pay(key: str) -> int:
        with Path(effects).open("a") as file:
            file.write(f"{key}\n")
        return os.getpid()

    print("ready", flush=True)
    sys.stdin.readline()
    allowed, paid = 0, []
    for number in range(int(calls)):
        try:
            send("ada")
            allowed += 1
        except (checkrein.RateLimited, checkrein.BudgetExceeded):
            pass
        try:
            paid.append(pay(f"k{number}"))
        except checkrein.InProgress:
            paid.append(0)
    return {"allowed": allowed, "paid": paid}


def tick(url: str, prefix: str, seconds: str) -> object:
    """Call a guard of a short window for a while; returns the shift of our clock and when calls were let through."""
    engine = open_engine(url, prefix)

    @engine.guard(name="tick", rate="5/500ms")
    def act() -> None: ...

    print("ready", flush=True)
    sys.stdin.readline()
    passed = []
    until = time.perf_counter() + float(seconds)
    while time.perf_counter() < until:
        before = true_time()
        try:
            act()
            passed.append((before, true_time()))
        except checkrein.RateLimited:
            time.sleep(0.002)
    return {"passed": passed, "clock": time.time()}


def true_time() -> float:
    """The time that no shift of the wall clock touches."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def die(url: str, prefix: str) -> object:
    """Die in the middle of a call, after its effect."""
    engine = open_engine(url, prefix)

    @engine.guard(name="pay", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1")
    def pay(key: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pay("p1")
    return None


if __name__ == "__main__":
    verbs: dict[str, Any] = {"spend": spend, "tick": tick, "die": die}
    answer = verbs[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(answer))
