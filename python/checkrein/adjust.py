"""Changes of budgets at run time: another limit, or a top-up that ends, for one record and by name of who did it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from checkrein import _native
from checkrein.errors import ConfigError, a_type
from checkrein.spec import Duration, span_ns

if TYPE_CHECKING:
    from checkrein.engine import Engine


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What a change of a budget's limit came to.

    Amounts are decimal text in `unit`. `until` is when a top-up ends, in seconds since 1970, or `None` for what lasts.
    """

    name: str
    unit: str
    before: str
    after: str
    spent: str
    held: str
    until: float | None


def adjust(
    engine: Engine,
    name: str,
    key: object,
    *,
    limit: str | None,
    add: str | None,
    clear: bool,
    until: datetime | float | None,
    lasts: Duration | None,
    by: str,
    note: str,
    tenant: str | None,
) -> Adjusted:
    """Read what `Engine.adjust_budget` was asked for, and have it done."""
    asked = [("set", limit), ("add", add), ("clear", "" if clear else None)]
    given = [(change, amount) for change, amount in asked if amount is not None]
    if len(given) != 1:
        hint = 'give one of limit="80 usd", add="5 usd" and clear=True'
        raise ConfigError("it is not said what is to become of the limit", "adjust", hint)
    ((change, amount),) = given
    for what, text in (("name", name), ("the amount", amount), ("by", by), ("note", note)):
        if not isinstance(text, str):
            raise ConfigError(f"{what} is {a_type(text)}", "adjust", 'use text, as in add="5 usd"')
    wanted = {
        "name": name,
        "tenant": tenant,
        "change": change,
        "amount": amount,
        "lasting": _lasting(change, until, lasts),
        "by": by,
        "note": note,
    }
    return Adjusted(**_native._adjust_budget(engine, wanted, key))


def _lasting(change: str, until: datetime | float | None, lasts: Duration | None) -> tuple[str, int]:
    if until is None and lasts is None:
        return ("window", 0)
    if change != "add" or (until is not None and lasts is not None):
        hint = "a top-up has `until` or `lasts`; a limit that was set counts until it is cleared"
        raise ConfigError("it is not clear how long the change counts", "adjust", hint)
    if lasts is not None:
        return ("ever", 0) if lasts == "ever" else ("for", span_ns("lasts", lasts))
    if isinstance(until, datetime):
        if until.tzinfo is None:
            hint = "use e.g. datetime.now(timezone.utc) + timedelta(days=2)"
            raise ConfigError("`until` has no time zone", "adjust", hint)
        until = until.timestamp()
    if isinstance(until, bool) or not isinstance(until, (int, float)) or not 0 < until < 9e9:
        hint = "use a datetime with a time zone, or seconds since 1970"
        raise ConfigError("`until` is no usable time", "adjust", hint)
    return ("until", round(until * 10**9))
