"""One side of the comparison: prepares cases and runs rounds, told by lines of JSON on its standard input."""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import agents
import dropins
import packages
import unified


def prepare(side: str, request: dict[str, Any]) -> dropins.Prepared:
    """Make the case that a request names."""
    if request["kind"] == "unified":
        return unified.MAKERS[request["name"]](request["what"])
    if request["kind"] in ("actguard", "actguard unified"):
        agent = next(
            case
            for case in agents.all_cases()
            if (case.name, case.what, case.size) == (request["name"], request["what"], request["size"])
        )
        return agent.make(
            "unified" if request["kind"] == "actguard unified" else side, agent.what, agent.size
        )
    case = next(
        case
        for case in dropins.all_cases()
        if (case.name, case.what, case.size) == (request["name"], request["what"], request["size"])
    )
    return case.make(side, case.what, case.size)


def lap(prepared: dropins.Prepared, calls: int) -> dict[str, int]:
    """Run so many calls; thread CPU time and wall time in nanoseconds, the loop itself included."""
    prepared.clear()
    gc.collect()
    if prepared.awaits:
        return asyncio.run(_async_lap(prepared.call, calls))
    call = prepared.call
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in repeat(None, calls):
        call()
    return {"cpu": time.thread_time_ns() - cpu, "wall": time.perf_counter_ns() - wall}


async def _async_lap(call: Callable[[], Any], calls: int) -> dict[str, int]:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in repeat(None, calls):
        await call()
    return {"cpu": time.thread_time_ns() - cpu, "wall": time.perf_counter_ns() - wall}


def calls_for(prepared: dropins.Prepared, nanoseconds: int) -> int:
    """How many calls take about so long."""
    calls = 1
    while True:
        taken = max(lap(prepared, calls)["cpu"], 1)
        if taken * 4 > nanoseconds:
            return max(1, calls * nanoseconds // taken)
        calls *= 4


def answer(side: str, prepared: dict[str, dropins.Prepared], request: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks for."""
    match request["do"]:
        case "hello":
            return {"python": platform.python_version(), "versions": packages.versions(side)}
        case "prepare":
            prepared[request["key"]] = made = prepare(side, request)
            return {"calls": calls_for(made, request["nanoseconds"])}
        case "run":
            return dict(lap(prepared[request["key"]], request["calls"]))
        case "drop":
            prepared.pop(request["key"]).end()
            return {}
        case other:
            raise ValueError(f"unknown request {other!r}")


def main() -> None:
    """Answer each line with a line."""
    side = sys.argv[1]
    prepared: dict[str, dropins.Prepared] = {}
    for line in sys.stdin:
        try:
            reply = answer(side, prepared, json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
