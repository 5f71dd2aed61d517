"""Native value types pass for the frozen dataclasses they stand for."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from enum import Enum
from typing import Any

import pytest
from audit_kit import EVENT, TRAIL, engine_with

from checkrein.auditgate import (
    MISSING,
    AuditEntry,
    AuditError,
    AuditPolicy,
    Decision,
    IntegrityMode,
    Mode,
    QueryFilter,
    Result,
    Severity,
    Status,
    StoreErrorMode,
    Trail,
    Verdict,
)
from checkrein.auditgate.core import _Missing


class OtherMode(Enum):
    """The mode of another package."""

    SOFT = 7


def entry(**changes: Any) -> AuditEntry:
    fields: dict[str, Any] = {
        "trail": TRAIL,
        "ts": 1.0,
        "wall_ts": "W",
        "gate_type": "g",
        "gate_identity": "i",
    }
    return AuditEntry(**fields | {"verdict": Verdict.ALLOW, "severity": Severity.INFO} | changes)


def test_trail() -> None:
    trail = Trail("ns", "src")
    assert (trail.namespace, trail.source, trail.principal) == ("ns", "src", "global")
    assert str(trail) == "ns:src@global"
    assert trail.key == "aud:ns:src:global"
    assert repr(trail) == "Trail(namespace='ns', source='src', principal='global')"
    assert trail == Trail(source="src", namespace="ns") != Trail("ns", "src", "p")
    assert hash(trail) == hash(("ns", "src", "global"))
    assert str(Trail(1, None)) == "1:None@global"  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hash(Trail([], "x"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        assert trail < trail  # type: ignore[operator]


@pytest.mark.parametrize(
    "value",
    [
        TRAIL,
        entry(detail={"a": (1, 2)}, entry_hash="h", sequence=3),
        Decision(Status.RECORDED, TRAIL, AuditPolicy()),
    ],
)
def test_copies_are_equal(value: Any) -> None:
    for copied in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert copied == value
        assert type(copied) is type(value)
    assert dataclasses.replace(value) == value


@pytest.mark.parametrize(("value", "field"), [(TRAIL, "source"), (entry(), "verdict"), (entry(), "detail")])
def test_fields_are_frozen(value: Any, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{field}'"):
        setattr(value, field, 1)
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete field '{field}'"):
        delattr(value, field)
    with pytest.raises(TypeError):
        value.no_such_field = 1


def test_entry_is_a_dataclass() -> None:
    made = entry(reason="r", detail={"k": [1]}, sequence=4)
    assert dataclasses.is_dataclass(made)
    assert [field.name for field in dataclasses.fields(AuditEntry)] == list(AuditEntry.__match_args__)
    assert dataclasses.asdict(made)["trail"] == {"namespace": "t", "source": "s", "principal": "global"}
    assert dataclasses.replace(made, sequence=5).sequence == 5
    assert repr(made) == (
        "AuditEntry(trail=Trail(namespace='t', source='s', principal='global'), ts=1.0, wall_ts='W', "
        "verdict=<Verdict.ALLOW: 1>, severity=<Severity.INFO: 2>, gate_type='g', gate_identity='i', "
        "recorded_by='', reason='r', detail={'k': [1]}, entry_hash=None, prev_hash=None, sequence=4)"
    )
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)
    match made:
        case AuditEntry(trail, ts):
            assert (trail, ts) == (TRAIL, 1.0)
    assert made.to_dict() == {
        "schema_version": "0.1.1",
        "trail": "t:s@global",
        "ts": 1.0,
        "wall_ts": "W",
        "verdict": "ALLOW",
        "severity": "INFO",
        "gate_type": "g",
        "gate_identity": "i",
        "recorded_by": "",
        "reason": "r",
        "detail": {"k": [1]},
        "entry_hash": None,
        "prev_hash": None,
        "sequence": 4,
    }
    assert next(iter(made.to_dict())) == "schema_version"


def test_each_entry_has_a_detail_of_its_own() -> None:
    first, second = entry(), entry()
    assert first.detail is first.detail
    first.detail["x"] = 1
    assert second.detail == {}
    assert entry(detail=None).detail is None  # given is given


def test_odd_hash_and_sequence_values_survive() -> None:
    odd = entry(entry_hash="Zz", prev_hash=5, sequence=2**80)
    assert (odd.entry_hash, odd.prev_hash, odd.sequence) == ("Zz", 5, 2**80)
    assert pickle.loads(pickle.dumps(odd)) == odd


def test_decision_and_result() -> None:
    engine = engine_with()
    decision = engine.record(TRAIL, **EVENT)
    assert bool(decision) is decision.recorded is True
    assert not decision.dropped
    assert Result(decision=decision, _value=None).unwrap() is None
    assert Result[int](decision, 3).unwrap() == 3
    assert Result(decision).unwrap_or(4) == 4
    dropped = Decision(Status.DROPPED, TRAIL, AuditPolicy(), reason="why")
    assert not dropped
    with pytest.raises(RuntimeError, match=r"unwrap\(\) called on dropped audit: why"):
        Result(dropped).unwrap()
    assert isinstance(pickle.loads(pickle.dumps(MISSING)), _Missing)
    assert repr(MISSING) == "<MISSING>"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Result(decision).decision = dropped  # type: ignore[misc]


def test_errors_pickle() -> None:
    error = AuditError(Decision(Status.DROPPED, TRAIL, AuditPolicy()))
    assert str(error) == "Audit failure: Status.DROPPED"
    loaded = pickle.loads(pickle.dumps(error))
    assert loaded.decision == error.decision
    assert str(loaded) == str(error)


def test_policy() -> None:
    assert AuditPolicy() == AuditPolicy(
        Mode.HARD, StoreErrorMode.FAIL_CLOSED, Severity.DEBUG, None, IntegrityMode.HASH
    )
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="retention_seconds must be positive or None"):
            AuditPolicy(retention_seconds=bad)
    with pytest.raises(TypeError):
        AuditPolicy(retention_seconds="1")  # type: ignore[arg-type]


def test_a_mode_that_is_not_understood_does_not_relax() -> None:
    assert AuditPolicy(mode="HARD").mode is Mode.HARD  # type: ignore[arg-type]
    assert AuditPolicy(mode=OtherMode.SOFT).mode is Mode.SOFT  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not a member of Mode"):
        AuditPolicy(mode="LENIENT")  # type: ignore[arg-type]


def test_query_filter() -> None:
    assert QueryFilter() == QueryFilter(None, None, None, None, None, None, 0, None)
