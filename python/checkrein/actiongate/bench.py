"""Measures a check on this machine: `python -m checkrein.actiongate.bench [-n N] [--redis HOST:PORT]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from .core import Gate, Policy
from .engine import Engine

WARM_UP = 1000
MOST_ON_REDIS = 5000
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


def address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, or HOST with the usual port."""
    host, separator, port = text.rpartition(":")
    try:
        return (host, int(port)) if separator else (text, 6379)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, got {text!r}") from None


def measure_redis(where: tuple[str, int], policy: Policy, iterations: int) -> str:
    """Return the lines for a RedisStore, or the one line that says why there are none."""
    try:
        import redis
    except ImportError:
        return "Warning: RedisStore skipped, redis-py is not installed\n"
    from .redis import RedisStore

    host, port = where
    connect: Callable[..., Any] = redis.Redis
    client = connect(host=host, port=port, socket_connect_timeout=2)
    gate, store = Gate("bench", "redis"), RedisStore(client, prefix="bench")
    try:
        client.ping()
        store.clear(gate)
    except (redis.RedisError, OSError) as error:
        return f"Warning: RedisStore skipped, {host}:{port} cannot be used: {error}\n"
    try:
        return report(f"RedisStore ({host}:{port})", measure(Engine(store=store), [gate], policy, iterations))
    finally:
        store.clear(gate)


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
    parser.add_argument("--redis", metavar="HOST:PORT", type=address, help="measure a RedisStore too")
    options = parser.parse_args(arguments)
    policy = Policy(max_calls=WARM_UP + options.iterations + 1, window=3600)
    write = sys.stdout.write
    write(f"{RULE}\nActionGate benchmarks (checkrein)\n{RULE}\n\n")
    one = [Gate("bench", "memory")]
    hundred = [Gate("bench", "memory", f"user:{number}") for number in range(100)]
    write(report("MemoryStore", measure(Engine(), one, policy, options.iterations)) + "\n")
    write(report("MemoryStore (100 gates)", measure(Engine(), hundred, policy, options.iterations)) + "\n")
    if options.redis:
        write(measure_redis(options.redis, policy, min(options.iterations, MOST_ON_REDIS)) + "\n")
    write(f"{RULE}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
