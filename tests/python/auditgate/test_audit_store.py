"""The memory store answers like a plain list would."""

from __future__ import annotations

import random
from typing import Any

import pytest
from audit_kit import EVENT, TRAIL

from checkrein.auditgate import AuditEntry, MemoryStore, QueryFilter, Severity, Trail, Verdict

TRAILS = [Trail("n", "a"), Trail("n", "b"), Trail("n", "b", "p")]
SEVERITIES = list(Severity)


class ListStore:
    """The obvious store."""

    def __init__(self) -> None:
        self.log: list[AuditEntry] = []

    def query(self, wanted: QueryFilter) -> list[AuditEntry]:
        found = [
            entry
            for entry in self.log
            if (wanted.trail is None or entry.trail == wanted.trail)
            and (wanted.verdict is None or entry.verdict is wanted.verdict)
            and (wanted.min_severity is None or entry.severity.value >= wanted.min_severity.value)
            and (wanted.after_ts is None or entry.ts >= wanted.after_ts)
            and (wanted.before_ts is None or entry.ts <= wanted.before_ts)
            and (wanted.gate_type is None or entry.gate_type == wanted.gate_type)
        ]
        found.sort(key=lambda entry: (entry.ts, entry.sequence))
        found = found[wanted.offset :] if wanted.offset > 0 else found
        return found if wanted.limit is None else found[: wanted.limit]


def random_entry(source: random.Random, sequence: int, *, ordered: bool) -> AuditEntry:
    stamp: float = float(sequence) if ordered else source.choice([source.random() * 50, source.randrange(50)])
    return AuditEntry(
        source.choice(TRAILS),
        stamp,
        "W",
        source.choice(list(Verdict)),
        source.choice(SEVERITIES),
        source.choice(["g", "h"]),
        "i",
        # The tie-breaker must be unambiguous for lists to be comparable.
        sequence=sequence,
    )


def random_filter(source: random.Random) -> QueryFilter:
    def maybe(value: Any) -> Any:
        return source.choice([None, value])

    return QueryFilter(
        maybe(source.choice([*TRAILS, Trail("no", "such")])),
        maybe(source.choice(list(Verdict))),
        maybe(source.choice(SEVERITIES)),
        maybe(source.randrange(50)),
        maybe(source.random() * 50),
        maybe(source.choice(["g", "h", "".join(["g"])])),
        source.choice([-3, 0, 0, 2, 1000]),
        source.choice([None, None, 0, 3, -2, 10**6]),
    )


@pytest.mark.parametrize("ordered", [True, False])
def test_agrees_with_a_list_on_random_histories(ordered: bool) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(60):
        store, model = MemoryStore(), ListStore()
        for sequence in range(source.randrange(80)):
            entry = random_entry(source, sequence, ordered=ordered)
            store.append(entry)
            model.log.append(entry)
            if source.random() < 0.05:
                trail, before = source.choice(TRAILS), source.randrange(50)
                gone = [old for old in model.log if old.trail == trail and old.ts < before]
                model.log = [old for old in model.log if old not in gone]
                assert store.prune(trail, before) == len(gone)
            if source.random() < 0.02:
                trail = source.choice(TRAILS)
                model.log = [old for old in model.log if old.trail != trail]
                store.clear(trail)
        for trail in TRAILS:
            log = [entry for entry in model.log if entry.trail == trail]
            assert store.count(trail) == len(log)
            assert store.last_entry(trail) == (log[-1] if log else None)
        for _ in range(40):
            wanted = random_filter(source)
            assert store.query(wanted) == model.query(wanted), f"seed {seed}: {wanted}"


def entry_at(stamp: Any, sequence: Any = 0) -> AuditEntry:
    return AuditEntry(TRAIL, stamp, "W", **EVENT, sequence=sequence)


def test_stamps_that_are_not_floats_are_compared_by_python() -> None:
    store = MemoryStore()
    for sequence, stamp in enumerate([2**60 + 1, 2**60, float(2**60), True]):
        store.append(entry_at(stamp, sequence))
    assert [entry.sequence for entry in store.query(QueryFilter())] == [3, 1, 2, 0]
    assert store.prune(TRAIL, 2**60) == 1
    assert [entry.ts for entry in store.query(QueryFilter(after_ts=2**60 + 1))] == [2**60 + 1]


def test_edges_are_inclusive() -> None:
    store = MemoryStore()
    for number in range(5):
        store.append(entry_at(float(number), number))
    assert [entry.ts for entry in store.query(QueryFilter(after_ts=1.0, before_ts=3.0))] == [1.0, 2.0, 3.0]
    assert store.prune(TRAIL, 3.0) == 3


def test_bad_arguments_are_type_errors() -> None:
    store = MemoryStore()
    with pytest.raises(TypeError):
        store.append("entry")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.count([])  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        store.query(None)  # type: ignore[arg-type]
    store.append(entry_at("late"))
    store.append(entry_at(1.0))
    with pytest.raises(TypeError):
        store.query(QueryFilter(before_ts=1.0))
    with pytest.raises(TypeError):
        store.prune(TRAIL, 1.0)
    assert store.count(TRAIL) == 2
