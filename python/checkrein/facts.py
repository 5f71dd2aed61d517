"""What the results of reads prove: values that later calls of the same run or session may use."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from checkrein.errors import ConfigError, NotProved, a_type
from checkrein.rules import check_kind
from checkrein.spec import Duration, span_ns

_log = logging.getLogger("checkrein")

MOST_ITEMS: Final = 10_000
"""So many values may one result prove."""

_LEFT_OUT: Final = object()


@dataclass(frozen=True)
class Prove:
    """What the results of a tool prove: values of a kind, for the run or session of the call.

    extract: where a value stands in an item of the result, as a member or attribute (`"id"`, `"customer.id"`), or a
        callable of the whole result. A result is one item; of a list, tuple or set every item is one, and so of a text
        that is JSON. `None` proves nothing.
    ttl: how long the facts hold; reading them again prolongs it.
    max_items: how many values a result may have. With more, the caller gets NotProved and nothing is a fact
        (`on_too_many="block"`), or the first ones are facts and a warning counts the others (`"truncate"`).
    echo: a value that the call itself named, in whatever argument, counts too: for tools that return nothing for what
        does not exist. Else that is passed over, with a warning, or an agent could prove what it made up.
    """

    kind: str
    extract: str | Callable[[Any], Any]
    ttl: Duration = "1d"
    max_items: int = 200
    on_too_many: Literal["block", "truncate"] = "block"
    echo: bool = False

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if not callable(self.extract) and not (isinstance(self.extract, str) and self.extract):
            hint = 'name a member ("id") or give a callable of the result'
            raise ConfigError(f"`extract` is {a_type(self.extract)}", "extract", hint)
        span_ns("ttl", self.ttl, least=1)
        most = self.max_items
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MOST_ITEMS:
            raise ConfigError(
                "max_items is no whole number from 1 to 10,000", "max_items", "leave it out: 200"
            )
        if self.on_too_many not in ("block", "truncate"):
            raise ConfigError(
                "on_too_many is neither `block` nor `truncate`", "on_too_many", 'leave it out: "block"'
            )


def read_proves(value: object) -> list[Prove]:
    """Read `proves=`: a `Prove`, several, or kinds with what they are extracted by."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [Prove(kind, extract) for kind, extract in value.items()]
    proofs: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for proof in proofs:
        if not isinstance(proof, Prove):
            hint = 'write proves={"order": "id"} or Prove("order", "id")'
            raise ConfigError(f"{a_type(proof)} in proves", "proves", hint)
    if len(proofs) > 16:
        raise ConfigError(f"{len(proofs)} proofs", "too_many", "at most 16 are allowed")
    return proofs


def finder(tool: str, proofs: Sequence[Prove]) -> Callable[[Any], list[tuple[int, Any]]]:
    """Make what the native code asks for the values in a result, each with the number of its proof."""

    def find(result: Any) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        for number, proof in enumerate(proofs):
            values = _plain_values(proof.extract, result)
            if values is None:
                values = list(_values(tool, proof, result))
            if len(values) > proof.max_items:
                if proof.on_too_many == "block":
                    count = f"{len(values)} values of `{proof.kind}`"
                    text = f"`{tool}` returned {count}, at most {proof.max_items} can be facts"
                    raise NotProved(text, "too_many_results", result)
                left = len(values) - proof.max_items
                _log.warning("`%s`: %d more values of `%s` are no facts", tool, left, proof.kind)
                del values[proof.max_items :]
            found += [(number, value) for value in values]
        return found

    return find


def _plain_values(extract: object, result: Any) -> list[Any] | None:
    """The values of the usual results, of plain dicts with texts, at once; nothing for any other."""
    items = (result,) if result.__class__ is dict else result
    if extract.__class__ is not str or items.__class__ not in (list, tuple):
        return None
    values = []
    for item in items:
        value = item.get(extract) if item.__class__ is dict else None
        if value.__class__ is not str or not value:
            return None
        values.append(value)
    return values


def _values(tool: str, proof: Prove, result: Any) -> Iterator[Any]:
    """The values of one proof in a result, in a form that has a canonical one."""
    if callable(proof.extract):
        candidates = _items(tool, proof.extract(result), result)
    else:
        path = proof.extract.split(".")
        candidates = [_at(tool, proof, path, item) for item in _items(tool, _parsed(result), result)]
    for candidate in candidates:
        for value in _items(tool, candidate, result):
            if value is not None and value != "":
                yield _scalar(tool, proof, value, result)


def _parsed(result: Any) -> Any:
    """Text that is JSON, read: tools for models often return it."""
    if isinstance(result, str) and result.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(result)
        except ValueError:
            return result
    return result


def _items(tool: str, value: Any, result: Any) -> Collection[Any]:
    """One thing, or the items of what has some."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__") or _is_row(value):
        return (value,)
    if hasattr(value, "__next__"):
        text = (
            f"`{tool}` returned {a_type(value)}, whose items are gone once they are looked at; return a list"
        )
        raise NotProved(text, "not_provable", result)
    return value if isinstance(value, Collection) else (value,)


def _is_row(value: Any) -> bool:
    """Whether it is one record with named parts, although it can be iterated: a named tuple, a database's row."""
    return hasattr(value, "_fields") or (hasattr(value, "keys") and not isinstance(value, Mapping))


def _at(tool: str, proof: Prove, path: Sequence[str], item: Any) -> Any:
    """What stands at a path in an item."""
    value = item
    for name in path:
        if value is None:
            return None
        value = value.get(name, _LEFT_OUT) if isinstance(value, Mapping) else _part(value, name)
        if value is _LEFT_OUT:
            _log.warning(
                "`%s`: %s in the result has no `%s`, and proves no `%s`", tool, a_type(item), name, proof.kind
            )
            return None
    return value


def _part(value: Any, name: str) -> Any:
    found = getattr(value, name, _LEFT_OUT)
    if found is _LEFT_OUT and hasattr(value, "keys") and name in value.keys():  # noqa: SIM118 - `sqlite3.Row`
        return value[name]
    return found


def _scalar(tool: str, proof: Prove, value: Any, result: Any) -> Any:
    """A value as what it is compared by: exactly text, an integer, a float or a boolean."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, UUID)):
        return str.__str__(value) if isinstance(value, str) else str(value)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    text = f"`{tool}` returned {a_type(value)} as a `{proof.kind}`; a fact is text, a number or a boolean"
    raise NotProved(text, "not_provable", result)
