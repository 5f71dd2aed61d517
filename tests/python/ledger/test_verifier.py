"""Two verifiers, one in Rust and one in Python, written from one page: they agree on every export and every edit."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))

import verifier

CASES = Path(__file__).resolve().parents[2] / "cases" / "ledger"
NAME = "example.com/python"
Edit = dict[str, Any]
OUTBOX: dict[str, Any] = {
    "draft": 4,
    "drained": "2026-11-21T10:18:31.000000000Z",
    "host": "0123456789abcdef",
    "list": "00000000000000aa",
    "number": 0,
    "store": "ffffffffffffffff",
    "tag": "1111111111111111",
}


def command() -> Path:
    """The command that belongs to this interpreter; `CHECKREIN_COMMAND` names another one while developing."""
    named = os.environ.get("CHECKREIN_COMMAND")
    return Path(named) if named else Path(sys.executable).parent / "checkrein"


def rust(file: Path, key: Path, *more: str) -> dict[str, Any]:
    """What the command says about an export."""
    arguments = [command(), "ledger", "verify", file, "--key", key, "--output", "json", *more]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["valid"] is (done.returncode == 0)
    return answer


class Writer:
    """A ledger written by the published format, in Python."""

    def __init__(self, seed: int) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        public = b"\1" + self.key.public_key().public_bytes_raw()
        self.id = hashlib.sha256(NAME.encode() + b"\n" + public).digest()[:4]
        self.public = f"{NAME}+{self.id.hex()}+{base64.b64encode(public).decode()}\n"
        self.entries: list[bytes] = []

    def append(self, **members: Any) -> None:
        """Append an entry."""
        entry = {
            "seq": len(self.entries),
            "time": f"2026-11-21T10:18:30.{len(self.entries):09}Z",
            "epoch": 1,
            "version": 1,
            **members,
        }
        self.entries.append(verifier.canonical(entry).encode())

    def fill(self, count: int) -> None:
        """Append entries of several kinds."""
        for number in range(count):
            if number % 5 == 4:
                position = sum(b'"outbox"' in entry for entry in self.entries)
                outbox = {
                    **OUTBOX,
                    "draft": position,
                    "number": position,
                    **({"intent": "00000000000000bb"} if number % 2 else {}),
                }
                self.append(
                    kind="outcome", outcome="done", health="success", by="lease", outbox=outbox, version=2
                )
            elif number % 3 == 0:
                self.append(
                    kind="event", event="opened", fields={"ü": "\u0001", "\U0001f600": "", "\ufb01": "x"}
                )
            elif number % 3 == 1:
                value = {"amount": 12.5, "large": 2**63, "tiny": 5e-324, "text": 'a"b\\'}
                self.append(
                    kind="intent", action={"name": "refund"}, arguments={"value": value}, permit=number
                )
            else:
                self.append(kind="outcome", outcome="done", health="success", by="caller", actual=["0.3"])

    def root(self, size: int) -> bytes:
        """The root over the first entries."""
        return verifier.root_of(verifier.leaf_hash(entry) for entry in self.entries[:size])

    def note(self, size: int) -> str:
        """A signed checkpoint."""
        text = f"{NAME}\n{size}\n{base64.b64encode(self.root(size)).decode()}\ntime now\n"
        signature = base64.b64encode(self.id + self.key.sign(text.encode())).decode()
        return f"{text}\n\N{EM DASH} {NAME} {signature}\n"

    def export(self, sizes: list[int]) -> bytes:
        """The export, with checkpoints of these sizes."""
        size = sizes[-1]
        leaves = [verifier.leaf_hash(entry) for entry in self.entries[:size]]
        full = [verifier.root_of(leaves[at : at + 256]) for at in range(0, size - size % 256, 256)]
        header = {
            "checkpoint": self.note(size),
            "checkpoints": sizes,
            "first": 0,
            "full": base64.b64encode(b"".join(full)).decode(),
            "partial": base64.b64encode(b"".join(leaves[len(full) * 256 :])).decode(),
            "version": 1,
        }
        lines = [verifier.canonical({"export": header})]
        for seq, entry in enumerate(self.entries[:size]):
            if seq % 256 == 0 and seq // 256 < len(full):
                hashes = base64.b64encode(b"".join(leaves[seq : seq + 256])).decode()
                lines.append(verifier.canonical({"hashes": hashes}))
            lines.append(entry.decode())
            if seq + 1 in sizes:
                lines.append(verifier.canonical({"checkpoint": self.note(seq + 1)}))
        return "".join(f"{line}\n" for line in lines).encode()


def edited(base: bytes, edit: Edit) -> bytes:
    """Apply an edit of `edits.jsonl`."""
    lines = base.split(b"\n")[:-1]
    match next(iter(edit.items())):
        case "cut", [first, end]:
            del lines[first:end]
        case "swap", [one, other]:
            lines[one], lines[other] = lines[other], lines[one]
        case "copy", [first, to]:
            lines.insert(to, lines[first])
        case "move", [first, to]:
            lines.insert(to, lines.pop(first))
        case "replace", [at, text]:
            lines[at] = text.encode()
        case "flip", [at, mask]:
            return base[:at] + bytes([base[at] ^ mask]) + base[at + 1 :]
        case "tail", [length]:
            return base[:length]
        case other:
            raise AssertionError(other)
    return b"".join(line + b"\n" for line in lines)


def edits() -> Iterator[Edit]:
    """The kept edits and what the first verifier said of them."""
    with (CASES / "edits.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def test_the_second_verifier_agrees_on_every_kept_edit() -> None:
    base = (CASES / "export.jsonl").read_bytes()
    key = verifier.Key((CASES / "key.pub").read_text())
    assert verifier.verify(base, key) == verifier.Verdict(True, 300, None, None)
    count = 0
    for edit in edits():
        found = verifier.verify(edited(base, edit), key)
        assert not found.valid, edit
        assert (found.first_bad, found.entries) == (edit["first_bad"], edit["entries"]), edit
        count += 1
    assert count >= 1000


def test_every_flipped_byte_of_a_ledger_written_in_python(tmp_path: Path) -> None:
    writer = Writer(3)
    writer.fill(7)
    base, key = writer.export([4, 7]), verifier.Key(writer.public)
    (tmp_path / "key.pub").write_text(writer.public)
    (tmp_path / "export").write_bytes(base)
    assert verifier.verify(base, key).valid
    assert rust(tmp_path / "export", tmp_path / "key.pub")["valid"]
    chosen = random.Random(5)
    owner = [
        (seq if verifier.kind_of(line) == "entry" else None)
        for seq, line in _numbered(base)
        for _ in range(len(line) + 1)
    ]
    for at, seq in enumerate(owner):
        data = edited(base, {"flip": [at, chosen.randrange(1, 256)]})
        found = verifier.verify(data, key)
        assert not found.valid, at
        if seq is not None:
            assert found.first_bad == seq, at
        if chosen.random() < 0.02:
            (tmp_path / "flipped").write_bytes(data)
            said = rust(tmp_path / "flipped", tmp_path / "key.pub")
            assert (said["valid"], said["first_bad"]) == (False, found.first_bad), at
            assert said["entries"] == found.entries, at


def _numbered(base: bytes) -> Iterator[tuple[int, bytes]]:
    seq = 0
    for line in base.split(b"\n")[:-1]:
        yield seq, line
        seq += verifier.kind_of(line) == "entry"


def test_a_ledger_of_several_groups_written_in_python(tmp_path: Path) -> None:
    writer = Writer(4)
    writer.fill(600)
    (tmp_path / "key.pub").write_text(writer.public)
    (tmp_path / "export").write_bytes(writer.export([100, 256, 600]))
    (tmp_path / "old").write_text(writer.note(300))
    said = rust(tmp_path / "export", tmp_path / "key.pub", "--against", str(tmp_path / "old"))
    assert (said["valid"], said["entries"], said["against"]) == (True, 600, 300), said
    # One that forks after its first entries, under the same key.
    fork = Writer(4)
    fork.fill(299)
    fork.append(kind="event", event="another")
    key, base = verifier.Key(writer.public), (tmp_path / "export").read_bytes()
    (tmp_path / "fork").write_text(fork.note(300))
    said = rust(tmp_path / "export", tmp_path / "key.pub", "--against", str(tmp_path / "fork"))
    found = verifier.verify(base, key, fork.note(300))
    assert said["valid"] is found.valid is False
    assert said["first_bad"] is found.first_bad is None
    assert verifier.verify(base, key, writer.note(300)).valid


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "event", "event": ""},
        {"kind": "event", "event": "x", "fields": {}},
        {"kind": "event", "event": "x", "fields": {"a": None}},
        {"kind": "intent", "permit": -1},
        {"kind": "intent", "permit": 2**53},
        {"kind": "intent", "permit": 1.5},
        {"kind": "intent", "unknown": 1},
        {"kind": "intent", "action": {"name": ""}},
        {"kind": "intent", "time": "2026-02-30T00:00:00.000000000Z"},
        {"kind": "intent", "time": "2300-01-01T00:00:00.000000000Z"},
        {"kind": "outcome", "outcome": "done", "health": "success"},
        {"kind": "outcome", "outcome": "done", "health": "success", "by": "caller", "actual": ["1.0"]},
        {"kind": "intent", "version": 2},
        {"kind": "intent", "outbox": OUTBOX},
        {"kind": "intent", "outbox": OUTBOX, "version": 3},
        {"kind": "intent", "outbox": OUTBOX, "version": 2, "intent": 0},
        {"kind": "intent", "outbox": {**OUTBOX, "salt": "0" * 32}, "version": 2},
        {"kind": "intent", "outbox": {**OUTBOX, "host": "0123456789ABCDEF"}, "version": 2},
        {"kind": "intent", "outbox": {**OUTBOX, "number": None}, "version": 2},
        {"kind": "event", "event": "x", "outbox": {"draft": 4}, "version": 2},
        {"kind": "event", "event": "x", "outbox": {}, "version": 2},
        {"kind": "intent", "seq": 1},
    ],
)
def test_what_is_no_entry_is_refused_although_it_is_signed(members: dict[str, Any], tmp_path: Path) -> None:
    writer = Writer(5)
    writer.append(**members)
    base = writer.export([1])
    (tmp_path / "key.pub").write_text(writer.public)
    (tmp_path / "export").write_bytes(base)
    found = verifier.verify(base, verifier.Key(writer.public))
    said = rust(tmp_path / "export", tmp_path / "key.pub")
    assert (found.valid, found.first_bad) == (said["valid"], said["first_bad"]) == (False, 0)
