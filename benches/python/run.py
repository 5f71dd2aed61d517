"""`python benches/python/run.py [--quick] [--json FILE] [--own PYTHON] [--peers PYTHON]`

Measures the drop-in modules beside the published packages of the same names, and the unified decorator beside an
empty one. Both sides are processes of their own that run their rounds in turn; what counts is the median of thread
CPU time, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import environment
from races import Comparison, Contestant, races
from side import Side

ROUNDS = 15


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="5 short rounds, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--own", help="the interpreter that has checkrein (default: an environment is made)")
    parser.add_argument("--wheel", type=Path, help="the wheel to install into the environment that is made")
    parser.add_argument(
        "--peers", help="the interpreter that has the published packages (default: one is made)"
    )
    parser.add_argument("--only", default="", help="only comparisons whose label contains this")
    parser.add_argument("--date", default="", help="the date to print and write")
    return parser.parse_args()


def race(sides: dict[str, Side], contestants: list[Contestant], quick: bool) -> dict[str, list[float]]:
    """Run all contestants in turn; nanoseconds per call, one value per round. A failed one is left out."""
    rounds, nanoseconds = (5, 4_000_000) if quick else (ROUNDS, 25_000_000)
    calls: dict[str, int] = {}
    for contestant in contestants:
        side = sides.get(contestant.side)
        if side is not None:
            request = {"kind": contestant.kind, "name": contestant.name, "what": contestant.what}
            reply = side.ask(
                "prepare", key=contestant.key, size=contestant.size, nanoseconds=nanoseconds, **request
            )
            if "error" in reply:
                print(f"  skipped: {contestant.key}: {reply['error']}", file=sys.stderr)
            else:
                calls[contestant.key] = reply["calls"]
    times: dict[str, list[float]] = {key: [] for key in calls}
    for number in range(rounds + 1):
        for contestant in contestants:
            if contestant.key in calls:
                count = calls[contestant.key]
                reply = sides[contestant.side].ask("run", key=contestant.key, calls=count)
                # The first round only warms up.
                if number > 0 and "cpu" in reply:
                    times[contestant.key].append(reply["cpu"] / count)
    for contestant in contestants:
        if contestant.key in calls:
            sides[contestant.side].ask("drop", key=contestant.key)
    return {key: values for key, values in times.items() if values}


def compare(comparison: Comparison, times: dict[str, list[float]]) -> dict[str, Any]:
    """One row: medians, the median ratio, and whether the goal is met."""
    slow, fast = times.get(comparison.slow.key), times.get(comparison.fast.key)
    row: dict[str, Any] = {
        "comparison": comparison.label,
        "numerator": comparison.slow.key,
        "denominator": comparison.fast.key,
        "events_in_window": [comparison.slow.events, comparison.fast.events],
        "goal": comparison.goal,
    }
    if not slow or not fast:
        return row | {"skipped": True}
    ratio = statistics.median(one / other for one, other in zip(slow, fast, strict=True))
    return row | {
        "numerator_ns": statistics.median(slow),
        "denominator_ns": statistics.median(fast),
        "rounds": len(slow),
        "ratio": ratio,
        "met": comparison.met(ratio),
        "load": os.getloadavg(),
    }


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    label, events = row["comparison"], " / ".join(dict.fromkeys(row["events_in_window"]))
    if row.get("skipped"):
        print(f"{label:<56}{events:>12}  skipped")
        return
    met = {True: "met", False: "NOT met", None: ""}[row["met"]]
    print(
        f"{label:<56}{events:>12}{row['numerator_ns']:>14,.0f}{row['denominator_ns']:>12,.0f}"
        f"{row['ratio']:>10.2f}{row['goal']:>10} {met:<8}{row['load'][0]:>6.1f}",
        flush=True,
    )


def first_guards(pythons: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    """Rows about entering the first budget of a process: milliseconds, and the SDKs that it imports."""
    rows: list[dict[str, Any]] = []
    program = Path(__file__).with_name("first_guard.py")
    ours = (("checkrein", "checkrein.actguard"), ("checkrein", "checkrein"))
    for side, package in (("published", "actguard"), *ours):
        if side not in pythons:
            continue
        runs = []
        for _ in range(rounds):
            ended = subprocess.run(
                [pythons[side], str(program), package], capture_output=True, text=True, check=False
            )
            if ended.returncode != 0:
                print(f"  skipped: first guard of {package}: {ended.stderr.strip()[-200:]}", file=sys.stderr)
                break
            runs.append(json.loads(ended.stdout))
        if runs:
            median = statistics.median(run["ms"] for run in runs)
            row = {"first_guard": package, "ms": median, **{k: runs[0][k] for k in ("imported", "installed")}}
            row["met"] = side == "published" or (median < 20 and not row["imported"])
            rows.append(row)
            imported = ", ".join(row["imported"]) or "nothing"
            print(f"entering the first budget, {package:<34}{median:>10,.2f} ms, imports {imported}")
    return rows


def main() -> int:
    """Measure everything; exit 1 when there is nothing of ours to measure."""
    options = arguments()
    found = environment.find(options.own, options.peers, options.wheel)
    for name, reason in found.missing.items():
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    sides = {name: Side(name, python) for name, python in found.pythons.items()}
    about = {name: side.ask("hello") for name, side in sides.items()}
    if "checkrein" not in sides or "error" in about["checkrein"]:
        print(f"error: checkrein cannot be imported: {about.get('checkrein')}", file=sys.stderr)
        return 1
    machine = f"{os.cpu_count()} x {environment.processor()}, {platform.platform()}"
    print(f"{machine}\n{options.date}\nload average {os.getloadavg()}")
    for name, reply in about.items():
        print(f"{name}: Python {reply.get('python')}, {reply.get('versions')}")
    print(f"\nns per call, thread CPU time, median of {5 if options.quick else ROUNDS} interleaved rounds")
    print(
        f"{'':<56}{'events':>12}{'numerator':>14}{'denominator':>12}{'ratio':>10}{'goal':>10} {'':<8}{'load':>6}"
    )
    rows: list[dict[str, Any]] = []
    group = ""
    for name, comparisons in races():
        chosen = [comparison for comparison in comparisons if options.only in comparison.label]
        if not chosen:
            continue
        if name != group:
            group = name
            print(f"-- {name}")
        contestants = dict.fromkeys(one for each in chosen for one in (each.slow, each.fast))
        times = race(sides, list(contestants), options.quick)
        for comparison in chosen:
            row = {"group": name, **compare(comparison, times)}
            show(row)
            rows.append(row)
    for side in sides.values():
        side.close()
    firsts = first_guards(found.pythons, 3) if options.only in "first guard" else []
    if options.json:
        report = {
            "benchmark": "python",
            "date": options.date,
            "machine": machine,
            "sides": about,
            "skipped": found.missing,
            "load_after": os.getloadavg(),
            "results": rows,
            "first_guards": firsts,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
