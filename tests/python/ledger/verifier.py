"""A second verifier of ledger exports, written from `docs/reference/ledger-format.md` alone.

It shares no code with the first. Run it as `python verifier.py EXPORT KEY.pub [CHECKPOINT]`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GROUP = 256
TOP = 2**53 - 1
# Points of small order, in every encoding that decodes to one.
WEAK = {
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    )
}


class Refused(Exception):
    """Something is not in the published form."""


# Hashes


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two neighbours."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """The roots of the perfect trees that a tree consists of, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.roots: list[tuple[int, bytes]] = []

    def append(self, root: bytes, leaves: int = 1) -> None:
        """Append the root of so many leaves."""
        self.size += leaves
        while self.roots and self.roots[-1][0] == leaves:
            _, left = self.roots.pop()
            root, leaves = node_hash(left, root), leaves * 2
        self.roots.append((leaves, root))

    def root(self) -> bytes:
        """The root of the whole."""
        if not self.roots:
            return hashlib.sha256(b"").digest()
        result = self.roots[-1][1]
        for _, left in reversed(self.roots[:-1]):
            result = node_hash(left, result)
        return result


def root_of(hashes: Iterable[bytes]) -> bytes:
    """The root over leaves."""
    tree = Tree()
    for each in hashes:
        tree.append(each)
    return tree.root()


def unbase64(text: object) -> bytes:
    """Read base64 that has no other form."""
    if not isinstance(text, str):
        raise Refused("not base64")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise Refused("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise Refused("not the one form of base64")
    return data


def split_hashes(text: object) -> list[bytes]:
    """Read hashes that stand one after the other."""
    data = unbase64(text)
    if len(data) % 32:
        raise Refused("not whole hashes")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


# Canonical JSON


class Pairs(dict[str, Any]):
    """An object without repeated names."""


def _pairs(pairs: list[tuple[str, Any]]) -> Pairs:
    made = Pairs(pairs)
    if len(made) != len(pairs):
        raise Refused("a name repeats")
    return made


def _not_a_number(text: str) -> object:
    raise Refused(f"{text} is not JSON")


SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
SPECIAL = re.compile(r'["\\\x00-\x1f]')


def _string(text: str) -> str:
    return '"' + SPECIAL.sub(lambda found: SHORT.get(found[0], f"\\u{ord(found[0]):04x}"), text) + '"'


def _float(number: float) -> str:
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    point -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    if abs(number) > 2**53 or not -5 <= point <= 21:
        tail = "." + digits[1:] if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return sign + digits + "0" * (point - len(digits))
    return f"{sign}{digits[:point]}.{digits[point:]}"


def canonical(value: object) -> str:
    """Write a value in its canonical form."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise Refused("an integer beyond 64 bits")
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_string(name)}:{canonical(value[name])}" for name in names) + "}"
    raise Refused("no JSON value")


def read_json(line: bytes) -> Any:
    """Read JSON whose canonical form is itself."""
    try:
        value = json.loads(line.decode(), object_pairs_hook=_pairs, parse_constant=_not_a_number)
        if canonical(value).encode() != line:
            raise Refused("not in canonical form")
    except (ValueError, RecursionError) as error:
        raise Refused("not JSON") from error
    return value


# Entries

Check = Callable[[Any], bool]

TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{9}Z")
# What 64 bits of nanoseconds reach.
FIRST_TIME, LAST_TIME = "1677-09-21T00:12:44.000000000Z", "2262-04-11T23:47:16.854775807Z"
AMOUNT = re.compile(r"-?(0|[1-9]\d{0,26})(\.\d{0,11}[1-9])?")
HEX = re.compile(r"[0-9a-f]{64}")
SHORT_ID = re.compile(r"[0-9a-f]{16}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_full(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOP


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or not value.isascii() or TIME.fullmatch(value) is None:
        return False
    year, month, day = int(value[:4]), int(value[5:7]), int(value[8:10])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    last = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    return day <= last and FIRST_TIME <= value <= LAST_TIME


def _is_amount(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value != "-0" and bool(AMOUNT.fullmatch(value))


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and bool(HEX.fullmatch(value))


def _is_short_id(value: Any) -> bool:
    return isinstance(value, str) and bool(SHORT_ID.fullmatch(value))


def _is_retry(value: Any) -> bool:
    return value in ("never", "unknown") or _is_amount(value)


def _one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


def _object(needed: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    allowed = {**needed, **(optional or {})}

    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and len(value) > 0
            and all(name in value for name in needed)
            and all(name in allowed and allowed[name](item) for name, item in value.items())
        )

    return check


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(check(item) for item in value)


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


REASONS = _list(
    _object({"code": _is_full, "gate": _is_text, "kind": _is_full, "message": _is_text, "retry": _is_retry})
)
METERS = _list(
    _object(
        {
            "gate": _is_text,
            "held": _is_amount,
            "kind": _is_full,
            "limit": _is_amount,
            "spent": _is_amount,
            "unit": _is_full,
        }
    )
)
NAMES = ("namespace", "name", "principal", "user", "agent", "run", "session", "tenant")
EVERY: dict[str, Check] = {
    "seq": _is_integer,
    "time": _is_time,
    "epoch": _is_integer,
}
# The version says whether the entry was decided in a store that several hosts share.
OWN: dict[str, Check] = {"version": lambda value: _is_integer(value) and value == 1}
SHARED: dict[str, Check] = {
    "version": lambda value: _is_integer(value) and value == 2,
    "outbox": _object(
        {
            "draft": _is_integer,
            "drained": _is_time,
            "host": _is_short_id,
            "list": _is_short_id,
            "number": _is_integer,
            "store": _is_short_id,
            "tag": _is_short_id,
        },
        {"intent": _is_short_id},
    ),
}
DECISION: dict[str, Check] = {
    "action": _object({}, dict.fromkeys(NAMES, _is_full)),
    "arguments": _either(_object({"value": lambda value: True}), _object({"digest": _is_hex})),
    "request": _either(_object({"digest": _is_hex}), _object({"keyed": _is_hex})),
    "permit": _is_integer,
    "intent": _is_integer,
    "policy": _is_hex,
    "reasons": REASONS,
    "observed": REASONS,
    "meters": METERS,
    "repeated": _object({"count": _is_integer, "first": _is_time, "last": _is_time}),
}
OUTCOME: dict[str, Check] = {
    "permit": _is_integer,
    "intent": _is_integer,
    "actual": _list(_is_amount),
    "meters": METERS,
    "note": _is_full,
}


def _fields(value: Any) -> bool:
    return (
        isinstance(value, dict) and len(value) > 0 and all(isinstance(item, str) for item in value.values())
    )


KINDS: list[tuple[dict[str, Check], dict[str, Check]]] = [
    ({"kind": _one_of("intent", "refusal", "replay")}, DECISION),
    (
        {
            "kind": _one_of("outcome"),
            "outcome": _one_of("done", "failed_clean", "in_doubt"),
            "health": _one_of("success", "failure", "neutral"),
            "by": _one_of("caller", "lease", "recovery", "reconcile", "person"),
        },
        OUTCOME,
    ),
    ({"kind": _one_of("event"), "event": _is_full}, {"fields": _fields}),
]


def _without_intent(optional: dict[str, Check]) -> dict[str, Check]:
    return {name: check for name, check in optional.items() if name != "intent"}


FORMS: list[Check] = [
    *(_object({**EVERY, **OWN, **needed}, optional) for needed, optional in KINDS),
    *(_object({**EVERY, **SHARED, **needed}, _without_intent(optional)) for needed, optional in KINDS),
]


def read_entry(line: bytes) -> dict[str, Any]:
    """Read an entry in its published form."""
    if len(line) > 16 << 20:
        raise Refused("larger than 16 MiB")
    value = read_json(line)
    if not any(form(value) for form in FORMS):
        raise Refused("not an entry")
    entry: dict[str, Any] = value
    return entry


# Checkpoints


@dataclass
class Checkpoint:
    """What a checkpoint says."""

    size: int
    root: bytes


def _is_name(text: str) -> bool:
    odd = any(c.isspace() or ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c == "+" for c in text)
    return 0 < len(text.encode()) <= 255 and not odd


class Key:
    """A public key under its name."""

    def __init__(self, text: str) -> None:
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not _is_name(parts[0]):
            raise Refused("not a public key")
        self.name = parts[0]
        data = unbase64(parts[2])
        self.id = hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4]
        if len(data) != 33 or data[0] != 1 or self.id.hex() != parts[1] or data[1:] in WEAK:
            raise Refused("not a public key")
        self.key = Ed25519PublicKey.from_public_bytes(data[1:])

    def open(self, note: str) -> Checkpoint:
        """Check a note's signatures and read its checkpoint."""
        if len(note.encode()) > 64 << 10 or not note.endswith("\n"):
            raise Refused("not a note")
        if any(ord(c) < 0x20 and c != "\n" for c in note):
            raise Refused("a control character")
        body, found, signatures = note.rpartition("\n\n")
        if not found:
            raise Refused("not signed")
        text = body + "\n"
        lines = signatures[:-1].split("\n")
        if len(lines) > 16 or not self._is_signed(text, lines):
            raise Refused("not signed by this key")
        return self._read(text)

    def _is_signed(self, text: str, lines: list[str]) -> bool:
        own: list[bytes] = []
        for line in lines:
            dash, name, *rest = line.split(" ", 2) if line.count(" ") >= 2 else ("", "")
            if dash != "\N{EM DASH}" or not _is_name(name):
                raise Refused("not a signature")
            data = unbase64(rest[0])
            if len(data) <= 4:
                raise Refused("not a signature")
            if name == self.name and data[:4] == self.id:
                own.append(data[4:])
        for signature in own:
            try:
                self.key.verify(signature, text.encode())
            except InvalidSignature as error:
                raise Refused("the signature does not hold") from error
        return bool(own)

    def _read(self, text: str) -> Checkpoint:
        lines = text[:-1].split("\n")
        if len(lines) < 3:
            raise Refused("not a checkpoint")
        origin, size, root, *more = lines
        if origin != self.name or not re.fullmatch("0|[1-9][0-9]*", size) or int(size) >= 2**64:
            raise Refused("not a checkpoint of this ledger")
        digest = unbase64(root)
        if len(digest) != 32 or "" in more:
            raise Refused("not a checkpoint")
        return Checkpoint(int(size), digest)


# Exports


@dataclass
class Header:
    """The first line, taken apart."""

    checkpoint: str
    checkpoints: list[int]
    first: int
    full: list[bytes]
    partial: list[bytes]


def read_header(line: bytes) -> Header:
    """Read the first line."""
    value = read_json(line)
    names = {"checkpoint", "checkpoints", "first", "full", "partial", "version"}
    export = value.get("export") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(export, dict) or set(export) != names:
        raise Refused("not a header")
    sizes = export["checkpoints"]
    good = isinstance(sizes, list) and all(_is_integer(size) for size in sizes)
    version = export["version"]
    if not good or not _is_integer(export["first"]) or not _is_integer(version) or version != 1:
        raise Refused("not a header")
    if not isinstance(export["checkpoint"], str):
        raise Refused("not a header")
    full, partial = split_hashes(export["full"]), split_hashes(export["partial"])
    return Header(export["checkpoint"], sizes, export["first"], full, partial)


def read_only(line: bytes, name: str) -> str:
    """Read an object of one text."""
    value = read_json(line)
    if not isinstance(value, dict) or set(value) != {name} or not isinstance(value[name], str):
        raise Refused("not such a line")
    text: str = value[name]
    return text


def kind_of(line: bytes) -> str:
    """Say what a line begins like."""
    for kind in ("export", "hashes", "checkpoint"):
        if line.startswith(f'{{"{kind}":'.encode()):
            return kind
    return "entry"


@dataclass
class Verdict:
    """What a verification found."""

    valid: bool
    entries: int
    first_bad: int | None
    reason: str | None


class Found(Exception):
    """The first thing that is wrong."""

    def __init__(self, reason: str, first_bad: int | None) -> None:
        super().__init__(reason)
        self.reason, self.first_bad = reason, first_bad


def verify(data: bytes, key: Key, outside: str | None = None) -> Verdict:
    """Verify an export."""
    lines = data.split(b"\n")
    complete = lines.pop() == b"" if data else False
    if data and not complete:
        lines = data.split(b"\n")
    entries = sum(kind_of(line) == "entry" for line in lines)
    try:
        _verify(lines, key, outside, entries)
        if not lines or not complete:
            raise Found("the last line has no line break", None)
    except Found as found:
        return Verdict(False, entries, found.first_bad, found.reason)
    return Verdict(True, entries, None, None)


def _verify(lines: list[bytes], key: Key, note: str | None, entries: int) -> None:
    outside = None
    if note is not None:
        try:
            outside = key.open(note)
        except Refused as error:
            raise Found(f"the outside checkpoint: {error}", None) from error
    if not lines:
        return
    try:
        header, size = _open_header(lines[0], key)
    except Refused as error:
        proven = _proven_without_header(lines, key)
        raise Found(f"the header: {error}", proven if proven < entries else None) from error
    Reading(header, size, key, outside).run(lines[1:])


def _open_header(line: bytes, key: Key) -> tuple[Header, int]:
    header = read_header(line)
    checkpoint = key.open(header.checkpoint)
    size, first, sizes = checkpoint.size, header.first, header.checkpoints
    if len(header.full) != size // GROUP or len(header.partial) != size % GROUP:
        raise Refused("other hashes than entries")
    if first % GROUP or first > size or (first == size and size > 0):
        raise Refused("the first entry")
    ascending = all(a < b for a, b in itertools.pairwise(sizes))
    if not ascending or (sizes and sizes[0] <= first) or (sizes[-1] if sizes else 0) != size:
        raise Refused("the sizes of checkpoints")
    tree = Tree()
    for root in header.full:
        tree.append(root, GROUP)
    for leaf in header.partial:
        tree.append(leaf)
    if tree.root() != checkpoint.root:
        raise Refused("the hashes do not give the root")
    return header, size


def _proven_without_header(lines: list[bytes], key: Key) -> int:
    tree, proven = Tree(), 0
    for line in lines:
        kind = kind_of(line)
        try:
            if kind == "entry":
                if read_entry(line)["seq"] != tree.size:
                    break
                tree.append(leaf_hash(line))
            elif kind == "checkpoint":
                checkpoint = key.open(read_only(line, "checkpoint"))
                if (checkpoint.size, checkpoint.root) == (tree.size, tree.root()):
                    proven = tree.size
        except Refused:
            if kind == "entry":
                break
    return proven


class Reading:
    """The lines after a header that is proven."""

    def __init__(self, header: Header, size: int, key: Key, outside: Checkpoint | None) -> None:
        self.header, self.size, self.key, self.outside = header, size, key, outside
        self.sizes = list(header.checkpoints)
        self.tree = Tree()
        # The proven hashes of the group; none before they are read; and those kept where they are unknown.
        self.known: list[bytes] | None = None
        self.kept: list[bytes] | None = None
        self.removal_noted = header.first == 0
        self._compare_removed()

    def _compare_removed(self) -> None:
        outside, first = self.outside, self.header.first
        if outside is not None and outside.size > self.size:
            raise Found("rolled back", self.size)
        for root in [*self.header.full[: first // GROUP], None]:
            if outside is not None and outside.size == self.tree.size and outside.root != self.tree.root():
                raise Found("forked or rewritten", None)
            if root is not None:
                self.tree.append(root, GROUP)
        if outside is not None and outside.size < first and outside.size % GROUP:
            raise Found("growth cannot be checked", None)

    def _group(self) -> int:
        return self.tree.size - self.tree.size % GROUP

    def _bad(self, reason: str, first_bad: int | None) -> Found:
        """What is wrong; where the hashes of the group are unknown, the group."""
        return Found(reason, self._group() if self.kept is not None else first_bad)

    def run(self, lines: list[bytes]) -> None:
        """Take every line, then look at what is missing."""
        for line in lines:
            self._line(line)
        here = self.tree.size
        if self.kept is not None:
            raise self._bad("the group is not whole", None)
        if self.sizes[:1] == [here]:
            raise Found(f"the checkpoint over {here} is missing", None)
        if here < self.size:
            raise Found(f"entry {here} is missing", here)
        if not self.removal_noted:
            raise Found("the head is missing", 0)

    def _line(self, line: bytes) -> None:
        here, kind = self.tree.size, kind_of(line)
        if self.sizes[:1] == [here]:
            return self._checkpoint(line)
        if here >= self.size:
            raise Found("a line too many", here if kind == "entry" else None)
        if here % GROUP == 0 and self.known is None and self.kept is None:
            if here // GROUP < len(self.header.full):
                if self._hashes(line, kind):
                    return None
            else:
                self.known = self.header.partial
        if kind != "entry":
            raise self._bad(f"entry {here} is missing", here)
        return self._entry(line)

    def _checkpoint(self, line: bytes) -> None:
        here = self.sizes.pop(0)
        try:
            note = read_only(line, "checkpoint")
            found = self.key.open(note)
        except Refused as error:
            raise self._bad(f"the checkpoint over {here}: {error}", None) from error
        other = here == self.size and note != self.header.checkpoint
        if other or (found.size, found.root) != (here, self.tree.root()):
            raise self._bad(f"the checkpoint over {here} is another", None)

    def _hashes(self, line: bytes, kind: str) -> bool:
        """Read the hashes of a group; `True` if the line is used up."""
        try:
            hashes = split_hashes(read_only(line, "hashes")) if kind == "hashes" else []
        except Refused:
            hashes = []
        if len(hashes) == GROUP and root_of(hashes) == self.header.full[self.tree.size // GROUP]:
            self.known = hashes
        else:
            self.kept = []
        return kind == "hashes"

    def _entry(self, line: bytes) -> None:
        here, leaf = self.tree.size, leaf_hash(line)
        unknown, group = self.kept is not None, self._group()
        if self.kept is not None:
            self.kept.append(leaf)
            if len(self.kept) == GROUP:
                same = root_of(self.kept) == self.header.full[here // GROUP]
                raise Found("the hashes were changed", None if same else group)
        else:
            self._compare(line, leaf, here)
        self.tree.append(leaf)
        if self.tree.size % GROUP == 0:
            self.known = None
        outside = self.outside
        if outside is not None and outside.size == self.tree.size and outside.root != self.tree.root():
            raise Found("forked or rewritten", group if unknown else None)

    def _compare(self, line: bytes, leaf: bytes, here: int) -> None:
        if self.known is None or self.known[here % GROUP] != leaf:
            raise Found(f"entry {here} was changed", here)
        try:
            entry = read_entry(line)
        except Refused as error:
            raise Found(f"entry {here}: {error}", here) from error
        if entry["seq"] != here:
            raise Found(f"entry {here} has another number", here)
        if entry.get("event") == "entries_removed":
            before = entry.get("fields", {}).get("before")
            self.removal_noted = self.removal_noted or before == str(self.header.first)


def main(arguments: list[str]) -> int:
    """Verify a file and print the verdict as JSON."""
    key = Key(Path(arguments[1]).read_text(encoding="utf-8"))
    outside = Path(arguments[2]).read_text(encoding="utf-8") if len(arguments) > 2 else None
    verdict = verify(Path(arguments[0]).read_bytes(), key, outside)
    sys.stdout.write(json.dumps(vars(verdict)) + "\n")
    return 0 if verdict.valid else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
