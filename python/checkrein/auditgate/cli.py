"""`python -m checkrein.auditgate`: verifies an audit log file."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from checkrein.auditgate._head import StoredHead, head_path
from checkrein.auditgate.core import Severity, Verdict, compute_hash

__all__ = ["main"]

Entry = dict[str, Any]


class UnreadableLog(Exception):
    """A file that is not an audit log."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 valid, 1 invalid or unreadable."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that has no dash must not turn a valid log into an exit code of 1.
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="auditgate", description="Verifies audit logs")
    commands = parser.add_subparsers(dest="command")
    verify = commands.add_parser("verify", help="Verify the hashes and the chain of an audit log")
    verify.add_argument("file", help="Path of the log: a JSON array, one JSON object, or JSON Lines")
    verify.add_argument("--verbose", "-v", action="store_true", help="Say something about every entry")
    verify.add_argument("--json", action="store_true", help="Print the result as JSON")
    verify.add_argument(
        "--strict", action="store_true", help="Also fail on what plain hashes cannot rule out"
    )
    verify.add_argument("--head", help="Head file of the log (default: FILE.head, when it exists)")
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    return _cmd_verify(args)


def _cmd_verify(args: argparse.Namespace) -> int:
    path = Path(args.file)
    try:
        head, head_problem = _find_head(path, args.head)
        entries = _read_log(path, empty_is_log=head is not None)
    except UnreadableLog as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    valid, messages = _verify_log(entries, verbose=args.verbose)
    if head_problem is not None:
        valid = False
        messages.append(f"Head: FAIL — {head_problem}")
    if head is not None:
        valid = _check_head(head, entries, messages, strict=args.strict) and valid
    if args.strict:
        findings = _strict_findings(entries, head)
        messages += [f"Strict: FAIL — {finding}" for finding in findings]
        valid = valid and not findings
    _report(entries, valid, messages, as_json=args.json)
    return 0 if valid else 1


def _report(entries: list[Entry], valid: bool, messages: list[str], *, as_json: bool) -> None:
    if as_json:
        trails = len(_by_trail(entries))
        print(
            json.dumps(
                {"valid": valid, "entries": len(entries), "trails": trails, "messages": messages}, indent=2
            )
        )
        return
    for message in messages:
        print(message)
    print()
    if valid:
        print(f"RESULT: VALID ({len(entries)} entries verified)")
    else:
        print("RESULT: INVALID (chain integrity broken)")


# Reading


def _read_log(path: Path, *, empty_is_log: bool) -> list[Entry]:
    text = _read_text(path)
    if not text and empty_is_log:
        return []
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        data = _read_lines(text, error)
    except (ValueError, RecursionError) as error:
        raise UnreadableLog(f"invalid JSON: {error}") from error
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise UnreadableLog("expected a JSON array of entries or a single entry object")
    for index, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise UnreadableLog(f"entry {index} is not an object")
    return data


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UnreadableLog(f"file not found: {path}") from None
    except IsADirectoryError:
        raise UnreadableLog(f"is a directory: {path}") from None
    except UnicodeDecodeError as error:
        raise UnreadableLog(f"not UTF-8 text: {path} (byte {error.start})") from None
    except OSError as error:
        raise UnreadableLog(f"cannot read {path}: {error.strerror}") from None


def _read_lines(text: str, error: json.JSONDecodeError) -> list[Any]:
    """Read JSON Lines; text that does not begin like it keeps the error it had as one document."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    entries: list[Any] = []
    for number, line in lines:
        try:
            entries.append(json.loads(line))
        except (ValueError, RecursionError) as problem:
            if len(entries) == 0:
                raise UnreadableLog(f"invalid JSON: {error}") from None
            raise UnreadableLog(f"invalid JSON: {problem} (line {number} of the file)") from None
    if not lines:
        raise UnreadableLog(f"invalid JSON: {error}")
    return entries


def _find_head(path: Path, given: str | None) -> tuple[StoredHead | None, str | None]:
    where = head_path(path) if given is None else Path(given)
    if given is None and not where.is_file():
        return None, None
    try:
        return StoredHead(_read_text(where)), None
    except UnreadableLog:
        raise
    except (ValueError, RecursionError) as error:
        return None, f"{where}: {error}"


# Checking


def _by_trail(entries: list[Entry]) -> dict[Hashable, list[Entry]]:
    trails: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        trail = entry.get("trail", "<unknown>")
        trails.setdefault(trail if isinstance(trail, Hashable) else repr(trail), []).append(entry)
    return trails


def _order(entry: Entry, missing: int = 0) -> float:
    sequence = entry.get("sequence", missing)
    return sequence if isinstance(sequence, (int, float)) else missing


def _verify_log(entries: list[Entry], verbose: bool = False) -> tuple[bool, list[str]]:
    """Return whether all hashes and links hold, and what to print about it."""
    if not entries:
        return True, ["Empty log — nothing to verify."]
    messages: list[str] = []
    valid = True
    for trail, logged in _by_trail(entries).items():
        messages.append(f"Trail: {trail} ({len(logged)} entries)")
        previous: Entry | None = None
        for entry in sorted(logged, key=_order):
            valid = _verify_entry(entry, previous, messages, verbose) and valid
            previous = entry
        if valid:
            messages.append("  VALID — all hashes verified")
    return valid, messages


def _verify_entry(entry: Entry, previous: Entry | None, messages: list[str], verbose: bool) -> bool:
    label = f"  [{entry.get('sequence', '?')}]"
    stored, linked = entry.get("entry_hash"), entry.get("prev_hash")
    if stored is None:
        if verbose:
            messages.append(f"{label} SKIP — no hash (integrity=NONE)")
        return True
    try:
        expected = compute_hash(entry, linked)
    except (TypeError, ValueError, RecursionError) as error:
        messages.append(f"{label} FAIL — cannot be hashed: {error}")
        return False
    if expected != stored:
        messages.append(f"{label} FAIL — hash mismatch")
        if verbose:
            messages += [f"         expected: {expected}", f"         got:      {stored}"]
        return False
    if previous is not None and linked is not None and linked != previous.get("entry_hash"):
        before = previous.get("sequence", "?")
        messages.append(f"{label} FAIL — chain break (prev_hash does not match entry [{before}])")
        if verbose:
            messages += [
                f"         expected prev: {previous.get('entry_hash')}",
                f"         got prev:      {linked}",
            ]
        return False
    if previous is not None:
        following = _order(previous, missing=-1) + 1
        if _order(entry) != following:
            messages.append(f"{label} WARN — sequence gap (expected {following})")
    if verbose:
        messages.append(f"{label} OK — {entry.get('verdict', '?')} hash:{expected[:12]}...")
    return True


def _check_head(head: StoredHead, entries: list[Entry], messages: list[str], *, strict: bool) -> bool:
    try:
        following, problem = head.compare(entries)
    except (TypeError, ValueError, RecursionError) as error:
        following, problem = 0, f"the log cannot be hashed: {error}"
    if problem is not None:
        messages.append(f"Head: FAIL — {problem}")
        return False
    if following:
        messages.append(f"Head: {'FAIL' if strict else 'WARN'} — {following} entries follow it")
        return not strict
    messages.append(f"Head: VALID — {head.entries} entries")
    return True


def _strict_findings(entries: list[Entry], head: StoredHead | None) -> list[str]:
    """Return what a log may hide from plain hashes: what was taken away, and what was never protected."""
    findings = [] if head else ["no head file: a cut tail and changes of unhashed fields would go unseen"]
    for trail, logged in _by_trail(entries).items():
        ordered = sorted(logged, key=_order)
        first = head.first_sequences.get(str(trail), 0) if head else 0
        if _order(ordered[0]) != first:
            findings.append(f"{trail}: begins at {ordered[0].get('sequence')!r} instead of {first}")
        chained = any(entry.get("prev_hash") is not None for entry in ordered)
        for place, entry in enumerate(ordered):
            label = f"{trail} [{entry.get('sequence', '?')}]"
            findings += [f"{label}: {finding}" for finding in _entry_findings(entry)]
            if place and _order(entry) != _order(ordered[place - 1]) + 1:
                findings.append(f"{label}: does not follow [{ordered[place - 1].get('sequence')}]")
            if place and chained and entry.get("prev_hash") is None:
                findings.append(f"{label}: begins a new chain in the middle of a log")
    return findings


def _entry_findings(entry: Entry) -> list[str]:
    findings = []
    if not isinstance(entry.get("entry_hash"), str):
        findings.append("has no hash")
    if type(entry.get("sequence")) is not int:
        findings.append("has no sequence number")
    if entry.get("verdict") not in Verdict.__members__ or entry.get("severity") not in Severity.__members__:
        findings.append("has no known verdict and severity")
    missing = [key for key in ("trail", "ts", "wall_ts", "gate_type", "gate_identity") if key not in entry]
    if missing:
        findings.append(f"lacks {', '.join(missing)}")
    return findings
