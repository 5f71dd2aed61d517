"""What is measured in the same rounds, and the goals: who must be how many times faster than whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import agents
import dropins


@dataclass(frozen=True)
class Contestant:
    """Something that is called: on which side, and which case it is."""

    side: str
    kind: str
    name: str
    what: str = ""
    size: int = 0
    events: str = "-"

    @property
    def key(self) -> str:
        """How results name it."""
        return "/".join((self.side, self.kind, self.name, self.what, str(self.size)))


@dataclass(frozen=True)
class Comparison:
    """`slow` takes how many times as long as `fast`; the goal bounds that from below, or from above."""

    label: str
    slow: Contestant
    fast: Contestant
    at_least: float | None = None
    at_most: float | None = None

    def met(self, ratio: float) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return None if self.at_most is None else ratio <= self.at_most

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g}x"
        return "-" if self.at_most is None else f"<= {self.at_most:g}x"


def _unified(name: str, what: str = "", events: str = "-") -> Contestant:
    return Contestant("checkrein", "unified", name, what, 0, events)


def races() -> Iterator[tuple[str, list[Comparison]]]:
    """Groups of comparisons; all contestants of a group run in the same rounds."""
    for case in dropins.all_cases():
        theirs, ours = (
            Contestant(side, "both", case.name, case.what, case.size, case.events)
            for side in ("published", "checkrein")
        )
        yield "drop-ins", [Comparison(case.name, theirs, ours, at_least=case.goal)]
    theirs, ours = (
        Contestant(side, "both", "four guards stacked, 5 predicates", "guard", 10, "10")
        for side in ("published", "checkrein")
    )
    python, native = _unified("guard", "python", "<= 64"), _unified("guard", "native", "<= 64")
    audited = _unified("guard", "audited", "<= 64")
    yield (
        "stacked",
        [
            Comparison("unified guard, 5 Python predicates, limit, budget", theirs, python, at_least=30.0),
            Comparison("unified guard, 5 native rules, limit, budget", theirs, native, at_least=50.0),
            Comparison("the same with 5 Python predicates + auditgate.guard", theirs, audited),
            Comparison("our own four stacked", theirs, ours),
        ],
    )
    wraps, bare = _unified("functools.wraps pass-through"), _unified("bare call")
    limit, keyed, budget, coroutine = (
        _unified("guard", what, "<= 64") for what in ("limit", "keyed", "budget", "async")
    )
    yield (
        "unified",
        [
            Comparison("guard, one limit, to an empty functools.wraps", limit, wraps, at_most=1.0),
            Comparison("guard, one limit, to a bare call", limit, bare),
            Comparison(
                "guard, one limit per user, to an empty functools.wraps",
                keyed,
                wraps,
            ),
            Comparison(
                "guard, limit + budget, to an empty functools.wraps",
                budget,
                wraps,
            ),
            Comparison("guard, + 5 native rules, to an empty functools.wraps", native, wraps),
            Comparison("an empty functools.wraps to a bare call", wraps, bare),
        ],
    )
    yield from _agents()
    awaited = _unified("bare await")
    yield (
        "async",
        [
            Comparison(
                "async guard, one limit, to a bare await",
                coroutine,
                awaited,
                at_most=2.5,
            ),
        ],
    )


def _agents() -> Iterator[tuple[str, list[Comparison]]]:
    """Guards of tools and budgets beside the published actguard: our drop-in, and the unified API where it is alike."""
    for case in agents.all_cases():
        events = str(case.size or "-")
        theirs = Contestant("published", "actguard", case.name, case.what, case.size, events)
        comparisons = []
        for side in case.sides:
            kind = "actguard" if side == "checkrein" else "actguard unified"
            ours = Contestant("checkrein", kind, case.name, case.what, case.size, events)
            label = f"actguard {case.name}" + (", unified API" if side == "unified" else "")
            comparisons.append(Comparison(label, theirs, ours, at_least=case.goal))
        yield "actguard", comparisons
