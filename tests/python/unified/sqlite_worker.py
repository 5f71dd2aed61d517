"""What a second process does with a store, in the tests of stores: `python sqlite_worker.py VERB FILE ...`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import checkrein


def patiently(file: str) -> checkrein.Engine:
    """Open the store on a machine that may be too busy to do it within a second."""
    for _ in range(9):
        try:
            return checkrein.Engine(store=f"sqlite:{file}")
        except checkrein.StoreError:
            time.sleep(0.1)
    return checkrein.Engine(store=f"sqlite:{file}")


def spend(file: str, calls: int) -> object:
    """Make calls as fast as possible; returns how many were let through, and the longest wait."""
    engine = patiently(file)

    @engine.guard(
        name="send", key="user", rate="100/h", budget="50 usd", cost="1 usd", actual=lambda result: "1"
    )
    def send(user: str) -> None: ...

    @engine.guard(name="pay", once="key")
    def pay(key: str) -> int:
        with Path(f"{file}.effects").open("a") as effects:
            effects.write(f"{key}\n")
        return os.getpid()

    allowed, failed, worst, paid = 0, 0, 0.0, []
    for number in range(calls):
        began = time.monotonic()
        try:
            send("ada")
            allowed += 1
        except (checkrein.RateLimited, checkrein.BudgetExceeded):
            pass
        except checkrein.StoreError:
            failed += 1  # a machine that is too busy to commit within a second
        worst = max(worst, time.monotonic() - began)
        try:
            paid.append(pay(f"k{number}"))
        except (checkrein.InProgress, checkrein.StoreError):
            paid.append(0)
    return {"allowed": allowed, "failed": failed, "worst": worst, "paid": paid}


def die(file: str) -> object:
    """Die in the middle of a call, after its effect."""
    engine = checkrein.Engine(store=f"sqlite:{file}")

    @engine.guard(name="pay", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1")
    def pay(key: str) -> None:
        Path(f"{file}.effects").write_text(f"{key} {checkrein.current_operation().idempotency_key}")
        os.kill(os.getpid(), signal.SIGKILL)

    pay("p1")
    return None


def hold(file: str) -> object:
    """Take the writer's lock of the store and keep it until somebody closes our input."""
    import fcntl

    with Path(f"{file}-locks/writer").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()
    return None


def exclusive(file: str) -> object:
    """Begin a transaction that keeps everybody from writing, as other programs do, until our input ends."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("held", flush=True)
    sys.stdin.read()
    connection.execute("ROLLBACK")
    return None


def fill(file: str) -> object:
    """Make calls until the disk is full, as far as this process is concerned, and then once more with room."""
    import resource

    engine = checkrein.Engine(store=f"sqlite:{file}")
    ran = 0

    @engine.guard(name="pay", once="key")
    def pay(key: str) -> str:
        nonlocal ran
        ran += 1
        return "x" * 1000

    pay("first")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, hard))
    done, code, seconds = 1, "", 0.0
    for number in range(10_000):
        began = time.monotonic()
        try:
            pay(f"k{number}")
            done += 1
        except checkrein.StoreError as refused:
            code, seconds = refused.code, time.monotonic() - began
            break
        except checkrein.OutcomeNotRecorded as failed:
            code, seconds = failed.code, time.monotonic() - began
            done += 1
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    answer = {"code": code, "seconds": seconds, "ran": ran, "done": done}
    # A store that may have lost something stops; it is opened again.
    del engine, pay
    again = checkrein.Engine(store=f"sqlite:{file}")
    again_pay = again.guard(name="pay", once="key")(lambda key: "ran")
    return {**answer, "after": again_pay("after")}


def other_user(file: str) -> object:
    """Open the store as somebody who may not."""
    os.seteuid(65534)
    began = time.monotonic()
    try:
        checkrein.Engine(store=f"sqlite:{file}")
    except checkrein.StoreError as refused:
        return {"code": refused.code, "seconds": time.monotonic() - began, "text": str(refused)}
    return {"code": "opened"}


if __name__ == "__main__":
    verbs: dict[str, Any] = {
        "spend": spend,
        "die": die,
        "hold": hold,
        "exclusive": exclusive,
        "fill": fill,
        "other_user": other_user,
    }
    answer = verbs[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
    print(json.dumps(answer))
