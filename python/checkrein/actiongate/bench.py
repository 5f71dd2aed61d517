"""Measures a check on this machine: `python -m checkrein.actiongate.bench [-n N] [--redis HOST:PORT]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from checkrein._errors import StoreUnavailable

from .core import Gate, Policy
from .engine import Engine
from .store import RedisStore

WARM_UP = 1000
RULE = "=" * 60


def measure(engine: Engine, gates: Sequence[Gate], policy: Policy, iterations: int) -> list[int]:
    """Return the nanoseconds of each check, the gates taken in turn; warm-up checks are not among them."""
    clock = time.perf_counter_ns
    for turn in range(WARM_UP):
        engine.check(gates[turn % len(gates)], policy)
    timings = []
    for turn in range(iterations):
        gate = gates[turn % len(gates)]
        started = clock()
        engine.check(gate, policy)
        timings.append(clock() - started)
    return timings


def report(name: str, timings: list[int]) -> str:
    """Return the lines for one case."""
    total_ns = sum(timings)
    ordered = sorted(timings)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3

    return "\n".join(
        [
            f"{name}:",
            f"  Iterations: {len(timings):,}",
            f"  Total:      {total_ns / 1e6:.2f}ms",
            f"  p50:        {percentile(0.50):.2f}μs",
            f"  p95:        {percentile(0.95):.2f}μs",
            f"  p99:        {percentile(0.99):.2f}μs",
            f"  Throughput: {len(timings) / max(total_ns, 1) * 1e9:,.0f} ops/sec",
            "",
        ]
    )


def positive(text: str) -> int:
    """Read a count of one or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m checkrein.actiongate.bench", description="Measure a check on this machine"
    )
    parser.add_argument(
        "-n",
        "--iterations",
        type=positive,
        default=10_000,
        metavar="N",
        help="checks per case (default: 10000)",
    )
    parser.add_argument("--redis", metavar="HOST:PORT", help="measure a RedisStore too")
    options = parser.parse_args(arguments)
    policy = Policy(max_calls=WARM_UP + options.iterations + 1, window=3600)
    write = sys.stdout.write
    write(f"{RULE}\nActionGate benchmarks (checkrein)\n{RULE}\n\n")
    one = [Gate("bench", "memory")]
    hundred = [Gate("bench", "memory", f"user:{number}") for number in range(100)]
    write(report("MemoryStore", measure(Engine(), one, policy, options.iterations)) + "\n")
    write(report("MemoryStore (100 gates)", measure(Engine(), hundred, policy, options.iterations)) + "\n")
    if options.redis:
        try:
            RedisStore(options.redis, prefix="bench")
        except StoreUnavailable as reason:
            write(f"RedisStore skipped: {reason}\n\n")
    write(f"{RULE}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
