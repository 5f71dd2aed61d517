"""Hashes are byte for byte those of the published package, whatever goes into the detail."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest

from checkrein._native import audit_canonical
from checkrein.auditgate import compute_hash

BASE: dict[str, Any] = {
    "trail": "t:s@global",
    "ts": 1.0,
    "verdict": "ALLOW",
    "severity": "INFO",
    "gate_type": "g",
    "gate_identity": "i",
    "reason": None,
    "detail": {},
    "sequence": 0,
}
FIRST = BASE | {
    "trail": "test:action@global",
    "ts": 1000.0,
    "gate_type": "actiongate",
    "gate_identity": "test:action@global",
}
BLOCKED = {
    "trail": "billing:refund@user:42",
    "ts": 2000.5,
    "verdict": "BLOCK",
    "severity": "WARN",
    "gate_type": "rulegate",
    "gate_identity": "billing:refund@user:42",
    "reason": "Policy violation: no_pii",
    "detail": {"violated": ["no_pii"], "context": "ssn detected"},
    "sequence": 7,
}
GENESIS = "6e2239ee3b234854d729bbad0ec9fa58458bd3b1db5bc81bf4292d4799e90723"
ESCAPES = 'q"b\\/\b\f\n\r\t\x00\x1f\x7f é 漢 😀'


@pytest.mark.parametrize(
    ("entry", "prev_hash", "expected"),
    [
        (FIRST, None, GENESIS),
        (FIRST, "0" * 64, "0f510008d027b9f0bc8df59fda55265368c8b298694540f7e7de36039df13e4b"),
        (BLOCKED, None, "1e38877f639d96dc0fabf7d1ab82397507a3017bd16e9aaec2f5964f1d73e679"),
        (BLOCKED, GENESIS, "76303466bec8897f90745033ed8aefa8135468169db0d7b9f3c036e6b76a4d8a"),
        (BASE, None, "bc2e1c15302176d8edace908111f78d6b437ad26ad3cef94baacbaaa230efee9"),
        (BASE | {"ts": 1}, None, "82b0b822daa65c00975cda26b79eb9f8c0b8208c7fad2d3bfed7965947a81137"),
        (BASE, "", "ff38950437acd0368fee09cf33918e09a0db94bc84f6d269b041fe94d83c9fdd"),
        ({}, None, "9689477d151578c6c12fce57a3aa01bd9e6775a574442732683c9bf163270b5c"),
        (
            BASE | {"detail": {"a": [0.1 + 0.2, 1e16, 1e-5, -0.0, 1e22, 5e-324]}},
            None,
            "37416fac2039ed7e29026fdca1d579220495e0cea9a68e9767e19eb84460df66",
        ),
        (
            BASE | {"detail": {"i": 2**70, "t": True, "n": None, "f": 1.0, "z": 0}},
            None,
            "787d52e7f1b6c3d53c4e54b6284ee05a6ce199ef9fff43560c724a4f98ad5814",
        ),
        (
            BASE | {"reason": ESCAPES, "detail": {"k😀": "\u2028"}},
            None,
            "00a2c0f75e79f9e4e07683ba378dbe685db2f153432480d639becdaaad87272e",
        ),
        (
            BASE | {"detail": {"\U00010000": 1, "\ue000": 2, "Z": 3, "a": 4, "é": 5, "": 6}},
            None,
            "b73d10c6394bd8ed5f7de49dedb83e2544cc91ab04fb66dfc8fad4bee26c600d",
        ),
        (
            BASE | {"detail": {"n": math.nan, "p": math.inf, "m": -math.inf}},
            None,
            "0d69c9fcee4e5c4a5e8a7a4769d0dc9ae1d660158d333adfbfd5541cc22a8eea",
        ),
        (
            BASE | {"detail": {9: 1, 10: 2}},
            None,
            "141257799e993fa1679961b2c2d2a39217159ad58fefe625037a73058d9245b2",
        ),
    ],
)
def test_vectors(entry: dict[str, Any], prev_hash: str | None, expected: str) -> None:
    assert compute_hash(entry, prev_hash) == expected


def test_unhashed_fields_and_a_prev_hash_in_the_mapping_are_ignored() -> None:
    extra = {"wall_ts": "x", "recorded_by": "y", "schema_version": "z", "prev_hash": "p", "other": object()}
    assert compute_hash(BASE | extra) == compute_hash(BASE)


def reference(value: object) -> bytes:
    """Encode with the standard library, by the rules of the contract."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True
    ).encode()


class Level(IntEnum):
    LOW = 1
    HIGH = 2**80


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not what is written"


class Number(float):
    def __repr__(self) -> str:
        return "not what is written"


class Renamed(dict[str, Any]):
    def items(self) -> Any:
        return [("renamed", 1)]


TEXTS = [
    "",
    "a",
    "Z",
    "é",
    "漢",
    "😀",
    "\ud800",
    "\udfff x",
    '"',
    "\\",
    "/",
    "\x7f",
    "\x00",
    "\u2028",
    "a" * 90,
]


def random_float(source: random.Random) -> float:
    kind = source.randrange(5)
    if kind == 0:
        return struct.unpack("<d", source.randbytes(8))[0]
    if kind == 1:
        return source.uniform(-1, 1) * 10.0 ** source.randrange(-25, 25)
    if kind == 2:
        return float(source.randrange(-(10**18), 10**18))
    if kind == 3:
        return source.choice([0.0, -0.0, 1e15, 1e16, 9999999999999998.0, 1e-4, 9.999e-5, 5e-324, 1.7e308])
    return round(source.uniform(-1000, 1000), source.randrange(6))


def random_leaf(source: random.Random) -> object:
    kind = source.randrange(10)
    if kind < 3:
        return "".join(source.choice(TEXTS) for _ in range(source.randrange(4)))
    if kind < 5:
        return random_float(source)
    if kind < 7:
        return source.choice(
            [0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**40, source.getrandbits(70)]
        )
    return source.choice([True, False, None, Level.LOW, Level.HIGH, Text("é"), Number(0.1), float("nan")])


def random_key(source: random.Random, style: int) -> object:
    if style == 0:
        return "".join(source.choice(TEXTS) for _ in range(source.randrange(1, 3)))
    if style == 1:
        return source.choice([source.randrange(-20, 20), random_float(source), True, False])
    return source.choice(["a", 1, 1.5, None, True, Text("b"), (1,)])


def random_value(source: random.Random, depth: int) -> object:
    kind = source.randrange(7) if depth else 0
    if kind < 3:
        return random_leaf(source)
    items = [random_value(source, depth - 1) for _ in range(source.randrange(5))]
    if kind == 3:
        return items
    if kind == 4:
        return tuple(items)
    style = source.choice([0, 0, 0, 1, 2])
    mapping = {random_key(source, style): item for item in items}
    return source.choice([dict, dict, OrderedDict])(mapping)


def test_agrees_with_the_standard_library_on_random_values() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    for round_number in range(20_000):
        value = random_value(random.Random(f"{seed}:{round_number}"), 4)
        try:
            expected: bytes | type[Exception] = reference(value)
        except (TypeError, ValueError) as error:
            expected = type(error)
        try:
            actual: bytes | type[Exception] = audit_canonical(value)
        except (TypeError, ValueError) as error:
            actual = type(error)
        assert actual == expected, f"seed {seed}, round {round_number}: {value!r}"


def test_agrees_with_the_standard_library_on_random_floats() -> None:
    source = random.Random(7)
    for _ in range(200_000):
        number = random_float(source)
        assert audit_canonical(number) == reference(number), repr(number)


@pytest.mark.parametrize("value", [Renamed(a=1), {"a": Renamed()}, [Text("x")], {Text("k"): Number(2.5)}])
def test_subclasses_are_written_like_the_standard_library_does(value: object) -> None:
    assert audit_canonical(value) == reference(value)


@pytest.mark.parametrize(
    "value", [Decimal(1), {1}, b"x", object(), {"a": Decimal(1)}, {(1,): 1}, {"a": 1, 2: 3}]
)
def test_what_json_cannot_say_is_a_type_error_with_its_message(value: object) -> None:
    with pytest.raises(TypeError) as expected:
        reference(value)
    with pytest.raises(TypeError) as actual:
        audit_canonical(value)
    assert str(actual.value) == str(expected.value)


def test_bad_input_is_a_typed_error() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    cycle: dict[str, Any] = {}
    cycle["x"] = [cycle]
    with pytest.raises(RecursionError):
        audit_canonical(deep)
    with pytest.raises(ValueError, match="Circular reference detected"):
        audit_canonical(cycle)
    with pytest.raises(ValueError, match="Exceeds the limit"):
        audit_canonical(10**5000)
    with pytest.raises(ValueError, match="larger than"):
        audit_canonical(["x" * (32 << 20), "x" * (33 << 20), []])
    with pytest.raises(AttributeError):
        compute_hash([])  # type: ignore[arg-type]


def test_a_list_that_changes_while_it_is_written_does_not_crash() -> None:
    items: list[Any] = []

    class Emptying(dict[str, Any]):
        def items(self) -> Any:
            items.clear()
            return super().items()

    items.extend([Emptying(a=1), 1, 2, 3])
    assert audit_canonical(items) == b'[{"a":1}]'


def test_the_digest_is_that_of_the_written_form() -> None:
    # `compute_hash` writes the nine fields in order; so does the reference.
    assert compute_hash(BASE) == hashlib.sha256(reference(BASE)).hexdigest()
